//! The tables here against `module.toml`, and golden tests of the whole way: records in, lines of text out.

use crate::command::LAST_PREPARED;
use crate::made;
use crate::module::MysqlDecoder;
use crate::record::product;
use crate::session::Limits;

use super::*;
use ecapture_plugin_api::abi::abi_stable::std_types::{RSlice, RStr};
use ecapture_plugin_api::abi::{EventSink, EventV1, NO_RECORD, RecordV1, event_flag, record_flag, value_kind};
use ecapture_plugin_api::manifest::Manifest;
use ecapture_plugin_api::sdk::{Decode, Record};

fn manifest() -> Manifest {
    Manifest::parse(include_str!("../module.toml")).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn events_and_columns_are_those_of_the_manifest() {
    let manifest = manifest();
    assert_eq!(manifest.events.len(), EVENTS.len());
    for (event, (name, own)) in manifest.events.iter().zip(EVENTS) {
        assert_eq!(event.name, *name);
        let declared: Vec<_> = event.columns.iter().map(|column| column.name.as_str()).collect();
        let ours: Vec<_> = COMMON.iter().chain(*own).map(|column| name_of(*column)).collect();
        assert_eq!(declared, ours, "{name}");
    }
}

fn name_of(column: Column) -> &'static str {
    match column {
        Column::SystemName => "db.system.name",
        Column::ConnectionId => "ecapture.connection.id",
        Column::Outcome => "ecapture.outcome",
        Column::DurationNs => "ecapture.duration_ns",
        Column::ResponseStatusCode => "db.response.status_code",
        Column::Sqlstate => "ecapture.sqlstate",
        Column::ErrorMessage => "ecapture.error.message",
        Column::Warnings => "ecapture.warnings",
        Column::ServerPid => "ecapture.server.pid",
        Column::ServerTid => "ecapture.server.tid",
        Column::UserName => "user.name",
        Column::PeerAddress => "network.peer.address",
        Column::PeerPort => "network.peer.port",
        Column::QueryText => "db.query.text",
        Column::Namespace => "db.namespace",
        Column::ResponseReturnedRows => "db.response.returned_rows",
        Column::RowsAffected => "ecapture.rows_affected",
        Column::LastInsertId => "ecapture.last_insert_id",
        Column::Results => "ecapture.results",
        Column::StatementId => "ecapture.statement.id",
        Column::StatementUnknown => "ecapture.statement.unknown",
        Column::RequestSize => "ecapture.request.size",
        Column::CommandName => "ecapture.command.name",
        Column::Parameters => "db.query.parameters",
        Column::ParametersUnknown => "ecapture.parameters.unknown",
    }
}

/// What a sink was given, as the host would show it.
#[derive(Debug)]
struct Shown {
    name: String,
    line: String,
    columns: Vec<(String, String)>,
    record: u32,
    flags: u32,
    missing: u64,
}

impl Shown {
    fn get(&self, column: &str) -> Option<&str> {
        self.columns.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_str())
    }
}

struct Sink {
    manifest: Manifest,
    shown: Vec<Shown>,
    undecodable: Vec<String>,
}

impl EventSink for Sink {
    fn emit(&mut self, event: &EventV1<'_>) -> bool {
        let declared = &self.manifest.events[usize::from(event.event)];
        let mut columns = Vec::new();
        for value in event.columns.iter() {
            let column = &declared.columns[usize::from(value.column)];
            assert_eq!(column.kind.value_kind(), value.kind, "{}", column.name);
            let text = match value.kind {
                value_kind::TEXT => String::from_utf8_lossy(value.bytes.as_slice()).into_owned(),
                value_kind::BOOL => (value.bits == 1).to_string(),
                _ if column.name.ends_with("duration_ns") => format!("{} us", value.bits / 1000),
                _ => value.bits.to_string(),
            };
            columns.push((column.name.clone(), text));
        }
        let value = |name: &str| columns.iter().find(|(column, _)| column == name).map(|(_, text)| text.clone());
        let line = declared.text.as_ref().unwrap().render(value);
        let (name, record, flags) = (declared.name.clone(), event.record, event.flags);
        let missing = event.missing;
        self.shown.push(Shown { name, line, columns, record, flags, missing });
        true
    }

