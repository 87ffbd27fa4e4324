//! Golden tests of the state machine: sequences of messages and what they become.

use super::*;
use crate::command::LAST_PREPARED;
use crate::made;
use ecapture_plugin_api::sdk::bounded::Bound;
use proptest::prelude::*;

/// Plays messages and collects what is over.
struct Play {
    machine: Machine,
    now: u64,
    out: Vec<Finished>,
}

const OK: End = End {
    flags: end_flag::OK,
    statement: 0,
    rows: 0,
    affected_rows: 0,
    insert_id: 0,
    results: 1,
    result_sets: 0,
    errors: 0,
    warnings: 0,
    error: 0,
    sqlstate: [0; 5],
    returned: 0,
    parameters: 0,
};
const QUIET: End = End { flags: end_flag::NO_STATUS, results: 0, ..OK };

fn rows(rows: u64) -> End {
    End { flags: end_flag::RESULT_SET | end_flag::ROWS, rows, result_sets: 1, ..OK }
}

fn failed(error: u32) -> End {
    End { flags: end_flag::FAILED, errors: 1, error, sqlstate: *b"42S02", ..OK }
}

fn prepared(statement: u32) -> End {
    End { flags: end_flag::PREPARED | end_flag::NO_STATUS, statement, results: 0, ..OK }
}

impl Play {
    fn new() -> Self {
        Self::with(&Limits::default())
    }

    fn with(limits: &Limits) -> Self {
        Self { machine: Machine::new(limits), now: 1000, out: Vec::new() }
    }

