// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Simple commands of bash (5.0 and later) as they are run, and lines as they are typed. Messages and the layout row:
 * bash.h. Which symbol each program belongs on is said at the program; all are exported functions.
 *
 * How a command is followed. Bash runs each simple command in its function execute_simple_command (S below), which is
 * static; but it calls exported functions at fixed points, which no compiler seen so far inlines, link-time optimisation
 * included:
 *   execute_command_internal  runs any command and calls S for a simple one
 *   print_simple_command      S calls it first of all; it prints the command's text into memory of its own
 *   make_child                S, or the function for programs below it, calls it when the command gets a process of its own
 *   set_pipestatus_array      S hands it the status of a command that ran inside the shell, before `!`, set -e and $? see it
 * Of functions that nest only entries are probed: the kernel follows at most 64 nested returns of a thread, and shell
 * functions nest deeper. Whose call it is is told by the stack pointer: S calls all of these from one frame, so with nearly
 * the same one; all that runs inside a command (functions, traps, eval) has a lower one, and a command whose frame is below
 * is gone.
 *
 * A command with a process of its own has that process's exit status, as the kernel knows it; nothing of the shell's
 * waiting is looked at. So it is exact in pipelines, in the background, under pipefail and for jobs that are stopped.
 */
#include <ecapture/core.h>
#include <ecapture/ecapture.h>

#include "bash.h"

#if defined(__TARGET_ARCH_x86)
#define PROBED_ADDRESS(ctx) ECAP_REG_(ctx, rip)
#else
#define PROBED_ADDRESS(ctx) ECAP_REG_(ctx, pc)
#endif

/* Fields that the headers do not have. */
struct mm_struct___bash {
	unsigned long arg_start, arg_end;
} ECAP_CORE;

struct signal_struct___bash {
	int group_exit_code;
	unsigned int flags;
} ECAP_CORE;

struct task_struct___bash {
	struct task_struct___bash *group_leader;
	struct signal_struct___bash *signal;
	struct mm_struct___bash *mm;
	int exit_code;
} ECAP_CORE;

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h: group_exit_code is valid */

/* COMMAND of bash's command.h begins with its type and its flags, two ints. */
#define SIMPLE 4
/* CMD_WANT_SUBSHELL, CMD_FORCE_SUBSHELL, CMD_TIME_PIPELINE, CMD_COPROC_SUBSHELL: a subshell, `time` or `coproc` around the
 * command, which enters it once more, without the flag. */
#define WRAPPED 0x1083
#define NO_PIPE 0xffffffff
/* jump_to_top_level: set -e ends the shell. The status of the command that failed is known by then. */
#define ERREXIT 4

/* Simple commands inside one another that are followed: 3.5 KiB a thread. */
#define FRAMES 112
/* A probe may sit behind the instruction that makes room on the stack, and S may call through a wrapper: so far the stack
 * pointers of two functions that S calls may differ. That of a command inside another differs by the frames of five
 * functions and more, of 200 bytes each. */
#define NEAR 160

#define FRAME_FORKED 1

struct frame {
	__u64 sp;      /* at S's calls */
	__u64 inner;   /* of the outermost compound command that runs, or ran, inside; 0: none */
	__u64 command; /* time of START */
	__u64 flags;
};

struct shell {
	__u64 depth;
	__u64 pending;       /* stack pointer at the entry of a simple command whose text is not there yet; 0: none */
	__u64 pending_flags; /* enum bash_flags */
	__u64 base;          /* what was added to the file's addresses when it was loaded; 0: not looked at yet */
	__u64 owner;         /* the command that has this process for its own; 0: none */
	__u32 owner_process;
	__u32 reserved0;
	__u8 parsing; /* a command is being read */
	__u8 forking; /* the innermost command asked for a process */
	__u8 running; /* shell_execve was entered: the next program is that of the command named by `owner` or the frames */
	__u8 exits;   /* the end of this process matters */
	__u8 printed; /* the text of a command was seen */
	__u8 reserved[3];
	struct frame frames[FRAMES];
};

