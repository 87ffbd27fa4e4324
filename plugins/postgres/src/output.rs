//! From what became of a statement to an event of the module's interface: numbers of events and columns.
//!
//! Their names and order are those of `module.toml`; a test compares. Not here: what the values mean (`event`).

use crate::event::{Finished, Kind};
use ecapture_plugin_api::sdk::Out;

/// Events, in the order of [`Kind`].
#[cfg(test)]
const EVENTS: &[&str] = &["connect", "query", "prepare", "execute", "bind", "command", "nested", "cancel", "quit"];

/// Columns of every event by their number.
#[cfg(test)]
const COLUMNS: &[&str] = &[
    "db.system.name",
    "ecapture.outcome",
    "ecapture.duration_ns",
    "db.response.status_code",
    "ecapture.error.message",
    "user.name",
    "db.namespace",
    "ecapture.application.name",
    "network.peer.address",
    "network.peer.port",
    "ecapture.server.pid",
    "db.query.text",
    "db.query.parameters",
    "ecapture.command.tag",
    "db.response.returned_rows",
    "ecapture.rows_affected",
    "ecapture.results",
    "ecapture.statement.name",
    "ecapture.statement.unknown",
    "ecapture.portal.name",
    "ecapture.portal.limit",
    "ecapture.copy.direction",
    "ecapture.copy.rows",
    "ecapture.copy.bytes",
    "ecapture.command.name",
    "ecapture.cancel.pid",
];

/// Numbers of the columns.
mod column {
    pub const SYSTEM_NAME: u16 = 0;
    pub const OUTCOME: u16 = 1;
    pub const DURATION: u16 = 2;
    pub const STATUS_CODE: u16 = 3;
    pub const ERROR_MESSAGE: u16 = 4;
    pub const USER: u16 = 5;
    pub const NAMESPACE: u16 = 6;
    pub const APPLICATION: u16 = 7;
    pub const PEER_ADDRESS: u16 = 8;
    pub const PEER_PORT: u16 = 9;
    pub const SERVER_PID: u16 = 10;
    pub const TEXT: u16 = 11;
    pub const PARAMETERS: u16 = 12;
    pub const TAG: u16 = 13;
    pub const RETURNED_ROWS: u16 = 14;
    pub const AFFECTED: u16 = 15;
    pub const RESULTS: u16 = 16;
    pub const STATEMENT_NAME: u16 = 17;
    pub const STATEMENT_UNKNOWN: u16 = 18;
    pub const PORTAL_NAME: u16 = 19;
    pub const PORTAL_LIMIT: u16 = 20;
    pub const COPY_DIRECTION: u16 = 21;
    pub const COPY_ROWS: u16 = 22;
    pub const COPY_BYTES: u16 = 23;
    pub const COMMAND_NAME: u16 = 24;
    pub const CANCEL_PID: u16 = 25;
}

/// Sends one. `owner` is the process that the event's record belongs to; without one (the end of a run) or for another
/// process, the event says itself where it ran.
pub fn emit(finished: &Finished, owner: Option<u32>, out: &mut Out<'_>) {
    let named = |name: &Option<std::sync::Arc<[u8]>>| name.clone().filter(|name| !name.is_empty());
    let (statement, portal) = (named(&finished.statement), named(&finished.portal));
    let answer = &finished.answer;
    let mut event = out.event(finished.kind as u16).text(column::SYSTEM_NAME, "postgresql");
    if finished.kind != Kind::Nested {
        event = event.text(column::OUTCOME, finished.outcome.name());
    }
    event = event.u64_if(column::DURATION, finished.duration_ns);
    if let Some(failure) = &finished.failure {
        event = event.text(column::STATUS_CODE, &failure.code).text(column::ERROR_MESSAGE, &failure.message);
    }
    let client = &finished.client;
    event = event
        .text_if(column::USER, client.user.as_ref())
        .text_if(column::NAMESPACE, client.database.as_ref())
        .text_if(column::APPLICATION, client.application.as_ref());
    if let Some(peer) = &client.peer {
        event = event.text(column::PEER_ADDRESS, &peer.address).u64(column::PEER_PORT, u64::from(peer.port));
    }
    let elsewhere = (owner != Some(finished.process)).then_some(u64::from(finished.process));
    event = event
        .u64_if(column::SERVER_PID, elsewhere)
        .text_if(column::TEXT, finished.text.as_ref().map(|text| &*text.bytes))
        .text_if(column::PARAMETERS, finished.parameters.as_ref().map(|values| &values.json))
        .text_if(column::TAG, answer.tag.as_ref())
        .u64_if(column::RETURNED_ROWS, answer.rows)
        .u64_if(column::AFFECTED, answer.affected)
        .u64_if(column::RESULTS, Some(answer.results).filter(|results| *results > 1))
        .text_if(column::STATEMENT_NAME, statement.as_deref())
        .text_if(column::PORTAL_NAME, portal.as_deref())
        .u64_if(column::PORTAL_LIMIT, finished.limit.map(u64::from));
    if finished.statement_unknown {
        event = event.bool(column::STATEMENT_UNKNOWN, true);
    }
    if let Some(copied) = &answer.copied {
        event = event
            .text(column::COPY_DIRECTION, copied.direction.name())
            .u64_if(column::COPY_ROWS, copied.rows)
            .u64(column::COPY_BYTES, copied.bytes);
    }
    event = event
        .text_if(column::COMMAND_NAME, finished.command)
        .u64_if(column::CANCEL_PID, finished.cancels.map(u64::from));
    if finished.truncated > 0 {
        event = event.missing(finished.truncated);
    }
    let partial = finished.text.as_ref().is_some_and(|text| text.missing > 0)
        || finished.parameters.as_ref().is_some_and(|values| values.partial);
    if partial {
        event = event.partial();
    }
    if finished.state_lost {
        event = event.state_lost();
    }
    let _more = event.emit();
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecapture_plugin_api::manifest::Manifest;

    #[test]
    fn numbers_are_those_of_the_manifest() {
        let manifest = Manifest::parse(include_str!("../module.toml")).unwrap();
        let events: Vec<&str> = manifest.events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(events, EVENTS);
        assert_eq!((Kind::Connect as u16, Kind::Quit as usize), (0, EVENTS.len() - 1));
        for event in &manifest.events {
            let columns: Vec<&str> = event.columns.iter().map(|column| column.name.as_str()).collect();
            assert_eq!(columns, COLUMNS, "{}", event.name);
        }
        assert_eq!(COLUMNS[usize::from(column::CANCEL_PID)], "ecapture.cancel.pid");
        assert_eq!(COLUMNS[usize::from(column::PARAMETERS)], "db.query.parameters");
    }
}
