// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Frames of network interfaces, whole, with the process that each is of. One of the host's own objects.
 *
 * The programs at the interfaces never change traffic: they answer "next" whatever happens. Whose a socket is is kept at the
 * socket (sk_storage: gone with it, never evicted, inherited by accepted connections), written by hooks that run in the
 * context of the process. A frame is given an owner by its socket: the one it came from, or the one that its addresses lead
 * to. What belongs to no socket any more (TIME_WAIT, a reset after close) is looked up among the connections that ended.
 */
#include <ecapture/core.h>
#include <ecapture/pids.h>

#include "packets.h"

#define NEXT -1 /* TCX_NEXT, and TC_ACT_UNSPEC */
#define RING_HEADER 8
#define ROOM(size) ((size) - RING_HEADER - (int)sizeof(struct packet))
/* Bytes of a frame that one record can hold. */
#define LARGEST 66048
#define CHUNK ROOM(LARGEST)
/* Longest frame: the kernel's limit for large segments is 512 KiB. */
#define CHUNKS 9

enum {
	ETHER = 14,
	ETH_IP = 0x0800,
	ETH_IP6 = 0x86dd,
	ETH_VLAN = 0x8100,
	ETH_QINQ = 0x88a8,
	TCP = 6,
	UDP = 17,
	FRAGMENT = 44,
	AUTH = 51,
};

enum filter {
	FILTER_PIDS = 1,
	FILTER_UIDS = 2,
	FILTER_COMMS = 8,
	FILTER_CGROUPS = 16,
};

/* Set by the host before loading. */
const volatile __u32 packets_filter = 0;  /* enum filter; 0: everything */
const volatile __u32 packets_unowned = 0; /* with a filter: frames of nobody knows whom as well */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 32 << 20);
} packets_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet_counters);
} packets_counters SEC(".maps");

/* Filled by the host with the interfaces that it puts the programs at. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct packet_interface);
} packets_interfaces SEC(".maps");

/* Not 0 when the reader sleeps and wants to be woken. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets_doorbell SEC(".maps");

#define BPF_MAP_TYPE_SK_STORAGE 24
#define BPF_F_CLONE (1 << 9)

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct packet_owner);
} packets_sockets SEC(".maps");

/* A connection as this machine sees it. All in network byte order. */
struct flow {
	__u32 local[4];
	__u32 peer[4];
	__u16 local_port;
	__u16 peer_port;
	__u32 protocol;
};

/* Connections that have begun to end. A miss is harmless: that frame has no owner. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow);
	__type(value, struct packet_owner);
} packets_ended SEC(".maps");

struct fragments {
	__u32 from[4];
	__u32 to[4];
	__u32 id;
	__u32 protocol;
};

/* Only the first fragment of a datagram has ports. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragments);
	__type(value, __u32); /* the ports */
} packets_fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} ecap_uids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, char[16]);
	__type(value, __u32);
} ecap_comms SEC(".maps");

/* Numbers of the control groups that are watched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u32);
} packets_groups SEC(".maps");

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

struct inet_sock {
	__u16 inet_sport;
} ECAP_CORE;

/* include/uapi/linux/bpf.h: the kernel's interface, not its inside. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port;
	__u16 dst_port; /* network byte order; 0: it has no peer */
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	union {
		void *flow_keys;
		__u64 : 64;
	} __attribute__((aligned(8)));
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	} __attribute__((aligned(8)));
};

union tuple {
	struct {
		__u32 from;
		__u32 to;
		__u16 from_port;
		__u16 to_port;
	} v4;
	struct {
		__u32 from[4];
		__u32 to[4];
		__u16 from_port;
		__u16 to_port;
	} v6;
};

/* struct bpf_fib_lookup. */
struct route {
	__u8 family;
	__u8 protocol;
	__u16 from_port;
	__u16 to_port;
	__u16 length;
	__u32 interface;
	__u32 flow;
	__u32 from[4];
	__u32 to[4];
	__u32 link[4];
};

enum route_answer {
	ROUTE_NOT_ONWARD = 4,
	ROUTE_NEVER_ONWARD = 5, /* forwarding is off */
};

