/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The maps that every module object has. The host creates them once a module, shares them between its objects by name,
 * and sets the sizes that are placeholders here.
 */
#ifndef ECAP_MAPS_H
#define ECAP_MAPS_H

#include <ecapture/bpf.h>
#include <ecapture/pids.h>
#include <ecapture/record.h>

/* Records to the worker. The size comes from [[stream]] ring or the command line. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ecap_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ecap_counters);
} ecap_counters SEC(".maps");

/* Not 0 when the worker sleeps and wants to be woken. A map of its own since the worker may write it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ecap_doorbell SEC(".maps");

/* Users to look at. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} ecap_uids SEC(".maps");

/* Names of threads to look at, padded with zeros as the kernel has them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, char[16]);
	__type(value, __u32);
} ecap_comms SEC(".maps");

/* Room for the current thread's name while it is looked up. Made by the loader for each object, as its types are needed. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, char[16]);
} ecap_comm_of SEC(".maps");

#define ECAP_CGROUPS_MAX 8

/* Control groups (v2) to look at, with all below them. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, ECAP_CGROUPS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} ecap_cgroups SEC(".maps");

/* Declares the map of layout rows: one `row_type` for each target file, filled by the host from the detector's answers. */
#define ECAP_LAYOUTS(row_type)                                                                                         \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 64);                                                                               \
		__type(key, __u32);                                                                                    \
		__type(value, row_type);                                                                               \
	} ecap_layouts SEC(".maps")

/* The row of the target that a probe fired in, or 0. A row that the host has not filled is all zeros. */
#define ecap_layout(ctx)                                                                                               \
	({                                                                                                             \
		__u32 target_ = (__u32)bpf_get_attach_cookie(ctx);                                                     \
		(typeof(*ecap_layouts.value) *)bpf_map_lookup_elem(&ecap_layouts, &target_);                           \
	})

/* The probe's own number from the plan (`arg`): the high half of its attach cookie. */
#define ecap_probe_arg(ctx) ((__u32)(bpf_get_attach_cookie(ctx) >> 32))

ECAP_INLINE struct ecap_counters *ecap_count(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&ecap_counters, &zero);
}

/* The key's place on the stack ends with this function, as in the one above, so both share it. */
ECAP_INLINE __u64 *ecap_armed(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&ecap_doorbell, &zero);
}

/* ecap_add(orphans, 1) */
#define ecap_add(counter, n)                                                                                           \
	do {                                                                                                           \
		struct ecap_counters *c_ = ecap_count();                                                               \
		if (c_)                                                                                                \
			__sync_fetch_and_add(&c_->counter, (n));                                                       \
	} while (0)

#endif
