//! An output over several files, each complete in itself: whole lines, a first one that begins the session and a last one that
//! says whether it goes on.
//!
//! Files are opened by the broker. When one is full, or old, it is ended, and from then on a new [`Output`] takes the events; it
//! keeps them, as any output does whose destination takes nothing, until its file has come. Nothing here waits.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::packet::Frame;

use super::fd::{Destination, FdDestination, Sharing};
use super::output::{Limits, Output};
use super::session::{Render, SegmentEnd, SegmentModule, SessionEnd, SessionStart};
use super::set::{Notice, Sink, SinkReport};

/// Smallest size of a file: what an output gathers must not fill several.
pub const MIN_SIZE: u64 = 1 << 20;
/// A broker that has not answered for so long is busy with other things than opening a file.
const PATIENCE: Duration = Duration::from_secs(1);
/// Kept free in a file for its last lines: a gap, and the totals of all modules.
const RESERVE: u64 = 16 << 10;

/// When a file is ended and the next one begun; at whichever comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rotate {
    /// Before it grows beyond so many bytes. A single event that is larger gets a file of its own.
    pub size: Option<u64>,
    /// So long after its first event.
    pub time: Option<Duration>,
}

/// A file that has not come yet, or has.
#[derive(Debug, Default)]
struct File {
    open: Option<FdDestination>,
    /// It is to be asked for.
    wanted: bool,
    /// It was asked for.
    asked: bool,
    /// Why it could not be opened the last time.
    refused: Option<i32>,
    /// The output knows that; its next try is a new one.
    told: bool,
}

/// The destination of an output whose file is opened by somebody else.
#[derive(Debug, Clone, Default)]
struct Slot(Arc<Mutex<File>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, File> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The answer to a question for it.
    fn take(&self, answer: Result<OwnedFd, i32>) {
        let opened = answer
            .and_then(|fd| FdDestination::new(fd, Sharing::Own).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)));
        let mut file = self.lock();
        file.asked = false;
        match opened {
            Ok(open) => file.open = Some(open),
            Err(code) => (file.refused, file.told) = (Some(code), false),
        }
    }
}

impl Segment {
    /// Without a file.
    fn new(name: &str, render: &dyn Fn() -> Box<dyn Render>, limits: Limits) -> Self {
        let file = Slot::default();
        let output = Output::new(name, false, render(), Box::new(file.clone()), limits);
        Self { output, file }
    }
}

impl Destination for Slot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.lock();
        if let Some(open) = &mut file.open {
            return open.write(bytes);
        }
        let news = file.refused.is_some() && !std::mem::replace(&mut file.told, true);
        file.wanted |= !file.asked && !news;
        Err(file.refused.map_or_else(|| io::ErrorKind::WouldBlock.into(), io::Error::from_raw_os_error))
    }

    fn take_back(&mut self, count: u64) {
        if let Some(open) = &mut self.lock().open {
            open.take_back(count);
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // Regular files: writing never waits.
        None
    }
}

/// One file and what is on its way to it.
struct Segment {
    output: Output,
    file: Slot,
}

/// The output.
pub struct Rotating {
    name: String,
    rotate: Rotate,
    limits: Limits,
    render: Box<dyn Fn() -> Box<dyn Render> + Send>,
    start: SessionStart,
    /// Takes events.
    current: Segment,
    /// The current file has its first line.
    begun: bool,
    /// Number of the current file, from 1.
    number: u64,
    /// When it had its first event.
    opened: Instant,
    last_ns: u64,
    /// Ended, and not all written; oldest first.
    closing: VecDeque<Segment>,
    /// When a file was last asked for.
    asked: Instant,
    /// Counts of the files that are closed.
    closed: SinkReport,
}

impl Rotating {
    /// Begins with a file that is open.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn new(
        name: &str,
        rotate: Rotate,
        limits: Limits,
        render: Box<dyn Fn() -> Box<dyn Render> + Send>,
        first: OwnedFd,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let current = Segment::new(name, &render, limits);
        current.file.lock().open = Some(FdDestination::new(first, Sharing::Own)?);
        Ok(Self {
            name: name.to_owned(),
            rotate,
            limits,
            render,
            start: SessionStart::default(),
            current,
            begun: false,
            number: 1,
            opened: now,
            last_ns: 0,
            closing: VecDeque::new(),
            asked: now,
            closed: SinkReport { name: name.to_owned(), ..SinkReport::default() },
        })
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.closing.iter().chain([&self.current])
    }

    /// Bytes that wait.
    fn waiting(&self) -> usize {
        self.segments().map(|segment| segment.output.waiting()).sum()
    }

    /// Writes the first line of a file, if it has none yet.
    fn begin(&mut self, wall_ns: u64) {
        if !self.begun {
            self.begun = true;
            let start = SessionStart { wall_ns, segment: Some(self.number), ..self.start.clone() };
            self.current.output.session_start(&start);
        }
    }

    /// A file may be ended when it has an event. Not if as much waits already as an output may keep: the current file then
    /// grows, so that no more than twice that is kept.
    fn may_turn(&self) -> bool {
        self.begun && self.current.output.taken() > 0 && self.waiting() < self.limits.pending
    }

    /// Ends the current file.
    fn turn(&mut self) {
        let modules = self.current.output.counts();
        let modules: Vec<SegmentModule> =
            modules.map(|(name, events, lost)| SegmentModule { name: name.to_owned(), events, lost }).collect();
        self.current.output.segment_end(&SegmentEnd { wall_ns: self.last_ns, segment: self.number, modules: &modules });
        self.current.output.flush();
        let next = Segment::new(&self.name, &self.render, self.limits);
        self.closing.push_back(std::mem::replace(&mut self.current, next));
        self.number += 1;
        self.begun = false;
        self.sweep();
    }

    /// Closes what is written.
    fn sweep(&mut self) {
        let closed = &mut self.closed;
        self.closing.retain(|segment| {
            let done = segment.output.is_idle();
            if done {
                add(closed, segment.output.report());
            }
            !done
        });
    }

    fn is_due(&self) -> bool {
        self.rotate.time.is_some_and(|time| self.opened.elapsed() >= time)
    }

    /// The file to ask for: that of the first segment that has none. Not before all but one of those before it are written, so
    /// that a full disk does not get one empty file after the other; but not only then, since the next file may
    /// make room, by ending the life of the oldest.
    fn next_file(&self) -> Option<&Slot> {
        let unfinished = self.segments().take_while(|s| s.file.lock().open.is_some()).count();
        self.segments().nth(unfinished).filter(|_| unfinished <= 1).map(|segment| &segment.file)
    }
}

