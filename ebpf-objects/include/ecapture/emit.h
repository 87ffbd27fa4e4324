/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Sending messages. A message is a fixed structure of the module, written straight into ring space, followed by any number
 * of bytes of the target's memory:
 *
 *	struct ecap_message m = ecap_message(ctx);
 *	struct query *q = ecap_begin(&m, STREAM, sizeof(*q), text, length, 1 << 20);
 *	if (q) {
 *		q->connection = connection;
 *		ecap_end(&m);
 *	}
 *
 * Rules, all because of what the kernel does:
 * - Between ecap_begin and ecap_end nothing may fault or wait: behind a record that is not submitted no record of *any*
 *   process can be read. bpf_probe_read_user and plain stores only. Read what may fail before ecap_begin.
 * - No structures on the stack. From kernel 6.13 on a uprobe program whose stack reaches 64 bytes gets a per-CPU stack,
 *   and since uprobe programs can be preempted another thread overwrites it. The build of a module should check it.
 * - No per-CPU scratch maps, for the same reason.
 * - Fill every byte of the fixed structure: ring space holds what was there before.
 *
 * Losses are counted where they happen, never silent. After a failed reservation or a fault nothing more of the message is
 * sent, so what arrives is a prefix.
 */
#ifndef ECAP_EMIT_H
#define ECAP_EMIT_H

#include <ecapture/args.h>
#include <ecapture/maps.h>

/* The kernel adds 8 bytes to each record: the sizes of the classes are with them. */
#define ECAP_RING_HEADER 8
#define ECAP_CLASS_DATA(size) ((size) - ECAP_RING_HEADER - (int)sizeof(struct ecap_record))
/* Bytes of a message that one record can hold. */
#define ECAP_CHUNK_MAX ECAP_CLASS_DATA(65536)

/* A message being made. The compiler keeps it in registers; hand it to the functions below and to nothing else. */
struct ecap_message {
	struct pt_regs *ctx;
	int of_target; /* a constant */
	__u64 time_ns; /* when the program began: equal in all records of the message, and free to be read by the author */
	struct ecap_record *record;
	__u64 bytes; /* bytes of the target's memory that go into `record` */
	__u64 fixed; /* size of the fixed structure, a constant */
	__u64 max;   /* the author's limit for the bytes after it, a constant */
};

/* Begin of a program that is attached to the host as a whole (tp_btf, tracepoint): its records have target 0. */
ECAP_INLINE struct ecap_message ecap_host_message(void)
{
	struct ecap_message m = { .time_ns = bpf_ktime_get_ns() };
	return m;
}

/* Begin of every program on a target that sends something. */
ECAP_INLINE struct ecap_message ecap_message(struct pt_regs *ctx)
{
	struct ecap_message m = { .ctx = ctx, .of_target = 1, .time_ns = bpf_ktime_get_ns() };
	return m;
}

/* Programs move data in powers of two, and with header and fixed structure it would not fit into one. */
#define ECAP_ROOM_ 512

/* Ring space for `fixed` + `n` bytes, n at most ECAP_CHUNK_MAX - fixed, in the smallest class that holds them.
 * bpf_ringbuf_reserve takes constants only, so it is one branch for each class; on each the verifier learns from the
 * comparison that n fits. */
#define ECAP_TAKE_(size)                                                                                               \
	if (fixed <= ECAP_CLASS_DATA(size) && n <= ECAP_CLASS_DATA(size) - fixed)                                      \
	return bpf_ringbuf_reserve(&ecap_events, (size) - ECAP_RING_HEADER, 0)

ECAP_INLINE struct ecap_record *ecap_take_(__u64 fixed, __u64 n)
{
	ECAP_TAKE_(256);
	ECAP_TAKE_(512);
	ECAP_TAKE_(1024 + ECAP_ROOM_);
	ECAP_TAKE_(2048 + ECAP_ROOM_);
	ECAP_TAKE_(4096 + ECAP_ROOM_);
	ECAP_TAKE_(8192 + ECAP_ROOM_);
	ECAP_TAKE_(16384 + ECAP_ROOM_);
	ECAP_TAKE_(32768 + ECAP_ROOM_);
	return bpf_ringbuf_reserve(&ecap_events, 65536 - ECAP_RING_HEADER, 0);
}