    fn undecodable(&mut self, _: u32, reason: RStr<'_>) {
        self.undecodable.push(reason.to_string());
    }
}

/// A decoder and the sink behind it.
struct Play {
    decoder: MysqlDecoder,
    sink: Sink,
}

impl Play {
    fn new() -> Self {
        let sink = Sink { manifest: manifest(), shown: Vec::new(), undecodable: Vec::new() };
        Self { decoder: MysqlDecoder::new(&Limits::default()), sink }
    }

    fn record(&mut self, thread: u32, time_ns: u64, missing: u64, data: &[u8]) {
        let raw = RecordV1 {
            stream: 0,
            flags: if missing > 0 { record_flag::PARTIAL } else { 0 },
            target: 1,
            process: 4711,
            thread,
            time_ns,
            lost_before: 0,
            missing,
            data: RSlice::from_slice(data),
            reserved: [0; 2],
        };
        let record = Record::new(&raw, 5);
        let mut out = Out::new(&mut self.sink);
        out.set_record(&record);
        if let Err(error) = self.decoder.decode(&record, &mut out) {
            self.sink.undecodable.push(error.message().to_owned());
        }
    }

    /// A whole command of connection 7 that takes 800 us.
    fn command(&mut self, command: Command, id: Option<u32>, packet: &[u8], more: u32, end: &End) -> &Shown {
        let mut start = made::start(command, 7, 1_000_000, id, packet, more);
        start[44] = u8::try_from(product::MARIADB).unwrap();
        self.record(9, 1_000_000, u64::from(more), &start);
        self.record(9, 1_800_000, 0, &made::end(command, 7, 1_000_000, end));
        self.sink.shown.last().unwrap()
    }
}

fn rows(rows: u64) -> End {
    let flags = end_flag::RESULT_SET | end_flag::ROWS;
    End { flags, rows, results: 1, result_sets: 1, ..End::default() }
}

fn changed(affected_rows: u64, insert_id: u64) -> End {
    End { flags: end_flag::OK, affected_rows, insert_id, results: 1, ..End::default() }
}

#[test]
fn a_query() {
    let mut play = Play::new();
    let shown = play.command(Command::QUERY, None, b"select * from orders where id = 17", 0, &rows(3));
    assert_eq!(shown.line, "conn 7  query ok 3 rows 800 us  select * from orders where id = 17");
    assert_eq!((shown.name.as_str(), shown.record, shown.flags), ("query", 5, 0));
    let columns: Vec<_> = shown.columns.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        columns,
        [
            ("db.system.name", "mariadb"),
            ("ecapture.connection.id", "7"),
            ("ecapture.outcome", "ok"),
            ("ecapture.duration_ns", "800 us"),
            ("ecapture.warnings", "0"),
            ("db.query.text", "select * from orders where id = 17"),
            ("db.response.returned_rows", "3"),
        ]
    );
}

#[test]
fn a_query_of_somebody_known() {
    let mut play = Play::new();
    let login = made::login(Command::CONNECT, 7, 900_000, "ann", "shop", Some(("192.0.2.1", 4711)));
    play.record(9, 900_000, 0, &login);
    let shown = play.command(Command::QUERY, None, b"select 1", 0, &rows(1));
    assert_eq!(shown.line, "conn 7  ann  query ok 1 rows 800 us  select 1");
    let who = ["user.name", "db.namespace", "network.peer.address", "network.peer.port"].map(|name| shown.get(name));
    assert_eq!(who, [Some("ann"), Some("shop"), Some("192.0.2.1"), Some("4711")]);
}

#[test]
fn a_change() {
    let mut play = Play::new();
    let shown = play.command(Command::QUERY, None, b"insert into t values (1)", 0, &changed(1, 42));
    assert_eq!(shown.line, "conn 7  query ok 1 affected 800 us  insert into t values (1)");
    assert_eq!(shown.get("ecapture.last_insert_id"), Some("42"));
}

