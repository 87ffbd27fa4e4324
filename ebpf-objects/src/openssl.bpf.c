// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Plaintext of OpenSSL 1.1.1 and later, BoringSSL and AWS-LC: what passes SSL_read, SSL_write and their kin, taken when a
 * call returns and as far as it says that it was taken. Messages: openssl.h. No offset into any structure of the library is
 * needed: everything comes from arguments, results and the sockets that the thread uses during a call, or around it.
 */
#include <ecapture/core.h>
#include <ecapture/ecapture.h>

#include "openssl.h"

/* TLS inside TLS nests (a connection through a proxy), and so do callbacks. */
#define NESTED 4

#define IPPROTO_TCP 6

/* A probe of an entry may sit behind instructions that make room on the stack, and one of an exit before those that give it
 * back: the stack pointers differ by no more than this. A function that is called from within has its frame below the
 * library's own, which are larger. */
#define FRAME 512

struct connection_key {
	__u64 process; /* its id, and how often it has run another program */
	__u64 ssl;
};

/* One call in flight. */
struct call {
	__u64 sp;    /* stack pointer at or just behind the entry: tells whose return it is */
	__u64 buffer;
	__u64 room;  /* bytes that the caller offered */
	__u64 bytes; /* where the function puts the number of bytes, if it does not return it */
	__u16 inner;   /* part of a call on the same connection in the same direction: the outer one tells */
	__u16 sockets; /* different TCP sockets that were used in its direction during it: 0, 1, or 2 for more */
	__u32 ports;   /* of the first: a closed socket's memory may be another's soon */
	__u64 socket;
	__u64 wire;    /* bytes that went through them */
	/* The one socket that the thread received from between its call before and this one, which reads; 0: none or several. */
	__u64 heard;
	__u32 heard_ports;
	__u32 unused;
	struct openssl_data data; /* filled as it becomes known */
};

/* TCP sockets that a thread uses between two calls, in one direction. */
struct between {
	__u64 socket; /* the first */
	__u64 wire;
	__u32 ports;
	__u32 sockets; /* 0, 1, or 2 for more */
};

struct flight {
	/* Of the call that is looked at. Calls of the program that this process ran before are over. */
	struct connection_key key;
	__u64 depth;
	struct call call[NESTED];
	/* The socket that the thread used last, during a call. */
	__u64 socket;
	__u32 ports;
	__u32 unused;
	struct openssl_socket shown;
	/* A program may move the encrypted bytes itself: receive, then call; call, then send. */
	struct between received;
	struct between sent;
	__u64 last_ssl;   /* the call that returned last used no socket and was on this; 0: another one */
	__u64 last_bytes; /* that it wrote */
};

ECAP_THREAD_STATE(openssl_flights, struct flight);

struct connection {
	__u64 birth_ns;
	__u64 received;
	__u64 sent;
	__u64 socket;
	__u32 ports;
	/* The same of sockets that were used around calls: what was received just before one that reads, and sent just after one. */
	__u32 heard_ports;
	__u64 heard;
	__u64 told;
	__u32 told_ports;
	__u32 unused;
	struct openssl_socket told_shown;
	struct openssl_socket shown;
};

/* A process that ends without SSL_free leaves its connections here, so the least recently used go first. A connection that is
 * forgotten while it lives appears as another one: nothing of it is lost. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} openssl_connections SEC(".maps");

/* What a connection is before anything is known of it; never written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct connection);
} openssl_nothing SEC(".maps");

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
} ECAP_CORE;

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport; /* network byte order */
	__u16 skc_num;
	__u16 skc_family;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} ECAP_CORE;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} ECAP_CORE;

/* A second view of the task, with what core.h does not read. */
struct task_struct___life {
	__u64 self_exec_id;
} ECAP_CORE;

ECAP_INLINE int is_write(__u32 call)
{
	return (call >= OPENSSL_WRITE && call < OPENSSL_HANDSHAKE) || call == OPENSSL_WRITE_EX2 ||
	       call == OPENSSL_WRITE_BEHIND;
}

