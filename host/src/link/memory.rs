//! The shared memory of a link: its layout, how it is made and mapped, and every access to it.
//!
//! Nobody gets a `&[u8]` onto this memory: the other side may write at any time, and a slice promises that it does not.
#![expect(unsafe_code, reason = "memory shared with another process")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

use super::{LinkError, io_error};

/// Bytes of the control page in front of the data.
pub(super) const CONTROL: usize = 4096;
/// Bytes of a message's header; every message starts at a multiple of it.
pub(super) const HEAD: u64 = 16;
/// `now_at` of a worker that is not in the middle of a record.
pub(super) const NOWHERE: u64 = u64::MAX;

// Words of the control page, each on a cache line of its own.
const PRODUCED: usize = 0; // written by the producer
const CONSUMED: usize = 64; // written by the consumer, which never reads it back
const ARMED: usize = 128; // set by the consumer, taken by the producer
const NOW_AT: usize = 192; // written by the producer, read by the broker after a crash

pub(super) const SIZES: std::ops::RangeInclusive<u64> = (16 << 10)..=(1 << 30);

/// A message's header as it lies in memory: little endian, so one word each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) pos: u64,
}

pub(super) mod kind {
    pub const EVENT: u16 = 1;
    pub const HELLO: u16 = 2;
    pub const BATCH_END: u16 = 3;
    pub const LOG: u16 = 4;
    pub const RECORD: u16 = 5;
    pub const PAD: u16 = 0xFFFF;
}

/// A new link as the broker holds it: both descriptors go to the collector once and to each worker in turn.
#[derive(Debug)]
pub struct Link {
    /// The ring; its size can't be changed (a hostile producer could else cut it and end the collector by SIGBUS).
    pub ring: OwnedFd,
    /// The doorbell: an eventfd, non-blocking, that the producer writes when the consumer sleeps.
    pub bell: OwnedFd,
    /// Bytes of data; the other sides have to be told.
    pub size: u64,
}

/// Makes a link with `size` bytes of data: a power of two from 16 KiB to 1 GiB. Messages are at most a quarter of it.
pub fn create(size: u64) -> Result<Link, LinkError> {
    if !size.is_power_of_two() || !SIZES.contains(&size) {
        return Err(LinkError::Size(size));
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let ring = memfd_create("ecapture link", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("ecapture link", flags))
        .map_err(io_error("memfd_create"))?;
    ftruncate(&ring, CONTROL as u64 + size).map_err(io_error("ftruncate"))?;
    // Before any worker has started, none is in the middle of a record (0 would be the first record's position).
    rustix::io::pwrite(&ring, &NOWHERE.to_ne_bytes(), NOW_AT as u64).map_err(io_error("pwrite"))?;
    fcntl_add_seals(&ring, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(io_error("fcntl"))?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io_error("eventfd"))?;
    Ok(Link { ring, bell, size })
}

/// A mapping of the whole link.
#[derive(Debug)]
pub(super) struct Memory {
    /// Start of at least `CONTROL + size` bytes, mapped readable and writable for as long as this value lives.
    base: *mut u8,
    size: u64,
    _map: Option<MmapRaw>,
}

// SAFETY: the mapping belongs to the value and not to a thread, and all access through it is atomic or by copying.
unsafe impl Send for Memory {}

impl Memory {
    pub(super) fn map(ring: BorrowedFd<'_>, size: u64) -> Result<Memory, LinkError> {
        check(ring, size)?;
        let map =
            MmapOptions::new().len(CONTROL + size as usize).map_raw(ring.as_raw_fd()).map_err(io_error("mmap"))?;
        Ok(Memory { base: map.as_mut_ptr(), size, _map: Some(map) })
    }

    /// # Safety
    ///
    /// `base` must be the start of `CONTROL + size` bytes, page-aligned, mapped readable and writable while the value
    /// lives.
    #[cfg(test)]
    pub(super) unsafe fn at(base: *mut u8, size: u64) -> Memory {
        Memory { base, size, _map: None }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Longest message, header and padding included.
    pub(super) fn max_message(&self) -> u64 {
        self.size / 4
    }

    fn word(&self, byte: usize) -> &AtomicU64 {
        debug_assert!(byte + 8 <= CONTROL && byte.is_multiple_of(8));
        // SAFETY: inside the control page, aligned (the base is page-aligned), and only ever accessed as an atomic
        // here.
        unsafe { AtomicU64::from_ptr(self.base.add(byte).cast()) }
    }

    pub(super) fn produced(&self) -> &AtomicU64 {
        self.word(PRODUCED)
    }

    pub(super) fn consumed(&self) -> &AtomicU64 {
        self.word(CONSUMED)
    }

    pub(super) fn armed(&self) -> &AtomicU64 {
        self.word(ARMED)
    }

    pub(super) fn now_at(&self) -> &AtomicU64 {
        self.word(NOW_AT)
    }

    /// Bytes from `pos` to the end of the data; a multiple of [`HEAD`], at least [`HEAD`].
    pub(super) fn room(&self, pos: u64) -> u64 {
        self.size - self.offset(pos)
    }

    /// Where the message at `pos` lies in the data. Whatever `pos` is, a header fits there.
    fn offset(&self, pos: u64) -> u64 {
        pos & (self.size - 1) & !(HEAD - 1)
    }

    fn head_words(&self, pos: u64) -> (&AtomicU64, &AtomicU64) {
        // SAFETY: offset() is a multiple of 16 below size, so both words are inside the data and aligned.
        unsafe {
            let at = self.base.add(CONTROL + self.offset(pos) as usize);
            (AtomicU64::from_ptr(at.cast()), AtomicU64::from_ptr(at.add(8).cast()))
        }
    }

    /// A copy of the header at `pos`: what is judged is what is used.
    pub(super) fn read_head(&self, pos: u64) -> Head {
        let (first, second) = self.head_words(pos);
        let word = u64::from_le(first.load(Ordering::Relaxed));
        let pos = u64::from_le(second.load(Ordering::Relaxed));
        Head { len: word as u32, kind: (word >> 32) as u16, flags: (word >> 48) as u16, pos }
    }

    pub(super) fn write_head(&self, pos: u64, head: Head) {
        let (first, second) = self.head_words(pos);
        let word = u64::from(head.len) | u64::from(head.kind) << 32 | u64::from(head.flags) << 48;
        first.store(word.to_le(), Ordering::Relaxed);
        second.store(head.pos.to_le(), Ordering::Relaxed);
    }

    /// Copies `len` bytes behind the header at `pos` into `into`, which then holds nothing else. `false`: they would
    /// reach beyond the data.
    #[must_use]
    pub(super) fn read_payload(&self, pos: u64, len: u32, into: &mut Vec<u8>) -> bool {
        into.clear();
        if HEAD + u64::from(len) > self.room(pos) {
            return false;
        }
        let len = len as usize;
        into.reserve(len);
        // SAFETY: the source is inside the data (checked above), the target has room for `len` bytes and is ours. The
        // other process may write meanwhile: each byte copied is then an old or a new one, and any byte is a valid u8.
        // The copy is private: nobody looks at the shared bytes again.
        unsafe {
            let from = self.base.add(CONTROL + self.offset(pos) as usize + HEAD as usize);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), len);
            into.set_len(len);
        }
        true
    }

    /// `false`: it would reach beyond the data, and nothing is written.
    #[must_use]
    pub(super) fn write_payload(&self, pos: u64, payload: &[u8]) -> bool {
        if HEAD + payload.len() as u64 > self.room(pos) {
            return false;
        }
        // SAFETY: the target is inside the data (checked above); the consumer does not look at it before the position
        // is published, and a consumer that did would copy bytes, no more.
        unsafe {
            let to = self.base.add(CONTROL + self.offset(pos) as usize + HEAD as usize);
            std::ptr::copy_nonoverlapping(payload.as_ptr(), to, payload.len());
        }
        true
    }
}

