/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel side of the `bash` module tells its decoder, and what its detector tells the kernel side.
 * One owner: this file. The Rust decoder mirrors the byte offsets given in the comments; everything is little endian.
 *
 * All messages go out on stream 0 (`commands`, joined) and begin with `struct bash_head`. A simple command is named by
 * (`process`, `command`): the shell process in which it began, and the time. What is said of it:
 *   START  it is about to run; its text follows
 *   FORK   the shell gave it a process of its own: what that process exits with is the command's status
 *   END    it ended inside the shell, with `value` as its status
 *   HINT   it leaves without an end (exit, return, an error in an expansion); `value` is the shell's status at that moment
 *   ARGS   its process became another program; the arguments follow, as the kernel gave them to that program
 *   EXIT   a process ended: that of `command` if that is not 0, and whatever the process itself still had open
 * Beside these
 *   LINE   a line was read from the terminal; its bytes follow
 * Any of them may be missing if the ring was full.
 */
#ifndef ECAP_BASH_H
#define ECAP_BASH_H

#include <ecapture/types.h>

#define BASH_STREAM_COMMANDS 0
/* Bytes of a text, of all arguments of a program, of a line. Linux takes 2 MiB of arguments and environment together
 * unless the stack's limit is raised. More is counted in the record header's `cut`. */
#define BASH_TEXT_MAX (2 << 20)

enum bash_kind {
	BASH_START = 1,
	BASH_END = 2,
	BASH_FORK = 3,
	BASH_HINT = 4,
	BASH_ARGS = 5,
	BASH_EXIT = 6,
	BASH_LINE = 7,
};

enum bash_flags {
	BASH_BACKGROUND = 1, /* START: the shell does not wait for it */
	BASH_PIPELINE = 2,   /* START: it is connected to another command by a pipe */
	BASH_UNFOLLOWED = 4, /* START: nested too deep, nothing more will be said of it */
	BASH_READ = 8,       /* LINE: not at a prompt for commands, but by a builtin command (read -e) */
};

/* 48 bytes, then the bytes that the kind has. */
struct bash_head {
	__u32 kind;    /*  0 enum bash_kind */
	__u32 flags;   /*  4 enum bash_flags */
	__u64 command; /*  8 time_ns of the command's START; 0: none */
	__u32 process; /* 16 process in which it began; 0: none */
	__u32 value;   /* 20 END, HINT: status. FORK: the new process. EXIT: status as wait(2) gives it. */
	__u64 sp;      /* 24 START: stack pointer of the function that runs it */
	__u64 caller;  /* 32 START: and of that one's caller; an earlier command of the process with `sp` up to here is over */
	__u64 length;  /* 40 bytes that follow, whatever of them was sent */
};

_Static_assert(sizeof(struct bash_head) == 48, "mirrored in Rust");

/* Value type of `ecap_layouts`, one row for each target file. Addresses are those of the file (virtual, before it is
 * loaded). */
struct bash_layout {
	__u64 valid;       /*  0 */
	__u64 command;     /*  8 function execute_command_internal */
	__u64 text;        /* 16 char *the_printed_command */
	__u64 text_length; /* 24 int command_string_index */
	__u64 status;      /* 32 int last_command_exit_value */
	__u64 null_forks;  /* 40 a fork without a command text and without flags is that of an empty command: 5.1 and later */
};

_Static_assert(sizeof(struct bash_layout) == 48, "mirrored in Rust");

#endif
