//! A capture file (pcapng) that carries its own secrets: Wireshark decrypts the packets in it without any other file.
//!
//! Secrets stand before the packets that need them as far as they are known by then ([`crate::packet::order`]). Each file of a
//! rotated output is complete in itself: it begins with the secrets that are still of use. What else holds for outputs holds here: a
//! full disk is reported, tried again and counted, and stops nobody; a block is written whole or taken back.

mod blocks;
mod secrets;

use std::fmt::Write as _;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::event::Event;
use crate::packet::{Frame, InterfaceTotals, MAX_FRAME};

use self::blocks::{Blocks, Head};
use self::secrets::{KEPT, Secrets};
use super::fd::{FdDestination, Sharing};
use super::output::{Limits, Output};
use super::rotate::{Rotate, Rotating};
use super::session::{Gap, Render, SegmentEnd, SessionEnd, SessionStart};
use super::set::{Notice, Sink, SinkReport};

/// What all files of an output know.
struct Shared {
    secrets: Secrets,
    /// Number of the first secret that is in no file.
    written: u64,
    /// Secrets that came into none: more came than are kept, and no frame before which they could stand.
    lost: u64,
    totals: Vec<InterfaceTotals>,
}

impl Shared {
    fn new(kept: usize) -> Self {
        Self { secrets: Secrets::new(kept), written: 0, lost: 0, totals: Vec::new() }
    }
}

/// Nothing panics while it is held.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One file.
struct File {
    shared: Arc<Mutex<Shared>>,
    blocks: Blocks,
    /// Number of the first secret that is not in it.
    secrets: u64,
    /// Events that are missing since the last frame, and why.
    missing: Option<(u64, String)>,
    /// As it was before the last frame or secret.
    before: Before,
    comment: String,
}

/// What is as it was again when a frame or secret is taken out again.
#[derive(Clone, Default)]
struct Before {
    interfaces: usize,
    secrets: u64,
    missing: Option<(u64, String)>,
    written: u64,
    lost: u64,
}

impl File {
    fn new(shared: Arc<Mutex<Shared>>) -> Self {
        Self {
            shared,
            blocks: Blocks::default(),
            secrets: 0,
            missing: None,
            before: Before::default(),
            comment: String::new(),
        }
    }

    fn remember(&mut self) {
        let (interfaces, missing) = (self.blocks.interfaces(), self.missing.clone());
        let shared = lock(&self.shared);
        self.before = Before { interfaces, secrets: self.secrets, missing, written: shared.written, lost: shared.lost };
    }

    /// All secrets that are not in it yet. Not before there is an interface: of a file that has anything else before it, editcap and others
    /// do not see what kind of link its packets are of, and refuse it.
    fn secrets(&mut self, out: &mut Vec<u8>) {
        if self.blocks.interfaces() == 0 {
            return;
        }
        let mut shared = lock(&self.shared);
        self.blocks.secrets(shared.secrets.from(self.secrets), out);
        shared.lost += shared.secrets.first().saturating_sub(shared.written);
        (self.secrets, shared.written) = (shared.secrets.next(), shared.secrets.next());
    }
}

impl Render for File {
    fn event(&mut self, _: &Event<'_>, out: &mut Vec<u8>) {
        self.remember();
        self.secrets(out);
    }

    fn packet(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        self.remember();
        self.blocks.interface(frame.interface, out);
        // Those that came before there was an interface, or found no room when they came.
        self.secrets(out);
        let missing = self.missing.take();
        let mut comments = Vec::new();
        self.comment.clear();
        if let Some(owner) = &frame.packet.owner {
            // Writing to a String cannot fail.
            let _ = write!(self.comment, "ecapture: pid={} uid={} comm=", owner.process, owner.uid);
            name(&owner.comm, &mut self.comment);
            if let Some(container) = frame.container {
                self.comment.push_str(" container=");
                name(container.as_bytes(), &mut self.comment);
            }
            comments.push(self.comment.as_str());
        }
        let gap = missing.as_ref().map(|(count, reason)| said(*count, reason));
        comments.extend(gap.as_deref());
        let cut = frame.packet.data.len().saturating_sub(MAX_FRAME);
        let cut =
            (cut > 0).then(|| format!("ecapture: the last {cut} bytes are missing: a file has {MAX_FRAME} of a frame"));
        comments.extend(cut.as_deref());
        self.blocks.packet(frame, &comments, missing.map_or(0, |(count, _)| count), out);
    }

    fn taken_back(&mut self) {
        let before = self.before.clone();
        self.blocks.keep_interfaces(before.interfaces);
        (self.secrets, self.missing) = (before.secrets, before.missing);
        let mut shared = lock(&self.shared);
        (shared.written, shared.lost) = (before.written, before.lost);
    }