/// Header, payload, and padding up to the next header.
pub(super) fn padded(len: u64) -> u64 {
    (HEAD + len).next_multiple_of(HEAD)
}

fn check(ring: BorrowedFd<'_>, size: u64) -> Result<(), LinkError> {
    if !size.is_power_of_two() || !SIZES.contains(&size) {
        return Err(LinkError::Size(size));
    }
    let length = fstat(ring).map_err(io_error("fstat"))?.st_size;
    let seals = fcntl_get_seals(ring).map_err(io_error("fcntl"))?;
    let sealed = seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    if u64::try_from(length).is_ok_and(|l| l >= CONTROL as u64 + size) && sealed {
        Ok(())
    } else {
        Err(LinkError::Foreign)
    }
}

/// The broker's view: only the control page, read-only. What it shows is the worker's word, good for deciding about the
/// worker's own stream and for nothing else.
#[derive(Debug)]
pub struct Observer {
    map: MmapRaw,
}

impl Observer {
    /// Maps the control page of a link.
    pub fn new(link: &Link) -> Result<Observer, LinkError> {
        check(link.ring.as_fd(), link.size)?;
        let map = MmapOptions::new().len(CONTROL).map_raw_read_only(link.ring.as_raw_fd()).map_err(io_error("mmap"))?;
        Ok(Observer { map })
    }

    fn read(&self, byte: usize) -> u64 {
        // SAFETY: inside the mapped control page and aligned. The page is read-only: a relaxed load of 8 bytes is what
        // may be done to such memory, and nothing else is.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(byte).cast()) }.load(Ordering::Relaxed)
    }

    /// Position (in the eBPF ring) of the record that the worker was decoding when it was last heard of.
    pub fn now_at(&self) -> Option<u64> {
        Some(self.read(NOW_AT)).filter(|at| *at != NOWHERE)
    }

    /// Bytes that were published so far. Grows while the worker lives and has something to say.
    pub fn produced(&self) -> u64 {
        self.read(PRODUCED)
    }

    /// Bytes published that the collector has not read yet.
    pub fn waiting(&self) -> u64 {
        self.read(PRODUCED).wrapping_sub(self.read(CONSUMED))
    }
}
