// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Commands of MariaDB (10.5 and later) and MySQL (5.7 and later) servers: what was asked (the packet itself), how it ended
 * and how long it took. Messages, flags and the layout row: mysql.h. Which symbol each program belongs on is said at the
 * program; all are exported functions, and nearly everything is taken from arguments. Two offsets into THD come from the
 * layout row, and without them only the connection id or the number of rows is missing.
 */
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

/* MariaDB: _Z16dispatch_command19enum_server_commandP3THDPcjb (command, thd, packet, length, blocking), 4 arguments.
 * MySQL: _Z16dispatch_commandP3THDPK8COM_DATA19enum_server_command (thd, data, command), 3 arguments. */
SEC("uprobe")
int mysql_command(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct command *command;
	struct mysql_layout *row;
	struct mysql_start *start;

	if (!ecap_wanted())
		return 0;
	row = ecap_layout(ctx);
	if (!row || !row->valid)
		return 0;
	command = open_command(ctx);
	if (!command)
		return 0;
	if (row->convention == MYSQL_CONVENTION_MYSQL)
		read_mysql(ctx, command);
	else
		read_mariadb(ctx, command);
	if (row->convention == MYSQL_CONVENTION_MARIADB && resumed(ctx, command))
		return 0;
	command->end.head.kind = MYSQL_START;
	command->end.head.start_ns = m.time_ns;
	command->end.head.connection = read_connection(row, command->end.head.thd);

	/* Rows of an open cursor come without column descriptions. */
	if (command->end.head.command == MYSQL_COM_STMT_FETCH) {
		__s64 next = packet_number(ctx, command);
		if (next >= 0) {
			command->first_row = next;
			command->in_result_set = 1;
		}
	}

	start = ecap_begin(&m, MYSQL_STREAM_COMMANDS, sizeof(*start), ecap_user_ptr(command->packet), command->length,
			   MYSQL_PACKET_MAX);
	if (!start) {
		command->end.flags = MYSQL_END_START_LOST;
		return 0;
	}
	start->head = command->end.head;
	start->length = command->length;
	start->flags = command->start_flags;
	start->statement = command->end.statement;
	row = ecap_layout(ctx);
	start->product = row ? row->product : 0;
	ecap_end(&m);
	command = current_command();
	if (command && command->start_flags & MYSQL_START_VALUES)
		send_parameters(ctx, command);
	return 0;
}

/* The same function's return. */
ECAP_INLINE int command_end(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct flight *flight;
	struct command *command;
	struct mysql_end *end;
	__u64 depth;

	if (!ecap_wanted())
		return 0;
	flight = ecap_state(mysql_flights);
	depth = flight ? flight->depth : 0;
	if (!flight || !depth) {
		ecap_add(orphans, 1);
		return 0;
	}
	command = &flight->command[(depth - 1) & (NESTED - 1)];
	/* The frame that returns lies below the stack pointer now. If the innermost call that we know is further out, this
	 * return belongs to one that began before we were attached or found no slot. */
	if (command->sp > ecap_sp(ctx)) {
		ecap_add(orphans, 1);
		return 0;
	}
	flight->depth = depth - 1;
	command->end.returned = (__u32)ecap_result(ctx);
	if (command->end.returned == PUT_ASIDE)
		command->end.flags |= MYSQL_END_SUSPENDED;
	if (!command->end.results)
		command->end.flags |= MYSQL_END_NO_STATUS;
	/* No parameter was described. */
	if (wants_parameters(command) && command->end.returned != PUT_ASIDE) {
		read_prepared(ctx, command);
		/* Columns have filled the buffer since: then it is known all the same that there are none. */
		if (none_described(ctx, command))
			command->end.flags |= MYSQL_END_PARAMETERS;
	}
	if (command->has_statement && !command->end.errors)
		command->end.flags |= MYSQL_END_PREPARED;
	command->end.head.kind = MYSQL_END;
	end = ecap_begin(&m, MYSQL_STREAM_COMMANDS, sizeof(*end), 0, 0, 0);
	if (end) {
		*end = command->end;
		ecap_end(&m);
	}
	if (command->end.returned == PUT_ASIDE) {
		/* What was told is told: the next END counts from here. */
		command->end.flags = 0;
		__builtin_memset(&command->end.rows, 0, sizeof(command->end) - __builtin_offsetof(struct mysql_end, rows));
		if (park(command))
			ecap_add(state_full, 1);
	}
	return 0;
}

