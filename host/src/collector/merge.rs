//! Puts the events of several workers in order of time.
//!
//! Each worker says up to which time it has seen everything (its watermark); what is older than the lowest watermark can
//! be written, in order. With one worker there is nothing to merge: events pass in the order of its ring, which keeps the
//! order of each thread and costs no copy.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events held back at most, in bytes. Beyond it the oldest are written though a slower worker may still have older ones:
/// such events are counted as late.
const MAX_HELD: usize = 32 << 20;

/// An event on its way: time, order of arrival, module, bytes as they came over the link.
type Held = Reverse<(u64, u64, usize, Vec<u8>)>;

/// Holds events back until none that is older can come.
#[derive(Debug, Default)]
pub struct Merge {
    held: BinaryHeap<Held>,
    bytes: usize,
    arrived: u64,
    /// Per source: everything before this monotonic time has come; `u64::MAX` once the source is over.
    watermarks: Vec<u64>,
    /// Time of the newest event that was let go.
    released: u64,
}

impl Merge {
    /// For so many sources.
    #[must_use]
    pub fn new(sources: usize) -> Self {
        Self { watermarks: vec![0; sources], ..Self::default() }
    }

    /// True if events can go straight through.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.watermarks.len() <= 1
    }

    /// Takes an event; false if it is late: a younger one has been written already.
    pub fn push(&mut self, source: usize, time_ns: u64, bytes: &[u8]) -> bool {
        self.arrived += 1;
        self.bytes += bytes.len();
        self.held.push(Reverse((time_ns, self.arrived, source, bytes.to_vec())));
        time_ns >= self.released
    }

    /// A source has said everything up to this time.
    pub fn watermark(&mut self, source: usize, time_ns: u64) {
        if let Some(mark) = self.watermarks.get_mut(source) {
            *mark = (*mark).max(time_ns);
        }
    }

    /// Nothing more will come from this source.
    pub fn over(&mut self, source: usize) {
        self.watermark(source, u64::MAX);
    }

    /// The next event that may be written: source and bytes.
    pub fn pop(&mut self) -> Option<(usize, Vec<u8>)> {
        let safe = self.watermarks.iter().min().copied().unwrap_or(u64::MAX);
        let Reverse((time, ..)) = self.held.peek()?;
        if *time >= safe && safe != u64::MAX && self.bytes <= MAX_HELD {
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

    fn all(merge: &mut Merge) -> Vec<u8> {
        std::iter::from_fn(|| merge.pop()).map(|(_, bytes)| bytes[0]).collect()
    }

    #[test]
    fn events_wait_for_the_slowest_source() {
        let mut merge = Merge::new(2);
        assert!(merge.push(0, 10, b"a"));
        assert!(merge.push(0, 30, b"c"));
        merge.watermark(0, 100);
        assert!(merge.pop().is_none());
        assert!(merge.push(1, 20, b"b"));
        merge.watermark(1, 25);
        assert_eq!(all(&mut merge), b"ab");
        merge.over(1);
        assert_eq!(all(&mut merge), b"c");
    }

    #[test]
    fn equal_times_keep_the_order_of_arrival() {
        let mut merge = Merge::new(2);
        for byte in b"xyz" {
            merge.push(1, 5, &[*byte]);
        }
        merge.over(0);
        merge.over(1);
        assert_eq!(all(&mut merge), b"xyz");
    }

    #[test]
    fn a_late_event_is_known_as_such() {
        let mut merge = Merge::new(2);
        merge.push(0, 50, b"a");
        merge.watermark(0, 60);
        merge.watermark(1, 60);
        assert_eq!(all(&mut merge), b"a");
        assert!(!merge.push(1, 40, b"b"));
    }

    #[test]
    fn memory_is_bounded_by_letting_the_oldest_go() {
        let mut merge = Merge::new(2);
        let big = vec![0; MAX_HELD / 2 + 1];
        merge.push(0, 1, &big);
        assert!(merge.pop().is_none());
        merge.push(0, 2, &big);
        assert!(merge.pop().is_some());
        assert!(merge.pop().is_none());
    }
}