static long (*const bpf_fib_lookup)(void *ctx, struct route *route, int size, __u32 flags) = (void *)69;
static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static struct bpf_sock *(*const bpf_sk_lookup_tcp)(void *ctx, union tuple *tuple, __u32 size, __u64 netns, __u64 flags) = (void *)84;
static struct bpf_sock *(*const bpf_sk_lookup_udp)(void *ctx, union tuple *tuple, __u32 size, __u64 netns, __u64 flags) = (void *)85;
static long (*const bpf_sk_release)(void *sock) = (void *)86;
static struct bpf_sock *(*const bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95;
static void *(*const bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static __u64 (*const bpf_get_current_ancestor_cgroup_id)(int level) = (void *)123;

ECAP_INLINE struct packet_counters *counters(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&packets_counters, &zero);
}

#define count(counter, n)                                                                                              \
	do {                                                                                                           \
		struct packet_counters *c_ = counters();                                                               \
		if (c_)                                                                                                \
			__sync_fetch_and_add(&c_->counter, (n));                                                       \
	} while (0)

ECAP_INLINE __u16 swap16(__u16 n)
{
	return __builtin_bswap16(n);
}

/* Whether the filters let the current process through: every one that is on must agree. Asked when a socket is used, not
 * when a frame passes: the last frames of a connection come when its process is gone from the set. */
ECAP_INLINE int wanted(const struct packet_owner *owner)
{
	__u32 filter = packets_filter;

	if ((filter & FILTER_PIDS) && !bpf_map_lookup_elem(&ecap_pids, &owner->pid))
		return 0;
	if ((filter & FILTER_UIDS) && !bpf_map_lookup_elem(&ecap_uids, &owner->uid))
		return 0;
	if ((filter & FILTER_COMMS) && !bpf_map_lookup_elem(&ecap_comms, owner->comm))
		return 0;
	if (filter & FILTER_CGROUPS) {
		for (int level = 0; level < 24; level++) {
			__u64 group = bpf_get_current_ancestor_cgroup_id(level);
			if (!group)
				break;
			if (bpf_map_lookup_elem(&packets_groups, &group))
				return 1;
		}
		return 0;
	}
	return 1;
}

ECAP_INLINE void current(struct packet_owner *owner)
{
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = (__u32)bpf_get_current_uid_gid();
	owner->cgroup = bpf_get_current_cgroup_id();
	owner->unused = 0;
	bpf_get_current_comm(owner->comm, sizeof(owner->comm));
	owner->flags = PACKET_OWNED | (wanted(owner) ? PACKET_WANTED : 0);
}

/* The current process uses this socket. */
ECAP_INLINE void used(void *sk)
{
	struct packet_owner now = {}, *owner;

	current(&now);
	/* Work of the kernel on behalf of nobody. */
	if (!now.pid)
		return;
	owner = bpf_sk_storage_get(&packets_sockets, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!owner)
		return;
	/* Only what has changed: other CPUs read it with each frame. */
	if (owner->pid != now.pid || owner->uid != now.uid || owner->flags != now.flags || owner->cgroup != now.cgroup ||
	    *(__u64 *)owner->comm != *(__u64 *)now.comm || *(__u64 *)(owner->comm + 8) != *(__u64 *)(now.comm + 8))
		__builtin_memcpy(owner, &now, sizeof(now));
}

SEC("cgroup/sock_create")
int packets_created(struct bpf_sock *sk)
{
	used(sk);
	return 1;
}

SEC("tp_btf/sock_send_length")
int packets_sent(const __u64 *ctx)
{
	used(ECAP_TP_ARG(ctx, 0, struct sock *));
	return 0;
}

SEC("tp_btf/sock_recv_length")
int packets_received(const __u64 *ctx)
{
	used(ECAP_TP_ARG(ctx, 0, struct sock *));
	return 0;
}

enum tcp_state {
	SYN_SENT = 2,
	FIN_WAIT1 = 4,
	CLOSED = 7,
	CLOSE_WAIT = 8,
	LISTEN = 10,
};

/* A connection begins or ends. Beginnings are in the context of the process. */
SEC("tp_btf/inet_sock_set_state")
int packets_state(const __u64 *ctx)
{
	struct sock *sk = ECAP_TP_ARG(ctx, 0, struct sock *);
	int old = ctx[1], state = ctx[2];
	struct packet_owner *owner;
	struct flow flow = {};

	if (old == CLOSED && (state == SYN_SENT || state == LISTEN)) {
		used(sk);
		return 0;
	}
	if (state != FIN_WAIT1 && state != CLOSE_WAIT && state != CLOSED)
		return 0;
	owner = bpf_sk_storage_get(&packets_sockets, sk, 0, 0);
	if (!owner || old == CLOSED || old == LISTEN)
		return 0;
	if (sk->__sk_common.skc_family == 2) {
		flow.local[0] = sk->__sk_common.skc_rcv_saddr;
		flow.peer[0] = sk->__sk_common.skc_daddr;
	} else {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			flow.local[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			flow.peer[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		}
		/* IPv4 on an IPv6 socket. */
		if (!flow.peer[0] && !flow.peer[1] && flow.peer[2] == 0xffff0000) {
			flow.local[0] = flow.local[3];
			flow.peer[0] = flow.peer[3];
			flow.local[2] = flow.local[3] = flow.peer[2] = flow.peer[3] = 0;
		}
	}
	/* skc_num is 0 by the time that it is closed. */
	flow.local_port = ECAP_CORE_READ((struct inet_sock *)sk, inet_sport);
	flow.peer_port = sk->__sk_common.skc_dport;
	flow.protocol = TCP;
	bpf_map_update_elem(&packets_ended, &flow, owner, BPF_ANY);
	return 0;
}

/* What is read of a frame to find its socket. */
struct parsed {
	struct flow flow; /* local: where it came from */
	__u32 v6;
};

/* Ports of a fragment: from the first one, which has them, or as that one had them. */
ECAP_INLINE int ports(struct __sk_buff *skb, struct parsed *p, __u32 at, __u32 fragment_id, __u32 is_fragment, __u32 offset)
{
	struct fragments key;
	__u32 both = 0;

	if (!offset && bpf_skb_load_bytes(skb, at, &both, 4))
		return 0;
	if (is_fragment) {
		__builtin_memcpy(key.from, p->flow.local, 16);
		__builtin_memcpy(key.to, p->flow.peer, 16);
		key.id = fragment_id;
		key.protocol = p->flow.protocol;
		if (!offset) {
			bpf_map_update_elem(&packets_fragments, &key, &both, BPF_ANY);
		} else {
			__u32 *first = bpf_map_lookup_elem(&packets_fragments, &key);
			if (!first)
				return 0;
			both = *first;
		}
	}
	p->flow.local_port = both;
	p->flow.peer_port = both >> 16;
	return 1;
}

/* Reads addresses and ports; 0 if the frame is nothing that sockets of processes send or get. */
ECAP_INLINE int parse(struct __sk_buff *skb, __u32 link, struct parsed *p)
{
	__u16 kind = swap16(skb->protocol);
	__u32 at = link, id = 0, is_fragment = 0, offset = 0;
	__u8 next;

	/* A second tag, or one that nobody took off. */
	for (int i = 0; i < 2 && link; i++) {
		__u16 inside;
		if (kind != ETH_VLAN && kind != ETH_QINQ)
			break;
		if (bpf_skb_load_bytes(skb, at + 2, &inside, 2))
			return 0;
		kind = swap16(inside);
		at += 4;
	}
	if (kind == ETH_IP) {
		struct {
			__u8 length, tos;
			__u16 total, id, fragment;
			__u8 ttl, protocol;
			__u16 sum;
			__u32 from, to;
		} ip;
		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
			return 0;
		p->flow.local[0] = ip.from;
		p->flow.peer[0] = ip.to;
		next = ip.protocol;
		id = ip.id;
		offset = swap16(ip.fragment) & 0x1fff;
		is_fragment = offset || (swap16(ip.fragment) & 0x2000);
		at += (ip.length & 15) * 4;
	} else if (kind == ETH_IP6) {
		struct {
			__u32 flow;
			__u16 payload;
			__u8 next, hops;
			__u32 from[4], to[4];
		} ip;
		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
			return 0;
		__builtin_memcpy(p->flow.local, ip.from, 16);
		__builtin_memcpy(p->flow.peer, ip.to, 16);
		next = ip.next;
		p->v6 = 1;
		at += sizeof(ip);
		for (int i = 0; i < 8; i++) {
			struct {
				__u8 next, length;
				__u16 offset;
				__u32 id;
			} extension;
			/* Hop by hop, routing, destination. */
			if (next != 0 && next != 43 && next != 60 && next != FRAGMENT && next != AUTH)
				break;
			if (bpf_skb_load_bytes(skb, at, &extension, sizeof(extension)))
				return 0;
			if (next == FRAGMENT) {
				id = extension.id;
				offset = swap16(extension.offset) >> 3;
				is_fragment = 1;
				at += 8;
			} else if (next == AUTH) {
				at += (extension.length + 2) * 4;
			} else {
				at += (extension.length + 1) * 8;
			}
			next = extension.next;
			/* What follows is in the first fragment only. */
			if (offset)
				break;
		}
	} else {
		return 0;
	}
	p->flow.protocol = next;
	if (next != TCP && next != UDP)
		return 0;
	return ports(skb, p, at, id, is_fragment, offset);
}

/* A socket without a peer takes what is for its port and any address, but of this machine: what goes on to that port of another
 * one is not its. Where nothing is passed on by addresses the kernel does not say, and all is taken for ours. */
ECAP_INLINE int passed_on(struct __sk_buff *skb, const struct parsed *p, int here)
{
	struct route route = {};
	long answer;

	route.family = p->v6 ? 10 : 2;
	route.interface = skb->ifindex;
	__builtin_memcpy(route.from, here ? p->flow.peer : p->flow.local, 16);
	__builtin_memcpy(route.to, here ? p->flow.local : p->flow.peer, 16);
	answer = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	return answer >= 0 && answer != ROUTE_NOT_ONWARD && answer != ROUTE_NEVER_ONWARD;
}

/* The owner of the socket of this machine that has these addresses. `here`: the local end is where the frame came from. */
ECAP_INLINE void look_up(struct __sk_buff *skb, const struct parsed *p, int here, struct packet_owner *owner)
{
	union tuple tuple = {};
	struct packet_owner *found = 0;
	struct bpf_sock *sk;

	/* The kernel looks for who receives: from the peer, to the socket. */
	if (p->v6) {
		__builtin_memcpy(tuple.v6.from, here ? p->flow.peer : p->flow.local, 16);
		__builtin_memcpy(tuple.v6.to, here ? p->flow.local : p->flow.peer, 16);
		tuple.v6.from_port = here ? p->flow.peer_port : p->flow.local_port;
		tuple.v6.to_port = here ? p->flow.local_port : p->flow.peer_port;
		if (p->flow.protocol == TCP)
			sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.v6), -1, 0);
		else
			sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.v6), -1, 0);
	} else {
		tuple.v4.from = here ? p->flow.peer[0] : p->flow.local[0];
		tuple.v4.to = here ? p->flow.local[0] : p->flow.peer[0];
		tuple.v4.from_port = here ? p->flow.peer_port : p->flow.local_port;
		tuple.v4.to_port = here ? p->flow.local_port : p->flow.peer_port;
		if (p->flow.protocol == TCP)
			sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.v4), -1, 0);
		else
			sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.v4), -1, 0);
	}
	if (sk) {
		found = bpf_sk_storage_get(&packets_sockets, sk, 0, 0);
		if (found && (sk->dst_port || !passed_on(skb, p, here)))
			*owner = *found;
		bpf_sk_release(sk);
		if (found)
			return;
	}
	if (p->flow.protocol == TCP) {
		struct flow flow = p->flow;
		if (!here) {
			__builtin_memcpy(flow.local, p->flow.peer, 16);
			__builtin_memcpy(flow.peer, p->flow.local, 16);
			flow.local_port = p->flow.peer_port;
			flow.peer_port = p->flow.local_port;
		}
		found = bpf_map_lookup_elem(&packets_ended, &flow);
		if (found)
			*owner = *found;
	}
}

