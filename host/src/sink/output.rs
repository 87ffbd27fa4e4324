//! One output: rendered events on their way to one destination, and what happens when that can't take them.
//!
//! Nothing here waits. What the destination does not take at once is kept, up to [`Limits::pending`] bytes; beyond that,
//! events are lost *for this output*, counted, and said in a gap line at the place where they are missing as soon as
//! there is room again. An error (a full disk) is reported once and tried again each second; a closed pipe ends the
//! output.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::packet::Frame;

use super::fd::Destination;
use super::queue::{NO_MODULE, Queue};
use super::session::{Gap, Render, SegmentEnd, SessionEnd, SessionStart};
use super::set::{Notice, Sink, SinkReport};

/// Time between two tries after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two tries while the reader is slow and nobody polls for it.
const BLOCKED_RETRY: Duration = Duration::from_millis(2);
/// After this long without taking a byte, a reader is not slow but stuck.
const STUCK: Duration = Duration::from_secs(1);
/// Longest time that bytes wait for more of them.
pub const FLUSH: Duration = Duration::from_millis(100);

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes gathered before they are written.
    pub batch: usize,
    /// Bytes kept while the destination takes none. Checked before an event is added: one event is never too large.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batch: 128 << 10, pending: 8 << 20 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Takes what it is given.
    Open,
    /// Its reader is slow.
    Blocked,
    /// An error; the next try.
    Failed(Instant),
    /// The reader is gone, or the run is over.
    Ended,
}

#[derive(Debug)]
struct Counts {
    module: Arc<str>,
    taken: u64,
    lost: u64,
}

/// One output.
pub struct Output {
    name: String,
    /// A closed pipe needs no word: that is how `| head` ends a program.
    quiet: bool,
    render: Box<dyn Render>,
    destination: Box<dyn Destination>,
    limits: Limits,
    queue: Queue,
    /// Length of the queue at the last try: the next one is due when a batch more has gathered.
    tried: usize,
    /// When the oldest bytes in the queue were first seen by a tick.
    waiting_since: Option<Instant>,
    state: State,
    /// When the destination last took something.
    progress: Instant,
    gap: Option<Gap>,
    error: Option<String>,
    modules: Vec<Counts>,
    /// Events and bytes that were put into the queue.
    taken: u64,
    bytes: u64,
    written: u64,
    after_end: u64,
    notices: Vec<Notice>,
}

impl Output {
    /// An output named `name` in notices and reports. `quiet`: end without a word when the reader is gone.
    pub fn new(
        name: &str,
        quiet: bool,
        render: Box<dyn Render>,
        destination: Box<dyn Destination>,
        limits: Limits,
    ) -> Self {
        Self {
            name: name.to_owned(),
            quiet,
            render,
            destination,
            limits,
            queue: Queue::default(),
            tried: 0,
            waiting_since: None,
            state: State::Open,
            progress: Instant::now(),
            gap: None,
            error: None,
            modules: Vec::new(),
            taken: 0,
            bytes: 0,
            written: 0,
            after_end: 0,
            notices: Vec::new(),
        }
    }

    fn number_of(&mut self, module: &Arc<str>) -> u16 {
        // A handful of modules: their names are compared by address first.
        let same = |known: &Arc<str>| Arc::ptr_eq(known, module) || known == module;
        let at = self.modules.iter().position(|known| same(&known.module)).unwrap_or_else(|| {
            self.modules.push(Counts { module: module.clone(), taken: 0, lost: 0 });
            self.modules.len() - 1
        });
        u16::try_from(at).unwrap_or(NO_MODULE - 1)
    }

    /// Room for another event? After a loss only when half of the queue is free again, so that a slow reader makes few
    /// long gaps instead of a gap at every other event.
    fn has_room(&self) -> bool {
        let limit = if self.gap.is_some() { self.limits.pending / 2 } else { self.limits.pending };
        self.queue.len() < limit.max(1)
    }

    fn lose(&mut self, module: u16, wall_ns: u64) {
        if let Some(counts) = self.modules.get_mut(usize::from(module)) {
            counts.lost += 1;
        }
        match &mut self.gap {
            Some(gap) => (gap.lost, gap.last_ns) = (gap.lost + 1, wall_ns),
            None => {
                let slow = "the reader was too slow";
                let reason = self.error.clone().unwrap_or_else(|| slow.to_owned());
                if self.error.is_none() {
                    self.notice(format!("{slow}: events are being lost here"));
                }
                self.gap = Some(Gap { lost: 1, first_ns: wall_ns, last_ns: wall_ns, reason });
            }
        }
    }

