//! Worker to collector: a single-producer single-consumer ring in a sealed memory file that outlives the worker.
//!
//! The producer may be hostile. The consumer keeps its own position, copies each header and payload out before it looks
//! at them, and checks every number; a link that it refused once is replaced together with its worker. Both sides only
//! see bytes: what an event's payload means is `event/wire`'s affair.
//!
//! One control page, then the data. A message is a header of 16 bytes and its payload, padded to 16, never split: at
//! the end of the data a padding record fills up. Chosen over a socket for large events (a third of the CPU at 16 KiB),
//! and because it survives the worker: what was published is not lost with it.

mod consumer;
mod memory;
mod positions;
mod producer;
#[cfg(test)]
mod tests;

pub use consumer::{Consumer, Message};
pub use memory::{Link, Observer, create};
pub use positions::Positions;
pub use producer::{Producer, PushError};

use std::io;

/// Flags of an event, besides those that worker and collector agree on (bits 0 to 14).
pub mod flags {
    /// The event belongs to no record (a decoder's tick or finish): its position says nothing, it is never taken for
    /// one that was sent before.
    pub const FREE: u16 = 1 << 15;
}

/// Why a link is refused. All but `Io` and `Size` mean that the producer broke the rules: end it, and make a new link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not a power of two from 16 KiB to 1 GiB.
    #[error("a link of {0} bytes is not possible (a power of two, 16 KiB to 1 GiB)")]
    Size(u64),
    /// The memory file is not one that [`create`] made: too short, or its size is not sealed.
    #[error("the memory file of a link is too short or not sealed")]
    Foreign,
    /// The producer's position is not one that it can have.
    #[error("hostile link: position {produced} with {consumed} consumed")]
    Position {
        /// What it claims to have written.
        produced: u64,
        /// What was read.
        consumed: u64,
    },
    /// A message reaches beyond what was published, or is longer than a message can be.
    #[error("hostile link: a message of {0} bytes")]
    Length(u32),
    /// A message of no known kind, or whose payload is not that of its kind.
    #[error("hostile link: a message of kind {0:#x}")]
    Kind(u16),
    /// Mapping or making it failed.
    #[error("link: {call}: {source}")]
    Io {
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

fn io_error<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> LinkError {
    move |e| LinkError::Io { call, source: e.into() }
}
