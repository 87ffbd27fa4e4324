// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The host's own programs: they keep the set of processes that all modules' filters ask, and tell the host of processes
 * that start a program it looks for. What belongs to one module does not belong here.
 */
#include <ecapture/core.h>
#include <ecapture/pids.h>

/* Bytes of a file's name that are compared; the host compares the rest. */
#define NAME_MAX 32

/* Set by the host before loading. */
const volatile __u32 ecap_follow_children = 1; /* 0: processes started later are not followed */
const volatile __u32 ecap_every_exec = 0;      /* 1: libraries are looked for, which any program may use */

/* Children that the full set could not take; read by the host from .bss. */
__u64 ecap_children_lost = 0;

enum notice_kind {
	NOTICE_EXEC = 1,  /* the process runs another program */
	NOTICE_END = 2,   /* the process has ended */
	NOTICE_ASKED = 4, /* and was in ecap_asked */
};

/* What the host is told: numbers only. */
struct notice {
	__u64 time_ns;
	__u32 pid;
	__u32 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} ecap_notices SEC(".maps");

/* Names of programs to tell of. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, char[NAME_MAX]);
	__type(value, __u32);
} ecap_names SEC(".maps");

/* Processes whose program the host has told somebody: it must know when that is no longer true. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u32);
} ecap_asked SEC(".maps");

/* Notices that found no room: the host looks through /proc instead. Mapped by it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ecap_unheard SEC(".maps");

struct qstr {
	const unsigned char *name;
} ECAP_CORE;

struct dentry {
	struct qstr d_name;
} ECAP_CORE;

struct path {
	struct dentry *dentry;
} ECAP_CORE;

struct file {
	struct path f_path;
} ECAP_CORE;

struct linux_binprm {
	struct file *file;
} ECAP_CORE;

static long (*const bpf_probe_read_kernel_str)(void *dst, __u32 size, const void *kernel) = (void *)115;

ECAP_INLINE void tell(__u32 pid, __u32 kind)
{
	struct notice *notice = bpf_ringbuf_reserve(&ecap_notices, sizeof(*notice), 0);
	if (notice) {
		notice->time_ns = bpf_ktime_get_ns();
		notice->pid = pid;
		notice->kind = kind;
		bpf_ringbuf_submit(notice, 0);
	} else {
		__u32 zero = 0;
		__u64 *unheard = bpf_map_lookup_elem(&ecap_unheard, &zero);
		if (unheard)
			__sync_fetch_and_add(unheard, 1);
	}
}

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

/* Runs in the process that starts a program, before the first instruction of it. The file is the one that is run: of a
 * script it is the interpreter. */
SEC("tp_btf/sched_process_exec")
int ecap_exec(const __u64 *ctx)
{
	struct task_struct *task = ECAP_TP_ARG(ctx, 0, struct task_struct *);
	struct linux_binprm *program = ECAP_TP_ARG(ctx, 2, struct linux_binprm *);
	__u32 pid = task->tgid, asked;
	char name[NAME_MAX] = {};

	asked = bpf_map_delete_elem(&ecap_asked, &pid) == 0;
	if (!asked && !ecap_every_exec) {
		struct file *file = ECAP_CORE_READ(program, file);
		struct dentry *entry = ECAP_CORE_READ(file, f_path.dentry);
		bpf_probe_read_kernel_str(name, sizeof(name), ECAP_CORE_READ(entry, d_name.name));
		if (!bpf_map_lookup_elem(&ecap_names, name))
			return 0;
	}
	tell(pid, NOTICE_EXEC | (asked ? NOTICE_ASKED : 0));
	return 0;
}

/* Runs for each thread. Only the last one ends the process: its number may go to a stranger next. The leader may well be
 * gone before. */
SEC("tp_btf/sched_process_exit")
int ecap_exit(const __u64 *ctx)
{
	struct task_struct *task = ECAP_TP_ARG(ctx, 0, struct task_struct *);
	__u32 pid = task->tgid;

	if (task->signal->live.counter == 0) {
		bpf_map_delete_elem(&ecap_pids, &pid);
		if (bpf_map_delete_elem(&ecap_asked, &pid) == 0)
			tell(pid, NOTICE_END | NOTICE_ASKED);
	}
	return 0;
}

ECAP_LICENSE("GPL");