    fn session_start(&mut self, start: &SessionStart, out: &mut Vec<u8>) {
        let mut comment = format!("host: {}", start.host);
        if !start.command.is_empty() {
            let _ = write!(comment, "\ncommand: {}", start.command);
        }
        if let Some(segment) = start.segment {
            let _ = write!(comment, "\nfile: {segment}");
        }
        let head = Head {
            hardware: start.arch.clone(),
            os: format!("Linux {}", start.kernel),
            application: format!("ecapture {}", start.version),
            comment,
        };
        self.blocks.section(&head, out);
        self.remember();
    }

    fn segment_end(&mut self, _: &SegmentEnd<'_>, _: &mut Vec<u8>) {}

    fn session_end(&mut self, end: &SessionEnd<'_>, out: &mut Vec<u8>) {
        self.secrets(out);
        let gap = self.missing.take().map(|(count, reason)| said(count, &reason));
        let shared = lock(&self.shared);
        self.blocks.statistics(&shared.totals, end.wall_ns, gap.as_deref(), out);
    }

    /// The next frame says it.
    fn gap(&mut self, gap: &Gap, _: &mut Vec<u8>) {
        let before = self.missing.take().map_or(0, |(count, _)| count);
        self.missing = Some((before + gap.lost, gap.reason.clone()));
    }
}

fn said(missing: u64, reason: &str) -> String {
    format!("ecapture: {missing} packets or secrets are missing here: {reason}")
}

/// A name that anybody may have chosen: what is not plain is written as `\xNN`, so that it ends at the next blank.
fn name(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

/// An output in this format.
pub struct Pcapng {
    shared: Arc<Mutex<Shared>>,
    inner: Box<dyn Sink>,
}

impl Pcapng {
    /// Into this file or pipe; with `rotate` into one file after the other, of which this is the first.
    ///
    /// # Errors
    /// The descriptor cannot be looked at.
    pub fn new(name: &str, fd: OwnedFd, shared: bool, quiet: bool, rotate: Option<Rotate>) -> io::Result<Self> {
        let sharing = if shared { Sharing::Shared } else { Sharing::Own };
        // The secrets that a file begins with must leave it room for packets.
        let size = rotate.and_then(|rotate| rotate.size).map_or(KEPT, |size| usize::try_from(size / 4).unwrap_or(KEPT));
        let shared = Arc::new(Mutex::new(Shared::new(size.min(KEPT))));
        let limits = Limits::default();
        let inner: Box<dyn Sink> = match rotate {
            Some(rotate) => {
                let shared = shared.clone();
                let render = Box::new(move || -> Box<dyn Render> { Box::new(File::new(shared.clone())) });
                Box::new(Rotating::new(name, rotate, limits, render, fd)?)
            }
            None => {
                let destination = Box::new(FdDestination::new(fd, sharing)?);
                Box::new(Output::new(name, quiet, Box::new(File::new(shared.clone())), destination, limits))
            }
        };
        Ok(Self { shared, inner })
    }
}

impl Sink for Pcapng {
    fn event(&mut self, event: &Event<'_>) {
        if event.secret && lock(&self.shared).secrets.add(event.payload) {
            self.inner.event(event);
        }
    }

    fn packet(&mut self, module: &Arc<str>, frame: &Frame<'_>) {
        self.inner.packet(module, frame);
    }

    fn interfaces(&mut self, totals: &[InterfaceTotals]) {
        lock(&self.shared).totals = totals.to_vec();
    }

    fn session_start(&mut self, start: &SessionStart) {
        self.inner.session_start(start);
        // A reader that waits learns what this is.
        self.inner.flush();
    }

    fn session_end(&mut self, end: &SessionEnd<'_>) {
        self.inner.session_end(end);
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant> {
        self.inner.tick(now, notices)
    }

    fn finish(&mut self, deadline: Instant) {
        self.inner.finish(deadline);
    }

    fn report(&self) -> SinkReport {
        SinkReport { lost_secrets: lock(&self.shared).lost, ..self.inner.report() }
    }

    fn blocked(&self) -> Option<BorrowedFd<'_>> {
        self.inner.blocked()
    }

    fn congested(&self) -> bool {
        self.inner.congested()
    }

    fn ended(&self) -> bool {
        self.inner.ended()
    }

    fn wants_file(&mut self) -> bool {
        self.inner.wants_file()
    }

    fn waits_for_file(&self) -> bool {
        self.inner.waits_for_file()
    }

    fn give_file(&mut self, file: Result<OwnedFd, i32>) {
        self.inner.give_file(file);
    }
}

#[cfg(test)]
#[path = "pcapng/tests.rs"]
mod tests;
