//! The collector's end of the packet ring: records read in place, frames that came in parts put together.
//!
//! The ring is read where it is written out: one copy from the kernel, none after it. Must not live here: what becomes of a
//! frame, and how the ring is made.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::Packet;
use super::record::Record;
use crate::bpf::{Doorbell, Ring};

/// Frames in parts that are waited for at once, at most: as many as there are CPUs that send one.
const PARTS: usize = 256;
/// No frame is longer: the kernel's limit for a segment is 512 KiB.
const LONGEST: usize = 1 << 20;
/// While frames come the ring is looked at so often, and nobody is woken.
pub const BUSY: Duration = Duration::from_millis(2);
/// So long after the last frame.
const QUIET: Duration = Duration::from_millis(20);

/// What was read, and what was wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Frames that were handed on.
    pub seen: u64,
    /// Records that are none, and parts without their beginning.
    pub malformed: u64,
}

/// The reader.
#[derive(Debug)]
pub struct Reader {
    ring: Ring,
    doorbell: Doorbell,
    fd: OwnedFd,
    joiner: Joiner,
    last: Instant,
    armed: bool,
}

impl Reader {
    /// Maps ring and doorbell.
    ///
    /// # Errors
    /// In words.
    pub fn open(ring: OwnedFd, doorbell: &OwnedFd, bytes: u64) -> Result<Self, String> {
        let size = usize::try_from(bytes).map_err(|e| e.to_string())?;
        Ok(Self {
            doorbell: Doorbell::open(doorbell.as_fd()).map_err(|e| format!("packets: doorbell: {e}"))?,
            ring: Ring::open(ring.as_fd(), size).map_err(|e| format!("packets: {e}"))?,
            fd: ring,
            joiner: Joiner::default(),
            last: Instant::now(),
            armed: false,
        })
    }

    /// Up to where the ring is written now.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.ring.produced()
    }

    /// Hands frames to `each` until those before `until` are taken, or so many bytes; how many records were taken.
    pub fn drain(&mut self, until: u64, budget: u64, mut each: impl FnMut(&Packet<'_>)) -> usize {
        let (mut taken, mut bytes) = (0, 0);
        while bytes < budget && self.ring.read_position() < until {
            let Some(record) = self.ring.next() else { break };
            bytes += record.data.len() as u64;
            taken += 1;
            self.joiner.take(record.data, &mut each);
        }
        self.ring.commit_all();
        if taken > 0 {
            self.last = Instant::now();
        }
        taken
    }

    /// Everything that was written is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.read_position() == self.ring.produced() || self.ring.is_odd()
    }

    /// Before a sleep: `Some` is its longest time, while frames come; else the next frame is to ring, and may already have
    /// come (zero).
    pub fn prepare_sleep(&mut self) -> Option<Duration> {
        if self.last.elapsed() < QUIET {
            return Some(BUSY);
        }
        self.doorbell.arm();
        self.armed = true;
        (!self.is_empty()).then_some(Duration::ZERO)
    }

    /// After a sleep.
    pub fn awake(&mut self) {
        if std::mem::take(&mut self.armed) {
            self.doorbell.disarm();
        }
    }

    /// To be waited for.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What was read so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.joiner.counts
    }
}

/// A frame of which not all has come.
#[derive(Debug)]
struct Begun {
    first: Vec<u8>,
    data: Vec<u8>,
}

/// Puts frames together. Parts of one frame come in order; between them, those of other CPUs.
#[derive(Debug, Default)]
struct Joiner {
    begun: BTreeMap<u64, Begun>,
    counts: Counts,
}

impl Joiner {
    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(&Packet<'_>)) {
        let Some(record) = Record::parse(bytes) else {
            self.counts.malformed += 1;
            return;
        };
        match (record.offset, record.last) {
            (0, true) => {
                self.counts.seen += 1;
                each(&packet(&record, record.data));
            }
            (0, false) => {
                if self.begun.len() >= PARTS && self.begun.pop_first().is_some() {
                    self.counts.malformed += 1;
                }
                let begun = Begun { first: bytes.to_vec(), data: record.data.to_vec() };
                self.begun.insert(record.id, begun);
            }
            (offset, last) => {
                let fits = self
                    .begun
                    .get_mut(&record.id)
                    .filter(|b| b.data.len() == offset as usize && b.data.len() + record.data.len() <= LONGEST);
                let Some(begun) = fits else {
                    self.counts.malformed += 1;
                    return;
                };
                begun.data.extend_from_slice(record.data);
                if last && let Some(begun) = self.begun.remove(&record.id) {
                    self.counts.seen += 1;
                    if let Some(first) = Record::parse(&begun.first) {
                        each(&packet(&first, &begun.data));
                    }
                }
            }
        }
    }
}

fn packet<'a>(record: &Record<'a>, data: &'a [u8]) -> Packet<'a> {
    Packet {
        time_ns: record.time_ns,
        interface: record.interface,
        direction: record.direction,
        wire_length: record.wire,
        owner: record.owner.clone(),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::bytes;
    use super::*;

    const LAST: u32 = 2;

    fn joined(records: &[Vec<u8>]) -> (Vec<(u32, Vec<u8>)>, Counts) {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        for record in records {
            joiner.take(record, &mut |p: &Packet<'_>| out.push((p.wire_length, p.data.to_vec())));
        }
        (out, joiner.counts)
    }

    #[test]
    fn parts_of_frames_are_put_together_whoever_comes_between() {
        let part = |id, offset, flags, data: &[u8]| bytes(id, 6, offset, flags, &[0; 40], data);
        let (out, counts) = joined(&[
            part(1, 0, 0, b"ab"),
            part(2, 0, 0, b"AB"),
            part(3, 0, LAST, b"whole!"),
            part(2, 2, LAST, b"CDEF"),
            part(1, 2, 0, b"cd"),
            part(1, 4, LAST, b"e"), // its last byte found no room
        ]);
        assert_eq!(out, [(6, b"whole!".to_vec()), (6, b"ABCDEF".to_vec()), (6, b"abcde".to_vec())]);
        assert_eq!(counts, Counts { seen: 3, malformed: 0 });
    }

    #[test]
    fn what_makes_no_sense_is_counted_and_held_no_longer_than_there_is_room() {
        let part = |id, offset, data: &[u8]| bytes(id, 6, offset, 0, &[0; 40], data);
        let mut records = vec![vec![1, 2, 3], part(1, 4, b"cd"), part(2, 0, b"ab"), part(2, 1, b"b")];
        records.extend((10..10 + PARTS as u64).map(|id| part(id, 0, b"x")));
        let (out, counts) = joined(&records);
        assert!(out.is_empty());
        assert_eq!(counts, Counts { seen: 0, malformed: 4 });
    }
}
