//! The plain data of the hot path. Frozen: sizes and offsets are asserted below and listed in `abi-listing.txt`.

use abi_stable::{
    StableAbi,
    std_types::{RSlice, RStr, RString},
};
use std::mem::{offset_of, size_of};

/// One message of the kernel side, joined from its chunks. Made by the host, borrowed for one `decode_batch`.
#[repr(C)]
#[derive(StableAbi, Copy, Clone, Debug)]
pub struct RecordV1<'a> {
    /// Number of the `[[stream]]` in the manifest, 0-based.
    pub stream: u16,
    /// [`record_flag`](crate::abi::record_flag)s; unknown bits are ignored.
    pub flags: u16,
    /// Number of the target file that `detect` was called for ([`TargetV1::number`]); 0 for host-wide attachments.
    pub target: u32,
    /// Process id (the kernel's tgid) in the host's pid namespace.
    pub process: u32,
    /// Thread id (the kernel's pid) in the host's pid namespace.
    pub thread: u32,
    /// `CLOCK_MONOTONIC` in ns at which the probe fired.
    pub time_ns: u64,
    /// Records of this module that the kernel side lost since the one before this.
    pub lost_before: u64,
    /// Bytes at the end of the message that did not arrive; 0 for a whole message.
    pub missing: u64,
    /// The message: the module's own fixed struct, then the bytes it copied from user memory. Always a prefix of what
    /// was meant to be sent.
    pub data: RSlice<'a, u8>,
    /// Zero. Ignored by readers that know no meaning.
    pub reserved: [u64; 2],
}

/// One column's value of an event. Borrowed from the module for one `emit`.
#[repr(C)]
#[derive(StableAbi, Copy, Clone, Debug)]
pub struct ValueV1<'a> {
    /// Number of the `[[event.column]]` in the manifest, 0-based.
    pub column: u16,
    /// A [`value_kind`](crate::abi::value_kind). The host drops a value of a kind that it does not know or that does
    /// not fit the column's type, and counts it.
    pub kind: u16,
    /// Zero.
    pub reserved: u32,
    /// Numbers and truth values.
    pub bits: u64,
    /// Text and bytes; else empty.
    pub bytes: RSlice<'a, u8>,
}

/// One event. Time, process, thread, user and cgroup are not in it: the host takes them from the header of the record
/// that the event names, so that a module cannot forge them. Borrowed from the module for one `emit`.
#[repr(C)]
#[derive(StableAbi, Copy, Clone, Debug)]
pub struct EventV1<'a> {
    /// Number of the `[[event]]` in the manifest, 0-based.
    pub event: u16,
    /// A [`role`](crate::abi::role). Events of an unknown role are counted and dropped.
    pub role: u16,
    /// Index in the batch of the record that the event comes from; [`NO_RECORD`](crate::abi::NO_RECORD) from `tick`
    /// and `finish`.
    pub record: u32,
    /// [`event_flag`](crate::abi::event_flag)s; unknown bits are ignored.
    pub flags: u32,
    /// Zero.
    pub reserved0: u32,
    /// Which connection; 0 = none. Unique within a module's run, chosen by the module.
    pub stream_id: u64,
    /// Offset of `payload` in its direction of the stream, in bytes.
    pub stream_offset: u64,
    /// Bytes that the texts and the payload of this event lack, of whichever record they came from: those of
    /// [`RecordV1::missing`] for an event of one record, less or more where the decoder knows better. Shown to the user
    /// as `ecapture.truncated_bytes`; 0 = whole.
    pub missing: u64,
    /// At most one value a column; a column without one is absent.
    pub columns: RSlice<'a, ValueV1<'a>>,
    /// Bytes that belong to no column.
    pub payload: RSlice<'a, u8>,
    /// Zero. Ignored by readers that know no meaning.
    pub reserved: [u64; 3],
}

/// One target file, borrowed for one `detect`.
#[repr(C)]
#[derive(StableAbi, Copy, Clone, Debug)]
pub struct TargetV1<'a> {
    /// The number that the host gave the file: it comes back in [`RecordV1::target`] and is the row of `ecap_layouts`.
    pub number: u32,
    /// Zero.
    pub reserved0: u32,
    /// The file's path as the user would know it. For messages and for guesses by name only: the file may be in another
    /// mount namespace, and the module can't open it.
    pub path: RStr<'a>,
    /// The whole file. Hostile: an ELF file by its first bytes, nothing else is sure.
    pub bytes: RSlice<'a, u8>,
    /// Zero. Ignored by readers that know no meaning.
    pub reserved: [u64; 4],
}

/// Why a call failed. Owned by the caller; the memory is freed through the module's own allocator.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct ModuleError {
    /// A [`call_error`](crate::abi::call_error).
    pub code: u32,
    /// Index in the batch of the record that was being decoded; [`NO_RECORD`](crate::abi::NO_RECORD) if none was.
    pub record: u32,
    /// One line for the user. Not trusted by the host: it is escaped and cut before it is shown.
    pub message: RString,
}

const _: () = {
    assert!(size_of::<RecordV1<'static>>() == 72);
    assert!(offset_of!(RecordV1<'static>, stream) == 0);
    assert!(offset_of!(RecordV1<'static>, flags) == 2);
    assert!(offset_of!(RecordV1<'static>, target) == 4);
    assert!(offset_of!(RecordV1<'static>, process) == 8);
    assert!(offset_of!(RecordV1<'static>, thread) == 12);
    assert!(offset_of!(RecordV1<'static>, time_ns) == 16);
    assert!(offset_of!(RecordV1<'static>, lost_before) == 24);
    assert!(offset_of!(RecordV1<'static>, missing) == 32);
    assert!(offset_of!(RecordV1<'static>, data) == 40);
    assert!(offset_of!(RecordV1<'static>, reserved) == 56);

    assert!(size_of::<ValueV1<'static>>() == 32);
    assert!(offset_of!(ValueV1<'static>, column) == 0);
    assert!(offset_of!(ValueV1<'static>, kind) == 2);
    assert!(offset_of!(ValueV1<'static>, reserved) == 4);
    assert!(offset_of!(ValueV1<'static>, bits) == 8);
    assert!(offset_of!(ValueV1<'static>, bytes) == 16);

    assert!(size_of::<EventV1<'static>>() == 96);
    assert!(offset_of!(EventV1<'static>, event) == 0);
    assert!(offset_of!(EventV1<'static>, role) == 2);
    assert!(offset_of!(EventV1<'static>, record) == 4);
    assert!(offset_of!(EventV1<'static>, flags) == 8);
    assert!(offset_of!(EventV1<'static>, reserved0) == 12);
    assert!(offset_of!(EventV1<'static>, stream_id) == 16);
    assert!(offset_of!(EventV1<'static>, stream_offset) == 24);
    assert!(offset_of!(EventV1<'static>, missing) == 32);
    assert!(offset_of!(EventV1<'static>, columns) == 40);
    assert!(offset_of!(EventV1<'static>, payload) == 56);
    assert!(offset_of!(EventV1<'static>, reserved) == 72);

    assert!(size_of::<TargetV1<'static>>() == 72);
    assert!(offset_of!(TargetV1<'static>, path) == 8);
    assert!(offset_of!(TargetV1<'static>, bytes) == 24);
    assert!(offset_of!(TargetV1<'static>, reserved) == 40);
};
