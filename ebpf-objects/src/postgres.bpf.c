// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What clients of PostgreSQL say and what they are told, at the two exported functions through which all of it goes:
 * secure_read and secure_write, plaintext on connections with TLS as well. Messages: postgres.h.
 *
 * Both directions are walked message by message here, so that rows, copied data and passwords never leave the kernel side:
 * of them only the headers are read. The place in each direction's stream is state of the backend's thread.
 */
#include <ecapture/ecapture.h>

#include "postgres.h"

/* More messages than a buffer of the server (8 KiB, a message has 5 bytes or more) can hold; a larger write is one message. */
#define MOST_MESSAGES 1704
/* Looked at in one call. */
#define AT_ONCE 2
#define NOWHERE 0xffffffffU

enum step {
	STEP_UNKNOWN = 0, /* where messages begin is not known */
	STEP_KNOWN = 1,
};

struct walk {
	__u32 step;
	__u32 have;      /* bytes of `header` */
	__u32 type;      /* of the message that the walk is in */
	__u32 length;    /* of its body */
	__u32 left;      /* bytes of its body to come */
	__u32 at;        /* in the buffer of the current call */
	__u8 header[8];  /* type, length */
};

struct session {
	__u64 read_buffer; /* of the call in flight */
	__u64 write_buffer;
	__u64 buffer; /* what is walked, and its length */
	__u64 n;
	__u64 port;
	struct walk in, out;
	__u32 flags; /* PG_OLDER, PG_LOST */
	__u32 used;  /* bytes of `gathered` */
	__u32 from, to, boundary, startup, cut_ended; /* what of the current read is to be sent */
	__u64 sequence;
	__u64 copied_messages, copied_bytes;
	__u64 rows, row_bytes, copies, copy_bytes; /* since the last entry */
	__u8 gathered[PG_TOLD_MAX + PG_TOLD_BODY + 64];
};

ECAP_THREAD_STATE(pg_sessions, struct session);

ECAP_INLINE __u32 length_of(struct walk *walk)
{
	return (__u32)walk->header[1] << 24 | (__u32)walk->header[2] << 16 | (__u32)walk->header[3] << 8 | walk->header[4];
}

/* What is known of the connection of this thread, or 0 if nobody wants it. */
ECAP_INLINE struct session *wanted_session(void)
{
	return ecap_wanted() ? ecap_state_create(pg_sessions) : 0;
}

/* secure_read(Port *, void *, size_t) */
SEC("uprobe")
int pg_read(struct pt_regs *ctx)
{
	struct session *session = wanted_session();
	if (!session)
		return 0;
	session->port = ecap_arg0(ctx);
	session->read_buffer = ecap_arg1(ctx);
	return 0;
}

/* secure_write(Port *, void *, size_t) */
SEC("uprobe")
int pg_write(struct pt_regs *ctx)
{
	struct session *session = wanted_session();
	if (!session)
		return 0;
	session->write_buffer = ecap_arg1(ctx);
	return 0;
}

/* Nothing of these is sent: data to be copied, and passwords. */
ECAP_INLINE int is_kept_back(__u32 type)
{
	return type == 'd' || type == 'p';
}

ECAP_INLINE void send_from(struct session *session, __u32 from, __u32 to, __u32 boundary)
{
	if (session->from == NOWHERE) {
		session->from = from;
		session->boundary = boundary;
	}
	session->to = to;
}

#define CODE_SSL 80877103
#define CODE_GSS 80877104
#define CODE_CANCEL 80877102
#define STARTUP_MAX 10000

/* The first bytes of a connection, which have no type: how many of the read they are, 0 if these are none. A packet of the
 * server's making up to its whole length is looked for, so a message in the middle of which the capture began is not taken for
 * one. A client may have more to say in the same write: only if no password is asked for, since what follows is sent. */
