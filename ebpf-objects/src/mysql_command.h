/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The command that runs on a thread of a server, what is kept of it until it is over, and what is read of the server's memory at
 * its begin. The programs are in mysql.bpf.c.
 */
#ifndef MYSQL_COMMAND_H
#define MYSQL_COMMAND_H

#include <ecapture/ecapture.h>

#include "mysql.h"

/* dispatch_command inside dispatch_command was never seen, but server plugins may run commands in a session of their own
 * on the thread that runs one already. */
#define NESTED 2

struct command {
	__u64 sp; /* stack pointer at the entry: tells whose return it is */
	union {
		struct {
			__u64 packet;
			__u64 length;
		};
		__u64 answer[2]; /* once these are not needed any more */
	};
	struct mysql_end end; /* filled as the outcome is seen */
	__u32 start_flags;
	__u32 first_row;      /* number of the packet that is the running result set's first row */
	__u16 in_result_set;
	__u16 eof_announced;  /* net_send_eof ran: the OK packet that it may send itself ends the same result */
	__u16 has_statement;
	__u16 described;      /* MariaDB: a parameter of the new statement was about to be described */
	__u64 data[4];        /* for what is read of the target: the stack has no room */
	__u64 parameters[3];  /* MySQL: array of parameters, its entries, whether types were sent (one byte) */
};

struct flight {
	__u64 depth;
	struct command command[NESTED];
	/* Of the connection that begins on this thread: where vio_peer_addr is to put the client's address, and what it put there. */
	__u64 peer_text;
	__u64 peer_port;
	__u32 has_peer;
	__u32 port;
	char address[MYSQL_ADDRESS_MAX];
};

ECAP_THREAD_STATE(mysql_flights, struct flight);
ECAP_LAYOUTS(struct mysql_layout);

/* Commands that MariaDB's thread pool put aside (it waits for the log without holding a thread): dispatch_command returns 2,
 * and is called again, on any thread, with the same packet. One command all the same. */
struct parked_key {
	__u64 thd;
	__u64 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct parked_key);
	__type(value, struct command);
} mysql_parked SEC(".maps");

#define PUT_ASIDE 2

/* The command that runs on this thread, or 0. A thread has one only if its process was wanted. */
ECAP_INLINE struct command *current_command(void)
{
	struct flight *flight = ecap_state(mysql_flights);
	struct command *command;
	if (!flight || !flight->depth)
		return 0;
	command = &flight->command[(flight->depth - 1) & (NESTED - 1)];
	/* One register, not base and index in two. */
	ecap_opaque(command);
	return command;
}

ECAP_INLINE __u64 read_connection(struct mysql_layout *row, __u64 thd)
{
	__u64 id = 0;
	if (row->thread_id_offset == MYSQL_UNKNOWN_OFFSET)
		return MYSQL_UNKNOWN_ID;
	if (bpf_probe_read_user(&id, row->thread_id_size == 4 ? 4 : 8, ecap_user_ptr(thd + row->thread_id_offset)))
		return MYSQL_UNKNOWN_ID;
	return id;
}

/* Number that the connection's next packet gets (NET::pkt_nr, 32 bits of which the protocol shows 8): -1 if it cannot be
 * had. A row is a packet, so the difference between two looks counts rows. The server's own counter of sent rows will not
 * do: SHOW WARNINGS and its like pass it by, and stored functions upset it. */
ECAP_INLINE __s64 packet_number(struct pt_regs *ctx, struct command *command)
{
	struct mysql_layout *row = ecap_layout(ctx);
	__u64 at = command->end.head.thd;
	__u32 number;
	if (!row || row->packet_number_offset == MYSQL_UNKNOWN_OFFSET)
		return -1;
	at += row->packet_number_offset;
	if (ecap_read_user(&number, at))
		return -1;
	return number;
}

ECAP_INLINE void add_rows(struct pt_regs *ctx, struct command *command)
{
	__s64 next = packet_number(ctx, command);
	if (next >= 0) {
		command->end.rows += (__u32)((__u32)next - command->first_row);
		command->end.flags |= MYSQL_END_ROWS;
	}
	command->in_result_set = 0;
}

/* Where `buff` lies before `pkt_nr` in NET, the structure that the servers publish in mysql_com.h since 4.1. */
#define PACKET_NUMBER_TO_BUFFER 88

/* MariaDB: how many parameters the new statement has, out of the packet that tells the client: it is the first of the answer,
 * so it stands at the begin of the connection's buffer until that has been filled once. Taken only if it is surely that
 * packet: 12 bytes long, an OK, with the statement's id. Its bytes: length (3), number, 0, id (4), columns (2),
 * parameters (2), 0, warnings (2). */
