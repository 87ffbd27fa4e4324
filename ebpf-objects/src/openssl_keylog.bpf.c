// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Secrets of TLS connections made with OpenSSL 1.1.1 and later, BoringSSL and AWS-LC, as a key log has them: taken where
 * the library hands each of them to the function that would log it. Messages: openssl_keylog.h.
 */
#include <ecapture/core.h>
#include <ecapture/ecapture.h>

#include "openssl_keylog.h"

#define PAGE 4096

/* Calls within calls: TLS inside TLS. */
#define NESTED 4

/* As in openssl.bpf.c: how far the stack pointers at the entry and at the return of a call may differ. */
#define FRAME 512

ECAP_LAYOUTS(struct openssl_labels);

struct connection_key {
	__u64 process; /* its id, and how often it has run another program */
	__u64 ssl;
};

enum known {
	KEYS_SEEN = 1,
	TOLD = 2, /* that they were not */
};

/* Connections of which there is nothing more to tell. A process that ends leaves its own here, so the least recently used
 * go first; one that is forgotten while it lives may be told of although its keys were seen. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, __u32);
} openssl_known SEC(".maps");

/* The calls of a thread that are in flight. */
struct calls {
	__u64 process;
	__u64 depth;
	struct {
		__u64 ssl; /* 0: it has nothing to tell */
		__u64 sp;
	} call[NESTED];
};

ECAP_THREAD_STATE(openssl_calls, struct calls);

/* A second view of the task, with what core.h does not read. */
struct task_struct___life {
	__u64 self_exec_id;
} ECAP_CORE;

ECAP_INLINE __u64 process(void)
{
	struct task_struct___life *task = (struct task_struct___life *)bpf_get_current_task_btf();
	return bpf_get_current_pid_tgid() >> 32 << 32 | (__u32)task->self_exec_id;
}

/* Notes what is known of a connection; 0 if nothing was known before. */
ECAP_INLINE long note(__u64 ssl, __u32 what, __u64 how)
{
	struct connection_key key = { .process = process(), .ssl = ssl };
	return bpf_map_update_elem(&openssl_known, &key, &what, how);
}

ECAP_INLINE int is_known(__u64 ssl)
{
	struct connection_key key = { .process = process(), .ssl = ssl };
	return bpf_map_lookup_elem(&openssl_known, &key) != 0;
}

/* The probe stands where the function hands everything on: its number says which register holds what. */
#define HANDED(field) ((field) >> 31)

/* The function chooses between places of the client random: a client that offers ECH has a second one. This program runs for
 * each of them. */
#define SEVERAL(field) (((field) >> 30 & 1) && !HANDED(field))

/* Where a pointer is that leads to the client random, and 1; 0: there is none on the way. */
#define THROUGH(field) ((field) >> 16 & 0x3fff)

ECAP_INLINE __u64 register_of(struct pt_regs *ctx, __u32 position)
{
	switch (position & 7) {
	case 0:
		return ecap_arg0(ctx);
	case 1:
		return ecap_arg1(ctx);
	case 2:
		return ecap_arg2(ctx);
	case 3:
		return ecap_arg3(ctx);
	case 4:
		return ecap_arg4(ctx);
	default:
		return ecap_arg5(ctx);
	}
}

/* Argument `n` of ssl_log_secret(ssl, label, secret, length). */
#define ARGUMENT(ctx, field, n) (HANDED(field) ? register_of(ctx, (field) >> 3 * (n)) : ecap_arg##n(ctx))

/* Where the client random is, by the probe's number: from `ssl` on, or from where a pointer in it points to. 0 if that
 * pointer cannot be read. */
ECAP_INLINE __u64 random_of(struct pt_regs *ctx, __u64 ssl, __u32 field)
{
	__u64 from = ssl;

	if (HANDED(field))
		return register_of(ctx, field >> 18);
	if (THROUGH(field) && ecap_read_user(&from, ssl + THROUGH(field) - 1))
		return 0;
	return from + (field & 0xffff);
}

/* The place that a connection has no use for is zeros; eight of them in a random number are as good as impossible. One variable
 * for all that is read: the stack is short. */
ECAP_INLINE int is_empty(struct pt_regs *ctx, __u32 field)
{
	__u64 word = ecap_arg0(ctx);

	if (!SEVERAL(field) || (THROUGH(field) && ecap_read_user(&word, word + THROUGH(field) - 1)))
		return 0;
	return !ecap_read_user(&word, word + (field & 0xffff)) && !word;
}

ECAP_INLINE __u16 label_at(struct pt_regs *ctx, __u64 label)
{
	struct openssl_labels *row = ecap_layout(ctx);
	__u16 at = label & (PAGE - 1);

	if (!row)
		return 0;
	for (int i = 0; i < OPENSSL_LABELS; i++)
		if (row->of[i].label && row->of[i].at == at)
			return row->of[i].label;
	return 0;
}

/* CLIENT_TRAFFIC_SECRET_N and the server's: keys that follow others, which may be from before the capture. */
ECAP_INLINE int is_next(const struct openssl_secret *s)
{
	return s->place >= OPENSSL_NEXT || (s->label[21] == '_' && s->label[22] == 'N' && !s->label[23]);
}

