//! Statements of whatever server: SQL in tokens ([`lex`]), statements that differ in their values only as one ([`digest`]), and which
//! events are shown at all ([`Gate`]). What is a statement, its columns say; nothing here knows a module.

pub mod digest;
mod gate;
mod histogram;
pub mod lex;
mod normal;
mod words;

use serde::{Deserialize, Serialize};

pub use gate::Gate;

/// What is done with statements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementOptions {
    /// Numbers of each normalised statement instead of the statements.
    pub digest: bool,
    /// The numbers are told so often, ns; 0: at the end only.
    pub interval_ns: u64,
    /// Only what took at least so long, ns.
    pub min_duration_ns: u64,
    /// Only what failed.
    pub errors_only: bool,
}
