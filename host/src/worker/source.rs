//! Where records come from: the kernel's ring, or a recording of one.

use std::cell::Cell;
use std::fs::File;
use std::io::BufReader;

use rustix::time::{ClockId, clock_gettime};

use crate::bpf::ring::{Ring, RingError, RingRecord};
use crate::event::record::Header;
use crate::recording::{Block, Ended, Reader};

/// A sequence of records. Positions count bytes for ever; a record's memory is good until it is committed.
pub trait Source {
    /// The next finished record.
    fn next(&self) -> Option<RingRecord<'_>>;
    /// Up to where there are records, finished or not.
    fn produced(&self) -> u64;
    /// All up to here is done with.
    ///
    /// # Errors
    /// A position that no record ended at.
    fn commit(&mut self, position: u64) -> Result<(), RingError>;
    /// What time it is there, `CLOCK_MONOTONIC` in ns.
    fn now_ns(&self) -> u64;
}

impl Source for Ring {
    fn now_ns(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
    }

    fn next(&self) -> Option<RingRecord<'_>> {
        Ring::next(self)
    }

    fn produced(&self) -> u64 {
        Ring::produced(self)
    }

    fn commit(&mut self, position: u64) -> Result<(), RingError> {
        Ring::commit(self, position)
    }
}

/// Bytes of records that are held at a time: what a batch of the ring has at most, so that the same messages meet.
const PORTION: usize = 1 << 20;

/// A recording, a portion at a time. The messages that are being joined borrow from nothing here: the joiner copies what
/// does not come in one piece.
pub struct Recorded {
    reader: Reader<BufReader<File>>,
    module: u8,
    bytes: Vec<u8>,
    /// End position and end in `bytes` of each record held.
    ends: Vec<(u64, usize)>,
    next: Cell<usize>,
    position: u64,
    now_ns: u64,
    /// Records of the module that were there.
    pub records: u64,
    /// Records that the recording could not take.
    pub lost: u64,
    /// How it ended: what was counted, or what is wrong with the file.
    pub end: Option<Result<Ended, String>>,
}

impl Recorded {
    /// The records of one module.
    pub fn new(reader: Reader<BufReader<File>>, module: u8, began_ns: u64) -> Self {
        Self {
            reader,
            module,
            bytes: Vec::new(),
            ends: Vec::new(),
            next: Cell::new(0),
            position: 0,
            now_ns: began_ns,
            records: 0,
            lost: 0,
            end: None,
        }
    }

    /// Reads the next portion, when all of the last one was given; false at the end.
    pub fn fill(&mut self) -> bool {
        self.bytes.clear();
        self.ends.clear();
        self.next.set(0);
        while self.end.is_none() && self.bytes.len() < PORTION {
            match self.reader.block() {
                Ok(Block::Record { module, .. }) if module != self.module => {}
                Ok(Block::Record { end, bytes, .. }) => {
                    if let Some((header, _)) = Header::parse(bytes) {
                        self.now_ns = self.now_ns.max(header.time_ns);
                    }
                    self.records += 1;
                    self.bytes.extend_from_slice(bytes);
                    // Whatever the file says, they grow: everything behind here counts on it.
                    let floor = self.ends.last().map_or(self.position, |(end, _)| *end);
                    self.ends.push((end.max(floor + 8), self.bytes.len()));
                }
                Ok(Block::Gap { lost }) => self.lost = self.lost.saturating_add(lost),
                Ok(Block::End(ended)) => self.end = Some(Ok(ended)),
                Err(damage) => self.end = Some(Err(damage.to_string())),
            }
        }
        !self.ends.is_empty()
    }
}

impl Source for Recorded {
    /// That of the last record: the same at each replay.
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn next(&self) -> Option<RingRecord<'_>> {
        let at = self.next.get();
        let (end, to) = *self.ends.get(at)?;
        let (start, from) = match at.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => (self.position, 0),
        };
        self.next.set(at + 1);
        Some(RingRecord { start, end, data: self.bytes.get(from..to)? })
    }

    fn produced(&self) -> u64 {
        self.ends.last().map_or(self.position, |(end, _)| *end)
    }

    fn commit(&mut self, position: u64) -> Result<(), RingError> {
        if self.next.get() == self.ends.len() {
            self.position = self.produced().max(position);
        }
        Ok(())
    }
}
