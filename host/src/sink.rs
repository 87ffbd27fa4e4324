//! Where events go: text, hex dump, JSON Lines, a key log, a capture file, or nowhere but into the counts.
//!
//! A [`Render`] turns events into bytes and knows nothing of files; an [`output::Output`] brings bytes to an open file
//! descriptor and knows nothing of events but their number; a [`set::SinkSet`] is all outputs of a run. Files are
//! opened by the broker and handed over; nothing here opens one. Sinks see events and schemas, never modules.

pub mod count;
pub mod encode;
pub mod escape;
mod exchange;
pub mod fd;
mod grpc;
mod har;
pub mod hex;
pub mod json;
pub mod keylog;
pub mod output;
pub mod pcapng;
pub mod queue;
pub mod recording;
pub mod rotate;
pub mod session;
pub mod set;
mod table;
pub mod text;
pub mod time;

#[cfg(test)]
mod bench;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod schema_tests;

pub use rotate::Rotate;
pub use session::{Gap, Render, SegmentEnd, SegmentModule, SessionEnd, SessionModule, SessionStart};
pub use set::{Format, Notice, OutputOptions, OutputSpec, PACKETS, Sink, SinkReport, SinkSet};