ECAP_INLINE __u32 starts(struct session *session)
{
	struct walk *in = &session->in;
	__u32 length, code, n;

	if (session->n < 8 || bpf_probe_read_user(in->header, 8, ecap_user_ptr(session->buffer)))
		return 0;
	n = session->n;
	length = (__u32)in->header[0] << 24 | (__u32)in->header[1] << 16 | (__u32)in->header[2] << 8 | in->header[3];
	code = (__u32)in->header[4] << 24 | (__u32)in->header[5] << 16 | (__u32)in->header[6] << 8 | in->header[7];
	if (length < 8 || length > STARTUP_MAX)
		return 0;
	if (code == CODE_SSL || code == CODE_GSS)
		return length == 8 && n == 8 ? n : 0;
	if (code != CODE_CANCEL && code >> 16 != 3)
		return 0;
	if (length < n) {
		/* The packet's last NUL, a type, and a length below 16 MiB. */
		if (bpf_probe_read_user(in->header, 3, ecap_user_ptr(session->buffer + length - 1)) || in->header[0] || in->header[2] ||
		    in->header[1] < 'A' || in->header[1] > 'X')
			return 0;
		n = length;
	}
	in->step = STEP_KNOWN;
	in->have = 0;
	in->type = 0;
	in->length = length;
	in->left = length - n;
	session->out.step = STEP_KNOWN;
	session->flags = 0;
	return n;
}

/* Whether a message of this type may begin here: type and a length below 1 MiB, so text is not taken for one. */
ECAP_INLINE int begins(struct walk *walk, __u64 buffer, __u32 n)
{
	__u32 type;
	if (n < 5 || bpf_probe_read_user(walk->header, 5, ecap_user_ptr(buffer)))
		return 0;
	type = walk->header[0];
	if (walk->header[1] || walk->header[2] > 15 || length_of(walk) < 4)
		return 0;
	if (!((type >= 'A' && type <= 'Z') || (type >= 'a' && type <= 'z') || (type >= '1' && type <= '3')))
		return 0;
	walk->step = STEP_KNOWN;
	walk->have = 0;
	walk->left = 0;
	return 1;
}

ECAP_INLINE void lose_step(struct session *session, struct walk *walk)
{
	walk->step = STEP_UNKNOWN;
	session->flags |= PG_LOST;
}

/* The header at `walk->at`: 1 if it is whole now, 0 if it goes on (perhaps in the next buffer). */
ECAP_INLINE int take_header(struct session *session, struct walk *walk, __u64 buffer, __u32 n)
{
	__u32 at = walk->at;
	if (!walk->have && n - at >= 5) {
		if (bpf_probe_read_user(walk->header, 5, ecap_user_ptr(buffer + at))) {
			lose_step(session, walk);
			walk->at = n;
			return 0;
		}
		walk->at = at + 5;
	} else {
		if (bpf_probe_read_user(&walk->header[walk->have & 7], 1, ecap_user_ptr(buffer + at))) {
			lose_step(session, walk);
			walk->at = n;
			return 0;
		}
		walk->at = at + 1;
		walk->have++;
		if (walk->have < 5)
			return 0;
	}
	walk->have = 0;
	walk->type = walk->header[0];
	walk->length = length_of(walk);
	if (walk->length < 4 || walk->length > 0x40000000) {
		lose_step(session, walk);
		walk->at = n;
		return 0;
	}
	walk->length -= 4;
	walk->left = walk->length;
	return 1;
}

/* A message of the read, or what of it the read holds: 0 when there is no more. */
ECAP_INLINE int step_read(struct session *session)
{
	struct walk *in = &session->in;
	__u32 at, take, n;

	at = in->at;
	n = session->n;
	if (at >= n)
		return 0;
	if (!in->left) {
		__u32 begins = !in->have;
		int whole = take_header(session, in, session->buffer, n);
		if (in->step != STEP_KNOWN)
			return 0;
		if (!is_kept_back(in->header[0]))
			send_from(session, at, in->at, begins);
		if (!whole)
			return 1;
		if (in->type == 'd')
			session->copied_messages++;
		at = in->at;
	}
	take = n - at;
	if (take > in->left)
		take = in->left;
	if (in->type == 'd')
		session->copied_bytes += take;
	if (take && !is_kept_back(in->type) && in->length - in->left < PG_MESSAGE_MAX)
		send_from(session, at, at + take, 0);
	in->left -= take;
	in->at = at + take;
	/* Said when it happens: the answer comes before the client's next message. */
	if (take && !in->left && in->length > PG_MESSAGE_MAX && !is_kept_back(in->type))
		session->cut_ended = 1;
	return 1;
}

/* Two of them. A function of its own, and global, so that the verifier looks at it once and not once for each turn of the
 * loop; each call of it adds a line to the verifier's log, which is not to outgrow the loader's. */
__attribute__((noinline)) int pg_step_read(struct session *session)
{
	return session && step_read(session) && step_read(session);
}