    fn send(&mut self, thread: u32, data: &[u8], more: impl FnOnce(&mut Message<'_>)) {
        let thread = Thread { process: 1, thread };
        let mut message = Message {
            stream: 0,
            target: 0,
            thread,
            time_ns: self.now,
            lost_before: 0,
            restarted: false,
            missing: 0,
            data,
        };
        more(&mut message);
        let out = &mut self.out;
        self.machine.message(&message, &mut |finished| out.push(finished)).unwrap();
    }

    /// START on the thread of the same number as the connection; returns its time.
    fn start(&mut self, command: Command, connection: u64, id: Option<u32>, packet: &[u8]) -> u64 {
        self.now += 10;
        let data = made::start(command, connection, self.now, id, packet, 0);
        self.send(u32::try_from(connection).unwrap(), &data, |_| {});
        self.now
    }

    fn end(&mut self, command: Command, connection: u64, start_ns: u64, end: &End) {
        self.now += 10;
        let data = made::end(command, connection, start_ns, end);
        self.send(u32::try_from(connection).unwrap(), &data, |_| {});
    }

    /// A whole command; what it became.
    fn run(&mut self, command: Command, connection: u64, id: Option<u32>, packet: &[u8], end: &End) -> Finished {
        let start = self.start(command, connection, id, packet);
        self.end(command, connection, start, end);
        self.take()
    }

    fn query(&mut self, connection: u64, text: &str, end: &End) -> Finished {
        self.run(Command::QUERY, connection, None, text.as_bytes(), end)
    }

    fn execute(&mut self, connection: u64, id: u32) -> Finished {
        self.run(Command::STMT_EXECUTE, connection, Some(id), &[id.to_le_bytes(), [0; 4]].concat(), &rows(1))
    }

    fn prepare(&mut self, connection: u64, id: u32, text: &str) -> Finished {
        self.run(Command::STMT_PREPARE, connection, None, text.as_bytes(), &prepared(id))
    }

    fn log_in(&mut self, command: Command, connection: u64, user: &str, database: &str, peer: Option<(&str, u16)>) {
        self.now += 10;
        let data = made::login(command, connection, self.now, user, database, peer);
        self.send(u32::try_from(connection).unwrap(), &data, |_| {});
    }

    /// User, database and client of the connection's next command.
    fn who(&mut self, connection: u64) -> (Option<String>, Option<String>, Option<String>) {
        let done = self.query(connection, "select 1", &rows(1));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let peer = done.client.peer.map(|peer| format!("{}:{}", text(&peer.address), peer.port));
        (done.client.user.as_deref().map(text), done.namespace.as_deref().map(text), peer)
    }

    fn take(&mut self) -> Finished {
        assert_eq!(self.out.len(), 1, "{:#?}", self.out);
        self.out.remove(0)
    }
}

fn text(finished: &Finished) -> Option<&str> {
    finished.text.as_ref().map(|text| std::str::from_utf8(&text.bytes).unwrap())
}

#[test]
fn a_query_is_text_outcome_rows_and_duration() {
    let mut play = Play::new();
    let done = play.query(7, "select 1", &rows(3));
    assert_eq!(text(&done), Some("select 1"));
    assert_eq!((done.outcome, done.duration_ns, done.head.connection), (Outcome::Ok, Some(10), Some(7)));
    assert_eq!((done.end.unwrap().rows, done.truncated, done.state_lost), (3, 0, false));
    assert_eq!(play.machine.in_flight(), 0);
}

#[test]
fn an_error_has_its_text() {
    let mut play = Play::new();
    let start = play.start(Command::QUERY, 7, None, b"select * from y");
    let message = made::error(Command::QUERY, 7, start, 1146, "42S02", b"Table 'x.y' doesn't exist");
    play.send(7, &message, |_| {});
    play.end(Command::QUERY, 7, start, &failed(1146));
    let done = play.take();
    assert_eq!(done.outcome, Outcome::Error);
    assert_eq!(done.error.unwrap().bytes, b"Table 'x.y' doesn't exist");
    assert_eq!(done.end.unwrap().error, 1146);
}

#[test]
fn every_byte_of_the_text_stays() {
    let packet: Vec<u8> = (0..=255).collect();
    let done = Play::new().run(Command::QUERY, 7, None, &packet, &OK);
    assert_eq!(&done.text.unwrap().bytes[..], &packet[..]);
}

#[test]
fn connections_on_threads_do_not_mix() {
    let mut play = Play::new();
    let starts: Vec<u64> =
        (1..=64).map(|c| play.start(Command::QUERY, c, None, format!("select {c}").as_bytes())).collect();
    for (connection, start) in (1..65).zip(&starts).collect::<Vec<_>>().into_iter().rev() {
        play.end(Command::QUERY, connection, *start, &rows(connection));
        let done = play.take();
        assert_eq!(text(&done), Some(format!("select {connection}").as_str()));
        assert_eq!((done.head.connection, done.end.unwrap().rows), (Some(connection), connection));
    }
}

#[test]
fn executions_carry_the_prepared_text_of_their_own_connection() {
    let mut play = Play::new();
    assert_eq!(play.prepare(1, 1, "select ?").statement, Some(1));
    play.prepare(2, 1, "delete from t");
    let done = play.execute(1, 1);
    assert_eq!((text(&done), done.statement), (Some("select ?"), Some(1)));
    assert_eq!((done.statement_unknown, done.state_lost), (false, false));
    assert_eq!(text(&play.execute(2, 1)), Some("delete from t"));
    assert_eq!(text(&play.execute(1, LAST_PREPARED)), Some("select ?"));
}

#[test]
fn bulk_executions_too() {
    let mut play = Play::new();
    play.prepare(1, 1, "insert into t values (?)");
    let done = play.run(Command::STMT_BULK_EXECUTE, 1, None, &1_u32.to_le_bytes(), &OK);
    assert_eq!(text(&done), Some("insert into t values (?)"));
}

#[test]
fn an_unknown_statement_is_said_to_be() {
    let mut play = Play::new();
    let done = play.execute(1, 9);
    assert_eq!((text(&done), done.statement), (None, Some(9)));
    assert!(done.statement_unknown && done.state_lost);
    assert!(play.execute(1, LAST_PREPARED).statement.is_none());
}

#[test]
fn close_reset_change_user_and_quit_forget() {
    for command in [Command::STMT_CLOSE, Command::RESET_CONNECTION, Command::CHANGE_USER, Command::QUIT] {
        let mut play = Play::new();
        play.prepare(1, 1, "select 1");
        let id = command.names_statement().then_some(1);
        play.run(command, 1, id, &1_u32.to_le_bytes(), &QUIET);
        assert!(play.execute(1, 1).statement_unknown, "{}", command.name());
    }
    let mut play = Play::new();
    play.prepare(1, 1, "select 1");
    play.run(Command::STMT_RESET, 1, Some(1), &1_u32.to_le_bytes(), &OK);
    assert_eq!(text(&play.execute(1, 1)), Some("select 1"), "COM_STMT_RESET keeps the statement");
}

fn who(user: &str, database: &str, peer: &str) -> (Option<String>, Option<String>, Option<String>) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (some(user), some(database), some(peer))
}