ECAP_THREAD_STATE(bash_shells, struct shell);
ECAP_LAYOUTS(struct bash_layout);

/* Memory to find the end of a line with. */
#define STEP 4096

struct scratch {
	char bytes[STEP];
};

ECAP_THREAD_STATE(bash_scratch, struct scratch);

/* Frame `n`, whatever `n` is. */
ECAP_INLINE struct frame *frame_at(struct shell *shell, __u64 n)
{
	struct frame *frame;
	n = ecap_at_most(n, FRAMES - 1);
	frame = &shell->frames[n];
	ecap_opaque(frame);
	return frame;
}

/* Forgets frames whose stack pointer is not above `sp`: they are gone. */
ECAP_INLINE void unwind(struct shell *shell, __u64 sp)
{
	volatile __u64 *depth = &shell->depth;
	int i;
	/* By memory: what the verifier knows of a register differs from round to round, and it would look at all that follows
	 * once for each of them. */
	for (i = 0; i < FRAMES; i++) {
		__u64 n = *depth;
		struct frame *frame;
		if (!n)
			break;
		frame = frame_at(shell, n - 1);
		if (frame->sp > sp)
			break;
		/* It left without an end: if nothing else tells the decoder, the end of the process will. */
		if (!(frame->flags & FRAME_FORKED))
			shell->exits = 1;
		*depth = n - 1;
	}
}

/* The innermost command that is running at `sp`, or 0. */
ECAP_INLINE struct frame *innermost(struct shell *shell, __u64 sp)
{
	unwind(shell, sp - NEAR - 1);
	return shell->depth ? frame_at(shell, shell->depth - 1) : 0;
}

/* Whether `sp` is inside a compound command that runs inside this one (a function's body): what happens there is not this
 * command's own doing. */
ECAP_INLINE int inside(struct frame *frame, __u64 sp)
{
	return frame->inner && sp < frame->inner;
}

/* A message without bytes. */
ECAP_INLINE void send(struct ecap_message *m, __u32 kind, __u64 command, __u32 process, __u32 value)
{
	struct bash_head *head = ecap_begin(m, BASH_STREAM_COMMANDS, sizeof(*head), 0, 0, 0);
	if (!head)
		return;
	head->kind = kind;
	head->flags = 0;
	head->command = command;
	head->process = process;
	head->value = value;
	head->sp = 0;
	head->caller = 0;
	head->length = 0;
	ecap_end(m);
}

/* int execute_command_internal(COMMAND *, int asynchronous, int pipe_in, int pipe_out, struct fd_bitmap *): 4 are used. */
SEC("uprobe")
int bash_command(struct pt_regs *ctx)
{
	struct shell *shell;
	struct frame *frame;
	__u64 type = 0;

	if (!ecap_wanted())
		return 0;
	shell = ecap_state_create(bash_shells);
	if (!shell)
		return 0;
	if (!shell->base) {
		/* The probe is within a page of the function's start. */
		struct bash_layout *row = ecap_layout(ctx);
		if (!row || !row->valid)
			return 0;
		shell->base = (PROBED_ADDRESS(ctx) - row->command) & ~0xfffULL;
	}
	/* Commands are entered and never printed: not the bash that this module knows. (One that `break` or `continue` passes
	 * over is not printed either, but these are.) */
	if (shell->pending && !shell->printed)
		ecap_add(state_full, 1);
	shell->parsing = 0;
	shell->forking = 0;
	shell->running = 0;
	shell->pending = 0;
	unwind(shell, ecap_sp(ctx));
	if (ecap_read_user(&type, ecap_arg0(ctx)))
		return 0;
	if ((__u32)type == SIMPLE && !(type >> 32 & WRAPPED)) {
		shell->pending = ecap_sp(ctx);
		shell->pending_flags = (__u32)ecap_arg1(ctx) ? BASH_BACKGROUND : 0;
		if ((__u32)ecap_arg2(ctx) != NO_PIPE || (__u32)ecap_arg3(ctx) != NO_PIPE)
			shell->pending_flags |= BASH_PIPELINE;
	} else if (shell->depth) {
		frame = frame_at(shell, shell->depth - 1);
		if (!inside(frame, ecap_sp(ctx)))
			frame->inner = ecap_sp(ctx);
	}
	return 0;
}