/* The part of the header that helpers give. */
ECAP_INLINE void ecap_fill_(struct ecap_message *m, struct ecap_record *record)
{
	struct ecap_counters *counters;
	__u64 id, lost = 0;

	record->target = m->of_target ? (__u32)bpf_get_attach_cookie(m->ctx) : 0;
	id = bpf_get_current_pid_tgid();
	record->pid = id >> 32;
	record->tid = (__u32)id;
	record->uid = (__u32)bpf_get_current_uid_gid();
	record->cgroup = bpf_get_current_cgroup_id();
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	counters = ecap_count();
	/* Only when there is something: an exchange for each record would move the cache line between CPUs. */
	if (counters && *(volatile __u64 *)&counters->pending_lost)
		lost = __sync_lock_test_and_set(&counters->pending_lost, 0);
	record->lost_before = lost > 0xffffffff ? 0xffffffff : lost;
}

/* Hands the record over. The reader is woken only if it sleeps: a wake-up for each record costs more than the capture.
 * The reader arms the doorbell, then looks at the ring once more, then sleeps; here the record is in the ring (reserved),
 * then comes an atomic read-modify-write, a full barrier, then the look at the doorbell. So one of the two sees the other. */
ECAP_INLINE void ecap_submit_(struct ecap_record *record)
{
	struct ecap_counters *counters = ecap_count();
	__u64 flags = BPF_RB_NO_WAKEUP;
	__u64 *armed;

	if (counters) {
		__u64 before = __sync_fetch_and_add(&counters->records, 1);
		/* Used, so that it stays an operation that returns: without a result it is no barrier on arm64. */
		ecap_opaque(before);
	}
	armed = ecap_armed();
	if (armed && *(volatile __u64 *)armed && __sync_lock_test_and_set(armed, 0)) {
		flags = BPF_RB_FORCE_WAKEUP;
		ecap_add(wakeups, 1);
	}
	bpf_ringbuf_submit(record, flags);
}

/* Begins a message of `fixed` bytes (a constant) that the caller fills through the pointer returned, and `length` bytes at
 * `user` of which at most `max` (a constant) are sent. 0: nothing was sent and it is counted; go on as if it had been. */
ECAP_INLINE void *ecap_begin(struct ecap_message *m, __u16 stream, __u64 fixed, const void *user, __u64 length, __u64 max)
{
	__u64 n = length > max ? max : length;

	ecap_add(produced, 1);
	if (length > max) {
		ecap_add(cut, 1);
		ecap_add(cut_bytes, length - max);
	}
	m->fixed = fixed;
	m->max = max;
	if (__builtin_constant_p(n) && n + fixed <= ECAP_CHUNK_MAX) {
		m->record = bpf_ringbuf_reserve(&ecap_events, sizeof(struct ecap_record) + fixed + n, 0);
	} else {
		n = ecap_at_most(n, ECAP_CHUNK_MAX - fixed);
		m->record = ecap_take_(fixed, n);
		/* Worked out anew below rather than kept on the stack. */
		ecap_opaque(length);
	}
	m->bytes = n;
	if (!m->record) {
		ecap_add(lost_bytes, fixed + (length > max ? max : length));
		ecap_add(lost, 1);
		ecap_add(pending_lost, 1);
		return 0;
	}
	m->record->stream = stream;
	m->record->time_ns = m->time_ns;
	/* Kept in the record rather than on the stack; ecap_end clears it. */
	m->record->message = (__u64)user;
	m->record->offset = 0;
	m->record->total = fixed + (length > max ? max : length);
	m->record->cut = length <= max ? 0 : length - max > 0xffffffff ? 0xffffffff : length - max;
	ecap_fill_(m, m->record);
	return m->record + 1;
}

/* The record whose bytes could not be read is sent without them: what is missing is known and said. */
ECAP_INLINE void ecap_fault_(struct ecap_record *record, __u32 len, __u64 missing)
{
	record->len = len;
	record->flags = ECAP_RECORD_FAULT;
	ecap_submit_(record);
	ecap_add(faults, 1);
	ecap_add(fault_bytes, missing);
}

/* Makes `next` the record after `record` of the same message, and submits that. The header is copied: the same thread, the
 * same message; and nothing of it has to be carried on the stack from record to record. */
ECAP_INLINE void ecap_follow_(struct ecap_record *next, struct ecap_record *record)
{
	__builtin_memcpy(next, record, sizeof(*next));
	next->offset = record->offset + record->len;
	next->lost_before = 0;
	ecap_submit_(record);
}