#[test]
fn a_login_says_who_until_the_end_of_the_connection() {
    let mut play = Play::new();
    assert_eq!(play.who(7), who("", "", ""), "older than the capture");
    play.log_in(Command::CONNECT, 1, "ann", "shop", Some(("::1", 4711)));
    play.log_in(Command::CONNECT, 2, "bob", "", None);
    assert_eq!(play.who(1), who("ann", "shop", "::1:4711"));
    assert_eq!(play.who(2), who("bob", "", ""));
    play.query(2, "use shop", &OK);
    assert_eq!(play.who(2), who("bob", "shop", ""));
    play.run(Command::DROP_DB, 2, None, b"shop", &OK);
    assert_eq!(play.who(2), who("bob", "", ""));
    play.run(Command::RESET_CONNECTION, 1, None, b"", &OK);
    assert_eq!(play.who(1), who("ann", "", "::1:4711"), "the same user, and nothing else for sure");
    let done = play.run(Command::QUIT, 1, None, b"", &QUIET);
    assert_eq!(done.client.user.as_deref(), Some(&b"ann"[..]), "the good-bye is still hers");
    assert_eq!(play.who(1), who("", "", ""));
}

#[test]
fn another_user_takes_over_or_nobody_knows_who() {
    let mut play = Play::new();
    let change = |play: &mut Play, user: &str, end: &End| {
        let start = play.start(Command::CHANGE_USER, 1, None, b"");
        play.log_in(Command::CHANGE_USER, 1, user, "other", None);
        play.end(Command::CHANGE_USER, 1, start, end);
        play.take()
    };
    play.log_in(Command::CONNECT, 1, "ann", "shop", Some(("192.0.2.1", 9)));
    play.prepare(1, 1, "select 1");
    let done = change(&mut play, "bob", &OK);
    assert_eq!(done.client.user.as_deref(), Some(&b"bob"[..]));
    assert_eq!(play.who(1), who("bob", "other", "192.0.2.1:9"), "another user, the same client");
    assert!(play.execute(1, 1).statement_unknown);
    assert_eq!(play.who(1), who("bob", "", "192.0.2.1:9"), "what nobody knows may have been a USE");
    change(&mut play, "ann", &failed(1045));
    assert_eq!(play.who(1), who("", "", "192.0.2.1:9"));
    change(&mut play, "ann", &OK);
    assert_eq!(play.who(1), who("ann", "other", "192.0.2.1:9"));
}

#[test]
fn after_a_loss_nobody_is_known_until_the_next_login() {
    let mut play = Play::new();
    play.log_in(Command::CONNECT, 1, "ann", "shop", Some(("192.0.2.1", 9)));
    play.now += 10;
    let start = made::start(Command::QUERY, 1, play.now, None, b"select 1", 0);
    play.send(1, &start, |message| message.lost_before = 1);
    play.end(Command::QUERY, 1, play.now, &OK);
    let done = play.take();
    assert_eq!(
        (done.client, done.namespace),
        (crate::session::Client::default(), None),
        "the lost record may be a login"
    );
    // A new connection of the same number, in a server that has been started again.
    play.log_in(Command::CONNECT, 1, "bob", "", None);
    assert_eq!(play.who(1), who("bob", "", ""), "and not the address of the one before");
}

#[test]
fn a_failed_prepare_prepares_nothing() {
    let mut play = Play::new();
    play.prepare(1, 1, "select 1");
    let done = play.run(Command::STMT_PREPARE, 1, None, b"selec", &failed(1064));
    assert_eq!((done.outcome, done.statement), (Outcome::Error, None));
    assert!(play.execute(1, LAST_PREPARED).statement_unknown);
    assert_eq!(text(&play.execute(1, 1)), Some("select 1"));
}

#[test]
fn evicted_statements_are_unknown() {
    let limits = Limits { statements: Bound { entries: 2, bytes: 1000 }, ..Limits::default() };
    let mut play = Play::with(&limits);
    for id in 1..=3 {
        play.prepare(1, id, "select 1");
    }
    assert!(play.execute(1, 1).statement_unknown);
    assert!(!play.execute(1, 3).statement_unknown);
}

