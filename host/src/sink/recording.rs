//! `--record`: the raw records, in the format of [`crate::recording`]. Events pass it by.
//!
//! What holds for every output holds here: a full disk is reported, tried again and counted, and stops nobody.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;
use std::{io, mem};

use crate::event::Event;
use crate::protocol::KernelTotals;
use crate::recording::format::{self, Ended, kind};

use super::fd::{FdDestination, Sharing};
use super::output::{Limits, Output};
use super::session::{Gap, Render, SessionEnd, SessionStart};
use super::set::{Notice, Sink, SinkReport};

/// Blocks.
#[derive(Debug, Default)]
struct Blocks {
    /// The header as JSON, until it is written.
    header: Vec<u8>,
}

impl Render for Blocks {
    fn event(&mut self, _: &Event<'_>, _: &mut Vec<u8>) {}

    fn session_start(&mut self, _: &SessionStart, out: &mut Vec<u8>) {
        out.extend_from_slice(&format::MAGIC);
        format::push(out, kind::HEADER, 0, 0, &mem::take(&mut self.header));
    }

    fn session_end(&mut self, _: &SessionEnd<'_>, _: &mut Vec<u8>) {}

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        format::push(out, kind::GAP, 0, gap.lost, &[]);
    }
}

/// The recording of a run.
pub struct Recording(Output);

impl Recording {
    /// Into this file. `header`: [`crate::recording::Header`] as JSON.
    ///
    /// # Errors
    /// The descriptor cannot be looked at.
    pub fn new(name: &str, header: Vec<u8>, fd: OwnedFd) -> io::Result<Self> {
        let destination = FdDestination::new(fd, Sharing::Own)?;
        let render = Box::new(Blocks { header });
        Ok(Self(Output::new(name, false, render, Box::new(destination), Limits::default())))
    }
}

impl Sink for Recording {
    fn event(&mut self, _: &Event<'_>) {}

    fn record(&mut self, name: &Arc<str>, module: u8, end: u64, bytes: &[u8]) {
        self.0.entry(name, 0, |out| format::push(out, kind::RECORD, module, end, bytes));
    }

    fn target(&mut self, module: u8, number: u32, path: &str) {
        self.0.unlost(|out| format::push(out, kind::TARGET, module, number.into(), path.as_bytes()));
    }

    fn session_start(&mut self, start: &SessionStart) {
        self.0.session_start(start);
    }

    fn session_end(&mut self, end: &SessionEnd<'_>) {
        self.0.session_end(end);
    }

    fn totals(&mut self, monotonic_ns: u64, modules: &[KernelTotals]) {
        let ended = Ended { monotonic_ns, modules: modules.to_vec() };
        self.0.unlost(|out| format::push(out, kind::END, 0, 0, &serde_json::to_vec(&ended).unwrap_or_default()));
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant> {
        self.0.tick(now, notices)
    }

    fn finish(&mut self, deadline: Instant) {
        self.0.finish(deadline);
    }

    fn report(&self) -> SinkReport {
        self.0.report()
    }

    fn blocked(&self) -> Option<BorrowedFd<'_>> {
        self.0.blocked()
    }

    fn congested(&self) -> bool {
        self.0.congested()
    }
}