ECAP_INLINE int is_peek(__u32 call)
{
	return call == OPENSSL_PEEK || call == OPENSSL_PEEK_EX || call == OPENSSL_PEEK_BEHIND;
}

ECAP_INLINE __u64 process(void)
{
	struct task_struct___life *task = (struct task_struct___life *)bpf_get_current_task_btf();
	return bpf_get_current_pid_tgid() >> 32 << 32 | (__u32)task->self_exec_id;
}

/* A slot for the call that begins, or 0. */
ECAP_INLINE struct call *open_call(struct pt_regs *ctx, struct flight *flight)
{
	__u64 of = process(), depth = flight->depth, sp = ecap_sp(ctx);
	struct call *call;

	if (flight->key.process != of) {
		flight->key.process = of;
		depth = 0;
	}
	/* Calls whose frames are gone left without our seeing it (exception, longjmp). */
	for (int i = 0; i < NESTED && depth; i++) {
		call = &flight->call[(depth - 1) & (NESTED - 1)];
		ecap_opaque(call);
		if (call->sp > sp)
			break;
		depth--;
	}
	flight->depth = depth;
	if (depth >= NESTED) {
		ecap_add(state_full, 1);
		return 0;
	}
	flight->depth = depth + 1;
	call = &flight->call[depth & (NESTED - 1)];
	ecap_opaque(call);
	return call;
}

/* Whether a call further out on this connection moves the same bytes: BoringSSL's SSL_read calls SSL_peek. */
ECAP_INLINE int is_inner(struct flight *flight, struct call *call)
{
	for (int i = 0; i < NESTED - 1; i++) {
		struct call *outer = &flight->call[i];
		if (i + 1 >= flight->depth)
			break;
		if (outer->data.ssl == call->data.ssl && is_write(outer->data.call) == is_write(call->data.call) &&
		    outer->data.call != OPENSSL_HANDSHAKE)
			return 1;
	}
	return 0;
}

/* The functions of enum openssl_call. */
SEC("uprobe")
int openssl_enter(struct pt_regs *ctx)
{
	struct flight *flight;
	struct call *call;
	__u32 which;

	if (!ecap_wanted())
		return 0;
	flight = ecap_state_create(openssl_flights);
	if (!flight)
		return 0;
	call = open_call(ctx, flight);
	if (!call)
		return 0;
	which = ecap_probe_arg(ctx) & 0xff;
	call->sp = ecap_sp(ctx);
	call->data.ssl = ecap_arg0(ctx);
	call->data.unused = 0;
	call->buffer = ecap_arg1(ctx);
	call->room = which == OPENSSL_SENDFILE ? ecap_arg3(ctx) : ecap_arg2(ctx);
	if (which == OPENSSL_READ || which == OPENSSL_PEEK || which == OPENSSL_WRITE)
		call->room = (__u32)call->room; /* an int */
	call->bytes = which == OPENSSL_WRITE_EX2 || ecap_probe_arg(ctx) >> 24 == 4 ? ecap_arg4(ctx) : ecap_arg3(ctx);
	call->data.call = which;
	call->sockets = 0;
	call->wire = 0;
	call->heard = 0;
	if (flight->depth == 1) {
		if (flight->received.sockets == 1 && !is_write(which)) {
			call->heard = flight->received.socket;
			call->heard_ports = flight->received.ports;
		}
		flight->received.sockets = 0;
		flight->last_ssl = 0;
	}
	call->inner = is_inner(flight, call);
	call->data.began_ns = bpf_ktime_get_ns();
	return 0;
}

/* The call that returns, taken off; 0 if its begin was not seen. */
ECAP_INLINE struct call *close_call(struct pt_regs *ctx, struct flight *flight)
{
	__u32 which = ecap_probe_arg(ctx) & 0xff;
	__u64 sp = ecap_sp(ctx);
	struct call *call;

	for (int i = 0; i < NESTED; i++) {
		__u64 depth = flight->depth;
		if (!depth)
			return 0;
		call = &flight->call[(depth - 1) & (NESTED - 1)];
		ecap_opaque(call);
		/* The return of a call further in, for which there was no slot. */
		if (sp + FRAME < call->sp)
			return 0;
		flight->depth = depth - 1;
		/* Others were left without our seeing it, and what they were called from returns. */
		if (call->data.call == which && call->sp + FRAME >= sp)
			return call;
	}
	return 0;
}

