/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel side of the `postgres` module tells its decoder. One owner: this file. The Rust decoder mirrors the byte
 * offsets given in the comments; everything is little endian.
 *
 * A backend serves one connection, so a connection is named by the record header's pid. All messages go out on stream 0
 * (`protocol`, a record each). Each begins with `struct pg_head`; `kind` says what follows:
 *   ASKED   a piece of what the client said, byte for byte; see PG_BOUNDARY for what was left out before it
 *   TOLD    what the server said, a list of `struct pg_entry`: messages that matter to a statement's outcome, and counts
 *           of the others
 *   ENDED   the backend is gone, and with it the connection; nothing follows
 *   NESTED  a statement that runs inside another one (a function's body); its text follows
 */
#ifndef ECAP_POSTGRES_H
#define ECAP_POSTGRES_H

#include <ecapture/types.h>

#define PG_STREAM_PROTOCOL 0
#define PG_ASKED_MAX 16384           /* the server reads 8 KiB at a time */
#define PG_MESSAGE_MAX (1 << 20)     /* of a client's message, up to the end of the read in which it is reached */
#define PG_TOLD_MAX 16384            /* entries of one write; 8 KiB of messages of 5 bytes need less */
#define PG_TOLD_BODY 1024            /* of the body of one of the server's messages */
#define PG_NESTED_MAX 32768          /* of the text of a statement inside another one */
#define PG_ADDRESS 28                /* a sockaddr_in6, and more than any other that is looked at */

enum pg_kind { PG_ASKED = 1, PG_TOLD = 2, PG_ENDED = 3, PG_NESTED = 4 };

enum pg_flags {
	PG_BOUNDARY = 1, /* ASKED: a message begins here; what the one before it lacks was over PG_MESSAGE_MAX */
	PG_STARTUP = 2,  /* ASKED: a packet of the begin of a connection, which has no type byte */
	PG_OLDER = 4,    /* the connection is older than the capture */
	PG_CUT_ENDED = 16, /* ASKED: a message that is longer than PG_MESSAGE_MAX was read to its end */
	PG_LOST = 8,     /* a write held more than could be kept, or what was no message; what follows begins anew */
};

/* 32 bytes, the same at the head of every kind. */
struct pg_head {
	__u32 kind;          /*  0 enum pg_kind */
	__u32 flags;         /*  4 enum pg_flags */
	__u64 copy_messages; /*  8 ASKED: CopyData messages from this client so far. They are counted and not sent, unless they
			      *    stand between others within one read */
	__u64 copy_bytes;    /* 16 ASKED: bytes in these */
	__u64 sequence;      /* 24 number of this record on its connection, from 1: a gap is a lost record */
};

/* 72 bytes, then the bytes. */
struct pg_asked {
	struct pg_head head;     /*  0 */
	__u16 local_family;      /* 32 STARTUP: address family of the server's end */
	__u16 reserved;          /* 34 */
	__u32 peer_length;       /* 36 STARTUP: length that the server says the client's address has */
	__u8 peer[PG_ADDRESS];   /* 40 STARTUP: the client's address, as struct sockaddr_in or sockaddr_in6 */
	__u32 reserved1;         /* 68 */
};

/* 8 bytes, then `captured` bytes, then zeros up to a multiple of 8.
 * Types 'D' and 'd' are counts of the DataRow and CopyData messages since the entry before: 16 bytes, messages and their
 * bytes. All others are messages of the server. */
struct pg_entry {
	__u8 type;      /* 0 the message's */
	__u8 more;      /* 1 1: goes on with the body of the entry before (of this record or the one before it) */
	__u16 captured; /* 2 bytes of the body that follow */
	__u32 length;   /* 4 bytes that the body has */
};

_Static_assert(sizeof(struct pg_head) == 32, "mirrored in the decoder");
_Static_assert(sizeof(struct pg_asked) == 72, "mirrored in the decoder");
_Static_assert(sizeof(struct pg_entry) == 8, "mirrored in the decoder");

#endif
