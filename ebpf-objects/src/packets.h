/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What packets.bpf.c writes and what it is told. Mirrored by host/src/packet/record.rs and owners.rs.
 */
#ifndef ECAP_PACKETS_H
#define ECAP_PACKETS_H

#include <ecapture/types.h>

/* Bits of packet_owner.flags. */
enum packet_owner_flag {
	PACKET_OWNED = 1,  /* the rest of the structure says something */
	PACKET_WANTED = 2, /* the process that used the socket last is one that the filters let through */
};

/* Whose a socket is. Filled by the hooks in the context of the process, and by the host for sockets from before. */
struct packet_owner {
	__u32 pid;
	__u32 uid;
	__u64 cgroup;
	char comm[16];
	__u32 flags;
	__u32 unused;
};

/* Bits of packet.flags. */
enum packet_flag {
	PACKET_OUTBOUND = 1,
	PACKET_LAST = 2, /* nothing of this frame follows */
};

/* Before the bytes of a record. A frame that is longer than one record can be is several, all with its `id`. */
struct packet {
	__u64 time_ns;
	__u64 id;
	__u32 interface;
	__u32 wire;   /* bytes of the frame, with a tag that was put back */
	__u32 offset; /* of these bytes in the frame */
	__u32 len;    /* bytes that follow */
	__u32 flags;
	__u32 unused;
	struct packet_owner owner;
};

/* Of one interface. */
struct packet_interface {
	__u64 received; /* frames that the filters let through */
	__u64 lost;     /* of these, those for which the ring had no room */
};

/* Mapped read-only by the host. */
struct packet_counters {
	__u64 produced;   /* frames that the filters let through */
	__u64 lost;       /* of these, those for which the ring had no room */
	__u64 lost_bytes; /* bytes of those, and of the parts that others lack */
	__u64 partial;    /* frames of which only the first part found room */
	__u64 faults;     /* frames whose bytes could not be read */
	__u64 filtered;   /* frames of processes that were not asked for */
	__u64 unowned;    /* frames left out since nobody knows whose they are */
	__u64 owned;      /* frames that were let through with an owner */
	__u64 records;
	__u64 wakeups;
};

#endif
