/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Memory for calls in flight: what an entry probe leaves for the return probe of the same thread. Task storage: freed
 * with the thread, never evicted (an LRU hash drops entries without a word), no key to build, and the fastest measured.
 */
#ifndef ECAP_STATE_H
#define ECAP_STATE_H

#include <ecapture/maps.h>

/* Declares one `value_type` for each thread, all zeros at first. Calls nest: give each function and depth a slot of its
 * own inside the value. */
#define ECAP_THREAD_STATE(name, value_type)                                                                            \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_TASK_STORAGE);                                                               \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__type(key, int);                                                                                      \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

/* The current thread's value, or 0 if it has none yet. */
#define ecap_state(name)                                                                                               \
	((typeof(*name.value) *)bpf_task_storage_get(&name, bpf_get_current_task_btf(), 0, 0))

/* The same, made if it is not there; 0 (and counted in `state_full`) if there is no memory for it. */
#define ecap_state_create(name)                                                                                        \
	({                                                                                                             \
		void *state_ = bpf_task_storage_get(&name, bpf_get_current_task_btf(), 0,                              \
						    BPF_LOCAL_STORAGE_GET_F_CREATE);                                   \
		if (!state_)                                                                                           \
			ecap_add(state_full, 1);                                                                       \
		(typeof(*name.value) *)state_;                                                                         \
	})

#endif