#[test]
fn an_error() {
    let mut play = Play::new();
    let text = b"Table 'x.y' doesn't exist";
    play.record(9, 1_000_000, 0, &made::start(Command::QUERY, 7, 1_000_000, None, b"select * from x.y", 0));
    play.record(9, 1_100_000, 0, &made::error(Command::QUERY, 7, 1_000_000, 1146, "42S02", text));
    let end = End { flags: end_flag::FAILED, error: 1146, sqlstate: *b"42S02", errors: 1, ..End::default() };
    play.record(9, 1_200_000, 0, &made::end(Command::QUERY, 7, 1_000_000, &end));
    let shown = play.sink.shown.last().unwrap();
    assert_eq!(shown.line, "conn 7  query error 1146 (42S02) Table 'x.y' doesn't exist 200 us  select * from x.y");
    assert_eq!(shown.get("db.response.status_code"), Some("1146"));
    assert_eq!(shown.get("ecapture.warnings"), None);
}

#[test]
fn prepared_statements() {
    let mut play = Play::new();
    let ready = End { flags: end_flag::PREPARED | end_flag::NO_STATUS, statement: 1, ..End::default() };
    let shown = play.command(Command::STMT_PREPARE, None, b"select ?", 0, &ready);
    assert_eq!((shown.name.as_str(), shown.line.as_str()), ("prepare", "conn 7  prepare #1 ok 800 us  select ?"));
    let shown = play.command(Command::STMT_EXECUTE, Some(1), &[1, 0, 0, 0, 9, 9], 0, &rows(1));
    assert_eq!(shown.line, "conn 7  execute #1 ok 1 rows 800 us  select ?");
    assert_eq!((shown.get("ecapture.request.size"), shown.flags), (Some("6"), 0));
    let last = LAST_PREPARED;
    let shown = play.command(Command::STMT_EXECUTE, Some(last), &last.to_le_bytes(), 0, &rows(1));
    assert_eq!(shown.line, "conn 7  execute #1 ok 1 rows 800 us  select ?");
    let ready = End { flags: ready.flags | end_flag::PARAMETERS, parameters: 2, ..ready };
    play.command(Command::STMT_PREPARE, None, b"select ?, ?", 0, &ready);
    let packet = b"\x01\0\0\0\0\x01\0\0\0\x02\x01\xfd\0\x06\0\x02hi";
    let shown = play.command(Command::STMT_EXECUTE, Some(1), packet, 0, &rows(1));
    assert_eq!(shown.line, "conn 7  execute #1 ok 1 rows 800 us  select ?, ?  params=[\"hi\",null]");
    assert_eq!(shown.get("ecapture.parameters.unknown"), None);
    let shown = play.command(Command::STMT_EXECUTE, Some(2), &[2, 0, 0, 0], 0, &rows(1));
    assert_eq!(shown.line, "conn 7  execute #2 ok 1 rows 800 us");
    assert_eq!(shown.get("ecapture.parameters.unknown"), Some("true"));
    assert_eq!(shown.get("ecapture.statement.unknown"), Some("true"));
    assert_eq!(shown.flags, event_flag::STATE_LOST);
}

#[test]
fn the_other_commands() {
    let mut play = Play::new();
    let shown = play.command(Command::INIT_DB, None, b"shop", 0, &changed(0, 0));
    assert_eq!((shown.name.as_str(), shown.line.as_str()), ("init_db", "conn 7  init_db ok 800 us  shop"));
    let shown = play.command(Command(14), None, b"", 0, &changed(0, 0));
    assert_eq!((shown.name.as_str(), shown.get("ecapture.command.name")), ("command", Some("ping")));
    let quiet = End { flags: end_flag::NO_STATUS, ..End::default() };
    let shown = play.command(Command::STMT_CLOSE, Some(3), &[3, 0, 0, 0], 0, &quiet);
    assert_eq!(shown.line, "conn 7  stmt_close #3 ok 800 us");
    let shown = play.command(Command::CHANGE_USER, None, b"root\0proof", 0, &changed(0, 0));
    assert!(!format!("{shown:?}").contains("proof"), "a password's proof is not shown: {shown:?}");
    let shown = play.command(Command::QUIT, None, b"", 0, &End { returned: 1, ..quiet });
    assert_eq!((shown.name.as_str(), shown.line.as_str()), ("quit", "conn 7  quit ok"));
}

