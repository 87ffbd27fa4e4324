//! From a program that is over to an event of the module's interface: numbers of columns.
//!
//! Their names and order are those of `module.toml`; a test compares. Not here: what the values mean (`decode`).

use crate::decode::{Finished, Outcome};
use ecapture_plugin_api::sdk::Out;

/// The event `command`.
pub const COMMAND: u16 = 0;

/// Numbers of its columns.
pub mod column {
    /// `ecapture.command.text`.
    pub const TEXT: u16 = 0;
    /// `process.exit.code`.
    pub const EXIT_CODE: u16 = 1;
    /// `ecapture.outcome`.
    pub const OUTCOME: u16 = 2;
    /// `ecapture.duration_ns`.
    pub const DURATION_NS: u16 = 3;
    /// `ecapture.shell.pid`.
    pub const SHELL_PID: u16 = 4;
    /// `ecapture.shell.context`.
    pub const CONTEXT: u16 = 5;
}

/// Sends one program, unless there was nothing in it to run (a comment, `zsh -c ''`).
pub fn emit(finished: &Finished, out: &mut Out<'_>) {
    let open = &finished.open;
    let text = open.text.as_ref();
    if text.is_some_and(|text| text.bytes.is_empty() && !text.partial) {
        return;
    }
    let status = match finished.outcome {
        Outcome::Status(status) => Some(u64::from(status)),
        Outcome::Running | Outcome::Unknown => None,
    };
    // Text and status come with different records, so what is missing is said here and not taken from this one.
    let mut event = out
        .event(COMMAND)
        .missing(text.map_or(0, |text| text.missing))
        .text_if(column::TEXT, text.map(|text| &text.bytes[..]))
        .u64_if(column::EXIT_CODE, status)
        .text(column::OUTCOME, outcome_name(finished.outcome))
        .u64_if(column::DURATION_NS, finished.duration_ns)
        .u64(column::SHELL_PID, u64::from(finished.id.process))
        .text_if(column::CONTEXT, open.context);
    if text.is_some_and(|text| text.partial) {
        event = event.partial();
    }
    if text.is_none() {
        event = event.state_lost();
    }
    let _more = event.emit();
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Status(0) => "ok",
        Outcome::Status(_) => "error",
        Outcome::Running => "running",
        Outcome::Unknown => "unknown",
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