ECAP_INLINE void walk_read(struct session *session)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_MESSAGES / AT_ONCE; i++) {
		if (!pg_step_read(session))
			return;
	}
	lose_step(session, &session->in);
}

ECAP_INLINE void fill_head(struct session *session, struct pg_head *head, __u32 kind, __u32 flags)
{
	head->kind = kind;
	head->flags = flags | session->flags;
	head->copy_messages = session->copied_messages;
	head->copy_bytes = session->copied_bytes;
	head->sequence = session->sequence;
	session->flags &= ~PG_LOST;
}

/* Offsets into struct Port, which are the same from 13 to 18: { int sock; bool noblock; int proto; SockAddr laddr, raddr; ... }
 * with SockAddr = { struct sockaddr_storage addr; socklen_t salen; }. The decoder believes the client's address only if its
 * length is the one of its family and the family that of the server's end. */
#define PORT_LOCAL 16
#define PORT_PEER 152
#define PORT_PEER_LENGTH 280

ECAP_INLINE void fill_peer(struct session *session, struct pg_asked *asked)
{
	__builtin_memset(asked->peer, 0, sizeof(asked->peer));
	asked->local_family = 0;
	asked->peer_length = 0;
	/* It stays the same for a connection's life, and three reads cost more than the rest of this. */
	if (!session->startup)
		return;
	if (bpf_probe_read_user(&asked->local_family, 2, ecap_user_ptr(session->port + PORT_LOCAL)) ||
	    bpf_probe_read_user(&asked->peer_length, 4, ecap_user_ptr(session->port + PORT_PEER_LENGTH)) ||
	    bpf_probe_read_user(asked->peer, PG_ADDRESS, ecap_user_ptr(session->port + PORT_PEER))) {
		asked->local_family = 0;
		asked->peer_length = 0;
	}
}

/* What the bytes are, and which of them to send: 0 if none. Global like pg_step_read, so that it has registers of its own. */
__attribute__((noinline)) int pg_look_at_read(struct session *session)
{
	__u32 starting;

	if (!session)
		return 0;
	session->from = NOWHERE;
	session->to = 0;
	session->boundary = 0;
	session->startup = 0;
	session->cut_ended = 0;
	session->in.at = 0;
	if (session->in.step == STEP_KNOWN)
		return 1;
	starting = starts(session);
	if (starting) {
		session->in.at = starting;
		session->from = 0;
		session->to = starting;
		session->boundary = 1;
		session->startup = 1;
		return 1;
	}
	if (!begins(&session->in, session->buffer, session->n))
		return 0;
	session->flags |= PG_OLDER;
	return 1;
}

/* `n` bytes have been read into session->read_buffer. */
ECAP_INLINE int has_read(struct pt_regs *ctx, struct session *session, __u64 n)
{
	struct ecap_message m;
	struct pg_asked *asked;

	session->buffer = session->read_buffer;
	session->read_buffer = 0;
	/* An error, the end of the stream, or nothing that the server would ask for. */
	if (!session->buffer || n - 1 >= PG_MESSAGE_MAX)
		return 0;
	session->n = n;
	if (!pg_look_at_read(session)) {
		ecap_add(orphans, 1);
		return 0;
	}
	walk_read(session);
	if (session->from == NOWHERE) {
		if (!session->cut_ended)
			return 0;
		session->from = 0;
	}
	if (session->flags & PG_LOST)
		ecap_add(orphans, 1);
	session->sequence++;
	m = ecap_message(ctx);
	asked = ecap_begin(&m, PG_STREAM_PROTOCOL, sizeof(*asked), ecap_user_ptr(session->buffer + session->from),
			   session->to - session->from, PG_ASKED_MAX);
	if (!asked)
		return 0;
	fill_head(session, &asked->head, PG_ASKED,
		  (session->boundary ? PG_BOUNDARY : 0) | (session->startup ? PG_STARTUP : 0) |
			  (session->cut_ended ? PG_CUT_ENDED : 0));
	fill_peer(session, asked);
	asked->reserved = 0;
	asked->reserved1 = 0;
	ecap_end(&m);
	return 0;
}

ECAP_INLINE int read_end(struct pt_regs *ctx)
{
	struct session *session = ecap_state(pg_sessions);
	return session ? has_read(ctx, session, ecap_result(ctx)) : 0;
}

SEC("uretprobe")
int pg_read_end(struct pt_regs *ctx)
{
	return read_end(ctx);
}