#[test]
fn cut_and_partial_packets_give_the_exact_count() {
    let mut play = Play::new();
    play.now += 10;
    let start = play.now;
    play.send(7, &made::start(Command::QUERY, 7, start, None, b"select", 1234), |m| m.missing = 1234);
    play.end(Command::QUERY, 7, start, &OK);
    let done = play.take();
    assert_eq!((text(&done), done.truncated), (Some("select"), 1234));

    play.send(7, &made::start(Command::STMT_PREPARE, 7, 5000, None, b"sel", 7), |_| {});
    play.end(Command::STMT_PREPARE, 7, 5000, &prepared(3));
    assert_eq!(play.take().truncated, 7);
    let done = play.execute(7, 3);
    assert_eq!((done.truncated, done.text.unwrap().missing), (0, 7), "counted once, at the prepare");
}

#[test]
fn an_end_without_start_is_shown_with_state_lost() {
    let mut play = Play::new();
    play.end(Command::QUERY, 7, 500, &End { flags: end_flag::OK | end_flag::START_LOST, ..OK });
    let done = play.take();
    assert_eq!((text(&done), done.state_lost, done.outcome), (None, true, Outcome::Ok));
    assert_eq!(done.duration_ns, Some(play.now - 500), "the head has the time");

    play.prepare(7, 4, "select 4");
    play.end(Command::STMT_EXECUTE, 7, 900, &End { statement: 4, ..rows(1) });
    let done = play.take();
    assert_eq!((text(&done), done.statement, done.statement_unknown), (Some("select 4"), Some(4), false));
    assert!(done.state_lost);
}

#[test]
fn an_end_that_was_lost_is_noticed_at_the_next_command() {
    let mut play = Play::new();
    play.start(Command::QUERY, 7, None, b"select 1");
    let start = play.start(Command::QUERY, 7, None, b"select 2");
    let done = play.take();
    assert_eq!((text(&done), done.outcome, done.state_lost), (Some("select 1"), Outcome::Unknown, true));
    play.end(Command::QUERY, 7, start, &OK);
    assert_eq!(text(&play.take()), Some("select 2"));
}

#[test]
fn a_command_around_another_on_one_thread() {
    let mut play = Play::new();
    let outer = play.start(Command::QUERY, 7, None, b"outer");
    play.now += 10;
    let inner = play.now;
    play.send(7, &made::start(Command::QUERY, 8, inner, None, b"inner", 0), |_| {});
    play.send(7, &made::end(Command::QUERY, 8, inner, &OK), |_| {});
    assert_eq!(text(&play.take()), Some("inner"));
    play.end(Command::QUERY, 7, outer, &OK);
    let done = play.take();
    assert_eq!((text(&done), done.outcome, done.state_lost), (Some("outer"), Outcome::Ok, false));
    assert_eq!(play.machine.in_flight(), 0);
}

#[test]
fn a_command_may_end_on_another_thread() {
    let mut play = Play::new();
    let start = play.start(Command::QUERY, 7, None, b"insert into t values (1)");
    play.now += 10;
    play.send(20, &made::end(Command::QUERY, 7, start, &OK), |_| {});
    let done = play.take();
    assert_eq!((text(&done), done.thread.thread, done.state_lost), (Some("insert into t values (1)"), 20, false));
}

#[test]
fn a_command_put_aside_goes_on_on_another_thread() {
    let mut play = Play::new();
    let first = play.start(Command::QUERY, 7, None, b"insert into t values (1)");
    let aside = End { flags: end_flag::SUSPENDED | end_flag::NO_STATUS, results: 0, returned: 2, ..OK };
    play.end(Command::QUERY, 7, first, &aside);
    assert!(play.out.is_empty() && play.machine.in_flight() == 1);
    // Another command on the old thread does not disturb it.
    play.now += 10;
    let other = play.now;
    play.send(7, &made::start(Command::QUERY, 8, other, None, b"other", 0), |_| {});
    play.send(7, &made::end(Command::QUERY, 8, other, &OK), |_| {});
    assert_eq!(text(&play.take()), Some("other"));

    play.now += 10;
    let again = play.now;
    play.send(20, &made::start(Command::QUERY, 7, again, None, b"insert into t values (1)", 0), |_| {});
    play.send(20, &made::end(Command::QUERY, 7, again, &End { affected_rows: 1, ..OK }), |_| {});
    let done = play.take();
    assert_eq!((text(&done), done.outcome), (Some("insert into t values (1)"), Outcome::Ok));
    assert_eq!((done.end.unwrap().affected_rows, done.thread.thread), (1, 20));
    assert_eq!(done.duration_ns, Some(play.now - first));
    assert_eq!(done.end.unwrap().flags, end_flag::OK);
}

