//! A command that is over, as plain data: what the decoder makes and `output` shows.
//!
//! Not here: names and order of columns (`module.toml`, `output`).

use crate::command::Command;
use crate::parameters::Parameters;
use crate::record::{End, Head, end_flag};
use crate::session::{Client, Text};
use std::sync::Arc;

/// A thread of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thread {
    /// Process id.
    pub process: u32,
    /// Thread id.
    pub thread: u32,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered, or had nothing to answer.
    Ok,
    /// The server sent an error.
    Error,
    /// The server closed the connection without an answer, or was gone before it gave one.
    Aborted,
    /// Still running when the capture ended.
    Running,
    /// The end was not seen: its record was lost.
    Unknown,
}

impl Outcome {
    /// The value of `ecapture.outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Aborted => "aborted",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }

    /// What END says.
    pub fn of(command: Command, end: &End) -> Self {
        if end.flags & end_flag::GONE != 0 {
            return Self::Aborted;
        }
        if end.flags & end_flag::FAILED != 0 {
            return Self::Error;
        }
        let answered = end_flag::OK | end_flag::RESULT_SET | end_flag::PREPARED;
        // 1: "close this connection". Without an answer that is COM_QUIT, or a command that was cut off (KILL, a
        // client that is gone). No answer and 0 is an answer by other means: COM_STATISTICS, the query cache.
        if end.flags & answered == 0 && end.returned == 1 && !command.is_silent() {
            return Self::Aborted;
        }
        Self::Ok
    }
}

/// The text of an error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorText {
    /// What came of it.
    pub bytes: Vec<u8>,
    /// Bytes of it that did not come.
    pub missing: u64,
}

/// A command that is over, or as much as will ever be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Where it ran.
    pub thread: Thread,
    /// The head of its last message.
    pub head: Head,
    /// `db.system.name`, if the target is known.
    pub system: Option<&'static str>,
    /// Text of the statement: sent with the command, or prepared before.
    pub text: Option<Text>,
    /// Bytes of the text or name that the command's own packet lacks. What the text of a prepared statement lacks was said at
    /// its prepare.
    pub truncated: u64,
    /// Database: the one asked for (init_db) or the current one, if certain.
    pub namespace: Option<Arc<[u8]>>,
    /// Who sent it, as far as it is known for certain.
    pub client: Client,
    /// Id of the prepared statement.
    pub statement: Option<u32>,
    /// The command executes a statement whose text is not known.
    pub statement_unknown: bool,
    /// Of an execution: what with.
    pub parameters: Parameters,
    /// Bytes of the packet without its command byte.
    pub request: Option<u32>,
    /// How it ended.
    pub outcome: Outcome,
    /// Time from entry to return; of a command that the thread pool put aside, to its last return.
    pub duration_ns: Option<u64>,
    /// What END said.
    pub end: Option<End>,
    /// Text of the last error.
    pub error: Option<ErrorText>,
    /// Something is missing here because an earlier record was lost or came before the capture.
    pub state_lost: bool,
}