    /// Adds what `render` writes, as one that counts for this module, or counts it as lost.
    pub(super) fn entry(&mut self, module: &Arc<str>, wall_ns: u64, render: impl FnOnce(&mut Vec<u8>)) {
        if self.state == State::Ended {
            self.after_end += 1;
            return;
        }
        let module = self.number_of(module);
        if !self.has_room() {
            return self.lose(module, wall_ns);
        }
        self.put_gap();
        self.queue.push(module, render);
        self.write_if_due();
    }

    /// Adds what `render` writes, whatever waits already: it stands at the end and is small.
    pub(super) fn unlost(&mut self, render: impl FnOnce(&mut Vec<u8>)) {
        if self.state != State::Ended {
            self.put_gap();
            self.queue.push(NO_MODULE, render);
        }
    }

    fn write_if_due(&mut self) {
        let due = self.queue.len() >= self.tried + self.limits.batch;
        if due && matches!(self.state, State::Open | State::Blocked) {
            self.write();
        }
    }

    fn notice(&mut self, text: String) {
        self.notices.push(Notice { output: self.name.clone(), text });
    }

    fn put_gap(&mut self) {
        if let Some(gap) = self.gap.take() {
            self.bytes += self.queue.push(NO_MODULE, |out| self.render.gap(&gap, out)) as u64;
            self.notices.push(Notice {
                output: self.name.clone(),
                text: format!("{} events were not written ({})", gap.lost, gap.reason),
            });
        }
    }

    /// Writes until the queue is empty or the destination has enough.
    fn write(&mut self) {
        while !self.queue.is_empty() {
            match self.destination.write(self.queue.front()) {
                Ok(0) => return self.fail(&io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.progress = Instant::now();
                    let written = &mut self.written;
                    self.queue.consume(count, |module| *written += u64::from(module != NO_MODULE));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.recovered();
                    self.state = State::Blocked;
                    self.tried = self.queue.len();
                    return;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return self.end();
                }
                Err(error) => return self.fail(&error),
            }
        }
        self.recovered();
        self.state = State::Open;
        self.tried = 0;
        self.waiting_since = None;
    }

    fn recovered(&mut self) {
        if let Some(error) = self.error.take() {
            self.notice(format!("writing again (was: {error})"));
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.state = State::Failed(Instant::now() + RETRY);
        self.tried = self.queue.len();
        let text = error.to_string();
        if self.error.as_ref() != Some(&text) {
            self.notice(format!("{text}; trying again each second, events are kept or counted as lost meanwhile"));
            self.error = Some(text);
        }
    }

    /// The reader is gone: what it did not want is not lost, but not silently dropped from the counts either.
    fn end(&mut self) {
        self.state = State::Ended;
        let after_end = &mut self.after_end;
        self.queue.discard(|module| *after_end += u64::from(module != NO_MODULE));
        if !self.quiet {
            self.notice("closed by its reader; nothing more is written there".to_owned());
        }
    }

    fn abandon(&mut self) {
        let begun = self.queue.begun();
        let modules = &mut self.modules;
        let mut lost = 0;
        self.queue.discard(|module| {
            if let Some(counts) = modules.get_mut(usize::from(module)) {
                counts.lost += 1;
                lost += 1;
            }
        });
        if begun > 0 {
            self.destination.take_back(begun as u64);
        }
        if lost > 0 {
            let why = self.error.clone().unwrap_or_else(|| "the reader was too slow".to_owned());
            self.notice(format!("{lost} events were still waiting at the end and are lost ({why})"));
        }
    }
}

impl Output {
    /// Takes an event if all that was taken stays below `limit` bytes with it. False: it does not, nothing has changed, and
    /// there was an event before. A first event is always taken; one that is lost takes no room.
    pub fn event_within(&mut self, event: &Event<'_>, limit: u64) -> bool {
        self.within(event.schema.module(), event.wall_ns, limit, |render, out| render.event(event, out))
    }

