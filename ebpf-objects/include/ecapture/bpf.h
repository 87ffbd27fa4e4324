/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The part of the BPF environment that ecapture modules use: section and map macros, the helpers (kernel ABI numbers of
 * include/uapi/linux/bpf.h) and the constants that go with them. Helpers that a module is not allowed without asking
 * (see [permissions] in its manifest) are absent on purpose.
 */
#ifndef ECAP_BPF_H
#define ECAP_BPF_H

#include <ecapture/types.h>

#define SEC(name) __attribute__((section(name), used))
#define ECAP_INLINE static inline __attribute__((always_inline))

/* Maps as BTF describes them. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

/* A register whose value the compiler must not reason about: keeps a bound in the form in which the verifier saw it. */
#define ecap_opaque(var) asm volatile("" : "+r"(var))

/* The lesser of `n` and the constant `max`, compared and kept in one register: written in C, the compiler may compare a copy
 * (a narrower one, or the value before a conversion) and the verifier then knows nothing of the value used. */
#define ecap_at_most(n, max)                                                                                           \
	({                                                                                                             \
		__u64 n_ = (n);                                                                                        \
		asm volatile("if %0 <= %1 goto +1\n\t%0 = %1" : "+r"(n_) : "i"(max));                                  \
		n_;                                                                                                    \
	})

/* The licence string that the kernel wants; tracing helpers are for GPL-compatible programs. */
#define ECAP_LICENSE(text) char ecap_license[] SEC("license") = text

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_CGROUP_ARRAY = 8,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1 << 0,
	BPF_RB_NO_WAKEUP = 1 << 0,
	BPF_RB_FORCE_WAKEUP = 1 << 1,
};

struct task_struct;

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
/* tgid in the high 32 bits, thread id in the low. */
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
/* gid in the high 32 bits, uid in the low. */
static __u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static long (*const bpf_get_current_comm)(void *buf, __u32 size) = (void *)16;
/* 1: in the group of that slot or below it; 0: not; negative: the slot is empty. */
static long (*const bpf_current_task_under_cgroup)(void *map, __u32 slot) = (void *)37;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
/* Both never fault a page in: unreadable or absent memory is an error. */
static long (*const bpf_probe_read_user)(void *dst, __u32 size, const void *user) = (void *)112;
static long (*const bpf_probe_read_user_str)(void *dst, __u32 size, const void *user) = (void *)114;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size, const void *kernel) = (void *)113;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
/* 5.12 for uprobe programs. */
static void *(*const bpf_task_storage_get)(void *map, struct task_struct *task, void *value, __u64 flags) = (void *)156;
static long (*const bpf_task_storage_delete)(void *map, struct task_struct *task) = (void *)157;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
/* 5.15. */
static __u64 (*const bpf_get_attach_cookie)(void *ctx) = (void *)174;

#endif
