//! The worker's end of a link.

use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::memory::{HEAD, Head, Memory, NOWHERE, kind, padded};
use super::{LinkError, flags};

/// Why a message was not put into the link.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Longer than a quarter of the ring. Nothing was written, the link is as before.
    #[error("a message of {len} bytes is too long for this link (at most {max})")]
    TooLong {
        /// Its payload.
        len: usize,
        /// The longest payload.
        max: usize,
    },
    /// The ring was full, and the caller's hook said that waiting is over. The record may be half written: the worker
    /// must end without publishing.
    #[error("the link was full and waiting for it was given up")]
    GaveUp,
    /// The consumer's position makes no sense: the link is broken.
    #[error(transparent)]
    Broken(#[from] LinkError),
}

/// The sending end. One at a time on a link: a new worker's takes over where the last one *published*.
///
/// Nothing is seen by the consumer before [`Producer::publish`], and a killed worker's unpublished messages never were.
/// All events of one record become visible together, unless they alone fill the ring: see [`Producer::split_records`].
#[derive(Debug)]
pub struct Producer {
    memory: Memory,
    bell: OwnedFd,
    /// Where the next message goes.
    head: u64,
    /// Up to here all events of their records are complete.
    whole: u64,
    /// The record whose events are being pushed.
    record: Option<u64>,
    waits: u64,
    split: u64,
}

/// While the ring is full: from short to bearable, since the consumer may be busy for long.
const FIRST_WAIT: Duration = Duration::from_micros(50);
const LONGEST_WAIT: Duration = Duration::from_millis(2);

impl Producer {
    /// Maps the ring and goes on at the last published position. `size`: as told by the broker.
    pub fn new(ring: OwnedFd, bell: OwnedFd, size: u64) -> Result<Producer, LinkError> {
        use std::os::fd::AsFd;
        Producer::over(Memory::map(ring.as_fd(), size)?, bell)
    }

    pub(super) fn over(memory: Memory, bell: OwnedFd) -> Result<Producer, LinkError> {
        let head = memory.produced().load(Ordering::Acquire);
        let producer = Producer { memory, bell, head, whole: head, record: None, waits: 0, split: 0 };
        producer.used()?;
        producer.now_at(None);
        Ok(producer)
    }

    /// Bytes from the consumer's position to our head.
    fn used(&self) -> Result<u64, LinkError> {
        let consumed = self.memory.consumed().load(Ordering::Acquire);
        let used = self.head.wrapping_sub(consumed);
        if used > self.memory.size() || !self.head.is_multiple_of(HEAD) {
            return Err(LinkError::Position { produced: self.head, consumed });
        }
        Ok(used)
    }

    /// The longest payload that [`Producer::push_event`] takes.
    pub fn max_payload(&self) -> usize {
        (self.memory.max_message() - HEAD) as usize
    }

    /// A new worker starts reading at `pos`: what it sends again up to the last position that was had is to be dropped.
    /// The first message of every worker; publish it at once.
    pub fn hello(&mut self, pos: u64, on_full: &mut dyn FnMut() -> bool) -> Result<(), PushError> {
        self.push(kind::HELLO, 0, pos, &[], on_full)
    }

    /// One event. `end` is the end position of its record in the eBPF ring: equal for all events of a record, and
    /// growing. With [`flags::FREE`] in `flags` the event belongs to no record.
    ///
    /// Full: publishes what is complete, then waits; `on_full` is called every 2 ms or more often and ends the wait
    /// with `false` (a worker looks for end of file on its control channel there).
    pub fn push_event(
        &mut self,
        flags: u16,
        end: u64,
        payload: &[u8],
        on_full: &mut dyn FnMut() -> bool,
    ) -> Result<(), PushError> {
        if flags & flags::FREE == 0 && self.record != Some(end) {
            self.whole = self.head;
            self.record = Some(end);
        }
        self.push(kind::EVENT, flags, end, payload, on_full)
    }

