/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 * What the kernel side tells the decoder (src/record.rs), and what the detector tells the kernel side. */
#ifndef MODULE_H
#define MODULE_H

#include <ecapture/types.h>

#define TEXT_MAX 32768 /* of a statement: SQLite ends it with a NUL and says no length */
#define VALUE_MAX 32768 /* of a text or blob that is bound; what is longer is cut, and the event says by how much */

enum kind { BEGIN = 1, END = 2, BIND = 3, FORGET = 4 };
enum type { NUL = 0, INTEGER = 1, REAL = 2, TEXT = 3, BLOB = 4 };

/* 40 bytes, then the text of the statement (BEGIN) or of the value (BIND of TEXT and BLOB). */
struct message {
	__u32 kind;
	__u32 number;    /* BIND: of the parameter, from 1 */
	__u64 statement; /* sqlite3_stmt *: with the process it names a statement while it lives */
	__s64 value;     /* END: result code; BIND: INTEGER's value, or how long the text is, -1 = up to a NUL */
	__u64 rows;      /* END */
	__u32 type;      /* BIND */
	__u32 reserved;
};

/* The row of a target file. */
struct layout {
	__u32 valid;
	__u32 text; /* where sqlite3_stmt keeps its text */
};

#endif