/* The same on the branches before the `ret` instructions. */
SEC("uprobe")
int pg_read_end__exit(struct pt_regs *ctx)
{
	return read_end(ctx);
}

/* The whole call at once, where registers still hold its arguments at its end. */
SEC("uprobe")
int pg_read_whole(struct pt_regs *ctx)
{
	struct session *session = wanted_session();
	if (!session)
		return 0;
	session->port = ecap_exit_arg(ctx, 0);
	session->read_buffer = ecap_exit_arg(ctx, 1);
	return has_read(ctx, session, ecap_exit_value(ctx));
}

/* The messages that say what became of something: ParseComplete, BindComplete, CloseComplete, CommandComplete, ErrorResponse,
 * EmptyQueryResponse, ReadyForQuery, CopyIn-, CopyOut- and CopyBothResponse, PortalSuspended, NoData, RowDescription (which
 * answers Describe as NoData does; its body is not looked at), ParameterDescription, FunctionCallResponse. */
ECAP_INLINE int is_told(__u32 type)
{
	if (type >= 'A' && type <= 'Z')
		return (1 << (type - 'A')) & (1 << ('C' - 'A') | 1 << ('E' - 'A') | 1 << ('G' - 'A') | 1 << ('H' - 'A') |
					      1 << ('I' - 'A') | 1 << ('T' - 'A') | 1 << ('V' - 'A') | 1 << ('W' - 'A') |
					      1 << ('Z' - 'A'));
	return type == '1' || type == '2' || type == '3' || type == 's' || type == 'n' || type == 't';
}

/* Room for one more entry, or 0. */
ECAP_INLINE struct pg_entry *entry(struct session *session, __u32 size)
{
	__u32 used = session->used;
	if (used > PG_TOLD_MAX - 8) {
		session->flags |= PG_LOST;
		return 0;
	}
	session->used = used + 8 + ((size + 7) & ~7U);
	return (struct pg_entry *)(session->gathered + (used & (PG_TOLD_MAX * 2 - 1)));
}

struct counts {
	struct pg_entry entry;
	__u64 messages, bytes;
};

ECAP_INLINE void put_counts(struct session *session, __u8 type, __u64 *messages, __u64 *bytes)
{
	struct counts *counts = (struct counts *)entry(session, 16);
	if (!counts)
		return;
	counts->entry.type = type;
	counts->entry.more = 0;
	counts->entry.captured = 16;
	counts->entry.length = 16;
	counts->messages = *messages;
	counts->bytes = *bytes;
	*messages = 0;
	*bytes = 0;
}

ECAP_INLINE void put_body(struct session *session, __u64 user, __u64 n, __u32 more)
{
	struct pg_entry *put;
	if (session->out.type == 'T' || session->out.type == 'V')
		n = 0;
	n = ecap_at_most(n, PG_TOLD_BODY);
	put = entry(session, n);
	if (!put)
		return;
	put->type = session->out.type;
	put->more = more;
	put->captured = n;
	put->length = session->out.length;
	if (n && bpf_probe_read_user(put + 1, n, ecap_user_ptr(user)))
		put->captured = 0;
}

/* The same for what is written. */
ECAP_INLINE int step_write(struct session *session)
{
	struct walk *out = &session->out;
	__u32 at, take, n, goes_on = 1;

	at = out->at;
	n = session->n;
	if (at >= n)
		return 0;
	if (!out->left) {
		if (!take_header(session, out, session->buffer, n))
			return out->step == STEP_KNOWN;
		at = out->at;
		goes_on = 0;
		if (out->type == 'D')
			session->rows++;
		else if (out->type == 'd')
			session->copies++;
	}
	take = n - at;
	if (take > out->left)
		take = out->left;
	if (out->type == 'D') {
		session->row_bytes += take;
	} else if (out->type == 'd') {
		session->copy_bytes += take;
	} else if (is_told(out->type)) {
		if (session->rows)
			put_counts(session, 'D', &session->rows, &session->row_bytes);
		if (session->copies)
			put_counts(session, 'd', &session->copies, &session->copy_bytes);
		put_body(session, session->buffer + at, take, goes_on);
	}
	out->left -= take;
	out->at = at + take;
	return 1;
}

__attribute__((noinline)) int pg_step_write(struct session *session)
{
	return session && step_write(session) && step_write(session);
}

ECAP_INLINE void walk_write(struct session *session)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_MESSAGES / AT_ONCE; i++) {
		if (!pg_step_write(session))
			return;
	}
	lose_step(session, &session->out);
}

