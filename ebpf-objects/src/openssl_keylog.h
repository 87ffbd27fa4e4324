/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel side of the `openssl` module tells its decoder in the mode `keylog`, and what its detector tells it.
 * One owner: this file. The Rust side mirrors the byte offsets given in the comments; everything is little endian.
 *
 * On stream 1 (`secrets`) goes a message for each secret that the library hands to the function that would log it, whether
 * or not the program has asked for a log; on stream 2 (`unseen`) one for each connection that moves bytes and of which none
 * was seen.
 */
#ifndef ECAP_OPENSSL_KEYLOG_H
#define ECAP_OPENSSL_KEYLOG_H

#include <ecapture/types.h>

#define OPENSSL_STREAM_SECRETS 1
#define OPENSSL_STREAM_UNSEEN 2

/* The longest that any version of TLS has: SHA-512. */
#define OPENSSL_SECRET_MAX 64
/* With the NUL. The longest is SERVER_HANDSHAKE_TRAFFIC_SECRET. */
#define OPENSSL_LABEL_MAX 40
#define OPENSSL_RANDOM 32
/* Places of labels in a file that are told apart. */
#define OPENSSL_LABELS 24
/* Labels of this number on are of keys that follow others, ..._TRAFFIC_SECRET_N. */
#define OPENSSL_NEXT 9

/* What could not be read of a message. */
enum openssl_secret_unread {
	OPENSSL_NO_LABEL = 1,
	OPENSSL_NO_RANDOM = 2,
	OPENSSL_NO_SECRET = 4,
};

/* 160 bytes. */
struct openssl_secret {
	__u64 ssl;                         /*  0 address of the connection's object */
	__u32 length;                      /*  8 of the secret, as the library says it */
	__u16 unread;                      /* 12 enum openssl_secret_unread */
	__u16 place;                       /* 14 which label it is by its place: see below; 0: not known */
	__u8 random[OPENSSL_RANDOM];       /* 16 client random */
	__u8 secret[OPENSSL_SECRET_MAX];   /* 48 `length` bytes and zeros */
	char label[OPENSSL_LABEL_MAX];     /* 112 up to a NUL */
	__u64 unused;                      /* 152 0 */
};

_Static_assert(sizeof(struct openssl_secret) == 160, "mirrored by the decoder");

/* 8 bytes. */
struct openssl_unseen {
	__u64 ssl; /* 0 address of the connection's object */
};

/* 96 bytes: the row of a target file. Nobody has read the label before it is logged, so its page may not be in memory,
 * and then the kernel side cannot read it. But where it is in its page is the same in every process. */
struct openssl_labels {
	struct {
		__u16 at;    /* place in its page */
		__u16 label; /* the decoder's number of it, from 1; 0: this entry is not used */
	} of[OPENSSL_LABELS];
};

_Static_assert(sizeof(struct openssl_labels) == 96, "written by the detector");

#endif
