//! Memory shared with the kernel: whole pages of a map, read or written without system calls.
//!
//! No aya and no `bpf(2)` in here: a worker, which may do neither, uses it too.
#![expect(unsafe_code, reason = "mappings; this file is where they are kept")]
#![expect(clippy::disallowed_methods, reason = "mappings; this file is where they are kept")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Bytes of a page.
pub(super) fn page_size() -> usize {
    rustix::param::page_size()
}

/// A shared mapping, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the memory belongs to no thread; access to it goes through atomics or is `unsafe` with its own argument.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn new(fd: BorrowedFd<'_>, offset: usize, len: usize, writable: bool) -> io::Result<Self> {
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a new mapping at a place of the kernel's choice changes no memory that anybody has.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { start, len, writable })
    }

    /// The word at `offset`, or `None` if that is outside or not on a multiple of 8.
    pub fn word(&self, offset: usize) -> Option<&AtomicU64> {
        let inside = offset.is_multiple_of(8) && offset.checked_add(8)? <= self.len;
        // SAFETY: inside the mapping and aligned (a mapping starts on a page); lives as long as `self`; others change it, so
        // it is seen as an atomic only. A read-only mapping is only loaded from: see `store`.
        inside.then(|| unsafe { self.start.add(offset).cast().as_ref() })
    }

    /// Stores a word; a mapping without write permission, or an offset outside, is left alone.
    pub fn store(&self, offset: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(offset).filter(|_| self.writable) {
            word.store(value, order);
        }
    }

    /// The half word at `offset`, or `None` if that is outside or not on a multiple of 4.
    pub fn half(&self, offset: usize) -> Option<&AtomicU32> {
        let inside = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.len;
        // SAFETY: as in `word`.
        inside.then(|| unsafe { self.start.add(offset).cast().as_ref() })
    }

    /// Bytes of the mapping, or `None` if they are not all inside.
    ///
    /// # Safety
    /// Nobody may write them while the slice lives.
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        let inside = offset.checked_add(len)? <= self.len;
        // SAFETY: inside the mapping, which lives as long as `self`; that it does not change is the caller's promise.
        inside.then(|| unsafe { std::slice::from_raw_parts(self.start.add(offset).as_ptr(), len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and all borrows of it have ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The numbers of a `BPF_F_MMAPABLE` array, read with no system call while programs count. Read only.
#[derive(Debug)]
pub struct Counters {
    memory: Mapping,
    count: usize,
}

impl Counters {
    /// Maps `count` words of the map behind `fd`.
    pub fn open(fd: impl AsFd, count: usize) -> io::Result<Self> {
        let len = count.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?.next_multiple_of(page_size());
        Ok(Self { memory: Mapping::new(fd.as_fd(), 0, len, false)?, count })
    }

    /// The value of counter `index`; 0 for one that is not there.
    pub fn get(&self, index: usize) -> u64 {
        if index >= self.count {
            return 0;
        }
        self.memory.word(index * 8).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// One word of a `BPF_F_MMAPABLE` array, shared with programs.
#[derive(Debug)]
pub struct Word(Mapping);

impl Word {
    /// Maps the first word of the map behind `fd`, for reading and writing.
    pub fn open(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self(Mapping::new(fd.as_fd(), 0, page_size(), true)?))
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.word(0).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Sets it, in one order with all other sequentially consistent accesses of this thread.
    pub fn set(&self, value: u64) {
        self.0.store(0, value, Ordering::SeqCst);
    }
}
