//! The messages of `zsh.bpf.c`, read from bytes. Mirrors `ebpf-objects/src/zsh.h`, which owns the layout; a test reads
//! that header and compares sizes, offsets and values.
//!
//! Not here: what the messages mean together (`decode`). Every length is checked, nothing is indexed.

use ecapture_plugin_api::sdk::Fields;
use thiserror::Error;

/// Bytes of `struct zsh_head`; the code of START follows.
pub const HEAD: usize = 48;

/// `enum zsh_kind`.
pub mod kind {
    /// `ZSH_START`.
    pub const START: u32 = 1;
    /// `ZSH_END`.
    pub const END: u32 = 2;
    /// `ZSH_EXEC`.
    pub const EXEC: u32 = 3;
    /// `ZSH_EXIT`.
    pub const EXIT: u32 = 4;
}

/// `ZSH_UNFOLLOWED`, of `enum zsh_flags`.
pub const UNFOLLOWED: u16 = 1;

/// `enum zsh_format`.
pub mod format {
    /// `ZSH_FORMAT_5_8`.
    pub const V5_8: u8 = 1;
    /// `ZSH_FORMAT_5_9`.
    pub const V5_9: u8 = 2;
}

/// `enum zsh_context`, by number: the names are zsh's own.
pub const CONTEXTS: [&str; 6] = ["toplevel", "file", "filecode", "cmdarg", "eval", "fc"];

/// Code that zsh runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program<'a> {
    /// 32-bit words.
    pub words: &'a [u8],
    /// Strings that they name, each with a NUL behind it.
    pub strings: &'a [u8],
    /// Words behind the names of a function definition.
    pub function_words: usize,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A program is about to run.
    Start {
        /// When; with the process, which.
        start_ns: u64,
        /// Nothing more will be said of it.
        unfollowed: bool,
        /// Where it comes from; absent for a context that there is not.
        context: Option<&'static str>,
        /// Stack pointer: an earlier program with `sp` up to here is over.
        sp: u64,
        /// What runs.
        program: Program<'a>,
        /// Bytes of it that did not come.
        missing: u64,
    },
    /// It has run.
    End {
        /// Which.
        start_ns: u64,
        /// $?.
        status: u32,
    },
    /// The process is another program now.
    Exec,
    /// The process ended.
    Exit {
        /// Its status, as a shell would see it.
        status: u32,
    },
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
    /// There are more words than bytes to hold them.
    #[error("{words} words of code in {said} bytes")]
    Words {
        /// Words that it says.
        words: u32,
        /// Bytes that it says.
        said: u64,
    },
    /// Its kind is none that this module knows.
    #[error("message of unknown kind {0}")]
    Kind(u32),
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
    let kind = fields.u32::<0>();
    let (flags, context, format) = (fields.u16::<4>(), fields.u8::<6>(), fields.u8::<7>());
    let (start_ns, length, value) = (fields.u64::<8>(), fields.u64::<24>(), fields.u32::<36>());
    let came = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let Some(missing) = length.checked_sub(came) else {
        return Err(RecordError::Long { came: bytes.len(), said: length });
    };
    Ok(match kind {
        kind::START => {
            let words = fields.u32::<32>();
            let size = u64::from(words) * 4;
            if size > length {
                return Err(RecordError::Words { words, said: length });
            }
            let end = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
            let (words, strings) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
            let function_words = if format == format::V5_8 { 3 } else { 4 };
            Message::Start {
                start_ns,
                unfollowed: flags & UNFOLLOWED != 0,
                context: usize::from(context).checked_sub(1).and_then(|n| CONTEXTS.get(n)).copied(),
                sp: fields.u64::<16>(),
                program: Program { words, strings, function_words },
                missing,
            }
        }
        kind::END => Message::End { start_ns, status: value },
        kind::EXEC => Message::Exec,
        kind::EXIT => Message::Exit { status: shell_status(value) },
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

#[cfg(test)]
pub use tests::message as tests_message;
