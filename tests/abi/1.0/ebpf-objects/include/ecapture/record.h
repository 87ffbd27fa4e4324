/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The header of every ring record and the counters of a module: what host and modules agree on. The host mirrors both
 * with size and offset assertions; nothing here changes within a major version.
 */
#ifndef ECAP_RECORD_H
#define ECAP_RECORD_H

#include <ecapture/types.h>

enum ecap_record_flags {
	ECAP_RECORD_FAULT = 1, /* user memory unreadable: bytes from offset + len on are missing; last record of the message */
	ECAP_RECORD_LAST = 2,  /* last record of the message: nothing of it is missing before this */
};

/* A message is the module's fixed structure followed by bytes of the target's memory. It travels in one or more records
 * with equal (stream, tid, time_ns). What arrives of a message is always a prefix of it; missing = total - received. */
struct ecap_record {
	__u32 len;         /*  0 bytes of the message in this record, right after the header */
	__u16 stream;      /*  4 number of the [[stream]] in the manifest, from 0 */
	__u16 flags;       /*  6 enum ecap_record_flags */
	__u64 time_ns;     /*  8 bpf_ktime_get_ns() when the message was begun */
	__u32 pid;         /* 16 process (tgid) */
	__u32 tid;         /* 20 thread */
	__u32 uid;         /* 24 */
	__u32 target;      /* 28 low half of the attach cookie; 0 for host-wide attachments */
	__u64 cgroup;      /* 32 cgroup v2 id */
	__u64 message;     /* 40 0 when submitted */
	__u32 offset;      /* 48 of these bytes in the message */
	__u32 total;       /* 52 bytes of the whole message as meant to be sent */
	__u32 cut;         /* 56 bytes over the module's limit, not attempted; saturates */
	__u32 lost_before; /* 60 messages of the module lost whole since the last record that got through; saturates */
	char comm[16];     /* 64 */
};

_Static_assert(sizeof(struct ecap_record) == 80, "shared with the host");
_Static_assert(__builtin_offsetof(struct ecap_record, time_ns) == 8, "shared with the host");
_Static_assert(__builtin_offsetof(struct ecap_record, cgroup) == 32, "shared with the host");
_Static_assert(__builtin_offsetof(struct ecap_record, offset) == 48, "shared with the host");
_Static_assert(__builtin_offsetof(struct ecap_record, comm) == 64, "shared with the host");

/* One page, mapped read-only by the host while the programs run. */
struct ecap_counters {
	__u64 produced;     /*  0 messages attempted */
	__u64 lost;         /*  1 messages of which nothing got through */
	__u64 lost_bytes;   /*  2 bytes of messages, lost whole or in part, for which the ring had no room */
	__u64 partial;      /*  3 messages that a full ring cut short */
	__u64 faults;       /*  4 messages with unreadable user memory */
	__u64 fault_bytes;  /*  5 their missing bytes */
	__u64 cut;          /*  6 messages over the module's limit */
	__u64 cut_bytes;    /*  7 their bytes over it */
	__u64 state_full;   /*  8 calls that could not be remembered */
	__u64 orphans;      /*  9 ends of calls whose beginning was not seen */
	__u64 wakeups;      /* 10 times that the reader was woken */
	__u64 pending_lost; /* 11 to be reported in the next record's lost_before */
	__u64 records;      /* 12 ring records submitted */
	__u64 reserved[499];
};

_Static_assert(sizeof(struct ecap_counters) == 4096, "one page: shared with the host");
_Static_assert(__builtin_offsetof(struct ecap_counters, records) == 96, "shared with the host");

#endif
