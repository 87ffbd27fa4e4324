/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel side of the `openssl` module tells its decoder, and what its detector tells the kernel side.
 * One owner: this file. The Rust decoder mirrors the byte offsets given in the comments; everything is little endian.
 *
 * Stream 0 (`data`, joined) has a message for each call that moved bytes, when it returns. Each says by itself
 * which connection it belongs to and where in it its bytes are: the decoder remembers nothing, so a lost message leaves a gap
 * of known size and a decoder that is started again goes on where the other stopped. Stream 3 (`end`) has one for each connection on
 * which bytes were moved, when its object is freed or made ready for another one.
 */
#ifndef ECAP_OPENSSL_H
#define ECAP_OPENSSL_H

#include <ecapture/types.h>

#define OPENSSL_STREAM_DATA 0
#define OPENSSL_STREAM_END 3 /* 1 and 2: openssl_keylog.h */
/* Bytes of one call that are sent; more is counted in the record header's `cut`. Beyond 2^24, so that lengths around it are
 * whole. */
#define OPENSSL_CALL_MAX ((1 << 24) + (1 << 16))

/* Which function a probe is on: the low byte of the probe's argument in the plan. */
enum openssl_call {
	OPENSSL_READ = 1,             /* SSL_read(ssl, buf, num): the bytes, or not above 0 */
	OPENSSL_READ_EX = 2,          /* SSL_read_ex(ssl, buf, num, &bytes): 1, or not above 0 */
	OPENSSL_PEEK = 3,             /* as SSL_read; the bytes will be read again */
	OPENSSL_PEEK_EX = 4,          /* as SSL_read_ex; the bytes will be read again */
	OPENSSL_READ_EARLY_DATA = 5,  /* as SSL_read_ex, but 0 is an error, 1 is success, 2 is the end of early data */
	OPENSSL_WRITE = 6,            /* SSL_write(ssl, buf, num): the bytes, or not above 0 */
	OPENSSL_WRITE_EX = 7,         /* SSL_write_ex(ssl, buf, num, &bytes): 1, or not above 0 */
	OPENSSL_WRITE_EARLY_DATA = 8, /* as SSL_write_ex */
	OPENSSL_SENDFILE = 9,         /* SSL_sendfile(ssl, fd, offset, size, flags): the bytes, which no one sees */
	OPENSSL_HANDSHAKE = 10,       /* SSL_do_handshake(ssl): moves no bytes of the user's, but shows the socket */
	OPENSSL_WRITE_EX2 = 11,       /* SSL_write_ex2(ssl, buf, num, flags, &bytes) */
	/* The functions behind these, as SSL_read_ex; in the top byte of the probe's argument, which argument &bytes is. */
	OPENSSL_READ_BEHIND = 12,
	OPENSSL_PEEK_BEHIND = 13,
	OPENSSL_WRITE_BEHIND = 14,
};

/* As in the kernel's <linux/socket.h>; 0: no socket was seen to be used by a call on this connection. */
#define OPENSSL_AF_INET 2
#define OPENSSL_AF_INET6 10

/* 40 bytes: the socket below a connection. */
struct openssl_socket {
	__u16 family;      /*  0 OPENSSL_AF_... */
	__u16 local_port;  /*  2 host byte order */
	__u16 peer_port;   /*  4 host byte order */
	__u16 inferred;    /*  6 1: not used during a call, but around calls on this connection in both directions */
	__u8 local[16];    /*  8 address in network byte order; of IPv4 the first 4 bytes */
	__u8 peer[16];     /* 24 */
};

/* 88 bytes, then `length` bytes of the user's data (none of SENDFILE; less when cut or lost: see the record header). */
struct openssl_data {
	__u64 ssl;      /*  0 address of the SSL object */
	__u64 birth_ns; /*  8 when the connection was first seen: with the process and `ssl` it names the connection */
	__u64 offset;   /* 16 of the first byte, from the first that was seen of this direction */
	__u64 length;   /* 24 bytes that the call moved */
	__u64 began_ns; /* 32 when the call began */
	__u32 call;     /* 40 enum openssl_call */
	__u32 unused;   /* 44 0 */
	struct openssl_socket socket; /* 48 */
};

_Static_assert(sizeof(struct openssl_data) == 88, "mirrored by the decoder");

/* 16 bytes: names the connection as in struct openssl_data. */
struct openssl_end {
	__u64 ssl;      /*  0 */
	__u64 birth_ns; /*  8 */
};

_Static_assert(sizeof(struct openssl_end) == 16, "mirrored by the decoder");

#endif
