// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Kernel side. An execution begins with the first sqlite3_step and ends with one that does not return a row, or with a reset;
 * values are bound before, and stay bound. */
#include <ecapture/ecapture.h>
#include <ecapture/state.h>

#include "module.h"

ECAP_LAYOUTS(struct layout);

#define SQLITE_ROW 100
#define RESET -1
#define DEEPEST 8

struct execution {
	__u64 statement;
	__u64 process;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct execution);
	__type(value, __u64); /* rows */
} executions SEC(".maps");

/* Steps in flight: a statement may run others (full-text search, functions of the program). */
struct steps {
	__u64 depth;
	__u64 statement[DEEPEST];
	__u64 none;         /* 0 */
	struct execution e; /* the key of the program that runs: not on the stack, which has to stay small */
};
ECAP_THREAD_STATE(steps, struct steps);

ECAP_INLINE struct steps *look_at(__u64 statement)
{
	struct steps *s = ecap_state_create(steps);

	if (s) {
		s->e.statement = statement;
		s->e.process = bpf_get_current_pid_tgid() >> 32;
	}
	return s;
}

ECAP_INLINE struct message *about(struct message *r, __u32 kind, __u64 statement)
{
	if (r) {
		__builtin_memset(r, 0, sizeof(*r));
		r->kind = kind;
		r->statement = statement;
	}
	return r;
}

ECAP_INLINE struct message *begin(struct ecap_message *m, __u32 kind, __u64 statement, __u64 user, __u64 length)
{
	return about(ecap_begin(m, 0, sizeof(struct message), ecap_user_ptr(user), length, VALUE_MAX), kind, statement);
}

ECAP_INLINE struct message *begin_string(struct ecap_message *m, __u32 kind, __u64 statement, __u64 user)
{
	return about(ecap_begin_string(m, 0, sizeof(struct message), ecap_user_ptr(user), TEXT_MAX), kind, statement);
}

/* int sqlite3_step(sqlite3_stmt *) */
SEC("uprobe")
int step(struct pt_regs *ctx)
{
	struct layout *layout = ecap_layout(ctx);
	struct ecap_message m;
	struct steps *s;
	__u64 text = 0;

	if (!ecap_wanted() || !layout || !layout->valid)
		return 0;
	s = look_at(ecap_arg0(ctx));
	if (!s)
		return 0;
	if (s->depth < DEEPEST)
		s->statement[s->depth & (DEEPEST - 1)] = ecap_arg0(ctx);
	s->depth++;
	/* Without a text: SQLite's own, when it reads the schema. */
	ecap_read_user(&text, ecap_arg0(ctx) + layout->text);
	if (!text || bpf_map_lookup_elem(&executions, &s->e))
		return 0;
	if (bpf_map_update_elem(&executions, &s->e, &s->none, BPF_NOEXIST))
		ecap_add(state_full, 1);
	m = ecap_message(ctx);
	if (begin_string(&m, BEGIN, ecap_arg0(ctx), text))
		ecap_end_string(&m, TEXT_MAX);
	return 0;
}

/* An execution is over, or (FORGET) the statement is gone, whether it was being executed or not. */
ECAP_INLINE void end(struct pt_regs *ctx, struct steps *s, __u32 kind, __s64 result)
{
	__u64 *rows = bpf_map_lookup_elem(&executions, &s->e);
	struct ecap_message m;
	struct message *r;

	if (!rows && kind == END)
		return;
	m = ecap_message(ctx);
	r = begin(&m, kind, s->e.statement, 0, 0);
	if (r) {
		r->value = result;
		r->rows = rows ? *rows : 0;
		ecap_end(&m);
	}
	bpf_map_delete_elem(&executions, &s->e);
}

SEC("uretprobe")
int stepped(struct pt_regs *ctx)
{
	struct steps *s = ecap_state(steps);
	__u64 *rows;

	if (!s || !s->depth)
		return 0;
	s->depth--;
	if (s->depth >= DEEPEST) {
		ecap_add(orphans, 1);
		return 0;
	}
	s = look_at(s->statement[s->depth & (DEEPEST - 1)]);
	if (!s)
		return 0;
	if ((__s32)ecap_result(ctx) != SQLITE_ROW) {
		end(ctx, s, END, (__s32)ecap_result(ctx));
		return 0;
	}
	rows = bpf_map_lookup_elem(&executions, &s->e);
	if (rows)
		*rows += 1;
	return 0;
}

/* int sqlite3_reset(sqlite3_stmt *), int sqlite3_finalize(sqlite3_stmt *); the probe's argument tells them apart. */
SEC("uprobe")
int leave(struct pt_regs *ctx)
{
	struct steps *s;

	if (!ecap_wanted() || !ecap_arg0(ctx))
		return 0;
	s = look_at(ecap_arg0(ctx));
	if (s)
		end(ctx, s, ecap_probe_arg(ctx) ? FORGET : END, RESET);
	return 0;
}

/* int sqlite3_bind_TYPE(sqlite3_stmt *, int number, value, int length, ...); the probe's argument is the type. A `double` is
 * passed in a register that no eBPF program can read. */
ECAP_INLINE __u32 type_of(struct pt_regs *ctx)
{
	return ecap_arg2(ctx) || ecap_probe_arg(ctx) < TEXT ? ecap_probe_arg(ctx) : NUL;
}

SEC("uprobe")
int bind(struct pt_regs *ctx)
{
	__s64 length = type_of(ctx) < TEXT ? 0 : (__s32)ecap_arg3(ctx);
	struct ecap_message m;
	struct message *r;

	if (!ecap_wanted() || length < 0)
		return 0;
	m = ecap_message(ctx);
	r = begin(&m, BIND, ecap_arg0(ctx), ecap_arg2(ctx), length);
	if (!r)
		return 0;
	r->number = ecap_arg1(ctx);
	/* Looked at once more rather than kept on the stack. */
	r->type = type_of(ctx);
	r->value = r->type == INTEGER ? (__s64)ecap_arg2(ctx) : (__s32)ecap_arg3(ctx);
	ecap_end(&m);
	return 0;
}

/* A text that ends with a NUL. */
SEC("uprobe")
int bind_string(struct pt_regs *ctx)
{
	struct ecap_message m;
	struct message *r;

	if (!ecap_wanted() || !ecap_arg2(ctx) || (__s32)ecap_arg3(ctx) >= 0)
		return 0;
	m = ecap_message(ctx);
	r = begin_string(&m, BIND, ecap_arg0(ctx), ecap_arg2(ctx));
	if (!r)
		return 0;
	r->number = ecap_arg1(ctx);
	r->type = TEXT;
	r->value = -1;
	ecap_end_string(&m, TEXT_MAX);
	return 0;
}

ECAP_LICENSE("GPL");
