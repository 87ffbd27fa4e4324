//! From a command that is over, or a line, to an event of the module's interface: numbers of events and columns.
//!
//! Their names and order are those of `module.toml`; a test compares. Not here: what the values mean (`decode`).

use crate::decode::{Event, Finished, Outcome};
use crate::open::Text;
use crate::record::{Bytes, flag};
use ecapture_plugin_api::sdk::Out;

/// Number of the event `command`, and of its columns.
pub mod command {
    /// The event.
    pub const EVENT: u16 = 0;
    /// `ecapture.command.text`.
    pub const TEXT: u16 = 0;
    /// `process.command_args`.
    pub const ARGS: u16 = 1;
    /// `process.exit.code`.
    pub const EXIT_CODE: u16 = 2;
    /// `ecapture.outcome`.
    pub const OUTCOME: u16 = 3;
    /// `ecapture.duration_ns`.
    pub const DURATION_NS: u16 = 4;
    /// `ecapture.shell.pid`.
    pub const SHELL_PID: u16 = 5;
    /// `ecapture.command.background`.
    pub const BACKGROUND: u16 = 6;
    /// `ecapture.command.pipeline`.
    pub const PIPELINE: u16 = 7;
}

/// Number of the event `line`, and of its columns.
pub mod line {
    /// The event.
    pub const EVENT: u16 = 1;
    /// `ecapture.line.text`.
    pub const TEXT: u16 = 0;
    /// `ecapture.line.reader`.
    pub const READER: u16 = 1;
}

/// Most bytes of one event's texts: the host takes no event of 2 MiB or more.
pub const MOST: usize = (2 << 20) - (64 << 10);

/// Sends one event.
pub fn emit(event: &Event<'_>, out: &mut Out<'_>) {
    match event {
        Event::Command(finished) => emit_command(finished, out),
        Event::Line { flags, text } => emit_line(*flags, *text, out),
    }
}

fn emit_command(finished: &Finished, out: &mut Out<'_>) {
    let open = &finished.open;
    let (text, no_text) = cut(open.text.as_ref(), MOST);
    let (args, no_args) = cut(open.args.as_ref(), MOST.saturating_sub(text.map_or(0, <[u8]>::len)));
    let status = match finished.outcome {
        Outcome::Status(status) => Some(u64::from(status)),
        Outcome::Aborted | Outcome::Running | Outcome::Unknown => None,
    };
    // Text, arguments and status come with different records, so what is missing is said here and not taken from this one.
    let mut event = out
        .event(command::EVENT)
        .missing(no_text.saturating_add(no_args))
        .text_if(command::TEXT, text)
        .text_if(command::ARGS, args.map(args_shown))
        .u64_if(command::EXIT_CODE, status)
        .text(command::OUTCOME, outcome_name(finished.outcome))
        .u64_if(command::DURATION_NS, finished.duration_ns)
        .u64(command::SHELL_PID, u64::from(finished.id.process));
    if open.flags & flag::BACKGROUND != 0 {
        event = event.bool(command::BACKGROUND, true);
    }
    if open.flags & flag::PIPELINE != 0 {
        event = event.bool(command::PIPELINE, true);
    }
    if open.text.is_none() {
        event = event.state_lost();
    }
    let _more = event.emit();
}

fn emit_line(flags: u32, text: Bytes<'_>, out: &mut Out<'_>) {
    let reader = if flags & flag::READ != 0 { "builtin" } else { "prompt" };
    let text = Text { bytes: text.bytes.to_vec(), missing: text.missing };
    let (text, missing) = cut(Some(&text), MOST);
    let event = out.event(line::EVENT).missing(missing).text_if(line::TEXT, text);
    let _more = event.text(line::READER, reader).emit();
}

/// As much of a text as there is room for, and how many bytes it lacks.
fn cut(text: Option<&Text>, room: usize) -> (Option<&[u8]>, u64) {
    let Some(text) = text else { return (None, 0) };
    let shown = text.bytes.get(..room).unwrap_or(&text.bytes);
    let cut = u64::try_from(text.bytes.len().saturating_sub(shown.len())).unwrap_or(u64::MAX);
    (Some(shown), text.missing.saturating_add(cut))
}

/// The kernel puts a NUL behind each argument; here they stand between them.
fn args_shown(args: &[u8]) -> &[u8] {
    args.strip_suffix(b"\0").unwrap_or(args)
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Status(0) => "ok",
        Outcome::Status(_) => "error",
        Outcome::Aborted => "aborted",
        Outcome::Running => "running",
        Outcome::Unknown => "unknown",
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
