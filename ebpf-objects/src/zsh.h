/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel side of the `zsh` module tells its decoder, and what its detector tells the kernel side.
 * One owner: this file. The Rust decoder mirrors the byte offsets given in the comments; everything is little endian.
 *
 * All messages go out on stream 0 (`programs`, joined) and begin with `struct zsh_head`. A program is what zsh has parsed
 * in one go and runs: a line at the prompt or of a script with all that belongs to it, the text of -c, of eval. It is named
 * by the shell process and the time of its START. What is said of it:
 *   START  it is about to run; its code follows, in the form that zsh itself runs
 *   END    it has run; `value` is $? then
 *   EXEC   the process became another program: what is open of it ends with the process
 *   EXIT   the process ended; `value` is its status as wait(2) gives it
 * Any of them may be missing if the ring was full.
 */
#ifndef ECAP_ZSH_H
#define ECAP_ZSH_H

#include <ecapture/types.h>

#define ZSH_STREAM_PROGRAMS 0
#define ZSH_PROGRAM_MAX (1 << 20) /* bytes of code that are sent; more is counted in the record header's `cut` */

enum zsh_kind { ZSH_START = 1, ZSH_END = 2, ZSH_EXEC = 3, ZSH_EXIT = 4 };

/* Where a program comes from: what zsh calls its context, and adds to the parameter zsh_eval_context. */
enum zsh_context {
	ZSH_TOPLEVEL = 1, /* the prompt, the script itself, standard input */
	ZSH_FILE = 2,     /* a file that is sourced, read as it runs */
	ZSH_FILECODE = 3, /* a file that is sourced, compiled before (.zwc) */
	ZSH_CMDARG = 4,   /* zsh -c */
	ZSH_EVAL = 5,     /* eval */
	ZSH_FC = 6,       /* fc, r: lines of the history again */
};

enum zsh_flags {
	ZSH_UNFOLLOWED = 1, /* START: nested too deep, nothing more will be said of it */
};

/* 48 bytes, then the code of START: `words` 32-bit words, then the strings that they name. */
struct zsh_head {
	__u32 kind;      /*  0 enum zsh_kind */
	__u16 flags;     /*  4 enum zsh_flags */
	__u8 context;    /*  6 START: enum zsh_context */
	__u8 format;     /*  7 START: `format` of the layout row, unread */
	__u64 start_ns;  /*  8 START, END: time_ns of the program's START */
	__u64 sp;        /* 16 START: stack pointer of the function that runs it: an earlier one up to here is over */
	__u64 length;    /* 24 START: bytes that follow, whatever of them was sent */
	__u32 words;     /* 32 START: words of code among them */
	__u32 value;     /* 36 END: $?. EXIT: status as wait(2) gives it. */
	__u64 reserved;  /* 40 0 */
};

/* What a function definition's head looks like in the code. */
enum zsh_format {
	ZSH_FORMAT_5_8 = 1, /* three words behind the names */
	ZSH_FORMAT_5_9 = 2, /* four */
};

/* One row of `ecap_layouts`, 32 bytes, written by the detector for one target file. Addresses are those of the file. */
struct zsh_layout {
	__u64 valid;    /*  0 1 */
	__u64 release;  /*  8 function freeeprog */
	__u64 status;   /* 16 lastval: $?, eight bytes */
	__u32 format;   /* 24 enum zsh_format */
	__u32 reserved; /* 28 0 */
};

_Static_assert(sizeof(struct zsh_head) == 48, "mirrored in Rust");
_Static_assert(sizeof(struct zsh_layout) == 32, "mirrored in Rust");

#endif