ECAP_INLINE void read_prepared(struct pt_regs *ctx, struct command *command)
{
	struct mysql_layout *row = ecap_layout(ctx);
	__u64 at = command->end.head.thd;
	__u64 *answer = command->answer;

	if (!row || row->convention != MYSQL_CONVENTION_MARIADB || row->packet_number_offset == MYSQL_UNKNOWN_OFFSET)
		return;
	at += row->packet_number_offset;
	if (ecap_read_user(&at, at - PACKET_NUMBER_TO_BUFFER))
		return;
	if (bpf_probe_read_user(answer, 16, ecap_user_ptr(at)))
		return;
	if ((answer[0] & 0xff00ffffffULL) != 12 || (answer[1] >> 40 & 0xff))
		return;
	if ((__u32)(answer[0] >> 40 | answer[1] << 24) != command->end.statement)
		return;
	command->end.parameters = answer[1] >> 24 & 0xffff;
	command->end.flags |= MYSQL_END_PARAMETERS;
}

ECAP_INLINE int wants_parameters(struct command *command)
{
	return command->end.head.command == MYSQL_COM_STMT_PREPARE && command->has_statement &&
	       !(command->end.flags & MYSQL_END_PARAMETERS);
}

ECAP_INLINE int none_described(struct pt_regs *ctx, struct command *command)
{
	struct mysql_layout *row = ecap_layout(ctx);
	return row && row->parameters == MYSQL_PARAMETERS_ASKED && !command->described && !command->end.errors;
}

ECAP_INLINE int names_statement(__u32 command)
{
	return command == MYSQL_COM_STMT_BULK_EXECUTE || command == MYSQL_COM_STMT_FETCH ||
	       (command >= MYSQL_COM_STMT_EXECUTE && command <= MYSQL_COM_STMT_RESET);
}

/* A slot for the call that begins, or 0. */
ECAP_INLINE struct command *open_command(struct pt_regs *ctx)
{
	struct flight *flight = ecap_state_create(mysql_flights);
	struct command *command;
	__u64 depth;

	if (!flight)
		return 0;
	depth = flight->depth;
	/* Calls whose frames are gone left without our seeing it (return probe attached later, longjmp). */
	if (depth >= 2 && flight->command[1].sp <= ecap_sp(ctx))
		depth = 1;
	if (depth == 1 && flight->command[0].sp <= ecap_sp(ctx))
		depth = 0;
	if (depth >= NESTED) {
		ecap_add(state_full, 1);
		return 0;
	}
	flight->depth = depth + 1;
	command = &flight->command[depth & (NESTED - 1)];
	ecap_opaque(command);
	__builtin_memset(command, 0, sizeof(*command));
	command->sp = ecap_sp(ctx);
	return command;
}

ECAP_INLINE void read_mariadb(struct pt_regs *ctx, struct command *command)
{
	command->end.head.command = (__u32)ecap_arg0(ctx);
	command->end.head.thd = ecap_arg1(ctx);
	command->packet = ecap_arg2(ctx);
	command->length = (__u32)ecap_arg3(ctx);
	if (names_statement((__u32)ecap_arg0(ctx)) && (__u32)ecap_arg3(ctx) >= 4 &&
	    !ecap_read_user(&command->end.statement, ecap_arg2(ctx)))
		command->start_flags = MYSQL_START_STATEMENT;
}

/* Whether this call goes on with a command that was put aside; `command` is then that one again. */
ECAP_INLINE int resumed(struct pt_regs *ctx, struct command *command)
{
	struct parked_key key = { .thd = command->end.head.thd, .pid = bpf_get_current_pid_tgid() >> 32 };
	struct command *parked = bpf_map_lookup_elem(&mysql_parked, &key);
	int same;

	if (!parked)
		return 0;
	/* Not so if the connection is gone and its memory became another's. */
	same = parked->packet == command->packet && parked->length == command->length &&
	       parked->end.head.command == command->end.head.command;
	if (same) {
		*command = *parked;
		command->sp = ecap_sp(ctx);
	}
	bpf_map_delete_elem(&mysql_parked, &key);
	return same;
}

/* Keeps the command for `resumed`: 0 if it could. */
ECAP_INLINE long park(struct command *command)
{
	struct parked_key key = { .thd = command->end.head.thd, .pid = bpf_get_current_pid_tgid() >> 32 };
	return bpf_map_update_elem(&mysql_parked, &key, command, BPF_ANY);
}

/* COM_DATA of COM_STMT_SEND_LONG_DATA: statement (8), number of the parameter (4, then 4 unused), the piece (8), its length (8). The
 * piece is the end of the packet, whose body begins with the statement's id (4) and the number (2). A command that no
 * packet brought, of a server plugin, is left alone. */
