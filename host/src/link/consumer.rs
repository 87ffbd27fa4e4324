//! The collector's end of a link: reads what a hostile producer may have written.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use super::LinkError;
use super::memory::{HEAD, Memory, kind, padded};

/// One message, validated as far as the link knows it. Payloads are private copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A (new) worker starts at this position.
    Hello {
        /// Where it starts to read the eBPF ring.
        pos: u64,
    },
    /// An event.
    Event {
        /// As pushed; see [`super::flags`].
        flags: u16,
        /// End position of its record.
        end: u64,
        /// The event, unchecked.
        payload: &'a [u8],
    },
    /// A batch is complete.
    BatchEnd {
        /// All records up to here are decoded.
        end: u64,
        /// What the worker says of the batch, unchecked.
        payload: &'a [u8],
    },
    /// A record as it came from the eBPF ring, for a recording.
    Record {
        /// Where it ended there.
        end: u64,
        /// Header and data, unchecked.
        bytes: &'a [u8],
    },
    /// A log line, unchecked.
    Log {
        /// As pushed.
        level: u16,
        /// Not necessarily UTF-8.
        text: &'a [u8],
    },
}

/// The receiving end, for the whole life of a link: workers come and go on the other side.
#[derive(Debug)]
pub struct Consumer {
    memory: Memory,
    bell: OwnedFd,
    /// Ours alone: the shared word is for the producer and is never read back.
    pos: u64,
    copy: Vec<u8>,
}

impl Consumer {
    /// Maps the ring of a link that nobody has read from yet. `size`: as told by the broker.
    pub fn new(ring: OwnedFd, bell: OwnedFd, size: u64) -> Result<Consumer, LinkError> {
        Ok(Consumer::over(Memory::map(ring.as_fd(), size)?, bell))
    }

    pub(super) fn over(memory: Memory, bell: OwnedFd) -> Consumer {
        Consumer { memory, bell, pos: 0, copy: Vec::new() }
    }

    /// Gives each message to `f`: at most `budget` of them, and none more once `bytes` have been given, so that one worker
    /// can't keep the collector for itself. Answers how many; none means that the ring was empty.
    ///
    /// After an error the link is of no use any more: nothing behind the message that was refused can be trusted.
    pub fn drain(&mut self, budget: usize, bytes: u64, mut f: impl FnMut(Message<'_>)) -> Result<usize, LinkError> {
        let mut left = self.available()?;
        let (mut count, mut given, mut unsaid) = (0, 0, 0);
        while left > 0 && count < budget && given < bytes {
            let head = self.memory.read_head(self.pos);
            let room = self.memory.room(self.pos);
            let whole = match head.kind {
                kind::PAD => room,
                _ => padded(u64::from(head.len)),
            };
            if whole > left || whole > room || (head.kind != kind::PAD && whole > self.memory.max_message()) {
                return Err(LinkError::Length(head.len));
            }
            if head.kind != kind::PAD {
                if !self.memory.read_payload(self.pos, head.len, &mut self.copy) {
                    return Err(LinkError::Length(head.len));
                }
                let payload = &self.copy[..];
                f(match (head.kind, payload.len()) {
                    (kind::EVENT, _) => Message::Event { flags: head.flags, end: head.pos, payload },
                    (kind::HELLO, 0) => Message::Hello { pos: head.pos },
                    (kind::BATCH_END, _) => Message::BatchEnd { end: head.pos, payload },
                    (kind::RECORD, _) => Message::Record { end: head.pos, bytes: payload },
                    (kind::LOG, _) => Message::Log { level: head.flags, text: payload },
                    _ => return Err(LinkError::Kind(head.kind)),
                });
                count += 1;
            }
            self.pos = self.pos.wrapping_add(whole);
            left -= whole;
            given += whole;
            unsaid += whole;
            if unsaid >= self.memory.size() / 8 {
                // A producer that waits can go on before a long drain is over.
                self.memory.consumed().store(self.pos, Ordering::Release);
                unsaid = 0;
            }
        }
        self.memory.consumed().store(self.pos, Ordering::Release);
        Ok(count)
    }

    fn available(&self) -> Result<u64, LinkError> {
        let produced = self.memory.produced().load(Ordering::Acquire);
        let available = produced.wrapping_sub(self.pos);
        if available > self.memory.size() || !available.is_multiple_of(HEAD) {
            return Err(LinkError::Position { produced, consumed: self.pos });
        }
        Ok(available)
    }

    /// Readable when the producer rang; for poll(2).
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Asks to be woken. `true`: really empty, the caller may sleep on [`Consumer::bell`]. `false`: something came
    /// meanwhile (it is not armed any more): drain.
    pub fn arm(&self) -> bool {
        self.memory.armed().store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst); // see Producer::publish
        let empty = self.memory.produced().load(Ordering::Acquire) == self.pos;
        if !empty {
            self.memory.armed().store(0, Ordering::Relaxed);
        }
        empty
    }

    /// After the sleep, for whatever reason it ended: silences the bell. Then drain. A hostile producer that rings all
    /// the time costs a round each, no more.
    pub fn disarm(&self) {
        self.memory.armed().store(0, Ordering::Relaxed);
        // Non-blocking: nothing to read when the sleep ended for another reason.
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8][..]);
    }

    /// For the hostile tests, which go on after an error.
    #[cfg(test)]
    pub(super) fn resync(&mut self, pos: u64) {
        self.pos = pos & !(HEAD - 1);
    }
}