/* void print_simple_command(SIMPLE_COM *), its return. Others call it too; only S does so right after being entered. */
ECAP_INLINE int text(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct shell *shell = ecap_state(bash_shells);
	struct bash_layout *row;
	struct bash_head *head;
	struct frame *frame;
	__u64 from = 0;
	__u32 length = 0;

	if (!shell || !shell->pending)
		return 0;
	shell->printed = 1;
	row = ecap_layout(ctx);
	if (!row || !row->valid) {
		shell->pending = 0;
		return 0;
	}
	if (ecap_read_user(&length, shell->base + row->text_length) || ecap_read_user(&from, shell->base + row->text))
		length = 0;
	if (shell->depth < FRAMES) {
		frame = frame_at(shell, shell->depth);
		frame->sp = ecap_sp(ctx);
		frame->inner = 0;
		frame->command = m.time_ns;
		frame->flags = 0;
		shell->depth++;
	} else {
		/* As if it were a compound one: what it does is not the innermost known command's. */
		frame = frame_at(shell, FRAMES - 1);
		if (!inside(frame, ecap_sp(ctx)))
			frame->inner = ecap_sp(ctx) + 1;
		shell->pending_flags |= BASH_UNFOLLOWED;
		ecap_add(state_full, 1);
	}

	head = ecap_begin(&m, BASH_STREAM_COMMANDS, sizeof(*head), ecap_user_ptr(from), length, BASH_TEXT_MAX);
	if (!head) {
		shell->pending = 0;
		return 0;
	}
	head->kind = BASH_START;
	head->flags = shell->pending_flags;
	head->command = m.time_ns;
	head->process = bpf_get_current_pid_tgid() >> 32;
	head->value = 0;
	head->sp = ecap_sp(ctx);
	head->caller = shell->pending;
	head->length = length;
	shell->pending = 0;
	ecap_end(&m);
	return 0;
}

SEC("uretprobe")
int bash_text(struct pt_regs *ctx)
{
	return text(ctx);
}

SEC("uprobe")
int bash_text__exit(struct pt_regs *ctx)
{
	return text(ctx);
}

/* void set_pipestatus_array(int *statuses, int count), 2 arguments. S calls it through the wrapper
 * set_pipestatus_from_exit, which ends in a jump. */
SEC("uprobe")
int bash_status(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct shell *shell = ecap_state(bash_shells);
	struct frame *frame;
	__u32 status = 0;

	if (!shell || !shell->depth)
		return 0;
	frame = innermost(shell, ecap_sp(ctx));
	/* Further down: waiting for a job, or a compound command inside this one. */
	if (!frame || frame->sp > ecap_sp(ctx) + NEAR || inside(frame, ecap_sp(ctx)) || (frame->flags & FRAME_FORKED))
		return 0;
	if ((__u32)ecap_arg1(ctx) != 1 || ecap_read_user(&status, ecap_arg0(ctx)))
		return 0;
	shell->depth--;
	send(&m, BASH_END, frame->command, bpf_get_current_pid_tgid() >> 32, status);
	return 0;
}

/* pid_t make_child(char *command, int flags), 2 arguments. Substitutions give no text; an empty
 * command with redirections gives none either, but has no flags set (before 5.1 that was not so). */
SEC("uprobe")
int bash_fork_wanted(struct pt_regs *ctx)
{
	struct shell *shell = ecap_state(bash_shells);
	struct bash_layout *row;
	struct frame *frame;

	if (!shell || !shell->depth)
		return 0;
	shell->forking = 0;
	frame = innermost(shell, ecap_sp(ctx));
	if (!frame || inside(frame, ecap_sp(ctx)))
		return 0;
	if (!ecap_arg0(ctx)) {
		row = ecap_layout(ctx);
		if (!row || !row->null_forks || (__u32)ecap_arg1(ctx))
			return 0;
	}
	shell->forking = 1;
	return 0;
}