/* Copies the bytes, submits, and sends the further records that they need. */
ECAP_INLINE void ecap_end(struct ecap_message *m)
{
	struct ecap_record *record = m->record, *next;
	const void *user = (const void *)record->message;
	__u64 left, n = m->bytes;

	record->message = 0;
	record->flags = 0;
	if (n && bpf_probe_read_user((void *)(record + 1) + m->fixed, n, user)) {
		ecap_fault_(record, m->fixed, record->total - m->fixed);
		return;
	}
	record->len = m->fixed + n;
	left = record->total - record->len;
	if (m->max + m->fixed <= ECAP_CHUNK_MAX || !left) {
		record->flags = ECAP_RECORD_LAST;
		ecap_submit_(record);
		return;
	}
	user += n;
	/* Always less; the verifier, who sees numbers read from the ring, needs to hear it. */
	left = ecap_at_most(left, m->max);
	/* No counter: the verifier sees `left` shrink by a constant from a known bound. */
	while (left > ECAP_CHUNK_MAX) {
		next = bpf_ringbuf_reserve(&ecap_events, 65536 - ECAP_RING_HEADER, 0);
		if (!next)
			goto full;
		ecap_follow_(next, record);
		record = next;
		if (bpf_probe_read_user(record + 1, ECAP_CHUNK_MAX, user))
			goto fault;
		record->len = ECAP_CHUNK_MAX;
		left -= ECAP_CHUNK_MAX;
		user += ECAP_CHUNK_MAX;
	}
	next = ecap_take_(0, left);
	if (!next)
		goto full;
	ecap_follow_(next, record);
	record = next;
	if (bpf_probe_read_user(record + 1, left, user))
		goto fault;
	record->len = left;
	record->flags = ECAP_RECORD_LAST;
	ecap_submit_(record);
	return;
full:
	ecap_submit_(record);
	ecap_add(partial, 1);
	ecap_add(lost_bytes, left);
	return;
fault:
	ecap_fault_(record, 0, left);
}

/* Ring space that is tried for a string before as much as its `max` bytes need. */
#define ECAP_STRING_SHORT_ 512
#define ECAP_STRING_MIDDLE_ (4096 + ECAP_ROOM_)

/* Instead of ecap_begin, for a C string of at most `max` - 1 bytes (a constant): how long it is shows when it is read, so
 * little ring space is taken first, and more if that does not do. ecap_end_string ends it. */
ECAP_INLINE void *ecap_begin_string(struct ecap_message *m, __u16 stream, __u64 fixed, const void *user, __u64 max)
{
	__u64 room = max;
	if (fixed < ECAP_CLASS_DATA(ECAP_STRING_SHORT_) && max > ECAP_CLASS_DATA(ECAP_STRING_SHORT_) - fixed)
		room = ECAP_CLASS_DATA(ECAP_STRING_SHORT_) - fixed;
	return ecap_begin(m, stream, fixed, user, room, max);
}

/* Gives the record back for one with room for as many bytes: 0 if there is none, and the message is lost. */
ECAP_INLINE struct ecap_record *ecap_widen_(struct ecap_record *record, __u64 fixed, __u64 room)
{
	struct ecap_record *wider = bpf_ringbuf_reserve(&ecap_events, sizeof(*wider) + fixed + room, 0);

	if (wider) {
		__builtin_memcpy(wider, record, sizeof(*wider) + fixed);
	} else {
		ecap_add(lost_bytes, fixed + room);
		ecap_add(lost, 1);
		ecap_add(pending_lost, record->lost_before + 1ULL);
	}
	bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
	return wider;
}

/* Instead of ecap_end, for a C string of at most `max` - 1 bytes (a constant, the `max` given to ecap_begin_string, or `length`
 * and `max` given to ecap_begin): what goes out ends before the NUL. A string that is longer is sent as far as it goes; how
 * much longer nobody knows. */
ECAP_INLINE void ecap_end_string(struct ecap_message *m, __u64 max)
{
	struct ecap_record *record = m->record;
	const void *user = (const void *)record->message;
	__u64 room = __builtin_constant_p(m->bytes) ? m->bytes : max;
	long n;

	record->message = 0;
	n = bpf_probe_read_user_str((void *)(record + 1) + m->fixed, room, user);
	/* All of the room is used: it may go on. */
	if (room < max && max > ECAP_STRING_MIDDLE_ && n == (long)room) {
		room = ECAP_CLASS_DATA(ECAP_STRING_MIDDLE_) - m->fixed;
		record = ecap_widen_(record, m->fixed, room);
		if (!record)
			return;
		n = bpf_probe_read_user_str((void *)(record + 1) + m->fixed, room, user);
	}
	if (room < max && n == (long)room) {
		record = ecap_widen_(record, m->fixed, max);
		if (!record)
			return;
		n = bpf_probe_read_user_str((void *)(record + 1) + m->fixed, max, user);
	}
	if (n <= 0) {
		record->total = m->fixed;
		ecap_fault_(record, m->fixed, 0);
		return;
	}
	record->len = m->fixed + n - 1;
	record->total = record->len;
	record->flags = ECAP_RECORD_LAST;
	ecap_submit_(record);
}

#endif
