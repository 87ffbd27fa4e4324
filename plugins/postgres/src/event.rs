//! What became of one statement, or of a connection: everything that is shown, and nothing about how.

use crate::answer::Answer;
use crate::parameters::Values;
use crate::record::Peer;
use crate::told::Failure;
use std::sync::Arc;

/// What an event is about; the order is that of the events in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection began.
    Connect,
    /// A text statement.
    Query,
    /// A statement was prepared.
    Prepare,
    /// A prepared statement was executed.
    Execute,
    /// Values could not be bound to a statement.
    Bind,
    /// Another message of the client.
    Command,
    /// A statement inside another one.
    Nested,
    /// A client asked for another connection's statement to be ended.
    Cancel,
    /// A connection ended.
    Quit,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Without an error.
    Ok,
    /// With one.
    Error,
    /// An Execute with a limit reached it: there is more.
    Suspended,
    /// Not run, since a message before it in the same batch failed.
    Skipped,
    /// The connection was gone before the answer.
    Aborted,
    /// It has not ended.
    Running,
    /// What the server answered was lost.
    Unknown,
}

impl Outcome {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Suspended => "suspended",
            Self::Skipped => "skipped",
            Self::Aborted => "aborted",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// Text of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// What came of it.
    pub bytes: Arc<[u8]>,
    /// Bytes that it lacks.
    pub missing: u64,
}

/// Who is on the other side of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// User that it said it is.
    pub user: Option<Vec<u8>>,
    /// Database that it asked for.
    pub database: Option<Vec<u8>>,
    /// The name that it gave itself.
    pub application: Option<Vec<u8>>,
    /// Its address.
    pub peer: Option<Peer>,
}

/// All that is known of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The backend.
    pub process: u32,
    /// What it is about.
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// From its first byte to the answer.
    pub duration_ns: Option<u64>,
    /// Who sent it.
    pub client: Arc<Client>,
    /// Text of the statement.
    pub text: Option<Text>,
    /// Bytes that the message itself lacks.
    pub truncated: u64,
    /// Bound values.
    pub parameters: Option<Arc<Values>>,
    /// Name of the prepared statement; empty for the unnamed one.
    pub statement: Option<Arc<[u8]>>,
    /// Name of the portal.
    pub portal: Option<Arc<[u8]>>,
    /// The text is not known.
    pub statement_unknown: bool,
    /// Most rows that an Execute asked for.
    pub limit: Option<u32>,
    /// What the server said.
    pub answer: Answer,
    /// The error.
    pub failure: Option<Failure>,
    /// Which message, if it is none of the usual ones.
    pub command: Option<&'static str>,
    /// Process whose statement is to be cancelled.
    pub cancels: Option<u32>,
    /// Something is missing since records were lost.
    pub state_lost: bool,
}