/* In the shell, before the child runs. */
SEC("tp_btf/sched_process_fork")
int bash_fork(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct task_struct *child = ECAP_TP_ARG(ctx, 1, struct task_struct *);
	struct shell *shell = ecap_state(bash_shells), *own;
	struct frame *frame;

	if (!shell || !shell->forking || !shell->depth)
		return 0;
	shell->forking = 0;
	frame = frame_at(shell, shell->depth - 1);
	frame->flags |= FRAME_FORKED;
	own = bpf_task_storage_get(&bash_shells, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!own) {
		ecap_add(state_full, 1);
		return 0;
	}
	own->owner = frame->command;
	own->owner_process = bpf_get_current_pid_tgid() >> 32;
	own->exits = 1;
	send(&m, BASH_FORK, frame->command, bpf_get_current_pid_tgid() >> 32, child->tgid);
	return 0;
}

/* A command leaves the shell or the function around it. What it does inside a compound command of its own was told already
 * of the command inside. */
ECAP_INLINE int leave(struct pt_regs *ctx, struct shell *shell, __u32 status)
{
	struct ecap_message m = ecap_message(ctx);
	struct frame *frame = innermost(shell, ecap_sp(ctx));

	if (frame && !inside(frame, ecap_sp(ctx)) && !(frame->flags & FRAME_FORKED))
		send(&m, BASH_HINT, frame->command, bpf_get_current_pid_tgid() >> 32, status);
	return 0;
}

/* void jump_to_top_level(int why), 1 argument. */
SEC("uprobe")
int bash_jump(struct pt_regs *ctx)
{
	struct shell *shell = ecap_state(bash_shells);
	struct bash_layout *row;
	__u32 status = 0;

	if (!shell || !shell->depth || (__u32)ecap_arg0(ctx) == ERREXIT)
		return 0;
	row = ecap_layout(ctx);
	if (!row || !row->valid || ecap_read_user(&status, shell->base + row->status))
		return 0;
	return leave(ctx, shell, status);
}

/* void exit_shell(int status), 1 argument. */
SEC("uprobe")
int bash_exit_shell(struct pt_regs *ctx)
{
	struct shell *shell = ecap_state(bash_shells);
	if (!shell || !shell->depth)
		return 0;
	return leave(ctx, shell, (__u32)ecap_arg0(ctx));
}

/* int get_exitstat(WORD_LIST *): what `return` and `exit` are about to leave with. */
ECAP_INLINE int exit_status(struct pt_regs *ctx)
{
	struct shell *shell = ecap_state(bash_shells);
	if (!shell || !shell->depth)
		return 0;
	return leave(ctx, shell, (__u32)ecap_result(ctx));
}

SEC("uretprobe")
int bash_exit_status(struct pt_regs *ctx)
{
	return exit_status(ctx);
}

SEC("uprobe")
int bash_exit_status__exit(struct pt_regs *ctx)
{
	return exit_status(ctx);
}

/* int shell_execve(char *command, char **args, char **env). */
SEC("uprobe")
int bash_exec_wanted(struct pt_regs *ctx)
{
	struct shell *shell = ecap_state(bash_shells);
	if (!shell)
		return 0;
	innermost(shell, ecap_sp(ctx));
	shell->running = shell->depth || shell->owner;
	return 0;
}