SEC("uretprobe")
int mysql_command_end(struct pt_regs *ctx)
{
	return command_end(ctx);
}

/* The same on the branches before the `ret` instructions. */
SEC("uprobe")
int mysql_command_end__exit(struct pt_regs *ctx)
{
	return command_end(ctx);
}

/* A thread ends inside of a command: its server was killed, or crashed. Of what it ran within that command (NESTED) nothing is
 * said, and nothing of commands that the thread pool has put aside. */
SEC("tp_btf/sched_process_exit")
int mysql_exit(const __u64 *ctx)
{
	struct ecap_message m = ecap_host_message();
	struct flight *flight = ecap_state(mysql_flights);
	struct command *command;
	struct mysql_end *end;

	(void)ctx;
	if (!flight || !flight->depth)
		return 0;
	flight->depth = 0;
	command = &flight->command[0];
	command->end.flags |= MYSQL_END_GONE;
	if (!command->end.results)
		command->end.flags |= MYSQL_END_NO_STATUS;
	command->end.head.kind = MYSQL_END;
	end = ecap_begin(&m, MYSQL_STREAM_COMMANDS, sizeof(*end), 0, 0, 0);
	if (!end)
		return 0;
	*end = command->end;
	ecap_end(&m);
	return 0;
}

/* Descriptions of a new statement's parameters are about to be written behind the packet that counts them.
 * MariaDB: _ZN10Item_param15make_send_fieldEP3THDP10Send_field, or else _ZN8Protocol24send_result_set_metadataEP4ListI4ItemEj, which
 * every result set passes as well; no argument is used. */
SEC("uprobe")
int mysql_describe(struct pt_regs *ctx)
{
	struct command *command = current_command();
	if (command && wants_parameters(command)) {
		command->described = 1;
		read_prepared(ctx, command);
	}
	return 0;
}

/* A result set's column descriptions are out: what follows up to its end are rows.
 * Return of MariaDB's _ZN8Protocol24send_result_set_metadataEP4ListI4ItemEj. */
ECAP_INLINE int result_set(struct pt_regs *ctx)
{
	struct command *command = current_command();
	__s64 next;
	if (!command)
		return 0;
	next = packet_number(ctx, command);
	if (next >= 0) {
		command->first_row = next;
		command->in_result_set = 1;
	}
	return 0;
}

SEC("uretprobe")
int mysql_result_set(struct pt_regs *ctx)
{
	return result_set(ctx);
}

SEC("uprobe")
int mysql_result_set__exit(struct pt_regs *ctx)
{
	return result_set(ctx);
}

ECAP_INLINE void end_result_set(struct pt_regs *ctx, struct command *command, __u32 status, __u32 warnings)
{
	command->end.results++;
	command->end.result_sets++;
	command->end.status = status;
	command->end.warnings = warnings;
	command->end.flags |= MYSQL_END_RESULT_SET;
	if (command->in_result_set)
		add_rows(ctx, command);
}

/* MariaDB: _ZN8Protocol12net_send_eofEP3THDjj (this, thd, status, warnings), 4 arguments; and, where the compiler has put
 * copies of it there, _ZN8Protocol8send_eofEjj (this, status, warnings), 3 arguments, and
 * _ZN8Protocol22end_partial_result_setEP3THD (this, thd), none.
 * MySQL: _ZN16Protocol_classic8send_eofEjj (this, status, warnings), 3 arguments. */
