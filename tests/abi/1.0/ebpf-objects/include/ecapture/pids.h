/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The set of processes to look at: one map for the host's own programs, which keep it, and for every module, which ask it.
 */
#ifndef ECAP_PIDS_H
#define ECAP_PIDS_H

#include <ecapture/bpf.h>

enum ecap_pid_origin {
	ECAP_PID_LISTED = 1, /* the user asked for it */
	ECAP_PID_CHILD = 2,  /* started later by one in the set */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);   /* tgid */
	__type(value, __u32); /* enum ecap_pid_origin */
} ecap_pids SEC(".maps");

#endif