/* The arguments are read where the kernel put them for the new program: one piece of memory, just written. */
SEC("tp_btf/sched_process_exec")
int bash_exec(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct task_struct___bash *task = ECAP_TP_ARG(ctx, 0, struct task_struct___bash *);
	struct shell *shell = ecap_state(bash_shells);
	struct mm_struct___bash *mm;
	struct bash_head *head;
	__u64 from, length;

	if (!shell)
		return 0;
	/* Whatever it is now, it lies elsewhere. */
	shell->base = 0;
	if (!shell->running)
		return 0;
	mm = task->mm;
	if (!mm)
		return 0;
	from = mm->arg_start;
	length = mm->arg_end;
	length = length > from ? length - from : 0;
	head = ecap_begin(&m, BASH_STREAM_COMMANDS, sizeof(*head), ecap_user_ptr(from), length, BASH_TEXT_MAX);
	if (head) {
		head->kind = BASH_ARGS;
		head->flags = 0;
		head->command = shell->owner;
		head->process = shell->owner_process;
		if (shell->depth) {
			head->command = frame_at(shell, shell->depth - 1)->command;
			head->process = bpf_get_current_pid_tgid() >> 32;
		}
		head->value = 0;
		head->sp = 0;
		head->caller = 0;
		head->length = length;
		ecap_end(&m);
	}
	/* The old program's frames are gone; its open commands end with the process. */
	shell->depth = 0;
	shell->pending = 0;
	shell->parsing = 0;
	shell->forking = 0;
	shell->running = 0;
	shell->exits = 1;
	return 0;
}

SEC("tp_btf/sched_process_exit")
int bash_exit(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct task_struct *task = ECAP_TP_ARG(ctx, 0, struct task_struct *);
	struct task_struct___bash *leader;
	struct signal_struct___bash *signal;
	struct shell *shell;
	__u32 code;

	/* The last thread ends the process; the leader, whose state it is, may be gone before. */
	if (task->signal->live.counter != 0)
		return 0;
	leader = ((struct task_struct___bash *)task)->group_leader;
	shell = bpf_task_storage_get(&bash_shells, (struct task_struct *)leader, 0, 0);
	if (!shell || !(shell->exits || shell->depth))
		return 0;
	signal = leader->signal;
	code = leader->exit_code;
	if (signal && (signal->flags & SIGNAL_GROUP_EXIT))
		code = signal->group_exit_code;
	send(&m, BASH_EXIT, shell->owner, shell->owner_process, code);
	return 0;
}

/* int parse_command(void): a command is read, at a prompt if there is one. */
SEC("uprobe")
int bash_parse(struct pt_regs *ctx)
{
	struct shell *shell;
	if (!ecap_wanted())
		return 0;
	shell = ecap_state_create(bash_shells);
	if (shell)
		shell->parsing = 1;
	return 0;
}

/* char *readline(const char *prompt), in bash or in libreadline. There it serves every program, of which only those that
 * have read or run a shell command count. */
ECAP_INLINE int line(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct shell *shell = ecap_state(bash_shells);
	struct scratch *scratch;
	struct bash_head *head;
	__u64 length = 0;
	int i;

	if (!shell || !ecap_wanted() || !ecap_result(ctx))
		return 0;
	scratch = ecap_state_create(bash_scratch);
	if (!scratch)
		return 0;
	for (i = 0; i <= BASH_TEXT_MAX / (STEP - 1); i++) {
		long n = bpf_probe_read_user_str(scratch->bytes, STEP, ecap_user_ptr(ecap_result(ctx) + length));
		if (n <= 0)
			break;
		length += n - 1;
		if (n < STEP)
			break;
	}
	head = ecap_begin(&m, BASH_STREAM_COMMANDS, sizeof(*head), ecap_user_ptr(ecap_result(ctx)), length, BASH_TEXT_MAX);
	if (!head)
		return 0;
	head->kind = BASH_LINE;
	head->flags = shell->parsing ? 0 : BASH_READ;
	head->command = 0;
	head->process = 0;
	head->value = 0;
	head->sp = 0;
	head->caller = 0;
	head->length = length;
	ecap_end(&m);
	return 0;
}

SEC("uretprobe")
int bash_line(struct pt_regs *ctx)
{
	return line(ctx);
}

SEC("uprobe")
int bash_line__exit(struct pt_regs *ctx)
{
	return line(ctx);
}

ECAP_LICENSE("GPL");
