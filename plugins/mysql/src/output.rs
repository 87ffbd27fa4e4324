//! From a command that is over to an event of the module's interface: numbers of events and columns.
//!
//! Their names and order are those of `module.toml`; a test compares. Not here: what the values mean (`event`).

use crate::command::Command;
use crate::event::{Finished, Outcome, Thread};
use crate::record::{End, end_flag};
use ecapture_plugin_api::sdk::Out;

/// Columns by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// `db.system.name`.
    SystemName,
    /// `ecapture.connection.id`.
    ConnectionId,
    /// `ecapture.outcome`.
    Outcome,
    /// `ecapture.duration_ns`.
    DurationNs,
    /// `db.response.status_code`.
    ResponseStatusCode,
    /// `ecapture.sqlstate`.
    Sqlstate,
    /// `ecapture.error.message`.
    ErrorMessage,
    /// `ecapture.warnings`.
    Warnings,
    /// `ecapture.server.pid`.
    ServerPid,
    /// `ecapture.server.tid`.
    ServerTid,
    /// `user.name`.
    UserName,
    /// `network.peer.address`.
    PeerAddress,
    /// `network.peer.port`.
    PeerPort,
    /// `db.query.text`.
    QueryText,
    /// `db.namespace`.
    Namespace,
    /// `db.response.returned_rows`.
    ResponseReturnedRows,
    /// `ecapture.rows_affected`.
    RowsAffected,
    /// `ecapture.last_insert_id`.
    LastInsertId,
    /// `ecapture.results`.
    Results,
    /// `ecapture.statement.id`.
    StatementId,
    /// `ecapture.statement.unknown`.
    StatementUnknown,
    /// `ecapture.request.size`.
    RequestSize,
    /// `ecapture.command.name`.
    CommandName,
    /// `db.query.parameters`.
    Parameters,
    /// `ecapture.parameters.unknown`.
    ParametersUnknown,
}

/// Number of columns that there are.
const COLUMNS: usize = 25;

/// The columns that every event begins with.
const COMMON: &[Column] = &[
    Column::SystemName,
    Column::ConnectionId,
    Column::Outcome,
    Column::DurationNs,
    Column::ResponseStatusCode,
    Column::Sqlstate,
    Column::ErrorMessage,
    Column::Warnings,
    Column::ServerPid,
    Column::ServerTid,
    Column::UserName,
    Column::PeerAddress,
    Column::PeerPort,
];

/// Events by their number: name, and the columns behind the common ones.
const EVENTS: &[(&str, &[Column])] = &[
    (
        "query",
        &[
            Column::QueryText,
            Column::Namespace,
            Column::ResponseReturnedRows,
            Column::RowsAffected,
            Column::LastInsertId,
            Column::Results,
        ],
    ),
    ("prepare", &[Column::QueryText, Column::Namespace, Column::StatementId]),
    (
        "execute",
        &[
            Column::QueryText,
            Column::Namespace,
            Column::ResponseReturnedRows,
            Column::RowsAffected,
            Column::LastInsertId,
            Column::Results,
            Column::StatementId,
            Column::StatementUnknown,
            Column::RequestSize,
            Column::Parameters,
            Column::ParametersUnknown,
        ],
    ),
    ("init_db", &[Column::Namespace]),
    ("quit", &[]),
    (
        "command",
        &[
            Column::CommandName,
            Column::StatementId,
            Column::ResponseReturnedRows,
            Column::RowsAffected,
            Column::RequestSize,
        ],
    ),
];

const QUERY: u16 = 0;
const PREPARE: u16 = 1;
const EXECUTE: u16 = 2;
const INIT_DB: u16 = 3;
const QUIT: u16 = 4;
const COMMAND: u16 = 5;

/// Number of the event that a command is shown as.
fn event_of(command: Command) -> u16 {
    match command {
        Command::QUERY => QUERY,
        Command::STMT_PREPARE => PREPARE,
        Command::STMT_EXECUTE | Command::STMT_BULK_EXECUTE => EXECUTE,
        Command::INIT_DB => INIT_DB,
        Command::QUIT => QUIT,
        _ => COMMAND,
    }
}

/// Numbers of all columns in all events, looked up once.
#[derive(Debug)]
pub struct Numbers([[Option<u16>; COLUMNS]; 6]);

