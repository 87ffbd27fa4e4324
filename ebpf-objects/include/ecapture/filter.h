/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The host's filters. They are constants of the loaded object, so the verifier removes what is not asked for.
 */
#ifndef ECAP_FILTER_H
#define ECAP_FILTER_H

#include <ecapture/maps.h>

enum ecap_filter {
	ECAP_FILTER_PIDS = 1,
	ECAP_FILTER_UIDS = 2,
	ECAP_FILTER_CGROUP = 4, /* exactly this one, by its id */
	ECAP_FILTER_COMMS = 8,
	ECAP_FILTER_CGROUPS = 16, /* these and all below them */
};

/* Set by the host before the object is loaded. Flags 0 = everybody. */
const volatile __u32 ecap_filter_flags = 0;
const volatile __u64 ecap_filter_cgroup = 0;
/* Slots of ecap_cgroups that are in use. */
const volatile __u32 ecap_filter_cgroups = 0;

/* The name is looked up from memory of the thread's own: 16 bytes more on the stack could bring a program to the 64 from
 * which kernels since 6.13 give it a stack per CPU. */
ECAP_INLINE int ecap_comm_wanted(void)
{
	char *comm = bpf_task_storage_get(&ecap_comm_of, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!comm || bpf_get_current_comm(comm, 16))
		return 0;
	return bpf_map_lookup_elem(&ecap_comms, comm) != 0;
}

ECAP_INLINE int ecap_cgroup_wanted(void)
{
	for (__u32 slot = 0; slot < ECAP_CGROUPS_MAX; slot++) {
		if (slot >= ecap_filter_cgroups)
			break;
		/* A slot whose group has not come back is an error: not this one. */
		if (bpf_current_task_under_cgroup(&ecap_cgroups, slot) == 1)
			return 1;
	}
	return 0;
}

/* Whether the current thread is one to look at: every filter that is on must agree. uid 0 is a uid like any other.
 * Call it first in every program; probes fire in all processes that map the file. */
ECAP_INLINE int ecap_wanted(void)
{
	__u32 flags = ecap_filter_flags;
	if (flags & ECAP_FILTER_PIDS) {
		__u32 pid = bpf_get_current_pid_tgid() >> 32;
		if (!bpf_map_lookup_elem(&ecap_pids, &pid))
			return 0;
	}
	if (flags & ECAP_FILTER_UIDS) {
		__u32 uid = (__u32)bpf_get_current_uid_gid();
		if (!bpf_map_lookup_elem(&ecap_uids, &uid))
			return 0;
	}
	if (flags & ECAP_FILTER_CGROUP) {
		if (bpf_get_current_cgroup_id() != ecap_filter_cgroup)
			return 0;
	}
	if ((flags & ECAP_FILTER_COMMS) && !ecap_comm_wanted())
		return 0;
	if ((flags & ECAP_FILTER_CGROUPS) && !ecap_cgroup_wanted())
		return 0;
	return 1;
}

#endif