/* `n` bytes of session->write_buffer have been written. */
ECAP_INLINE int has_written(struct pt_regs *ctx, struct session *session, __u64 n)
{
	struct ecap_message m;
	struct pg_head *head;

	session->buffer = session->write_buffer;
	session->write_buffer = 0;
	if (!session->buffer || n - 1 >= 0x40000000)
		return 0;
	session->n = n;
	session->used = 0;
	session->out.at = 0;
	if (session->out.step != STEP_KNOWN) {
		if (!begins(&session->out, session->buffer, session->n))
			return 0;
		session->flags |= PG_OLDER;
	}
	walk_write(session);
	if (!session->used)
		return 0;
	if (session->flags & PG_LOST)
		ecap_add(orphans, 1);
	session->sequence++;
	/* The bytes are of the kernel's own memory: sent here, not by ecap_end. */
	m = ecap_message(ctx);
	head = ecap_begin(&m, PG_STREAM_PROTOCOL, sizeof(*head), 0, session->used, PG_TOLD_MAX + PG_TOLD_BODY);
	if (!head)
		return 0;
	fill_head(session, head, PG_TOLD, 0);
	m.record->message = 0;
	m.record->flags = ECAP_RECORD_LAST;
	m.record->len = sizeof(*head) + m.bytes;
	bpf_probe_read_kernel(head + 1, m.bytes, session->gathered);
	ecap_submit_(m.record);
	return 0;
}

ECAP_INLINE int write_end(struct pt_regs *ctx)
{
	struct session *session = ecap_state(pg_sessions);
	return session ? has_written(ctx, session, ecap_result(ctx)) : 0;
}

SEC("uretprobe")
int pg_write_end(struct pt_regs *ctx)
{
	return write_end(ctx);
}

/* The same on the branches before the `ret` instructions. */
SEC("uprobe")
int pg_write_end__exit(struct pt_regs *ctx)
{
	return write_end(ctx);
}

/* The whole call at once, as in pg_read_whole. */
SEC("uprobe")
int pg_write_whole(struct pt_regs *ctx)
{
	struct session *session = wanted_session();
	if (!session)
		return 0;
	session->write_buffer = ecap_exit_arg(ctx, 1);
	return has_written(ctx, session, ecap_exit_value(ctx));
}

/* A backend is gone: by its own decision, by a signal, or since the server crashed. It has one thread. */
SEC("tp_btf/sched_process_exit")
int pg_exit(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct session *session = ecap_state(pg_sessions);
	struct pg_head *head;

	(void)ctx;
	if (!session || !session->sequence)
		return 0;
	session->sequence++;
	head = ecap_begin(&m, PG_STREAM_PROTOCOL, sizeof(*head), 0, 0, 0);
	if (!head)
		return 0;
	fill_head(session, head, PG_ENDED, 0);
	ecap_end(&m);
	return 0;
}

ECAP_INLINE int nested(struct pt_regs *ctx, __u64 text)
{
	struct ecap_message m = ecap_message(ctx);
	struct session *session;
	struct pg_head *head;

	if (!ecap_wanted() || !text)
		return 0;
	/* A parallel worker says nothing to a client and is told nothing by one: what it runs is its leader's statement. */
	session = ecap_state(pg_sessions);
	if (!session || !session->sequence)
		return 0;
	session->sequence++;
	head = ecap_begin_string(&m, PG_STREAM_PROTOCOL, sizeof(*head), ecap_user_ptr(text), PG_NESTED_MAX);
	if (!head)
		return 0;
	fill_head(session, head, PG_NESTED, 0);
	ecap_end_string(&m, PG_NESTED_MAX);
	return 0;
}

/* ExecutorStart(QueryDesc *, int); QueryDesc is { CmdType operation; PlannedStmt *plannedstmt; const char *sourceText; ... }. */
SEC("uprobe")
int pg_nested_query(struct pt_regs *ctx)
{
	__u64 text;
	if (ecap_read_user(&text, ecap_arg0(ctx) + 16))
		return 0;
	return nested(ctx, text);
}

/* ProcessUtility(PlannedStmt *, const char *queryString, ...) */
SEC("uprobe")
int pg_nested_utility(struct pt_regs *ctx)
{
	return nested(ctx, ecap_arg1(ctx));
}

ECAP_LICENSE("GPL");