#[test]
fn a_command_put_aside_may_go_on_without_a_second_start() {
    let mut play = Play::new();
    let start = play.start(Command::STMT_PREPARE, 7, None, b"insert into t values (1)");
    let aside = End { flags: end_flag::SUSPENDED | end_flag::PREPARED, statement: 5, returned: 2, ..OK };
    play.end(Command::STMT_PREPARE, 7, start, &aside);
    play.now += 10;
    play.send(20, &made::end(Command::STMT_PREPARE, 7, start, &QUIET), |_| {});
    let done = play.take();
    assert_eq!((done.statement, done.outcome, done.state_lost), (Some(5), Outcome::Ok, false));
    assert_eq!(done.duration_ns, Some(play.now - start));
    assert_eq!(text(&play.execute(7, 5)), Some("insert into t values (1)"));
}

#[test]
fn a_restart_forgets_what_is_not_certain() {
    let mut play = Play::new();
    play.prepare(7, 1, "select 1");
    let data = made::start(Command::STMT_EXECUTE, 7, 9000, Some(LAST_PREPARED), &LAST_PREPARED.to_le_bytes(), 0);
    play.send(7, &data, |m| m.restarted = true);
    play.end(Command::STMT_EXECUTE, 7, 9000, &rows(1));
    assert!(play.take().statement_unknown);
}

#[test]
fn databases_are_followed() {
    let mut play = Play::new();
    assert_eq!(play.query(7, "select 1", &OK).namespace, None);
    let done = play.run(Command::INIT_DB, 7, None, b"shop", &OK);
    assert_eq!(done.namespace.as_deref(), Some(&b"shop"[..]));
    assert_eq!(play.query(7, "select 1", &OK).namespace.as_deref(), Some(&b"shop"[..]));
    let done = play.run(Command::INIT_DB, 7, None, b"nowhere", &failed(1049));
    assert_eq!(done.namespace.as_deref(), Some(&b"nowhere"[..]), "what was asked for");
    assert_eq!(play.query(7, "use b", &OK).namespace.as_deref(), Some(&b"shop"[..]), "before it ran");
    assert_eq!(play.query(7, "call p()", &OK).namespace.as_deref(), Some(&b"b"[..]));
    assert_eq!(play.query(7, "select 1", &OK).namespace, None);
    assert_eq!(play.query(8, "select 1", &OK).namespace, None, "another connection");
}

#[test]
fn outcomes() {
    let closed = End { returned: 1, ..QUIET };
    let mut play = Play::new();
    assert_eq!(play.query(7, "select sleep(9)", &closed).outcome, Outcome::Aborted);
    assert_eq!(play.run(Command::QUIT, 7, None, b"", &closed).outcome, Outcome::Ok);
    let gone = End { flags: end_flag::GONE | end_flag::RESULT_SET, ..QUIET };
    assert_eq!(play.query(7, "select 1; select sleep(9)", &gone).outcome, Outcome::Aborted, "of the server");
    assert_eq!(play.run(Command(9), 7, None, b"", &QUIET).outcome, Outcome::Ok, "statistics");
    assert_eq!(play.run(Command(14), 7, None, b"", &OK).outcome, Outcome::Ok, "ping");
    assert_eq!(
        play.query(7, "select 1; bad", &End { flags: end_flag::OK | end_flag::FAILED, ..OK }).outcome,
        Outcome::Error
    );
}

#[test]
fn at_the_end_what_runs_is_running() {
    let mut play = Play::new();
    play.start(Command::QUERY, 7, None, b"select sleep(10000)");
    play.start(Command::QUERY, 3, None, b"select 2");
    let Play { mut machine, mut out, .. } = play;
    machine.finish(&mut |finished| out.push(finished));
    let texts: Vec<_> = out.iter().map(|done| (text(done), done.outcome, done.thread.thread)).collect();
    let running = Outcome::Running;
    assert_eq!(texts, [(Some("select sleep(10000)"), running, 7), (Some("select 2"), running, 3)]);
    assert_eq!(machine.in_flight(), 0);
}

#[test]
fn products_are_learnt_from_start() {
    let mut play = Play::new();
    let mut data = made::start(Command::QUERY, 7, 2000, None, b"select 1", 0);
    data[44] = 2;
    play.send(7, &data, |m| m.target = 3);
    play.end(Command::QUERY, 7, 2000, &OK);
    assert_eq!(play.take().system, Some("mysql"));
    play.send(7, &made::end(Command::QUERY, 7, 3000, &OK), |m| m.target = 3);
    assert_eq!(play.take().system, Some("mysql"), "an END alone");
    assert_eq!(play.query(7, "select 1", &OK).system, None, "target 0 never said");
}

