//! What a module is given: a record, a target file.

use crate::abi::{RecordV1, TargetV1, record_flag};

/// One message of the kernel side, joined from its chunks. Borrowed for one call.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    raw: &'a RecordV1<'a>,
    index: u32,
}

impl<'a> Record<'a> {
    /// Of the batch's record with this index. For tests of a decoder too.
    pub fn new(raw: &'a RecordV1<'a>, index: u32) -> Self {
        Self { raw, index }
    }

    /// The message: the module's own fixed struct, then the bytes that it copied from user memory. Always a prefix of
    /// what was meant to be sent; hostile as far as it comes from user memory.
    pub fn data(&self) -> &'a [u8] {
        self.raw.data.as_slice()
    }

    /// Number of the `[[stream]]` in the manifest, 0-based.
    pub fn stream(&self) -> u16 {
        self.raw.stream
    }

    /// Number of the target file that `detect` was called for; 0 for host-wide attachments.
    pub fn target(&self) -> u32 {
        self.raw.target
    }

    /// Process id.
    pub fn process(&self) -> u32 {
        self.raw.process
    }

    /// Thread id.
    pub fn thread(&self) -> u32 {
        self.raw.thread
    }

    /// `CLOCK_MONOTONIC` in ns at which the probe fired.
    pub fn time_ns(&self) -> u64 {
        self.raw.time_ns
    }

    /// Records of this module that the kernel side lost since the one before: state built from an unbroken sequence may
    /// be wrong from here on.
    pub fn lost_before(&self) -> u64 {
        self.raw.lost_before
    }

    /// Bytes at the end of the message that did not arrive.
    pub fn missing(&self) -> u64 {
        self.raw.missing
    }

    /// The message is not whole.
    pub fn is_partial(&self) -> bool {
        self.raw.flags & (record_flag::PARTIAL | record_flag::CUT) != 0 || self.raw.missing > 0
    }

    /// The first record of this decoder, and an earlier decoder of the same run failed: what the records before taught
    /// it is lost.
    pub fn is_restart(&self) -> bool {
        self.raw.flags & record_flag::RESTARTED != 0
    }

    /// Index in the batch.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The record as it crossed the border.
    pub fn raw(&self) -> &'a RecordV1<'a> {
        self.raw
    }
}

/// One target file. Borrowed for one call.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    number: u32,
    path: &'a str,
    bytes: &'a [u8],
}

impl<'a> Target<'a> {
    /// For tests of a detector.
    pub fn new(number: u32, path: &'a str, bytes: &'a [u8]) -> Self {
        Self { number, path, bytes }
    }

    pub(super) fn from_raw(raw: &TargetV1<'a>) -> Self {
        Self { number: raw.number, path: raw.path.as_str(), bytes: raw.bytes.as_slice() }
    }

    /// The number that the host gave the file: it comes back in [`Record::target`].
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The file's path as the user would know it. For messages and guesses only: it can't be opened.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The last part of the path.
    pub fn file_name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// The whole file: hostile bytes. [`super::elf::Elf`] reads them safely.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}