ECAP_INLINE void read_mysql_long_data(struct pt_regs *ctx, struct command *command)
{
	__u64 *data = command->data;
	if (bpf_probe_read_user(data, 32, ecap_user_ptr(ecap_arg1(ctx))))
		return;
	/* Statement and number again, out of the packet. */
	if (bpf_probe_read_user(data, 6, ecap_user_ptr(data[2] - 6)))
		return;
	if ((__u32)data[0] != command->end.statement || (__u16)(data[0] >> 32) != (__u32)data[1] || data[3] > 0xffffff00)
		return;
	command->packet = data[2] - 6;
	command->length = data[3] + 6;
}

/* How far from either end of the array a value is looked for: further than that come NULLs in practice never. */
#define LOOKED_AT 64

/* Looks for a parameter whose value is in the packet, from `at` on, in steps of the size of an entry: its value and length
 * are in command->data then. 1 if there is one. */
ECAP_INLINE int value_from(struct command *command, __u64 at, __s64 step)
{
	int n;
	command->data[2] = command->parameters[1];
	for (n = 0; n < LOOKED_AT; n++) {
		if (!command->data[2] || bpf_probe_read_user(command->data, 16, ecap_user_ptr(at + MYSQL_PS_PARAM_VALUE)))
			return 0;
		if (command->data[0])
			return 1;
		command->data[2]--;
		at += step;
	}
	return 0;
}

/* COM_DATA of COM_STMT_EXECUTE: statement (8), flags (8), the array of PS_PARAM (8), its entries (8), whether types were sent (1).
 * The values are in the packet, one behind the other: from the first one's begin to the last one's end. */
ECAP_INLINE void read_mysql_values(struct pt_regs *ctx, struct command *command)
{
	if (bpf_probe_read_user(command->parameters, 24, ecap_user_ptr(ecap_arg1(ctx) + 16)))
		return;
	if (!command->parameters[0] || !command->parameters[1] || command->parameters[1] > 0xffff)
		return;
	command->start_flags |= MYSQL_START_VALUES;
	if (!value_from(command, command->parameters[0], MYSQL_PS_PARAM))
		return;
	command->packet = command->data[0];
	if (!value_from(command, command->parameters[0] + (command->parameters[1] - 1) * MYSQL_PS_PARAM,
			-MYSQL_PS_PARAM))
		return;
	command->data[0] += command->data[1];
	/* No packet is longer than a gigabyte; what is not of a packet may lie anywhere. */
	if (command->data[0] > command->packet && command->data[0] - command->packet <= 1 << 30)
		command->length = command->data[0] - command->packet;
}

/* COM_DATA is a union: { const char *text; unsigned int or long length; } or a structure that begins with the statement's id. */
ECAP_INLINE void read_mysql(struct pt_regs *ctx, struct command *command)
{
	struct mysql_layout *row = ecap_layout(ctx);
	__u32 code = (__u32)ecap_arg2(ctx);
	command->end.head.command = code;
	command->end.head.thd = ecap_arg0(ctx);
	if (names_statement(code)) {
		if (!ecap_read_user(&command->end.statement, ecap_arg1(ctx)))
			command->start_flags = MYSQL_START_STATEMENT;
		if (!row || row->parameters != MYSQL_PARAMETERS_NAMED)
			return;
		if (code == MYSQL_COM_STMT_EXECUTE)
			read_mysql_values(ctx, command);
		else if (code == MYSQL_COM_STMT_SEND_LONG_DATA)
			read_mysql_long_data(ctx, command);
	} else if (code == MYSQL_COM_QUERY || code == MYSQL_COM_STMT_PREPARE || code == MYSQL_COM_INIT_DB) {
		if (ecap_read_user(&command->packet, ecap_arg1(ctx)) ||
		    bpf_probe_read_user(&command->length, 4, ecap_user_ptr(ecap_arg1(ctx) + 8)))
			command->length = 0;
	}
}

/* What the server made of the packet's parameters, right behind START. */
ECAP_INLINE void send_parameters(struct pt_regs *ctx, struct command *command)
{
	struct ecap_message m = { .ctx = ctx, .of_target = 1, .time_ns = command->end.head.start_ns };
	struct mysql_parameters *parameters;
	__u64 array = command->parameters[0], count = command->parameters[1] & 0xffff;

	parameters = ecap_begin(&m, MYSQL_STREAM_COMMANDS, sizeof(*parameters), ecap_user_ptr(array), count * MYSQL_PS_PARAM,
				MYSQL_PACKET_MAX);
	if (!parameters)
		return;
	parameters->head = command->end.head;
	parameters->head.kind = MYSQL_PARAMETERS;
	parameters->base = command->packet;
	parameters->count = command->parameters[1];
	parameters->new_types = (__u8)command->parameters[2];
	ecap_end(&m);
}

#endif