#[test]
fn wrong_streams_and_records_are_refused_and_change_nothing() {
    let mut play = Play::new();
    play.prepare(7, 1, "select 1");
    let thread = Thread { process: 1, thread: 7 };
    let bad =
        |data| Message { stream: 0, target: 0, thread, time_ns: 1, lost_before: 0, restarted: false, missing: 0, data };
    let mut out = |_| panic!("nothing comes of it");
    assert!(play.machine.message(&bad(&[]), &mut out).is_err());
    assert!(play.machine.message(&bad(&[0xff; 500]), &mut out).is_err());
    let other = Message { stream: 1, ..bad(&[]) };
    assert_eq!(play.machine.message(&other, &mut out), Err(RecordError::Stream(1)));
    assert_eq!(text(&play.execute(7, 1)), Some("select 1"));
}

/// A sequence of commands, each message of which may be lost, cut or damaged.
fn steps() -> impl Strategy<Value = Vec<(u8, u8, u8, u32, Vec<u8>)>> {
    proptest::collection::vec(
        (
            0u8..8,
            prop_oneof![Just(1u8), Just(2), Just(3), Just(17), Just(22), Just(23), Just(25), any::<u8>()],
            any::<u8>(),
            0u32..4,
            proptest::collection::vec(any::<u8>(), 0..40),
        ),
        0..120,
    )
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_bounds_and_loses_no_start(steps in steps()) {
        let limits = Limits { statements: Bound { entries: 3, bytes: 60 }, connections: 3, flights: 4, flight_bytes: 64 };
        let mut play = Play::with(&limits);
        let mut started = 0_usize;
        let mut orphans = 0_usize;
        for (who, command, what, id, packet) in steps {
            let (command, connection) = (Command(command), u64::from(who));
            match what % 4 {
                0 => {
                    // The second dispatch of a command that was put aside is no second command: not made here.
                    play.start(command, connection, Some(id), &packet);
                    started += 1;
                }
                1 => {
                    let start = play.now;
                    play.end(command, connection, start, &End { flags: u32::from(what) & !end_flag::SUSPENDED, statement: id, ..OK });
                    orphans += 1;
                }
                2 => {
                    let data = made::error(command, connection, u64::from(what), id, "HY000", &packet);
                    play.send(u32::from(who), &data, |_| {});
                    orphans += 1;
                }
                _ => {
                    let thread = Thread { process: 1, thread: u32::from(who) };
                    let message = Message { stream: 0, target: id, thread, time_ns: 0, lost_before: 1, restarted: false, missing: 0, data: &packet };
                    let out = &mut play.out;
                    let _either = play.machine.message(&message, &mut |finished| out.push(finished));
                }
            }
            prop_assert!(play.machine.in_flight() <= 4);
        }
        let Play { mut machine, mut out, .. } = play;
        machine.finish(&mut |finished| out.push(finished));
        // Every START is reported exactly once, as itself or with its END.
        let whole = out.iter().filter(|done| done.request.is_some()).count();
        prop_assert_eq!(whole, started);
        prop_assert!(out.len() <= started + orphans);
    }

    #[test]
    fn truncated_messages_are_refused_or_understood(kind in 0u8..4, len in 0usize..700) {
        let whole = match kind {
            0 => made::start(Command::QUERY, 7, 1, None, &[b'x'; 40], 0),
            1 => made::end(Command::QUERY, 7, 1, &OK),
            2 => made::login(Command::CONNECT, 7, 1, "ann", "shop", Some(("::1", 1))),
            _ => made::error(Command::QUERY, 7, 1, 2, "HY000", &[b'x'; 40]),
        };
        let data = whole.get(..len).unwrap_or(&whole);
        let thread = Thread { process: 1, thread: 7 };
        let message = Message { stream: 0, target: 0, thread, time_ns: 9, lost_before: 0, restarted: false, missing: 0, data };
        let fixed = [record::START, record::END, record::LOGIN, record::ERROR][usize::from(kind)];
        let result = Machine::new(&Limits::default()).message(&message, &mut |_| {});
        prop_assert_eq!(result.is_ok(), data.len() >= fixed);
    }
}