/* The frame's own socket, which is there on the way out. */
ECAP_INLINE int of_socket(struct __sk_buff *skb, struct packet_owner *owner)
{
	struct packet_owner *found;
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 0;
	found = bpf_sk_storage_get(&packets_sockets, sk, 0, 0);
	if (found)
		*owner = *found;
	return found != 0;
}

/* bpf_ringbuf_reserve takes constants only: a branch for each class, from whose comparison the verifier learns that n fits. */
#define TAKE(size)                                                                                                     \
	if (n <= ROOM(size))                                                                                           \
	return bpf_ringbuf_reserve(&packets_ring, (size) - RING_HEADER, 0)

ECAP_INLINE struct packet *take(__u64 n)
{
	TAKE(256);
	TAKE(640);
	TAKE(1664);
	TAKE(3328);
	TAKE(9344);
	TAKE(17408);
	TAKE(34304);
	return bpf_ringbuf_reserve(&packets_ring, LARGEST - RING_HEADER, 0);
}

/* As of a module's record (emit.h): woken only if the reader sleeps, with a full barrier before the look. */
ECAP_INLINE void submit(struct packet *packet)
{
	struct packet_counters *c = counters();
	__u64 flags = BPF_RB_NO_WAKEUP, *armed;
	__u32 zero = 0;

	if (c) {
		__u64 before = __sync_fetch_and_add(&c->records, 1);
		ecap_opaque(before);
	}
	armed = bpf_map_lookup_elem(&packets_doorbell, &zero);
	if (armed && *(volatile __u64 *)armed && __sync_lock_test_and_set(armed, 0)) {
		flags = BPF_RB_FORCE_WAKEUP;
		count(wakeups, 1);
	}
	bpf_ringbuf_submit(packet, flags);
}

