//! The worker's side of the ring: reads records in place, says when they are done with, and knocks the doorbell on.
//!
//! aya's reader publishes its position with each record and calls `bpf(2)`; a worker must publish only what has been handed
//! over, and may not call `bpf(2)`. Must not live here: what a record means, and waiting (`epoll` on the ring's descriptor).
//!
//! Layout (kernel, `kernel/bpf/ringbuf.c`): page 0 = the reader's position, writable by us; page 1 = the writer's position;
//! then the data, mapped twice in a row so that no record is broken at the end. A record: `u32` length with two flag bits,
//! `u32` page offset, then the data, padded to 8. Positions count bytes for ever.
#![expect(unsafe_code, reason = "slices of memory that the kernel writes; each with its argument")]

use super::mmap::{Mapping, Word, page_size};
use std::{
    cell::Cell,
    io,
    os::fd::AsFd,
    sync::atomic::{Ordering, fence},
};

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;

/// Why a ring cannot be used, or a position cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Not a power of two of whole pages.
    #[error("a ring of {0} bytes: the size must be a power of two and a multiple of the page size")]
    Size(usize),
    /// The kernel refuses to map it: another size, or not a ring.
    #[error("cannot map the ring")]
    Map(#[source] io::Error),
    /// The reader's position in the ring is not one that a reader leaves.
    #[error("the ring's positions are odd: read {consumed}, written {produced}, {size} bytes")]
    Position {
        /// The reader's position.
        consumed: u64,
        /// The writer's position.
        produced: u64,
        /// Bytes of the ring.
        size: u64,
    },
    /// `commit` was given a position that is not the end of a record that `next` gave out.
    #[error("position {wanted} was not reached: published {published}, read up to {read}")]
    Commit {
        /// What was asked for.
        wanted: u64,
        /// What is published.
        published: u64,
        /// What has been read.
        read: u64,
    },
}

/// A finished record, in the ring's memory. The slice is good until `commit`.
#[derive(Debug, Clone, Copy)]
pub struct RingRecord<'a> {
    /// Where it starts.
    pub start: u64,
    /// Where it ends: what to commit when it is done with.
    pub end: u64,
    /// What the program submitted.
    pub data: &'a [u8],
}

/// A reader. One at a time for a ring: two would both get everything, and publish over each other.
#[derive(Debug)]
pub struct Ring {
    consumer: Mapping,
    producer: Mapping,
    size: u64,
    published: u64,
    /// Where the next record starts. A `Cell`, so that `next` borrows shared: records of a whole batch live side by side,
    /// and `commit`, which gives their memory back, cannot be called before all are let go.
    read: Cell<u64>,
    odd: Cell<bool>,
}

impl Ring {
    /// Maps the ring behind `fd`, of `size` bytes, and goes on where the last reader's `commit` ended.
    pub fn open(fd: impl AsFd, size: usize) -> Result<Self, RingError> {
        let page = page_size();
        if !size.is_power_of_two() || !size.is_multiple_of(page) || size > 1 << 31 {
            return Err(RingError::Size(size));
        }
        let consumer = Mapping::new(fd.as_fd(), 0, page, true).map_err(RingError::Map)?;
        let producer = Mapping::new(fd.as_fd(), page, page + 2 * size, false).map_err(RingError::Map)?;
        Self::over(consumer, producer, size as u64)
    }

    fn over(consumer: Mapping, producer: Mapping, size: u64) -> Result<Self, RingError> {
        let consumed = consumer.word(0).map_or(0, |w| w.load(Ordering::Acquire));
        let ring =
            Self { consumer, producer, size, published: consumed, read: Cell::new(consumed), odd: Cell::new(false) };
        let produced = ring.produced();
        if !consumed.is_multiple_of(8) || produced.wrapping_sub(consumed) > size {
            return Err(RingError::Position { consumed, produced, size });
        }
        Ok(ring)
    }

    /// The next finished record, or `None` if there is none yet. Records that were given up by their program are skipped.
    ///
    /// No `Iterator`: one that answered `None` is taken for finished, and a ring never is.
    pub fn next(&self) -> Option<RingRecord<'_>> {
        if self.odd.get() {
            return None;
        }
        let produced = self.produced();
        loop {
            let start = self.read.get();
            let ready = produced.wrapping_sub(start);
            if ready == 0 {
                return None;
            }
            // `size` is at most 2 GiB and the data starts after one page: no sum below overflows.
            let at = page_size() + (start & (self.size - 1)) as usize;
            let header = self.producer.half(at).map_or(BUSY, |h| h.load(Ordering::Acquire));
            if header & BUSY != 0 {
                return None; // reserved, and its program still writes it
            }
            let len = header & !(BUSY | DISCARD);
            let whole = (u64::from(len) + HEADER).next_multiple_of(8);
            if ready > self.size || whole > ready {
                self.odd.set(true);
                return None;
            }
            // SAFETY: the kernel has finished this record (acquired above) and no program can write it any more; its memory
            // is reused only after `commit`, which needs `&mut self` and so the end of this borrow.
            let data = unsafe { self.producer.bytes(at + HEADER as usize, len as usize) };
            let end = start.wrapping_add(whole);
            self.read.set(end);
            if header & DISCARD == 0 {
                return data.map(|data| RingRecord { start, end, data });
            }
        }
    }

    /// Publishes that all up to `position` is done with: the end of a record that `next` gave out. The kernel may overwrite
    /// it at once. The same position again is no error.
    pub fn commit(&mut self, position: u64) -> Result<(), RingError> {
        let (published, read) = (self.published, self.read.get());
        if position.wrapping_sub(published) > read.wrapping_sub(published) || !position.is_multiple_of(8) {
            return Err(RingError::Commit { wanted: position, published, read });
        }
        self.consumer.store(0, position, Ordering::Release);
        self.published = position;
        Ok(())
    }

    /// Publishes all that `next` has walked over, given-up records included.
    pub fn commit_all(&mut self) {
        let read = self.read.get();
        self.consumer.store(0, read, Ordering::Release);
        self.published = read;
    }

    /// The published position.
    pub fn position(&self) -> u64 {
        self.published
    }

    /// Where `next` will look.
    pub fn read_position(&self) -> u64 {
        self.read.get()
    }

    /// The writer's position: up to where room has been reserved.
    pub fn produced(&self) -> u64 {
        self.producer.word(0).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Bytes of the ring.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The memory made no sense (a length beyond what was written): nothing more is read from this ring.
    pub fn is_odd(&self) -> bool {
        self.odd.get()
    }
}

/// The flag that asks programs for a wake-up. While records come nobody needs one; before it sleeps, a reader arms it.
///
/// Order for a reader that wants to sleep: `arm`, then look into the ring once more, then wait on its descriptor. A program
/// submits, then looks at the flag, with a full barrier between: one of the two sees the other.
#[derive(Debug)]
pub struct Doorbell(Word);

impl Doorbell {
    /// Maps the flag behind `fd`.
    pub fn open(fd: impl AsFd) -> io::Result<Self> {
        Word::open(fd).map(Self)
    }

    /// The next record shall wake the reader. After it, look into the ring once more before sleeping.
    pub fn arm(&self) {
        self.0.set(1);
        fence(Ordering::SeqCst);
    }

    /// No wake-ups while the reader is awake.
    pub fn disarm(&self) {
        self.0.set(0);
    }

    /// It is still armed: no program has rung since.
    pub fn is_armed(&self) -> bool {
        self.0.get() != 0
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
