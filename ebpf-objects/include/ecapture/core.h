/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Kernel structures across kernel versions. A structure is declared here or by the module with just the fields that are
 * read, in any order, and `ECAP_CORE`: the loader puts the running kernel's offsets in. No vmlinux.h: 130,000 lines of
 * one kernel's types clash with names of one's own and cannot be reviewed.
 */
#ifndef ECAP_CORE_H
#define ECAP_CORE_H

#include <ecapture/bpf.h>

#define ECAP_CORE __attribute__((preserve_access_index))

typedef struct {
	int counter;
} ECAP_CORE atomic_t;

struct signal_struct {
	atomic_t live; /* threads that have not begun to exit */
} ECAP_CORE;

struct task_struct {
	int pid;  /* the thread's id */
	int tgid; /* the process's id */
	struct signal_struct *signal;
} ECAP_CORE;

/* Reads one field through a pointer that the verifier does not know (got by another read, not by an argument).
 * Gives 0 if the memory cannot be read. */
#define ECAP_CORE_READ(ptr, field)                                                                                     \
	({                                                                                                             \
		typeof((ptr)->field) value_;                                                                           \
		__builtin_memset(&value_, 0, sizeof(value_));                                                          \
		bpf_probe_read_kernel(&value_, sizeof(value_),                                                         \
				      (const void *)__builtin_preserve_access_index(&(ptr)->field));                   \
		value_;                                                                                                \
	})

/* Argument `n` (from 0) of a tp_btf program, whose context is an array of 64-bit values. */
#define ECAP_TP_ARG(ctx, n, type) ((type)((const __u64 *)(ctx))[n])

#endif
