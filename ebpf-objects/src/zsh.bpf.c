// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Programs that zsh (5.8 and later) has parsed and runs. Messages and the layout row: zsh.h. Which symbol each program
 * belongs on is said at the program; all are exported functions.
 *
 * zsh runs everything through execode: what a loop over lines has parsed, what eval was given, bodies of functions. The first
 * argument is the parsed program, the fourth says where it comes from. What the shell was *given* to run is told; bodies of
 * functions and of substitutions are part of what was told when they were given.
 *
 * Only entries are probed: the kernel follows at most 64 nested returns of a thread, and functions nest deeper. The last thing
 * that execode does is to call freeeprog with the program, from its own frame; by then $? is what the program left.
 */
#include <ecapture/core.h>
#include <ecapture/ecapture.h>

#include "zsh.h"

#if defined(__TARGET_ARCH_x86)
#define PROBED_ADDRESS(ctx) ECAP_REG_(ctx, rip)
#else
#define PROBED_ADDRESS(ctx) ECAP_REG_(ctx, pc)
#endif

/* Fields that the headers do not have. */
struct signal_struct___zsh {
	int group_exit_code;
	unsigned int flags;
} ECAP_CORE;

struct task_struct___zsh {
	struct task_struct___zsh *group_leader;
	struct signal_struct___zsh *signal;
	int exit_code;
} ECAP_CORE;

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h: group_exit_code is valid */

/* struct eprog of zsh's zsh.h: flags, length of the memory block, number of patterns, number of references; the block's
 * patterns, code and strings. The block holds all three one behind the other, but for programs that are mapped from a file,
 * which keep their patterns elsewhere. */
struct eprog {
	__u32 flags;
	__u32 length;
	__u32 patterns;
	__u32 references;
	__u64 pattern_block;
	__u64 code;
	__u64 strings;
};

#define EF_MAP 4

/* First eight bytes of what zsh calls the context. */
#define TOPLEVEL 0x6c6576656c706f74ULL
#define FILECODE 0x65646f63656c6966ULL
#define FILE_ 0x00000000656c6966ULL    /* and a NUL: five bytes */
#define CMDARG 0x0000677261646d63ULL   /* seven */
#define EVAL 0x000000006c617665ULL     /* five */
#define FC 0x0000000000006366ULL       /* three */
#define BYTES(n) ((1ULL << (8 * (n))) - 1)

/* Programs inside one another that are followed. */
#define FRAMES 64
/* execode calls freeeprog with its own registers and variables on the stack: at most so far below its caller. */
#define NEAR 512

struct frame {
	__u64 sp; /* at the entry of execode; all bits set: the process is another program now */
	__u64 program;
	__u64 start_ns;
};

struct shell {
	__u64 depth;
	__u64 editor; /* stack pointer of the line editor's caller; 0: it does not run */
	struct eprog program; /* the one that begins; not on the stack, of which there is little */
	struct frame frames[FRAMES];
};

ECAP_THREAD_STATE(zsh_shells, struct shell);
ECAP_LAYOUTS(struct zsh_layout);

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
	/* By memory: what the verifier knows of a register differs from round to round. */
	for (i = 0; i < FRAMES; i++) {
		__u64 n = *depth;
		if (!n || frame_at(shell, n - 1)->sp > sp)
			break;
		*depth = n - 1;
	}
}

ECAP_INLINE __u32 context_of(__u64 name)
{
	if (name == TOPLEVEL)
		return ZSH_TOPLEVEL;
	if (name == FILECODE)
		return ZSH_FILECODE;
	if ((name & BYTES(5)) == FILE_)
		return ZSH_FILE;
	if ((name & BYTES(7)) == CMDARG)
		return ZSH_CMDARG;
	if ((name & BYTES(5)) == EVAL)
		return ZSH_EVAL;
	if ((name & BYTES(3)) == FC)
		return ZSH_FC;
	return 0;
}

/* Patterns lie before the code in the same block, but for mapped programs. */
ECAP_INLINE __u64 code_bytes(struct eprog *program)
{
	__u64 before = (program->flags & EF_MAP) ? 0 : (__u64)program->patterns * 8;
	return program->length > before ? program->length - before : 0;
}

