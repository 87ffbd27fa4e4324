/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel side of the `mysql` module tells its decoder, and what its detector tells the kernel side.
 * One owner: this file. The Rust decoder mirrors the byte offsets given in the comments; everything is little endian.
 *
 * All messages go out on stream 0 (`commands`, joined). Each begins with `struct mysql_head`; `kind` says what follows.
 * A command is identified by (record header's pid, `thd`, `start_ns`): a connection runs one command at a time. Not by the
 * thread: MariaDB's thread pool may end a command on another thread than it began on.
 *   LOGIN  when the server has been told who is there, at the begin of a connection or within COM_CHANGE_USER; no bytes follow
 *   START  at the entry of dispatch_command; the packet's bytes follow the fixed part
 *   PARAMETERS right behind a START with MYSQL_START_VALUES; MySQL's array of parameters follows the fixed part
 *   ERROR  each time the server sends an error to the client; the message's text follows the fixed part
 *   END    when dispatch_command returns, or its thread is gone; no bytes follow
 * The order of one command's messages in the ring is START, PARAMETERS, ERROR*, END (then more of these two if it was put aside). Any of them may be missing if the ring was full.
 */
#ifndef ECAP_MYSQL_H
#define ECAP_MYSQL_H

#include <ecapture/types.h>

#define MYSQL_STREAM_COMMANDS 0
#define MYSQL_PACKET_MAX (1 << 20) /* bytes of a packet that are sent; more is counted in the record header's `cut` */
#define MYSQL_ERROR_TEXT_MAX 512   /* the servers' own limit for a message (MYSQL_ERRMSG_SIZE) */
#define MYSQL_UNKNOWN_ID 0xffffffffffffffffULL
#define MYSQL_UNKNOWN_OFFSET 0xffffffffU

enum mysql_kind { MYSQL_START = 1, MYSQL_END = 2, MYSQL_ERROR = 3, MYSQL_LOGIN = 4, MYSQL_PARAMETERS = 5 };

/* The one-byte command codes of the client/server protocol that the kernel side looks at. */
enum mysql_command_code {
	MYSQL_COM_QUIT = 1,
	MYSQL_COM_INIT_DB = 2,
	MYSQL_COM_QUERY = 3,
	MYSQL_COM_CONNECT = 11, /* never sent by clients: the login at the begin of a connection */
	MYSQL_COM_CHANGE_USER = 17,
	MYSQL_COM_STMT_PREPARE = 0x16,
	MYSQL_COM_STMT_EXECUTE = 0x17,
	MYSQL_COM_STMT_SEND_LONG_DATA = 0x18,
	MYSQL_COM_STMT_CLOSE = 0x19,
	MYSQL_COM_STMT_RESET = 0x1a,
	MYSQL_COM_STMT_FETCH = 0x1c,
	MYSQL_COM_STMT_BULK_EXECUTE = 0xfa, /* MariaDB only */
};

/* 32 bytes, the same at the head of every kind. */
struct mysql_head {
	__u32 kind;       /*  0 enum mysql_kind */
	__u32 command;    /*  4 command code, as the server was called with it */
	__u64 thd;        /*  8 address of the connection's THD; with the pid it names a connection while it lives */
	__u64 connection; /* 16 connection id as SHOW PROCESSLIST has it; MYSQL_UNKNOWN_ID if the offset is not known */
	__u64 start_ns;   /* 24 = time_ns of the record header of the command's START */
};

enum mysql_start_flags {
	MYSQL_START_STATEMENT = 1, /* `statement` is valid */
	MYSQL_START_VALUES = 2,    /* MySQL's COM_STMT_EXECUTE: the bytes are the packet's values; PARAMETERS says which is where */
};

/* 48 bytes, then `length` bytes of the packet without its command byte (less when cut or lost: see the record header).
 * MariaDB: the bytes are the protocol packet's body for every command.
 * MySQL (convention 1): the text for COM_QUERY and COM_STMT_PREPARE, the name for COM_INIT_DB, and, where the layout row has
 * MYSQL_PARAMETERS_NAMED, the packet's body for COM_STMT_SEND_LONG_DATA and its values for COM_STMT_EXECUTE; none for the others. */
struct mysql_start {
	struct mysql_head head; /*  0 */
	__u32 length;           /* 32 bytes that the packet has, whatever of them was sent */
	__u32 flags;            /* 36 enum mysql_start_flags */
	__u32 statement;        /* 40 id of the prepared statement that the command names (EXECUTE, CLOSE, ...);
				 *    0xffffffff in MariaDB means "the one prepared last on this connection" */
	__u32 product;          /* 44 that of the layout row, unread */
};

/* 48 bytes, then the array: of `count` PS_PARAM, 48 bytes each, as the server made it of the packet. */
struct mysql_parameters {
	struct mysql_head head; /*  0 that of START */
	__u64 base;             /* 32 address of the first value: what START carries begins there; 0 if none was found */
	__u32 count;            /* 40 entries that the array has, whatever of it was sent */
	__u32 new_types;        /* 44 1: the client sent types, and they are in the array; 0: those that it sent last hold */
};

/* PS_PARAM of MySQL 8.0.23 and later, which says where in its packet a value is. */
#define MYSQL_PS_PARAM 48
#define MYSQL_PS_PARAM_VALUE 16  /* address of the value behind what says its length; 0: NULL, or sent ahead in pieces */
#define MYSQL_PS_PARAM_LENGTH 24 /* bytes of the value */

enum mysql_end_flags {
	MYSQL_END_OK = 1,           /* at least one OK packet was sent: affected_rows, insert_id are valid */
	MYSQL_END_RESULT_SET = 2,   /* at least one result set was ended (EOF): rows is valid if ROWS is set too */
	MYSQL_END_FAILED = 4,       /* at least one error was sent: error, sqlstate are those of the last one */
	MYSQL_END_PREPARED = 8,     /* `statement` is the id that COM_STMT_PREPARE gave to its statement */
	MYSQL_END_ROWS = 16,        /* `rows` was counted; else the offset is not known, or there was no result set */
	MYSQL_END_SUSPENDED = 32,   /* MariaDB's thread pool put the command aside: another END, with the same `thd` and
				     * `start_ns` and perhaps of another thread, follows with what comes from here on; add the
				     * two. (Only if there was no room to remember the command, which state_full counts, a
				     * second START comes first and start_ns is its.) */
	MYSQL_END_START_LOST = 64,  /* nothing of START got through (ring full) */
	MYSQL_END_NO_STATUS = 128,  /* the server sent neither OK nor EOF nor error: QUIT, STMT_CLOSE, SEND_LONG_DATA, a
				     * successful STMT_PREPARE, an answer out of the query cache */
	MYSQL_END_PARAMETERS = 256, /* with PREPARED: `parameters` is the number that the client was told */
	MYSQL_END_GONE = 512,       /* the thread ended inside of dispatch_command: `returned` says nothing */
};

/* 104 bytes. Sums run over all results of the command (a COM_QUERY may hold several statements; CALL has several results). */
struct mysql_end {
	struct mysql_head head; /*  0 */
	__u32 flags;            /* 32 enum mysql_end_flags */
	__u32 statement;        /* 36 with PREPARED: the new one; else that of START */
	__u64 rows;             /* 40 rows of result sets sent to the client, sum; a row over 16 MiB counts once more for
				 *    each packet that it needs */
	__u64 affected_rows;    /* 48 of the OK packets, sum */
	__u64 insert_id;        /* 56 last insert id that was not 0 */
	__u32 results;          /* 64 OK + EOF + error packets that ended a result */
	__u32 result_sets;      /* 68 of these: result sets */
	__u32 errors;           /* 72 of these: errors */
	__u32 warnings;         /* 76 warning count of the last OK or EOF */
	__u32 status;           /* 80 server status bits of the last OK or EOF */
	__u32 error;            /* 84 error number of the last error */
	__u8 sqlstate[8];       /* 88 five characters and NULs; all NUL if the server gave none */
	__u32 returned;         /* 96 return value of dispatch_command (MariaDB: 0 go on, 1 close, 2 put aside) */
	__u32 parameters;       /* 100 with PARAMETERS: how many the new statement has */
};

/* 48 bytes, then the text (at most MYSQL_ERROR_TEXT_MAX - 1 bytes, without its NUL). */
struct mysql_error {
	struct mysql_head head; /*  0 */
	__u32 error;            /* 32 */
	__u32 number;           /* 36 how many errors this command sent before */
	__u8 sqlstate[8];       /* 40 as in mysql_end */
};

/* The longest names that the servers have room for, with a NUL: 128 and 64 characters of three bytes; an IPv6 address. */
#define MYSQL_USER_MAX 400
#define MYSQL_DATABASE_MAX 200
#define MYSQL_ADDRESS_MAX 48

enum mysql_login_flags {
	MYSQL_LOGIN_USER = 1,     /* `user` is valid and whole */
	MYSQL_LOGIN_DATABASE = 2, /* `database` is valid and whole; empty: none was chosen */
	MYSQL_LOGIN_PEER = 4,     /* `port` and `address` are valid: the client came over the network */
};

/* 688 bytes. That the login succeeded is not said: only then do commands follow. */
struct mysql_login {
	struct mysql_head head;         /*  0 command: MYSQL_COM_CONNECT or MYSQL_COM_CHANGE_USER */
	__u32 flags;                    /* 32 enum mysql_login_flags */
	__u32 port;                     /* 36 of the client's end of the connection */
	char address[MYSQL_ADDRESS_MAX]; /* 40 of the same, as text with a NUL */
	char user[MYSQL_USER_MAX];       /* 88 as the client gave it, with a NUL */
	char database[MYSQL_DATABASE_MAX]; /* 488 as the client asked for it, with a NUL */
};

/* How arguments are passed. */
enum mysql_convention {
	MYSQL_CONVENTION_MARIADB = 0,
	MYSQL_CONVENTION_MYSQL = 1, /* dispatch_command(THD*, const COM_DATA*, command); Protocol_classic's own methods */
};

/* How the function that mysql_eof is on is called: the probe's argument. */
enum mysql_eof_call {
	MYSQL_EOF_WITH_THD = 0,    /* (this, THD *, status, warnings) */
	MYSQL_EOF_WITHOUT_THD = 1, /* (this, status, warnings) */
	MYSQL_EOF_PARTIAL = 2,     /* (this, THD *): the status is not given, and there are no warnings */
};

/* How the function that mysql_statement is on is called: the probe's argument. */
enum mysql_statement_call {
	MYSQL_STATEMENT_MADE = 0,   /* (this, LEX *, MEM_ROOT *, state, id) */
	MYSQL_STATEMENT_TOLD = 1,   /* (this, id, columns, parameters, ...) */
	MYSQL_STATEMENT_LISTED = 2, /* (this, THD *, Statement *): the id is in Statement */
};

/* How the parameters of a prepared statement can be had. */
enum mysql_parameter_layout {
	MYSQL_PARAMETERS_UNKNOWN = 0,
	MYSQL_PARAMETERS_NAMED = 1, /* MySQL 8.0.23 and later: PS_PARAM has a name, for the attributes of a query */
	MYSQL_PARAMETERS_ASKED = 2, /* MariaDB: mysql_describe is on a function that describes a parameter and nothing else */
};

/* One row of `ecap_layouts`, 32 bytes, written by the detector for one target file. */
struct mysql_layout {
	__u32 valid;            /*  0 1 */
	__u32 convention;       /*  4 enum mysql_convention */
	__u32 thread_id_offset; /*  8 offset of the connection id in THD; MYSQL_UNKNOWN_OFFSET if not known */
	__u32 thread_id_size;   /* 12 4 or 8 bytes */
	__u32 packet_number_offset; /* 16 offset of THD::net.pkt_nr (4 bytes); MYSQL_UNKNOWN_OFFSET if not known */
	__u32 product;              /* 20 the detector's number for the product; the decoder gets it back with each START */
	__u32 statement_id_offset;  /* 24 MariaDB: offset of the id in Statement; MYSQL_UNKNOWN_OFFSET if not known */
	__u32 parameters;           /* 28 enum mysql_parameter_layout */
};

_Static_assert(sizeof(struct mysql_head) == 32, "mirrored in the decoder");
_Static_assert(sizeof(struct mysql_start) == 48, "mirrored in the decoder");
_Static_assert(sizeof(struct mysql_end) == 104, "mirrored in the decoder");
_Static_assert(sizeof(struct mysql_error) == 48, "mirrored in the decoder");
_Static_assert(sizeof(struct mysql_login) == 688, "mirrored in the decoder");
_Static_assert(sizeof(struct mysql_parameters) == 48, "mirrored in the decoder");
_Static_assert(sizeof(struct mysql_layout) == 32, "mirrored in the detector");

#endif