SEC("uprobe")
int mysql_eof(struct pt_regs *ctx)
{
	struct command *command = current_command();
	if (!command)
		return 0;
	if (ecap_probe_arg(ctx) == MYSQL_EOF_WITHOUT_THD)
		end_result_set(ctx, command, (__u32)ecap_arg1(ctx), (__u32)ecap_arg2(ctx));
	else if (ecap_probe_arg(ctx) == MYSQL_EOF_PARTIAL)
		end_result_set(ctx, command, command->end.status, 0);
	else
		end_result_set(ctx, command, (__u32)ecap_arg2(ctx), (__u32)ecap_arg3(ctx));
	/* Means nothing for MySQL, which sends that packet itself. */
	command->eof_announced = 1;
	return 0;
}

/* MariaDB: _ZN8Protocol11net_send_okEP3THDjjyyPKcb (this, thd, status, warnings, affected rows, last insert id, message,
 * is_eof), 8 arguments: the last two are on the stack. net_send_eof calls it with is_eof set for clients that take an OK
 * packet in place of EOF.
 * MySQL: _ZN16Protocol_classic7send_okEjjyyPKc (this, status, warnings, affected rows, last insert id, message), 5 are used. */
SEC("uprobe")
int mysql_ok(struct pt_regs *ctx)
{
	struct command *command = current_command();
	__u64 affected, insert_id;
	if (!command)
		return 0;
	if (ecap_probe_arg(ctx) == MYSQL_CONVENTION_MYSQL) {
		command->end.status = (__u32)ecap_arg1(ctx);
		command->end.warnings = (__u32)ecap_arg2(ctx);
		affected = ecap_arg3(ctx);
		insert_id = ecap_arg4(ctx);
	} else {
#if ECAP_REGISTER_ARGS >= 8
		__u8 is_eof = (__u8)ecap_arg7(ctx);
#else
		__u8 is_eof = (__u8)ecap_stack_arg(ctx, 1);
#endif
		__u16 announced = command->eof_announced;
		command->eof_announced = 0;
		if (announced && is_eof && !ecap_arg4(ctx) && !ecap_arg5(ctx))
			return 0;
		command->end.status = (__u32)ecap_arg2(ctx);
		command->end.warnings = (__u32)ecap_arg3(ctx);
		affected = ecap_arg4(ctx);
		insert_id = ecap_arg5(ctx);
	}
	command->end.results++;
	command->end.flags |= MYSQL_END_OK;
	command->end.affected_rows += affected;
	if (insert_id)
		command->end.insert_id = insert_id;
	return 0;
}

/* MariaDB: _ZN8Protocol21net_send_error_packetEP3THDjPKcS3_ (this, thd, error, text, sqlstate), 5 arguments.
 * MySQL: _ZN16Protocol_classic10send_errorEjPKcS1_ (this, error, text, sqlstate), 4 arguments. */
SEC("uprobe")
int mysql_error(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct command *command = current_command();
	struct mysql_error *error;
	const void *text;
	__u64 sqlstate;
	__u32 number;

	if (!command)
		return 0;
	if (ecap_probe_arg(ctx) == MYSQL_CONVENTION_MYSQL) {
		number = (__u32)ecap_arg1(ctx);
		text = ecap_user_ptr(ecap_arg2(ctx));
		sqlstate = ecap_arg3(ctx);
	} else {
		number = (__u32)ecap_arg2(ctx);
		text = ecap_user_ptr(ecap_arg3(ctx));
		sqlstate = ecap_arg4(ctx);
	}
	command->end.error = number;
	__builtin_memset(command->end.sqlstate, 0, sizeof(command->end.sqlstate));
	if (sqlstate)
		bpf_probe_read_user(command->end.sqlstate, 5, ecap_user_ptr(sqlstate));

	error = ecap_begin(&m, MYSQL_STREAM_COMMANDS, sizeof(*error), text, MYSQL_ERROR_TEXT_MAX, MYSQL_ERROR_TEXT_MAX);
	if (error) {
		error->head = command->end.head;
		error->head.kind = MYSQL_ERROR;
		error->error = number;
		error->number = command->end.errors;
		__builtin_memcpy(error->sqlstate, command->end.sqlstate, sizeof(error->sqlstate));
		ecap_end_string(&m, MYSQL_ERROR_TEXT_MAX);
	}
	/* Rows that went out before it. */
	if (command->in_result_set)
		add_rows(ctx, command);
	command->end.results++;
	command->end.errors++;
	command->end.flags |= MYSQL_END_FAILED;
	return 0;
}