ECAP_INLINE void fill(struct pt_regs *ctx, __u32 field, struct openssl_secret *s)
{
	__u64 random, length, label;

	__builtin_memset(s, 0, sizeof(*s));
	s->ssl = ARGUMENT(ctx, field, 0);
	random = random_of(ctx, s->ssl, field);
	if (!random || bpf_probe_read_user(s->random, sizeof(s->random), ecap_user_ptr(random)))
		s->unread |= OPENSSL_NO_RANDOM;
	label = ARGUMENT(ctx, field, 1);
	s->place = label_at(ctx, label);
	if (bpf_probe_read_user_str(s->label, sizeof(s->label), ecap_user_ptr(label)) <= 0)
		s->unread |= OPENSSL_NO_LABEL;
	length = ARGUMENT(ctx, field, 3);
	s->length = length > 0xffffffff ? 0xffffffff : length;
	length = ecap_at_most(length, OPENSSL_SECRET_MAX);
	if (bpf_probe_read_user(s->secret, length, ecap_user_ptr(ARGUMENT(ctx, field, 2))))
		s->unread |= OPENSSL_NO_SECRET;
}

SEC("uprobe")
int openssl_secret(struct pt_regs *ctx)
{
	__u32 next = 0, field = ecap_probe_arg(ctx);
	struct ecap_message m;
	struct openssl_secret *s;

	if (!ecap_wanted() || is_empty(ctx, field))
		return 0;
	m = ecap_message(ctx);
	s = ecap_begin(&m, OPENSSL_STREAM_SECRETS, sizeof(*s), 0, 0, 0);
	if (s) {
		fill(ctx, field, s);
		next = is_next(s);
		ecap_end(&m);
	}
	if (!next)
		note(ARGUMENT(ctx, field, 0), KEYS_SEEN, BPF_ANY);
	return 0;
}

/* A stream of QUIC is not the object that the keys belong to. From 3.2 on, which can do QUIC, the first four bytes are the
 * kind of the object; what is there in others (a version of TLS, an address) has no such value. */
ECAP_INLINE int is_quic(__u64 ssl)
{
	__u32 kind = 0;

	return !ecap_read_user(&kind, ssl) && kind >= 0x80 && kind < 0x100;
}

/* Functions that read or write: f(ssl, ...). */
SEC("uprobe")
int openssl_use(struct pt_regs *ctx)
{
	__u64 of, depth, sp = ecap_sp(ctx), ssl = ecap_arg0(ctx);
	struct calls *calls;

	if (!ecap_wanted())
		return 0;
	calls = ecap_state_create(openssl_calls);
	if (!calls)
		return 0;
	of = process();
	depth = calls->process == of ? calls->depth : 0;
	calls->process = of;
	/* Calls whose frames are gone left without our seeing it (exception, longjmp). */
	for (int i = 0; i < NESTED && depth; i++) {
		if (calls->call[(depth - 1) & (NESTED - 1)].sp > sp)
			break;
		depth--;
	}
	if (depth >= NESTED) {
		ecap_add(state_full, 1);
		return 0;
	}
	calls->depth = depth + 1;
	calls->call[depth & (NESTED - 1)].sp = sp;
	calls->call[depth & (NESTED - 1)].ssl = is_known(ssl) || is_quic(ssl) ? 0 : ssl;
	return 0;
}

/* The connection of the call that returns, if it has something to tell. */
ECAP_INLINE __u64 close_call(struct pt_regs *ctx)
{
	struct calls *calls = ecap_state(openssl_calls);
	__u64 depth, sp = ecap_sp(ctx);

	if (!calls)
		return 0;
	for (int i = 0; i < NESTED; i++) {
		depth = calls->depth;
		/* The return of a call that began before the capture, or of one further in, for which there was no room. */
		if (!depth || sp + FRAME < calls->call[(depth - 1) & (NESTED - 1)].sp)
			return 0;
		calls->depth = depth - 1;
		if (calls->call[(depth - 1) & (NESTED - 1)].sp + FRAME >= sp)
			return calls->call[(depth - 1) & (NESTED - 1)].ssl;
	}
	return 0;
}

/* Bytes were moved, so the handshake is over; and nothing of it was seen. */
ECAP_INLINE int used(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	__u64 ssl = close_call(ctx);
	struct openssl_unseen *unseen;

	if (!ssl || (__s32)ecap_result(ctx) <= 0 || note(ssl, TOLD, BPF_NOEXIST))
		return 0;
	unseen = ecap_begin(&m, OPENSSL_STREAM_UNSEEN, sizeof(*unseen), 0, 0, 0);
	if (unseen) {
		unseen->ssl = ssl;
		ecap_end(&m);
	}
	return 0;
}

SEC("uretprobe")
int openssl_used(struct pt_regs *ctx)
{
	return used(ctx);
}

SEC("uprobe")
int openssl_used__exit(struct pt_regs *ctx)
{
	return used(ctx);
}

ECAP_LICENSE("GPL");
