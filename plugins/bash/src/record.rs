//! The messages of `bash.bpf.c`, read from bytes. Mirrors `ebpf-objects/src/bash.h`, which owns the layout; a test reads
//! that header and compares sizes, offsets and values.
//!
//! Not here: what the messages mean together (`decode`). Every length is checked, nothing is indexed.

use ecapture_plugin_api::sdk::Fields;
use thiserror::Error;

/// Bytes of `struct bash_head`; the bytes that the kind has follow.
pub const HEAD: usize = 48;

/// `enum bash_kind`.
pub mod kind {
    /// `BASH_START`.
    pub const START: u32 = 1;
    /// `BASH_END`.
    pub const END: u32 = 2;
    /// `BASH_FORK`.
    pub const FORK: u32 = 3;
    /// `BASH_HINT`.
    pub const HINT: u32 = 4;
    /// `BASH_ARGS`.
    pub const ARGS: u32 = 5;
    /// `BASH_EXIT`.
    pub const EXIT: u32 = 6;
    /// `BASH_LINE`.
    pub const LINE: u32 = 7;
}

/// `enum bash_flags`.
pub mod flag {
    /// The shell does not wait for it.
    pub const BACKGROUND: u32 = 1;
    /// It is connected to another command by a pipe.
    pub const PIPELINE: u32 = 2;
    /// Nothing more will be said of it.
    pub const UNFOLLOWED: u32 = 4;
    /// Read by a builtin command.
    pub const READ: u32 = 8;
}

/// Names a simple command: the shell process in which it began, and when (`CLOCK_MONOTONIC`, ns).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The process.
    pub process: u32,
    /// The time.
    pub start_ns: u64,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A command is about to run.
    Start {
        /// Which.
        id: Id,
        /// [`flag`]s.
        flags: u32,
        /// Stack pointer of the function that runs it.
        sp: u64,
        /// And of that one's caller: an earlier command with `sp` up to here is over.
        caller: u64,
        /// Its text: a prefix.
        text: Bytes<'a>,
    },
    /// It ended inside the shell.
    End {
        /// Which.
        id: Id,
        /// Its status.
        status: u32,
    },
    /// It got a process of its own.
    Fork {
        /// Which.
        id: Id,
        /// The process.
        child: u32,
    },
    /// It leaves without an end.
    Hint {
        /// Which.
        id: Id,
        /// The shell's status.
        status: u32,
    },
    /// Its process became another program.
    Args {
        /// Which.
        id: Id,
        /// The arguments, each with a NUL behind it: a prefix.
        args: Bytes<'a>,
    },
    /// The process that the record comes from ended.
    Exit {
        /// The command whose own process it was.
        owner: Option<Id>,
        /// Its status, as the shell would see it.
        status: u32,
    },
    /// A line was read.
    Line {
        /// [`flag`]s.
        flags: u32,
        /// The line: a prefix.
        text: Bytes<'a>,
    },
}

/// Bytes of the target's memory, and how many behind them did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes<'a> {
    /// What came.
    pub bytes: &'a [u8],
    /// What did not.
    pub missing: u64,
}

/// Why a message makes no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It ends inside its fixed part.
    #[error("message of {0} bytes, its fixed part has {HEAD}")]
    Short(usize),
    /// More bytes follow than it says.
    #[error("{came} bytes follow a message that says {said}")]
    Long {
        /// Bytes that came.
        came: usize,
        /// Bytes that it says.
        said: u64,
    },
    /// Its kind is none that this module knows.
    #[error("message of unknown kind {0}")]
    Kind(u32),
    /// It names no command.
    #[error("message of kind {0} names no command")]
    NoCommand(u32),
    /// It came on a stream that the manifest does not have.
    #[error("record of stream {0}, the module has stream 0 only")]
    Stream(u16),
}

/// Reads one message.
///
/// # Errors
/// [`RecordError`], for every input that the kernel side can't have written.
pub fn parse(data: &[u8]) -> Result<Message<'_>, RecordError> {
    let (fields, bytes) = Fields::<HEAD>::split(data).ok_or(RecordError::Short(data.len()))?;
    let (kind, flags, value) = (fields.u32::<0>(), fields.u32::<4>(), fields.u32::<20>());
    let length = fields.u64::<40>();
    let came = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let Some(missing) = length.checked_sub(came) else {
        return Err(RecordError::Long { came: bytes.len(), said: length });
    };
    let text = Bytes { bytes, missing };
    let command = Id { process: fields.u32::<16>(), start_ns: fields.u64::<8>() };
    let command = (command.start_ns != 0).then_some(command);
    let id = || command.ok_or(RecordError::NoCommand(kind));
    Ok(match kind {
        kind::START => Message::Start { id: id()?, flags, sp: fields.u64::<24>(), caller: fields.u64::<32>(), text },
        kind::END => Message::End { id: id()?, status: value },
        kind::FORK => Message::Fork { id: id()?, child: value },
        kind::HINT => Message::Hint { id: id()?, status: value },
        kind::ARGS => Message::Args { id: id()?, args: text },
        kind::EXIT => Message::Exit { owner: command, status: shell_status(value) },
        kind::LINE => Message::Line { flags, text },
        other => return Err(RecordError::Kind(other)),
    })
}

/// What a shell makes of a status that wait(2) gives: the code, or 128 + the signal.
fn shell_status(status: u32) -> u32 {
    match status & 0x7f {
        0 => status >> 8 & 0xff,
        signal => 128 + signal,
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