impl Numbers {
    /// Numbers them as the tables say.
    pub fn new() -> Self {
        let mut numbers = [[None; COLUMNS]; 6];
        for (row, (_, own)) in numbers.iter_mut().zip(EVENTS) {
            for (column, number) in COMMON.iter().chain(own.iter()).zip(0_u16..) {
                if let Some(place) = row.get_mut(*column as usize) {
                    *place = Some(number);
                }
            }
        }
        Self(numbers)
    }

    fn of(&self, event: u16, column: Column) -> Option<u16> {
        *self.0.get(usize::from(event))?.get(column as usize)?
    }
}

/// Sends one command. `owner` is the thread that the event's record belongs to; without one (the end of a run) or for a
/// command of another thread, the event says itself where it ran.
pub fn emit(numbers: &Numbers, finished: &Finished, owner: Option<Thread>, out: &mut Out<'_>) {
    let event = event_of(finished.head.command);
    let end = finished.end.unwrap_or_default();
    let has = |flag: u32| end.flags & flag != 0;
    let failed = finished.outcome == Outcome::Error;
    let elsewhere = owner != Some(finished.thread);
    let code = failed.then(|| end.error.to_string());
    let name = finished.head.command.name();
    let sqlstate = sqlstate(&end);
    let error = finished.error.as_ref().filter(|_| failed || finished.end.is_none());
    let text = finished.text.as_ref();

    // Text and outcome come with different records, so what is missing is said here and not taken from this record.
    let parameters = &finished.parameters;
    let missing =
        finished.truncated.saturating_add(error.map_or(0, |text| text.missing)).saturating_add(parameters.missing);
    let mut builder = out.event(event).missing(missing);
    macro_rules! set {
        ($column:ident, $method:ident, $value:expr) => {
            if let (Some(number), Some(value)) = (numbers.of(event, Column::$column), $value) {
                builder = builder.$method(number, value);
            }
        };
    }
    set!(SystemName, text, finished.system);
    set!(ConnectionId, u64, finished.head.connection);
    set!(Outcome, text, Some(finished.outcome.name()));
    set!(DurationNs, u64, finished.duration_ns);
    set!(ResponseStatusCode, text, code.as_deref());
    set!(Sqlstate, text, sqlstate.filter(|_| failed));
    set!(ErrorMessage, text, error.map(|text| text.bytes.as_slice()));
    set!(Warnings, u64, (has(end_flag::OK) || has(end_flag::RESULT_SET)).then(|| u64::from(end.warnings)));
    set!(ServerPid, u64, elsewhere.then(|| u64::from(finished.thread.process)));
    set!(ServerTid, u64, elsewhere.then(|| u64::from(finished.thread.thread)));
    set!(UserName, text, finished.client.user.as_deref());
    let peer = finished.client.peer.as_ref();
    set!(PeerAddress, text, peer.map(|peer| &peer.address[..]));
    set!(PeerPort, u64, peer.map(|peer| u64::from(peer.port)));
    set!(QueryText, text, text.map(|text| &text.bytes[..]));
    set!(Namespace, text, finished.namespace.as_deref());
    set!(ResponseReturnedRows, u64, has(end_flag::ROWS).then_some(end.rows));
    set!(RowsAffected, u64, has(end_flag::OK).then_some(end.affected_rows));
    set!(LastInsertId, u64, (end.insert_id != 0).then_some(end.insert_id));
    set!(Results, u64, (end.results > 1).then(|| u64::from(end.results)));
    set!(StatementId, u64, finished.statement.map(u64::from));
    set!(StatementUnknown, bool, finished.statement_unknown.then_some(true));
    set!(RequestSize, u64, finished.request.map(u64::from));
    set!(CommandName, text, Some(name.as_ref()));
    set!(Parameters, text, parameters.json.as_deref());
    set!(ParametersUnknown, bool, parameters.unknown.then_some(true));
    // Of an execution; the bytes were counted when it was prepared.
    if text.is_some_and(|text| text.missing > 0) {
        builder = builder.partial();
    }
    if finished.state_lost {
        builder = builder.state_lost();
    }
    let _more = builder.emit();
}

/// The SQLSTATE's five characters, if the server gave any.
fn sqlstate(end: &End) -> Option<&[u8]> {
    let len = end.sqlstate.iter().position(|byte| *byte == 0).unwrap_or(end.sqlstate.len());
    end.sqlstate.get(..len).filter(|text| !text.is_empty())
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