/* void execode(Eprog, int dont_change_job, int exiting, char *context), 4 arguments. */
SEC("uprobe")
int zsh_run(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct shell *shell;
	struct zsh_layout *row;
	struct zsh_head *head;
	struct frame *frame;
	__u64 name, length;
	__u32 context;

	if (!ecap_wanted())
		return 0;
	if (ecap_read_user(&name, ecap_arg3(ctx)))
		return 0;
	context = context_of(name);
	if (!context)
		return 0;
	shell = ecap_state_create(zsh_shells);
	if (!shell)
		return 0;
	/* What the line editor runs for itself (completion, widgets) nobody asked for. */
	if (shell->editor <= ecap_sp(ctx))
		shell->editor = 0;
	else
		return 0;
	unwind(shell, ecap_sp(ctx));
	if (bpf_probe_read_user(&shell->program, sizeof(shell->program), ecap_user_ptr(ecap_arg0(ctx)))) {
		ecap_add(state_full, 1);
		return 0;
	}
	length = code_bytes(&shell->program);
	if (shell->depth < FRAMES) {
		frame = frame_at(shell, shell->depth);
		frame->sp = ecap_sp(ctx);
		frame->program = ecap_arg0(ctx);
		frame->start_ns = m.time_ns;
		shell->depth++;
		context |= 0x80;
	} else {
		ecap_add(state_full, 1);
	}
	head = ecap_begin(&m, ZSH_STREAM_PROGRAMS, sizeof(*head), ecap_user_ptr(shell->program.code), length, ZSH_PROGRAM_MAX);
	if (!head)
		return 0;
	head->kind = ZSH_START;
	head->flags = context & 0x80 ? 0 : ZSH_UNFOLLOWED;
	head->context = context & 0x7f;
	row = ecap_layout(ctx);
	head->format = row ? row->format : 0;
	head->start_ns = m.time_ns;
	head->sp = ecap_sp(ctx);
	head->length = length;
	head->words = (shell->program.strings - shell->program.code) / 4;
	head->value = 0;
	head->reserved = 0;
	ecap_end(&m);
	return 0;
}

/* A message without code. */
ECAP_INLINE void send(struct ecap_message *m, __u32 kind, __u64 start_ns, __u32 value)
{
	struct zsh_head *head = ecap_begin(m, ZSH_STREAM_PROGRAMS, sizeof(*head), 0, 0, 0);
	if (!head)
		return;
	head->kind = kind;
	head->flags = 0;
	head->context = 0;
	head->format = 0;
	head->start_ns = start_ns;
	head->sp = 0;
	head->length = 0;
	head->words = 0;
	head->value = value;
	head->reserved = 0;
	ecap_end(m);
}

/* void freeeprog(Eprog), 1 argument. */
SEC("uprobe")
int zsh_release(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct shell *shell = ecap_state(zsh_shells);
	struct zsh_layout *row;
	struct frame *frame;
	__u64 base, status = 0;

	if (!shell || !shell->depth)
		return 0;
	frame = frame_at(shell, shell->depth - 1);
	if (frame->program != ecap_arg0(ctx) || frame->sp <= ecap_sp(ctx) || frame->sp > ecap_sp(ctx) + NEAR)
		return 0;
	row = ecap_layout(ctx);
	if (!row || !row->valid)
		return 0;
	/* The probe is within a page of the function's start. */
	base = (PROBED_ADDRESS(ctx) - row->release) & ~0xfffULL;
	if (ecap_read_user(&status, base + row->status))
		status = 0;
	shell->depth--;
	send(&m, ZSH_END, frame->start_ns, status);
	return 0;
}

#define EDITOR_READS 1

/* char *zleentry(int command, ...), 1 argument: the line editor is called; of interest when it is to read a line. */
SEC("uprobe")
int zsh_editor(struct pt_regs *ctx)
{
	struct shell *shell;
	if ((__u32)ecap_arg0(ctx) != EDITOR_READS || !ecap_wanted())
		return 0;
	shell = ecap_state_create(zsh_shells);
	/* It may call itself. */
	if (shell && shell->editor < ecap_sp(ctx))
		shell->editor = ecap_sp(ctx);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int zsh_exec(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct shell *shell = ecap_state(zsh_shells);
	__u64 n;

	if (!shell)
		return 0;
	shell->editor = 0;
	if (!shell->depth)
		return 0;
	for (n = 0; n < FRAMES; n++)
		shell->frames[n].sp = ~0ULL;
	send(&m, ZSH_EXEC, 0, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int zsh_exit(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct task_struct *task = ECAP_TP_ARG(ctx, 0, struct task_struct *);
	struct task_struct___zsh *leader;
	struct signal_struct___zsh *signal;
	struct shell *shell;
	__u32 code;

	/* The last thread ends the process; the leader, whose state it is, may be gone before. */
	if (task->signal->live.counter != 0)
		return 0;
	leader = ((struct task_struct___zsh *)task)->group_leader;
	shell = bpf_task_storage_get(&zsh_shells, (struct task_struct *)leader, 0, 0);
	if (!shell || !shell->depth)
		return 0;
	signal = leader->signal;
	code = leader->exit_code;
	if (signal && (signal->flags & SIGNAL_GROUP_EXIT))
		code = signal->group_exit_code;
	send(&m, ZSH_EXIT, 0, code);
	return 0;
}

ECAP_LICENSE("GPL");
