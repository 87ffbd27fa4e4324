//! What a sink has to say beside events: the session's first and last line and gaps; and the trait of all formats.

use crate::event::{Event, Summary};
use crate::packet::Frame;

/// How a format turns things into bytes. Appends whole lines to `out` and never fails: what can fail is bringing them
/// away, which is [`super::output`]'s business and the same for all formats.
pub trait Render: Send {
    /// One event.
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>);
    /// A frame of an interface; nothing in formats that have none.
    fn packet(&mut self, _frame: &Frame<'_>, _out: &mut Vec<u8>) {}
    /// What the last call wrote has been taken out again, and is not in this file.
    fn taken_back(&mut self) {}
    /// The first line; nothing in formats that have none.
    fn session_start(&mut self, start: &SessionStart, out: &mut Vec<u8>);
    /// The last line of a file that another one follows; nothing in formats that have none.
    fn segment_end(&mut self, _end: &SegmentEnd<'_>, _out: &mut Vec<u8>) {}
    /// The last line.
    fn session_end(&mut self, end: &SessionEnd<'_>, out: &mut Vec<u8>);
    /// Events that this output could not take, at the place where they are missing.
    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>);
}

/// Facts of `ecapture.session.start`.
#[derive(Debug, Clone, Default)]
pub struct SessionStart {
    /// Wall time, ns since 1970.
    pub wall_ns: u64,
    /// Version of the host program.
    pub version: String,
    /// Name of the machine.
    pub host: String,
    /// Its architecture, as OpenTelemetry's `host.arch`.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// The command that began the session.
    pub command: String,
    /// The modules of the run.
    pub modules: Vec<SessionModule>,
    /// Number of this file, if the output is rotated.
    pub segment: Option<u64>,
}

/// A module of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionModule {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Loaded although somebody else than the administrator could have written it.
    pub tainted: bool,
}

/// Facts of `ecapture.session.end`.
#[derive(Debug, Clone, Copy)]
pub struct SessionEnd<'a> {
    /// Wall time, ns since 1970.
    pub wall_ns: u64,
    /// Monotonic length of the session, ns.
    pub duration_ns: u64,
    /// The totals so far. Losses of sinks that happen while the last bytes are written are known only to
    /// [`super::SinkSet::finish`].
    pub summary: &'a Summary,
    /// Number of this file, if the output is rotated.
    pub segment: Option<u64>,
}

/// Facts of `ecapture.session.continued`.
#[derive(Debug, Clone, Copy)]
pub struct SegmentEnd<'a> {
    /// Wall time of the last event, ns since 1970.
    pub wall_ns: u64,
    /// Number of this file.
    pub segment: u64,
    /// What is in it.
    pub modules: &'a [SegmentModule],
}

/// A module's part of a file.
#[derive(Debug, Clone, Default)]
pub struct SegmentModule {
    /// Name.
    pub name: String,
    /// Events in the file.
    pub events: u64,
    /// Events that should be in it and could not be taken.
    pub lost: u64,
}

/// A hole in one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Events that are missing here.
    pub lost: u64,
    /// Wall time of the first of them, ns.
    pub first_ns: u64,
    /// Wall time of the last of them, ns.
    pub last_ns: u64,
    /// Why: `the reader was too slow`, or the error's text.
    pub reason: String,
}