impl Rotating {
    /// Gives the current file something of this time, or the next one. `take`: as [`Output::event_within`].
    fn put(&mut self, wall_ns: u64, take: impl Fn(&mut Output, u64) -> bool) {
        if self.is_due() && self.may_turn() {
            self.turn();
        }
        self.begin(wall_ns);
        if self.current.output.taken() == 0 {
            self.opened = Instant::now();
        }
        let limit = self.rotate.size.map_or(u64::MAX, |size| size.saturating_sub(RESERVE));
        if !take(&mut self.current.output, limit) {
            if self.may_turn() {
                self.turn();
                self.begin(wall_ns);
                self.opened = Instant::now();
            }
            take(&mut self.current.output, u64::MAX);
        }
        self.last_ns = wall_ns;
    }
}

impl Sink for Rotating {
    fn event(&mut self, event: &Event<'_>) {
        self.put(event.wall_ns, |output, limit| output.event_within(event, limit));
    }

    fn packet(&mut self, module: &Arc<str>, frame: &Frame<'_>) {
        self.put(frame.wall_ns, |output, limit| output.packet_within(module, frame, limit));
    }

    fn session_start(&mut self, start: &SessionStart) {
        self.start = start.clone();
        self.last_ns = start.wall_ns;
        self.begin(start.wall_ns);
    }

    fn session_end(&mut self, end: &SessionEnd<'_>) {
        self.begin(end.wall_ns);
        self.current.output.session_end(&SessionEnd { segment: Some(self.number), ..*end });
    }

    fn flush(&mut self) {
        self.closing.iter_mut().for_each(|segment| segment.output.flush());
        self.current.output.flush();
        self.sweep();
    }

    fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant> {
        if self.is_due() && self.may_turn() {
            self.turn();
        }
        let all = self.closing.iter_mut().chain([&mut self.current]);
        let due = all.filter_map(|segment| segment.output.tick(now, notices)).min();
        self.sweep();
        let turn = self.rotate.time.filter(|_| self.may_turn()).map(|time| self.opened + time);
        [due, turn.filter(|at| *at > now)].into_iter().flatten().min()
    }

    fn finish(&mut self, deadline: Instant) {
        self.closing.iter_mut().chain([&mut self.current]).for_each(|segment| segment.output.finish(deadline));
    }

    fn report(&self) -> SinkReport {
        let mut all = self.closed.clone();
        self.segments().for_each(|segment| add(&mut all, segment.output.report()));
        all
    }

    /// Files never make a writer wait; what can is the way of the next one.
    fn congested(&self) -> bool {
        self.waiting() >= self.limits.pending / 2 && self.waits_for_file() && self.asked.elapsed() < PATIENCE
    }

    fn wants_file(&mut self) -> bool {
        let wants = self.next_file().is_some_and(|file| {
            let mut file = file.lock();
            let wants = std::mem::take(&mut file.wanted);
            file.asked |= wants;
            wants
        });
        if wants {
            self.asked = Instant::now();
        }
        wants
    }

    fn waits_for_file(&self) -> bool {
        self.next_file().is_some_and(|file| {
            let file = file.lock();
            file.refused.is_none() && (file.wanted || file.asked)
        })
    }

    fn give_file(&mut self, file: Result<OwnedFd, i32>) {
        // One that nobody asked for is closed again.
        let Some(segment) = self.closing.iter_mut().chain([&mut self.current]).find(|s| s.file.lock().asked) else {
            return;
        };
        segment.file.take(file);
        segment.output.flush();
    }
}

fn add(all: &mut SinkReport, one: SinkReport) {
    all.written += one.written;
    all.lost += one.lost;
    all.after_end += one.after_end;
    all.error = one.error;
    let mut by_module: BTreeMap<String, u64> = std::mem::take(&mut all.lost_by_module).into_iter().collect();
    one.lost_by_module.into_iter().for_each(|(module, lost)| *by_module.entry(module).or_default() += lost);
    all.lost_by_module = by_module.into_iter().collect();
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
