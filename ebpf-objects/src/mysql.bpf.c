// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Commands of MariaDB (10.5 and later) and MySQL (5.7 and later) servers: what was asked (the packet itself), how it ended
 * and how long it took. Messages, flags and the layout row: mysql.h; the command in flight: mysql_command.h. Which symbol each
 * program belongs on is said at the program; all are exported functions, and nearly everything is taken from arguments. Two
 * offsets into THD come from the layout row, and without them only the connection id or the number of rows is missing.
 */
#include <ecapture/ecapture.h>

#include "mysql_command.h"

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