/// A statement of so many parameters, as the server would tell them.
fn ready(statement: u32, parameters: u32) -> End {
    End { flags: end_flag::PARAMETERS | prepared(statement).flags, parameters, ..prepared(statement) }
}

impl Play {
    fn prepare_with(&mut self, id: u32, parameters: u32) {
        self.run(Command::STMT_PREPARE, 7, None, b"select ?", &ready(id, parameters));
    }

    /// Executes statement 1 with one INT, with its type or without; what is shown of it.
    fn execute_int(&mut self, id: u32, number: i32, typed: bool) -> (Option<String>, bool) {
        let mut packet = [&1_u32.to_le_bytes()[..], &[0, 1, 0, 0, 0, 0, u8::from(typed)]].concat();
        packet.extend(if typed { &[3, 0][..] } else { &[] });
        packet.extend(number.to_le_bytes());
        let done = self.run(Command::STMT_EXECUTE, 7, Some(id), &packet, &rows(1));
        (done.parameters.json.map(|json| json.to_string()), done.parameters.unknown)
    }

    fn send_long(&mut self, parameter: u16, piece: &[u8]) {
        let packet = [&1_u32.to_le_bytes()[..], &parameter.to_le_bytes(), piece].concat();
        self.run(Command::STMT_SEND_LONG_DATA, 7, Some(1), &packet, &QUIET);
    }

    /// Something happened that nobody saw.
    fn lose(&mut self) {
        let data = made::end(Command(14), 9, 1, &OK);
        self.send(9, &data, |message| message.lost_before = 1);
        self.out.clear();
    }
}

fn shown(json: &str) -> (Option<String>, bool) {
    (Some(json.to_owned()), false)
}

#[test]
fn types_hold_until_they_are_sent_again() {
    let mut play = Play::new();
    play.prepare_with(1, 1);
    assert_eq!(play.execute_int(1, 5, true), shown("[5]"));
    assert_eq!(play.execute_int(1, 6, false), shown("[6]"));
    assert_eq!(play.execute_int(LAST_PREPARED, 7, false), shown("[7]"));
    play.run(Command::STMT_RESET, 7, Some(1), &1_u32.to_le_bytes(), &OK);
    assert_eq!(play.execute_int(1, 8, false), shown("[8]"));
    // An execution with other types may have been lost.
    play.lose();
    assert_eq!(play.execute_int(1, 9, false), (None, true));
    assert_eq!(play.execute_int(1, 9, false), (None, true));
    assert_eq!(play.execute_int(1, 10, true), shown("[10]"));
    // A new statement with the same id has no types.
    play.prepare_with(1, 1);
    assert_eq!(play.execute_int(1, 11, false), (None, true));
}

#[test]
fn a_statement_of_which_nothing_was_seen_has_unknown_parameters() {
    let mut play = Play::new();
    assert_eq!(play.execute_int(1, 5, true), (None, true));
    assert_eq!(play.execute_int(LAST_PREPARED, 5, true), (None, true));
    // Prepared by a server that does not tell.
    play.prepare(7, 1, "select ?");
    assert_eq!(play.execute_int(1, 5, true), (None, true));
    play.prepare_with(1, 0);
    assert_eq!(play.execute_int(1, 5, true), (None, false), "it has none");
    // END alone tells as much as is needed here.
    play.lose();
    play.end(Command::STMT_PREPARE, 7, 5, &ready(1, 1));
    play.out.clear();
    assert_eq!(play.execute_int(1, 5, true), shown("[5]"));
    // An execution whose begin was lost.
    play.lose();
    play.end(Command::STMT_EXECUTE, 7, 5, &End { statement: 1, ..rows(1) });
    assert!(play.take().parameters.unknown);
    // The user is another, the statements are gone.
    play.prepare_with(1, 1);
    play.run(Command::CHANGE_USER, 7, None, b"", &OK);
    assert_eq!(play.execute_int(1, 5, true), (None, true));
}

