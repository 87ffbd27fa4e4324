//! Puts the events of several workers in order of time.
//!
//! Each worker says up to which time it has seen everything (its watermark); what is older than the lowest watermark can
//! be written, in order. With one worker there is nothing to merge: events pass in the order of its ring, which keeps the
//! order of each thread and costs no copy.
//!
//! A worker that is dead, hangs or starts again says nothing: after [`PATIENCE`] nobody waits for it until it speaks again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Events held back at most, in bytes. Beyond it the oldest are written though a slower worker may still have older ones:
/// such events are counted as late.
const MAX_HELD: usize = 32 << 20;
/// How long a worker's watermark may stand still before the others' events are written without it. A living one moves it at
/// least every 150 ms; starting one again takes some tens of ms, or several times that on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// An event on its way: time, order of arrival, module, bytes as they came over the link.
type Held = Reverse<(u64, u64, usize, Vec<u8>)>;

/// What is known of one worker's progress.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Everything before this monotonic time has come; `u64::MAX` once the source is over.
    time_ns: u64,
    /// When that was said.
    since: Instant,
}

/// Holds events back until none that is older can come.
#[derive(Debug)]
pub struct Merge {
    held: BinaryHeap<Held>,
    bytes: usize,
    arrived: u64,
    marks: Vec<Mark>,
    /// Time of the newest event that was let go.
    released: u64,
}

impl Merge {
    /// For so many sources.
    #[must_use]
    pub fn new(sources: usize, now: Instant) -> Self {
        let mark = Mark { time_ns: 0, since: now };
        Self { held: BinaryHeap::new(), bytes: 0, arrived: 0, marks: vec![mark; sources], released: 0 }
    }

    /// True if events can go straight through.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.marks.len() <= 1
    }

    /// Takes an event; false if it is late: a younger one has been written already.
    pub fn push(&mut self, source: usize, time_ns: u64, bytes: &[u8]) -> bool {
        self.arrived += 1;
        self.bytes += bytes.len();
        self.held.push(Reverse((time_ns, self.arrived, source, bytes.to_vec())));
        time_ns >= self.released
    }

    /// A source has said everything up to this time.
    pub fn watermark(&mut self, source: usize, time_ns: u64, now: Instant) {
        if let Some(mark) = self.marks.get_mut(source)
            && time_ns > mark.time_ns
        {
            *mark = Mark { time_ns, since: now };
        }
    }

    /// Nothing more will come from this source.
    pub fn over(&mut self, source: usize, now: Instant) {
        self.watermark(source, u64::MAX, now);
    }

    /// The links were not looked at for a while, for reasons of our own: no worker is to blame for its silence.
    pub fn pause(&mut self, now: Instant) {
        for mark in &mut self.marks {
            mark.since = now;
        }
    }

    /// Up to this time every source has said everything.
    #[must_use]
    pub fn told_ns(&self) -> u64 {
        self.marks.iter().map(|mark| mark.time_ns).min().unwrap_or(u64::MAX)
    }

    /// The next event that may be written: source and bytes.
    pub fn pop(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let Reverse((time, ..)) = self.held.peek()?;
        let waits_for = |mark: &Mark| *time >= mark.time_ns && now.saturating_duration_since(mark.since) < PATIENCE;
        if self.bytes <= MAX_HELD && self.marks.iter().any(waits_for) {
            return None;
        }
        let Reverse((time, _, source, bytes)) = self.held.pop()?;
        self.bytes -= bytes.len();
        self.released = self.released.max(time);
        Some((source, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(merge: &mut Merge, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| merge.pop(now)).map(|(_, bytes)| bytes[0]).collect()
    }

    #[test]
    fn events_wait_for_the_slowest_source() {
        let now = Instant::now();
        let mut merge = Merge::new(2, now);
        assert!(merge.push(0, 10, b"a"));
        assert!(merge.push(0, 30, b"c"));
        merge.watermark(0, 100, now);
        assert!(merge.pop(now).is_none());
        assert!(merge.push(1, 20, b"b"));
        merge.watermark(1, 25, now);
        assert_eq!(all(&mut merge, now), b"ab");
        merge.over(1, now);
        assert_eq!(all(&mut merge, now), b"c");
    }

    #[test]
    fn equal_times_keep_the_order_of_arrival() {
        let now = Instant::now();
        let mut merge = Merge::new(2, now);
        for byte in b"xyz" {
            merge.push(1, 5, &[*byte]);
        }
        merge.over(0, now);
        merge.over(1, now);
        assert_eq!(all(&mut merge, now), b"xyz");
    }

    #[test]
    fn a_late_event_is_known_as_such() {
        let now = Instant::now();
        let mut merge = Merge::new(2, now);
        merge.push(0, 50, b"a");
        merge.watermark(0, 60, now);
        merge.watermark(1, 60, now);
        assert_eq!(all(&mut merge, now), b"a");
        assert!(!merge.push(1, 40, b"b"));
    }

    #[test]
    fn memory_is_bounded_by_letting_the_oldest_go() {
        let now = Instant::now();
        let mut merge = Merge::new(2, now);
        let big = vec![0; MAX_HELD / 2 + 1];
        merge.push(0, 1, &big);
        assert!(merge.pop(now).is_none());
        merge.push(0, 2, &big);
        assert!(merge.pop(now).is_some());
        assert!(merge.pop(now).is_none());
    }

    #[test]
    fn nobody_waits_for_ever_for_a_worker_that_is_silent() {
        let start = Instant::now();
        let mut merge = Merge::new(2, start);
        let at = |ms| start + Duration::from_millis(ms);
        merge.push(0, 10, b"a");
        merge.watermark(0, 20, at(100));
        assert!(merge.pop(at(1999)).is_none());
        assert_eq!(all(&mut merge, at(2000)), b"a");
        // It speaks again: what it kept is late, and from then on it is waited for.
        assert!(!merge.push(1, 5, b"b"));
        merge.watermark(1, 30, at(2100));
        merge.watermark(0, 60, at(2100));
        assert_eq!(all(&mut merge, at(2100)), b"b");
        merge.push(0, 40, b"c");
        assert!(merge.pop(at(2200)).is_none());
        merge.watermark(1, 50, at(2300));
        assert_eq!(all(&mut merge, at(2300)), b"c");
    }

    #[test]
    fn a_pause_of_our_own_is_nobodys_silence() {
        let start = Instant::now();
        let mut merge = Merge::new(2, start);
        merge.push(0, 10, b"a");
        merge.watermark(0, 20, start);
        merge.pause(start + PATIENCE);
        assert!(merge.pop(start + PATIENCE).is_none());
        assert!(merge.pop(start + 2 * PATIENCE).is_some());
    }
}