    /// A record as it came from the ring, for a recording; before the events that are made of it.
    pub fn push_record(&mut self, end: u64, record: &[u8], on_full: &mut dyn FnMut() -> bool) -> Result<(), PushError> {
        self.complete();
        self.push(kind::RECORD, 0, end, record, on_full)
    }

    /// All records up to `end` are decoded. What `payload` says of them is between the two sides.
    pub fn batch_end(&mut self, end: u64, payload: &[u8], on_full: &mut dyn FnMut() -> bool) -> Result<(), PushError> {
        self.complete();
        self.push(kind::BATCH_END, 0, end, payload, on_full)
    }

    /// A log line; `level` is between the two sides. Never dropped as "sent before".
    pub fn log(&mut self, level: u16, text: &[u8], on_full: &mut dyn FnMut() -> bool) -> Result<(), PushError> {
        self.push(kind::LOG, level, 0, text, on_full)
    }

    /// Makes everything visible, in one step, and wakes the consumer if it sleeps. Call it between records only.
    pub fn publish(&mut self) {
        self.complete();
        self.publish_whole();
    }

    fn complete(&mut self) {
        self.whole = self.head;
        self.record = None;
    }

    fn publish_whole(&self) {
        self.memory.produced().store(self.whole, Ordering::Release);
        // Between our store of the position and our look at the flag; the consumer has the same between the flag and
        // the position. So one of both sees the other's store, and nobody sleeps on a filled ring.
        fence(Ordering::SeqCst);
        if self.memory.armed().load(Ordering::Relaxed) == 1 && self.memory.armed().swap(0, Ordering::AcqRel) == 1 {
            // Fails only when the counter is full, and then it rings already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// The position of the record that is being decoded, for the broker to find after a crash; `None` between batches.
    pub fn now_at(&self, pos: Option<u64>) {
        self.memory.now_at().store(pos.unwrap_or(NOWHERE), Ordering::Relaxed);
    }

    /// How often the ring was full: the collector, or one of its sinks, is too slow.
    pub fn waits(&self) -> u64 {
        self.waits
    }

    /// Records whose events alone filled the ring, so that some became visible before the rest was written. Had the
    /// worker been killed just then, the rest would be lost: the price for not dropping them always.
    pub fn split_records(&self) -> u64 {
        self.split
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        pos: u64,
        payload: &[u8],
        on_full: &mut dyn FnMut() -> bool,
    ) -> Result<(), PushError> {
        let too_long = PushError::TooLong { len: payload.len(), max: self.max_payload() };
        let Ok(len) = u32::try_from(payload.len()) else { return Err(too_long) };
        let need = padded(u64::from(len));
        if need > self.memory.max_message() {
            return Err(too_long);
        }
        let room = self.memory.room(self.head);
        let pad = if need > room { room } else { 0 };
        self.wait_for(pad + need, on_full)?;
        if pad > 0 {
            self.memory.write_head(self.head, Head { len: 0, kind: kind::PAD, flags: 0, pos: 0 });
            self.head = self.head.wrapping_add(pad);
        }
        self.memory.write_head(self.head, Head { len, kind, flags, pos });
        if !self.memory.write_payload(self.head, payload) {
            // Not reachable: `need` fits into the room behind the padding. Kept as an error rather than a panic.
            return Err(LinkError::Length(len).into());
        }
        self.head = self.head.wrapping_add(need);
        Ok(())
    }

    fn wait_for(&mut self, bytes: u64, on_full: &mut dyn FnMut() -> bool) -> Result<(), PushError> {
        if self.used()? + bytes <= self.memory.size() {
            return Ok(());
        }
        if self.head.wrapping_sub(self.whole) + bytes > self.memory.size() {
            // Publishing only whole records would never make room.
            self.whole = self.head;
            self.split += 1;
        }
        self.publish_whole();
        self.waits += 1;
        let mut pause = FIRST_WAIT;
        while self.used()? + bytes > self.memory.size() {
            if !on_full() {
                return Err(PushError::GaveUp);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_WAIT);
        }
        Ok(())
    }
}