/* Sends the frame. A tag that hardware, or the kernel, took out of it is put back behind the addresses, as in the frame on the
 * wire. */
ECAP_INLINE void send(struct __sk_buff *skb, __u32 direction, __u32 link, const struct packet_owner *owner)
{
	__u64 time_ns = bpf_ktime_get_ns(), length = skb->len, tag = 0, n, left, at;
	struct packet *packet, *next;
	struct packet_counters *c = counters();
	struct packet_interface *interface;
	__u32 number = skb->ifindex;
	char *data;
	__u64 id;

	if (!c)
		return;
	interface = bpf_map_lookup_elem(&packets_interfaces, &number);
	if (interface)
		__sync_fetch_and_add(&interface->received, 1);
	if (link && skb->vlan_present && length >= 12)
		tag = 4;
	id = __sync_fetch_and_add(&c->produced, 1);
	if (owner->flags)
		count(owned, 1);
	n = ecap_at_most(length, CHUNK - 4);
	packet = take(n + tag);
	if (!packet) {
		if (interface)
			__sync_fetch_and_add(&interface->lost, 1);
		count(lost, 1);
		count(lost_bytes, length + tag);
		return;
	}
	packet->time_ns = time_ns;
	packet->id = id;
	packet->interface = number;
	packet->wire = length + tag;
	packet->offset = 0;
	packet->flags = direction;
	packet->unused = 0;
	packet->owner = *owner;
	data = (char *)(packet + 1);
	ecap_opaque(n);
	if (tag && n > 12) {
		__u16 *words = (__u16 *)(data + 12);
		words[0] = skb->vlan_proto;
		words[1] = swap16(skb->vlan_tci);
		if (bpf_skb_load_bytes(skb, 0, data, 12) || bpf_skb_load_bytes(skb, 12, data + 16, n - 12))
			goto fault;
	} else if (n && bpf_skb_load_bytes(skb, 0, data, n)) {
		goto fault;
	}
	packet->len = n + tag;
	at = n;
	left = length - n;
	for (int i = 0; i < CHUNKS && left > 0; i++) {
		n = ecap_at_most(left, CHUNK);
		next = take(n);
		if (!next) {
			count(partial, 1);
			count(lost_bytes, left);
			break;
		}
		__builtin_memcpy(next, packet, sizeof(*next));
		next->offset = packet->offset + packet->len;
		submit(packet);
		packet = next;
		ecap_opaque(n);
		if (n && bpf_skb_load_bytes(skb, at, packet + 1, n))
			goto fault;
		packet->len = n;
		at += n;
		left -= n;
	}
	packet->flags |= PACKET_LAST;
	submit(packet);
	return;
fault:
	packet->len = 0;
	packet->flags |= PACKET_LAST;
	submit(packet);
	count(faults, 1);
}