#[test]
fn what_is_missing_is_counted_and_flagged() {
    let mut play = Play::new();
    let shown = play.command(Command::QUERY, None, b"select '", 500, &rows(0));
    assert_eq!(shown.missing, 500);
    assert_eq!(shown.flags, event_flag::PARTIAL);
    let shown = play.command(Command::QUERY, None, b"select 1", 0, &rows(0));
    assert_eq!((shown.missing, shown.flags), (0, 0));
    let ready = End { flags: end_flag::PREPARED | end_flag::NO_STATUS, statement: 1, ..End::default() };
    assert_eq!(play.command(Command::STMT_PREPARE, None, b"select '", 500, &ready).missing, 500);
    let shown = play.command(Command::STMT_EXECUTE, Some(1), &[1, 0, 0, 0], 0, &rows(1));
    assert_eq!((shown.missing, shown.flags), (0, event_flag::PARTIAL), "counted once, at the prepare");
}

#[test]
fn a_command_that_runs_at_the_end_says_where() {
    let mut play = Play::new();
    play.record(9, 1_000_000, 0, &made::start(Command::QUERY, 7, 1_000_000, None, b"select sleep(100)", 0));
    play.decoder.finish(&mut Out::new(&mut play.sink)).unwrap();
    let shown = play.sink.shown.last().unwrap();
    assert_eq!(shown.line, "conn 7  query running  select sleep(100)");
    assert_eq!((shown.get("ecapture.server.pid"), shown.get("ecapture.server.tid")), (Some("4711"), Some("9")));
    assert_eq!(shown.record, NO_RECORD);
}

#[test]
fn an_end_that_was_lost_is_shown_for_its_own_thread() {
    let mut play = Play::new();
    // Put aside on thread 9, and another command of the same connection begins on thread 10: its END was lost.
    let suspended = End { flags: end_flag::SUSPENDED | end_flag::NO_STATUS, returned: 2, ..End::default() };
    play.record(9, 1_000_000, 0, &made::start(Command::QUERY, 7, 1_000_000, None, b"insert", 0));
    play.record(9, 1_100_000, 0, &made::end(Command::QUERY, 7, 1_000_000, &suspended));
    play.record(10, 1_200_000, 0, &made::start(Command(14), 7, 1_200_000, None, b"", 0));
    assert!(play.sink.shown.is_empty());
    play.decoder.tick(0, &mut Out::new(&mut play.sink)).unwrap();
    let shown = play.sink.shown.last().unwrap();
    assert_eq!(shown.line, "conn 7  query unknown  insert");
    assert_eq!((shown.get("ecapture.server.tid"), shown.record), (Some("9"), NO_RECORD));
    assert_eq!(shown.flags, event_flag::STATE_LOST);
}

#[test]
fn wrong_records_are_undecodable() {
    let mut play = Play::new();
    play.record(9, 1, 0, &[]);
    play.record(9, 1, 0, &[1; 31]);
    play.record(9, 1, 0, &[0xee; 4096]);
    assert_eq!(play.sink.undecodable.len(), 3);
    assert!(play.sink.shown.is_empty());
}

#[test]
fn a_connection_without_id_has_none() {
    let mut play = Play::new();
    let mut start = made::start(Command::QUERY, 7, 1_000_000, None, b"select 1", 0);
    let mut end = made::end(Command::QUERY, 7, 1_000_000, &rows(1));
    for data in [&mut start, &mut end] {
        data[16..24].copy_from_slice(&crate::record::UNKNOWN_ID.to_le_bytes());
    }
    play.record(9, 1_000_000, 0, &start);
    play.record(9, 1_500_000, 0, &end);
    assert_eq!(play.sink.shown[0].line, "query ok 1 rows 500 us  select 1");
}
