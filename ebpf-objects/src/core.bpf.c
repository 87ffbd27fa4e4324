// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The host's own programs: they keep the set of processes that all modules' filters ask. What belongs to one module does
 * not belong here.
 */
#include <ecapture/core.h>
#include <ecapture/pids.h>

/* Set by the host before loading: 0 = processes started later are not followed. */
const volatile __u32 ecap_follow_children = 1;

/* Children that the full set could not take; read by the host from .bss. */
__u64 ecap_children_lost = 0;

/* Runs in the parent, before the child runs: nothing of the child is missed. Also called for threads. */
SEC("tp_btf/sched_process_fork")
int ecap_fork(const __u64 *ctx)
{
	struct task_struct *parent = ECAP_TP_ARG(ctx, 0, struct task_struct *);
	struct task_struct *child = ECAP_TP_ARG(ctx, 1, struct task_struct *);
	__u32 from = parent->tgid, to = child->tgid, origin = ECAP_PID_CHILD;

	if (!ecap_follow_children || from == to || !bpf_map_lookup_elem(&ecap_pids, &from))
		return 0;
	if (bpf_map_update_elem(&ecap_pids, &to, &origin, BPF_ANY))
		__sync_fetch_and_add(&ecap_children_lost, 1);
	return 0;
}

/* Runs for each thread. Only the last one ends the process: its number may go to a stranger next. The leader may well be
 * gone before. */
SEC("tp_btf/sched_process_exit")
int ecap_exit(const __u64 *ctx)
{
	struct task_struct *task = ECAP_TP_ARG(ctx, 0, struct task_struct *);
	__u32 pid = task->tgid;

	if (task->signal->live.counter == 0)
		bpf_map_delete_elem(&ecap_pids, &pid);
	return 0;
}

ECAP_LICENSE("GPL");