/* `both`: sender and receiver are on this machine, and the frame is seen once. */
ECAP_INLINE int frame(struct __sk_buff *skb, __u32 direction, __u32 link, int both)
{
	struct packet_owner owner = {}, other = {};
	struct parsed parsed = {};
	int known = 0;

	if (direction == PACKET_OUTBOUND)
		known = of_socket(skb, &owner);
	if (!known && parse(skb, link, &parsed)) {
		look_up(skb, &parsed, direction == PACKET_OUTBOUND || both, &owner);
		/* The one who gets it, where it is not known who sent it, or where he is not asked for. */
		if (both && !(owner.flags & PACKET_WANTED)) {
			look_up(skb, &parsed, 0, &other);
			if (!owner.flags || (packets_filter && (other.flags & PACKET_WANTED)))
				owner = other;
		}
	}
	if (packets_filter && !(owner.flags & PACKET_WANTED)) {
		if (owner.flags) {
			count(filtered, 1);
			return NEXT;
		}
		if (!packets_unowned) {
			count(unowned, 1);
			return NEXT;
		}
	}
	send(skb, direction, link, &owner);
	return NEXT;
}

SEC("classifier")
int packets_ether_in(struct __sk_buff *skb)
{
	return frame(skb, 0, ETHER, 0);
}

SEC("classifier")
int packets_ether_out(struct __sk_buff *skb)
{
	return frame(skb, PACKET_OUTBOUND, ETHER, 0);
}

/* Tunnels: the frame begins with the IP header. */
SEC("classifier")
int packets_raw_in(struct __sk_buff *skb)
{
	return frame(skb, 0, 0, 0);
}

SEC("classifier")
int packets_raw_out(struct __sk_buff *skb)
{
	return frame(skb, PACKET_OUTBOUND, 0, 0);
}

/* Everything on the loopback interface comes in after it went out: this is the one place. */
SEC("classifier")
int packets_loopback(struct __sk_buff *skb)
{
	return frame(skb, 0, ETHER, 1);
}

ECAP_LICENSE("GPL");