    /// The same of a frame, which counts for `module`.
    pub fn packet_within(&mut self, module: &Arc<str>, frame: &Frame<'_>, limit: u64) -> bool {
        self.within(module, frame.wall_ns, limit, |render, out| render.packet(frame, out))
    }

    fn within(
        &mut self,
        module: &Arc<str>,
        wall_ns: u64,
        limit: u64,
        render: impl FnOnce(&mut dyn Render, &mut Vec<u8>),
    ) -> bool {
        if self.state == State::Ended {
            self.after_end += 1;
            return true;
        }
        let module = self.number_of(module);
        if !self.has_room() {
            self.lose(module, wall_ns);
            return true;
        }
        self.put_gap();
        let bytes = self.queue.push(module, |out| render(&mut *self.render, out)) as u64;
        if self.taken > 0 && self.bytes.saturating_add(bytes) > limit {
            if bytes > 0 {
                self.queue.take_back();
            }
            self.render.taken_back();
            return false;
        }
        self.taken += 1;
        self.bytes += bytes;
        if let Some(counts) = self.modules.get_mut(usize::from(module)) {
            counts.taken += 1;
        }
        self.write_if_due();
        true
    }

    /// Takes the last line of a file that another one follows.
    pub fn segment_end(&mut self, end: &SegmentEnd<'_>) {
        self.put_gap();
        self.queue.push(NO_MODULE, |out| self.render.segment_end(end, out));
    }

    /// Events that it has taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Module, events taken, events lost.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.modules.iter().map(|counts| (&*counts.module, counts.taken, counts.lost))
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Nothing waits to be written or said.
    pub fn is_idle(&self) -> bool {
        self.notices.is_empty() && (self.queue.is_empty() || self.state == State::Ended)
    }
}

impl Sink for Output {
    fn event(&mut self, event: &Event<'_>) {
        self.event_within(event, u64::MAX);
    }

    fn packet(&mut self, module: &Arc<str>, frame: &Frame<'_>) {
        self.packet_within(module, frame, u64::MAX);
    }

    fn session_start(&mut self, start: &SessionStart) {
        self.bytes += self.queue.push(NO_MODULE, |out| self.render.session_start(start, out)) as u64;
    }

    fn session_end(&mut self, end: &SessionEnd<'_>) {
        if self.state != State::Ended {
            self.put_gap();
            self.queue.push(NO_MODULE, |out| self.render.session_end(end, out));
        }
    }

    fn flush(&mut self) {
        if matches!(self.state, State::Open | State::Blocked) {
            self.write();
        }
    }

    fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant> {
        let mut due = None;
        if self.gap.is_some() && self.has_room() && self.state != State::Ended {
            self.put_gap();
        }
        if !self.queue.is_empty() && self.state != State::Ended {
            let since = *self.waiting_since.get_or_insert(now);
            match self.state {
                State::Failed(at) if now < at => {}
                State::Open if now < since + FLUSH => {}
                _ => self.write(),
            }
            due = match self.state {
                State::Failed(at) => Some(at),
                State::Blocked => Some(now + BLOCKED_RETRY),
                State::Open if !self.queue.is_empty() => Some(since + FLUSH),
                State::Open | State::Ended => None,
            };
        }
        notices.append(&mut self.notices);
        due
    }

    fn blocked(&self) -> Option<BorrowedFd<'_>> {
        if self.state == State::Blocked { self.destination.fd() } else { None }
    }

    fn congested(&self) -> bool {
        let full = self.queue.len() >= self.limits.pending / 2;
        self.state == State::Blocked && full && self.progress.elapsed() < STUCK
    }

    fn ended(&self) -> bool {
        self.state == State::Ended
    }

    fn finish(&mut self, deadline: Instant) {
        if self.state == State::Ended {
            return;
        }
        loop {
            self.put_gap();
            self.write();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.state != State::Blocked || left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(BLOCKED_RETRY));
        }
        self.abandon();
        self.state = State::Ended;
    }

    fn report(&self) -> SinkReport {
        SinkReport {
            name: self.name.clone(),
            written: self.written,
            lost: self.modules.iter().map(|counts| counts.lost).sum(),
            lost_by_module: self.modules.iter().map(|counts| (counts.module.to_string(), counts.lost)).collect(),
            lost_secrets: 0,
            after_end: self.after_end,
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