/* Bytes that the call moved. */
ECAP_INLINE __u64 moved(struct pt_regs *ctx, struct call *call)
{
	__s64 result = (__s32)ecap_result(ctx);
	__u64 bytes = 0;

	if (call->data.call == OPENSSL_SENDFILE)
		result = ecap_result(ctx);
	if (result <= 0 || call->data.call == OPENSSL_HANDSHAKE)
		return 0;
	switch (call->data.call) {
	case OPENSSL_READ:
	case OPENSSL_PEEK:
	case OPENSSL_WRITE:
	case OPENSSL_SENDFILE:
		bytes = result;
		break;
	default:
		if (ecap_read_user(&bytes, call->bytes)) {
			ecap_add(faults, 1);
			return 0;
		}
	}
	if (bytes > call->room) {
		/* No such function says that: the program is not what it seems. */
		ecap_add(faults, 1);
		return 0;
	}
	return bytes;
}

ECAP_INLINE struct connection *untouched(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&openssl_nothing, &zero);
}

/* What is known of the call's connection; made if it is not there. 0 if there is no room, which is counted. */
ECAP_INLINE struct connection *connection_of(struct flight *flight, struct call *call)
{
	struct connection *connection, *nothing;

	flight->key.ssl = call->data.ssl;
	connection = bpf_map_lookup_elem(&openssl_connections, &flight->key);
	if (connection)
		return connection;
	nothing = untouched();
	if (nothing)
		bpf_map_update_elem(&openssl_connections, &flight->key, nothing, BPF_NOEXIST);
	connection = bpf_map_lookup_elem(&openssl_connections, &flight->key);
	if (!connection)
		ecap_add(state_full, 1);
	return connection;
}

/* If just one socket was used during the call, it is the connection's. With more, nobody can say which; and what was sent must be
 * no less than what was to be sent, or it was something else (a callback's). */
ECAP_INLINE void keep_socket(struct flight *flight, struct call *call, struct connection *connection, __u64 bytes)
{
	if (call->sockets != 1 || (is_write(call->data.call) && call->wire < bytes))
		return;
	if (connection->socket == call->socket && connection->ports == call->ports)
		return;
	/* A call further in may have used another one since; the next call will tell. */
	if (flight->socket != call->socket || flight->ports != call->ports)
		return;
	connection->socket = call->socket;
	connection->ports = call->ports;
	connection->shown = flight->shown;
}

/* What was received just before a call on the connection came from the socket that was sent to just after one: then it is this
 * connection's. One of the two alone may be another connection's that the thread also serves. */
ECAP_INLINE void infer_socket(struct connection *connection)
{
	if (connection->socket || !connection->heard || !connection->told)
		return;
	if (connection->heard == connection->told && connection->heard_ports == connection->told_ports) {
		connection->shown = connection->told_shown;
		connection->shown.inferred = 1;
	} else {
		connection->shown.family = 0;
	}
}

/* Counts the bytes to their connection and says where in it they are: 0 if there are none to send. */
ECAP_INLINE __u64 settle(struct pt_regs *ctx, struct flight *flight, struct call *call, __u64 time_ns)
{
	__u64 bytes = moved(ctx, call);
	struct connection *connection;

	if (!bytes && !call->sockets && !call->heard)
		return 0;
	connection = connection_of(flight, call);
	if (!connection)
		return 0;
	keep_socket(flight, call, connection, bytes);
	if (call->heard && !call->sockets) {
		connection->heard = call->heard;
		connection->heard_ports = call->heard_ports;
		infer_socket(connection);
	}
	if (!bytes)
		return 0;
	/* Two threads may be the first, one that reads and one that writes. */
	if (!connection->birth_ns)
		__sync_val_compare_and_swap(&connection->birth_ns, 0, time_ns);
	call->data.birth_ns = connection->birth_ns;
	call->data.length = bytes;
	if (is_write(call->data.call))
		call->data.offset = __sync_fetch_and_add(&connection->sent, bytes);
	else if (is_peek(call->data.call))
		call->data.offset = connection->received;
	else
		call->data.offset = __sync_fetch_and_add(&connection->received, bytes);
	call->data.socket = connection->shown;
	return bytes;
}