/* The id that a new prepared statement gets, as the client will be told.
 * MariaDB: _ZN13Statement_map6insertEP3THDP9Statement (this, thd, statement), 3 arguments, where the layout row has the offset;
 * else _ZN9StatementC2EP3LEXP11st_mem_rootN11Query_arena10enum_stateEm (this, lex, mem_root, state, id), 5 arguments, which has the id
 * in a register, but begins with instructions that are dear to stop at. COM_STMT_PREPARE makes its statement and puts it
 * into the connection's list before anything else; other commands that pass here are not looked at.
 * MySQL: _ZN16Protocol_classic15store_ps_statusEmjjm (this, id, columns, parameters, warnings), 4 arguments. */
SEC("uprobe")
int mysql_statement(struct pt_regs *ctx)
{
	struct command *command = current_command();
	struct mysql_layout *row;
	if (!command || command->end.head.command != MYSQL_COM_STMT_PREPARE || command->has_statement)
		return 0;
	if (ecap_probe_arg(ctx) == MYSQL_STATEMENT_LISTED) {
		row = ecap_layout(ctx);
		if (!row || row->statement_id_offset == MYSQL_UNKNOWN_OFFSET)
			return 0;
		if (ecap_read_user(&command->end.statement, ecap_arg2(ctx) + row->statement_id_offset))
			return 0;
	} else if (ecap_probe_arg(ctx) == MYSQL_STATEMENT_TOLD) {
		command->end.statement = (__u32)ecap_arg1(ctx);
		command->end.parameters = (__u32)ecap_arg3(ctx);
		command->end.flags |= MYSQL_END_PARAMETERS;
	} else {
		command->end.statement = (__u32)ecap_arg4(ctx);
	}
	command->has_statement = 1;
	return 0;
}

/* A connection begins on this thread. What is known of another one that did is of no use any more.
 * Both: _Z22thd_prepare_connectionP3THD (thd), no argument is used. */
SEC("uprobe")
int mysql_connect(struct pt_regs *ctx)
{
	struct flight *flight;
	if (!ecap_wanted())
		return 0;
	flight = ecap_state_create(mysql_flights);
	if (flight) {
		flight->peer_text = 0;
		flight->has_peer = 0;
	}
	return 0;
}

/* The server asks where its client is: only for clients that came over the network.
 * MariaDB: vio_peer_addr; MySQL: _Z13vio_peer_addrP3VioPcPtm: (vio, text, port, size of text), 3 arguments. */
SEC("uprobe")
int mysql_peer(struct pt_regs *ctx)
{
	struct flight *flight = ecap_state(mysql_flights);
	if (!flight)
		return 0;
	flight->has_peer = 0;
	flight->peer_text = ecap_arg1(ctx);
	flight->peer_port = ecap_arg2(ctx);
	return 0;
}

/* The same function's return: 0 if it could tell. */
ECAP_INLINE int peer_end(struct pt_regs *ctx)
{
	struct flight *flight = ecap_state(mysql_flights);
	__u64 text;
	__u16 port;
	long n;

	if (!flight || !flight->peer_text)
		return 0;
	text = flight->peer_text;
	flight->peer_text = 0;
	if ((__u8)ecap_result(ctx) || ecap_read_user(&port, flight->peer_port))
		return 0;
	n = bpf_probe_read_user_str(flight->address, sizeof(flight->address), ecap_user_ptr(text));
	flight->port = port;
	flight->has_peer = n > 1 && n < (long)sizeof(flight->address);
	return 0;
}