#[test]
fn long_data_belongs_to_one_execution() {
    let mut play = Play::new();
    play.prepare_with(1, 1);
    let mut with = |lose: Option<usize>, pieces: &[&[u8]]| {
        for (number, piece) in pieces.iter().enumerate() {
            if lose == Some(number) {
                play.lose();
            }
            play.send_long(0, piece);
        }
        play.execute_int(1, 5, true)
    };
    assert_eq!(with(None, &[b"ab", b"", b"cd"]), shown("[\"abcd\"]"));
    assert_eq!(with(None, &[]), shown("[5]"));
    assert_eq!(with(Some(1), &[b"ab", b"cd"]), (None, true), "a piece may have been lost");
    assert_eq!(with(None, &[b"ab"]), shown("[\"ab\"]"));
    play.send_long(0, b"ab");
    play.run(Command::STMT_RESET, 7, Some(1), &1_u32.to_le_bytes(), &OK);
    assert_eq!(play.execute_int(1, 5, true), shown("[5]"));
    // A parameter that there is not, a packet too short for one.
    play.send_long(1, b"ab");
    play.run(Command::STMT_SEND_LONG_DATA, 7, Some(1), &[1, 0, 0, 0, 0], &QUIET);
    assert_eq!(play.execute_int(1, 5, true), shown("[5]"));
}

/// An entry of MySQL's array: a number of four bytes at an address.
fn int_at(value: u64) -> [u8; record::PS_PARAM] {
    let mut entry = [0; record::PS_PARAM];
    entry[4] = 3;
    entry[16..24].copy_from_slice(&value.to_le_bytes());
    entry[24] = 4;
    entry
}

impl Play {
    /// MySQL's COM_STMT_EXECUTE of a number.
    fn execute_mysql(&mut self, id: u32, number: i32, new_types: bool, array_lost: bool) -> Finished {
        self.now += 10;
        let start = self.now;
        self.send(7, &made::values(7, start, id, &number.to_le_bytes(), 0), |_| {});
        let mut entry = int_at(0x1000);
        entry[4] *= u8::from(new_types);
        if !array_lost {
            self.send(7, &made::parameters(7, start, 0x1000, new_types, &[entry]), |_| {});
        }
        self.end(Command::STMT_EXECUTE, 7, start, &rows(1));
        self.take()
    }
}

#[test]
fn mysql_tells_its_parameters_behind_the_start() {
    let of = |done: &Finished| (done.parameters.json.as_deref().map(str::to_owned), done.parameters.unknown);
    let mut play = Play::new();
    play.prepare_with(4, 1);
    let done = play.execute_mysql(4, 7, true, false);
    assert_eq!((of(&done), text(&done).is_some(), done.request), (shown("[7]"), true, None));
    assert_eq!(of(&play.execute_mysql(4, -8, false, false)), shown("[-8]"), "types hold");
    assert_eq!(of(&play.execute_mysql(4, 9, false, true)), (None, true), "the array is lost");
    assert_eq!(of(&play.execute_mysql(5, 9, true, false)), (None, true), "prepared before the capture");
    // Of another command, or of none: nothing to tell, and no harm.
    play.send(7, &made::parameters(7, 1, 0x1000, true, &[int_at(0x1000)]), |_| {});
    let start = play.start(Command::STMT_EXECUTE, 7, Some(4), &[4, 0, 0, 0]);
    play.send(7, &made::parameters(7, start - 1, 0x1000, true, &[int_at(0x1000)]), |_| {});
    play.end(Command::STMT_EXECUTE, 7, start, &rows(1));
    assert_eq!(of(&play.take()).0, None);
    // A value that was sent ahead belongs to one execution.
    play.run(Command::STMT_SEND_LONG_DATA, 7, Some(4), &[4, 0, 0, 0, 0, 0, b'x'], &QUIET);
    assert_eq!(of(&play.execute_mysql(4, 1, true, false)), shown("[\"x\"]"));
    assert_eq!(of(&play.execute_mysql(4, 2, true, false)), shown("[2]"));
    play.lose();
    assert_eq!(of(&play.execute_mysql(4, 2, true, false)), (None, true), "a value may have been sent ahead");
    assert_eq!(of(&play.execute_mysql(4, 2, false, false)), shown("[2]"));
    // Values wait for their array no longer than the command is in flight, and within the bounds.
    let limits = Limits { flight_bytes: 100, ..Limits::default() };
    let mut play = Play::with(&limits);
    play.prepare_with(4, 1);
    play.now += 10;
    let start = play.now;
    play.send(7, &made::values(7, start, 4, &[0; 200], 0), |_| {});
    play.send(7, &made::parameters(7, start, 0x1000, true, &[int_at(0x1000)]), |_| {});
    play.end(Command::STMT_EXECUTE, 7, start, &rows(1));
    assert_eq!(of(&play.take()), (None, true));
}