ECAP_INLINE int leave(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct flight *flight = ecap_state(openssl_flights);
	struct openssl_data *data;
	struct call *call;
	__u64 bytes;

	call = flight ? close_call(ctx, flight) : 0;
	if (!call) {
		if (ecap_wanted())
			ecap_add(orphans, 1);
		return 0;
	}
	if (call->inner)
		return 0;
	bytes = settle(ctx, flight, call, m.time_ns);
	if (!flight->depth && !call->sockets) {
		flight->last_ssl = call->data.ssl;
		flight->last_bytes = is_write(call->data.call) ? bytes : 0;
		flight->sent.sockets = 0;
	}
	if (!bytes)
		return 0;
	if (call->data.call == OPENSSL_SENDFILE)
		bytes = 0;
	data = ecap_begin(&m, OPENSSL_STREAM_DATA, sizeof(*data), ecap_user_ptr(call->buffer), bytes, OPENSSL_CALL_MAX);
	if (data) {
		*data = call->data;
		ecap_end(&m);
	}
	return 0;
}

SEC("uretprobe")
int openssl_leave(struct pt_regs *ctx)
{
	return leave(ctx);
}

SEC("uprobe")
int openssl_leave__exit(struct pt_regs *ctx)
{
	return leave(ctx);
}

ECAP_INLINE int forget(__u64 ssl)
{
	struct connection_key key = { .process = process(), .ssl = ssl };
	bpf_map_delete_elem(&openssl_connections, &key);
	return 0;
}

/* SSL_new's return: the object is a new one, whatever was at its address before. */
SEC("uretprobe")
int openssl_new(struct pt_regs *ctx)
{
	return forget(ecap_result(ctx));
}

SEC("uprobe")
int openssl_new__exit(struct pt_regs *ctx)
{
	return forget(ecap_result(ctx));
}

/* Tells that the connection is over, if bytes were moved on it. Who holds a reference of his own (SSL_up_ref) may go on with it: then
 * it is the same connection as before. */
ECAP_INLINE int end(struct pt_regs *ctx, int forgotten)
{
	struct ecap_message m = ecap_message(ctx);
	struct flight *flight;
	struct connection *connection;
	struct openssl_end *said;
	__u64 birth_ns;

	if (!ecap_wanted())
		return 0;
	/* For its key, which would need room on the stack. */
	flight = ecap_state_create(openssl_flights);
	if (!flight)
		return 0;
	if (flight->key.process != process()) {
		flight->key.process = process();
		flight->depth = 0;
	}
	flight->key.ssl = ecap_arg0(ctx);
	connection = bpf_map_lookup_elem(&openssl_connections, &flight->key);
	if (!connection)
		return 0;
	birth_ns = connection->birth_ns;
	if (forgotten)
		bpf_map_delete_elem(&openssl_connections, &flight->key);
	if (!birth_ns)
		return 0;
	said = ecap_begin(&m, OPENSSL_STREAM_END, sizeof(*said), 0, 0, 0);
	if (said) {
		said->ssl = flight->key.ssl;
		said->birth_ns = birth_ns;
		ecap_end(&m);
	}
	return 0;
}

/* SSL_clear(ssl): the object is made ready for another connection. */
SEC("uprobe")
int openssl_clear(struct pt_regs *ctx)
{
	return end(ctx, 1);
}

/* SSL_free(ssl). */
SEC("uprobe")
int openssl_free(struct pt_regs *ctx)
{
	return end(ctx, 0);
}

ECAP_INLINE void copy_in6(__u32 *to, struct in6_addr *from)
{
	to[0] = from->in6_u.u6_addr32[0];
	to[1] = from->in6_u.u6_addr32[1];
	to[2] = from->in6_u.u6_addr32[2];
	to[3] = from->in6_u.u6_addr32[3];
}