SEC("uretprobe")
int mysql_peer_end(struct pt_regs *ctx)
{
	return peer_end(ctx);
}

SEC("uprobe")
int mysql_peer_end__exit(struct pt_regs *ctx)
{
	return peer_end(ctx);
}

/* "%s@%s on %s using %s", in three words. */
#define LOGIN_FORMAT_0 0x6e6f207325407325ULL
#define LOGIN_FORMAT_1 0x6e69737520732520ULL
#define LOGIN_FORMAT_2 0x0000000073252067ULL

ECAP_INLINE int is_login_format(__u64 format)
{
	__u64 word;
	if (ecap_read_user(&word, format) || word != LOGIN_FORMAT_0)
		return 0;
	if (ecap_read_user(&word, format + 8) || word != LOGIN_FORMAT_1)
		return 0;
	/* Five bytes, the last of them the NUL. */
	word = 0;
	if (bpf_probe_read_user(&word, 5, ecap_user_ptr(format + 16)))
		return 0;
	return word == LOGIN_FORMAT_2;
}

/* The server notes a login for its general log, before it looks whether there is one.
 * MariaDB: _Z17general_log_printP3THD19enum_server_commandPKcz (thd, command, format, user, host, database, ...), 6 arguments,
 * if the format is the one of a login.
 * MySQL: _Z15acl_log_connectPKcS0_S0_S0_P3THD19enum_server_command (user, host, account, database, thd, command), 6 arguments. */
SEC("uprobe")
int mysql_login(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct mysql_login *login;
	struct mysql_layout *row;
	struct flight *flight;
	__u64 thd, user, database;
	__u32 command;
	long n;

	if (!ecap_wanted())
		return 0;
	if (ecap_probe_arg(ctx) == MYSQL_CONVENTION_MYSQL) {
		command = (__u32)ecap_arg5(ctx);
		thd = ecap_arg4(ctx);
		user = ecap_arg0(ctx);
		database = ecap_arg3(ctx);
	} else {
		command = (__u32)ecap_arg1(ctx);
		if (command != MYSQL_COM_CONNECT && command != MYSQL_COM_CHANGE_USER)
			return 0;
		if (!is_login_format(ecap_arg2(ctx)))
			return 0;
		thd = ecap_arg0(ctx);
		user = ecap_arg3(ctx);
		database = ecap_arg5(ctx);
	}
	login = ecap_begin(&m, MYSQL_STREAM_COMMANDS, sizeof(*login), 0, 0, 0);
	if (!login)
		return 0;
	__builtin_memset(login, 0, sizeof(*login));
	login->head.kind = MYSQL_LOGIN;
	login->head.command = command;
	login->head.thd = thd;
	login->head.start_ns = m.time_ns;
	n = bpf_probe_read_user_str(login->user, sizeof(login->user), ecap_user_ptr(user));
	if (n > 0 && n < (long)sizeof(login->user))
		login->flags |= MYSQL_LOGIN_USER;
	/* MySQL has no text for "none". */
	n = database ? bpf_probe_read_user_str(login->database, sizeof(login->database), ecap_user_ptr(database)) : 1;
	if (n > 0 && n < (long)sizeof(login->database))
		login->flags |= MYSQL_LOGIN_DATABASE;
	row = ecap_layout(ctx);
	login->head.connection = row ? read_connection(row, thd) : MYSQL_UNKNOWN_ID;
	flight = ecap_state(mysql_flights);
	if (flight && flight->has_peer && command == MYSQL_COM_CONNECT) {
		login->flags |= MYSQL_LOGIN_PEER;
		login->port = flight->port;
		__builtin_memcpy(login->address, flight->address, sizeof(login->address));
	}
	ecap_end(&m);
	return 0;
}

ECAP_LICENSE("GPL");