ECAP_INLINE void show_socket(struct flight *flight, struct sock *sk, __u32 ports)
{
	struct openssl_socket *shown = &flight->shown;

	flight->socket = (__u64)sk;
	flight->ports = ports;
	__builtin_memset(shown, 0, sizeof(*shown));
	shown->family = sk->__sk_common.skc_family;
	shown->local_port = ports >> 16;
	shown->peer_port = __builtin_bswap16((__u16)ports);
	if (shown->family == OPENSSL_AF_INET) {
		*(__u32 *)shown->local = sk->__sk_common.skc_rcv_saddr;
		*(__u32 *)shown->peer = sk->__sk_common.skc_daddr;
	} else {
		copy_in6((__u32 *)shown->local, &sk->__sk_common.skc_v6_rcv_saddr);
		copy_in6((__u32 *)shown->peer, &sk->__sk_common.skc_v6_daddr);
	}
}

/* The thread moved bytes through this socket while no call was in flight. */
ECAP_INLINE int used_between(struct flight *flight, struct sock *sk, __u32 ports, int bytes, int sent)
{
	struct between *between = sent ? &flight->sent : &flight->received;
	struct connection *connection;

	ecap_opaque(between);
	if (sent && !flight->last_ssl)
		return 0;
	if (!between->sockets) {
		between->socket = (__u64)sk;
		between->ports = ports;
		between->wire = 0;
		between->sockets = 1;
	} else if (between->socket != (__u64)sk || between->ports != ports) {
		between->sockets = 2;
	}
	between->wire += bytes;
	/* Encrypted bytes are more than what was written. */
	if (!sent || between->wire <= flight->last_bytes)
		return 0;
	flight->key.ssl = flight->last_ssl;
	connection = bpf_map_lookup_elem(&openssl_connections, &flight->key);
	if (!connection)
		return 0;
	if (between->sockets == 1) {
		connection->told = (__u64)sk;
		connection->told_ports = ports;
		connection->told_shown = flight->shown;
	} else {
		connection->told = 0;
	}
	infer_socket(connection);
	return 0;
}

/* The thread moved bytes through this socket: for the calls that are in flight and move bytes that way. (A handshake does both; to
 * look at what it receives is enough, and leaves out what a callback of it may send elsewhere.) */
ECAP_INLINE int used(struct sock *sk, int bytes, int sent)
{
	struct flight *flight = ecap_state(openssl_flights);
	__u32 ports;
	__u16 family;

	if (!flight || bytes <= 0 || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	family = sk->__sk_common.skc_family;
	if (family != OPENSSL_AF_INET && family != OPENSSL_AF_INET6)
		return 0;
	ports = (__u32)sk->__sk_common.skc_num << 16 | sk->__sk_common.skc_dport;
	if (flight->socket != (__u64)sk || flight->ports != ports)
		show_socket(flight, sk, ports);
	if (!flight->depth)
		return used_between(flight, sk, ports, bytes, sent);
	for (int i = 0; i < NESTED; i++) {
		struct call *call = &flight->call[i];
		if (i >= flight->depth)
			break;
		if (is_write(call->data.call) != sent)
			continue;
		call->wire += bytes;
		if (!call->sockets) {
			call->socket = (__u64)sk;
			call->ports = ports;
			call->sockets = 1;
		} else if (call->socket != (__u64)sk || call->ports != ports) {
			call->sockets = 2;
		}
	}
	return 0;
}

SEC("tp_btf/sock_send_length")
int openssl_sent(const __u64 *ctx)
{
	return used(ECAP_TP_ARG(ctx, 0, struct sock *), ECAP_TP_ARG(ctx, 1, int), 1);
}

SEC("tp_btf/sock_recv_length")
int openssl_received(const __u64 *ctx)
{
	return used(ECAP_TP_ARG(ctx, 0, struct sock *), ECAP_TP_ARG(ctx, 1, int), 0);
}

ECAP_LICENSE("GPL");
