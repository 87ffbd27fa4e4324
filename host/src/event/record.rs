//! Rust mirror of the 80-byte header in front of every record of a module's ring.
//!
//! The owner of the layout is `ebpf-objects/include/ecapture/record.h`; the assertions below keep the mirror honest.
//! Parsing is bounds-checked: the ring is written by the kernel, but it is read in the worker, next to module code
//! that may have scribbled over it. What a record's data *means* belongs to the module, not here.

use std::mem::{offset_of, size_of};

/// Bytes of a header.
pub const HEADER_LEN: usize = 80;

/// User memory was unreadable: bytes from `offset + len` on are missing and no further record of the message comes.
pub const FAULT: u16 = 1;
/// The last chunk of a joined message.
pub const LAST: u16 = 2;

/// The header of a record, in host byte order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Bytes of data after the header.
    pub len: u32,
    /// Number of the `[[stream]]` in the manifest, from 0.
    pub stream: u16,
    /// [`FAULT`], [`LAST`]; unknown bits are to be ignored.
    pub flags: u16,
    /// `CLOCK_MONOTONIC` in ns at the start of the program; equal in all chunks of a message.
    pub time_ns: u64,
    /// Process (thread group) id, as the initial pid namespace sees it.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// User id.
    pub uid: u32,
    /// Target number (low half of the attach cookie); 0 for host-wide attachments.
    pub target: u32,
    /// Control group id.
    pub cgroup: u64,
    /// Reserved, 0. The key of a message is ([`Header::key`]).
    pub message: u64,
    /// Offset of this chunk in its message.
    pub offset: u32,
    /// Length of the whole message as the kernel side meant to send it.
    pub total: u32,
    /// Bytes beyond the limit of the stream that were never attempted; saturates.
    pub cut: u32,
    /// Records this module lost since the last one that got through.
    pub lost_before: u32,
    /// Name of the thread, NUL padded.
    pub comm: [u8; 16],
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_LEN);
    assert!(offset_of!(Header, len) == 0);
    assert!(offset_of!(Header, stream) == 4);
    assert!(offset_of!(Header, flags) == 6);
    assert!(offset_of!(Header, time_ns) == 8);
    assert!(offset_of!(Header, pid) == 16);
    assert!(offset_of!(Header, tid) == 20);
    assert!(offset_of!(Header, uid) == 24);
    assert!(offset_of!(Header, target) == 28);
    assert!(offset_of!(Header, cgroup) == 32);
    assert!(offset_of!(Header, message) == 40);
    assert!(offset_of!(Header, offset) == 48);
    assert!(offset_of!(Header, total) == 52);
    assert!(offset_of!(Header, cut) == 56);
    assert!(offset_of!(Header, lost_before) == 60);
    assert!(offset_of!(Header, comm) == 64);
};

/// What tells one message from another: a thread runs one program of a stream at a time.
pub type MessageKey = (u16, u32, u64);

impl Header {
    /// Splits a ring record into its header and its data. `None` if the record is shorter than the header or than the
    /// data its header promises. Bytes beyond that are padding (size classes of the kernel side) and are left out.
    pub fn parse(record: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = record.split_first_chunk::<HEADER_LEN>()?;
        let header = Self {
            len: u32_at(head, 0),
            stream: u16_at(head, 4),
            flags: u16_at(head, 6),
            time_ns: u64_at(head, 8),
            pid: u32_at(head, 16),
            tid: u32_at(head, 20),
            uid: u32_at(head, 24),
            target: u32_at(head, 28),
            cgroup: u64_at(head, 32),
            message: u64_at(head, 40),
            offset: u32_at(head, 48),
            total: u32_at(head, 52),
            cut: u32_at(head, 56),
            lost_before: u32_at(head, 60),
            comm: bytes_at(head, 64),
        };
        let data = rest.get(..usize::try_from(header.len).ok()?)?;
        Some((header, data))
    }

    /// The header as the kernel side writes it. For tests, replay and fuzzing seeds.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(slot) = out.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&self.len.to_le_bytes());
        put(&self.stream.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.time_ns.to_le_bytes());
        for word in [self.pid, self.tid, self.uid, self.target] {
            put(&word.to_le_bytes());
        }
        put(&self.cgroup.to_le_bytes());
        put(&self.message.to_le_bytes());
        for word in [self.offset, self.total, self.cut, self.lost_before] {
            put(&word.to_le_bytes());
        }
        put(&self.comm);
        out
    }

    /// The message this record is a chunk of.
    pub fn key(&self) -> MessageKey {
        (self.stream, self.tid, self.time_ns)
    }

    /// The thread's name without its padding.
    pub fn comm(&self) -> &[u8] {
        trim_nul(&self.comm)
    }
}

/// The bytes before the first NUL.
pub fn trim_nul(name: &[u8]) -> &[u8] {
    name.split(|b| *b == 0).next().unwrap_or_default()
}

// Constant offsets into an array of known length: the optimiser removes the checks, and there is no panic to reach.
fn bytes_at<const N: usize>(head: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    head.get(at..).and_then(|tail| tail.first_chunk()).copied().unwrap_or([0; N])
}

fn u16_at(head: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(head, at))
}

fn u32_at(head: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(head, at))
}

fn u64_at(head: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(head, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            len: 3,
            stream: 2,
            flags: LAST,
            time_ns: 0x1122_3344_5566_7788,
            pid: 4711,
            tid: 4802,
            uid: 110,
            target: 9,
            cgroup: 1 << 40,
            message: 0,
            offset: 16,
            total: 19,
            cut: 1,
            lost_before: 7,
            comm: *b"mariadbd\0\0\0\0\0\0\0\0",
        }
    }

    #[test]
    fn every_field_sits_where_the_header_file_says() {
        let bytes = sample().to_bytes();
        assert_eq!(bytes[..8], [3, 0, 0, 0, 2, 0, 2, 0]);
        assert_eq!(bytes[8..16], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(bytes[16..20], 4711_u32.to_le_bytes());
        assert_eq!(bytes[28..32], 9_u32.to_le_bytes());
        assert_eq!(bytes[32..40], (1_u64 << 40).to_le_bytes());
        assert_eq!(bytes[60..64], 7_u32.to_le_bytes());
        assert_eq!(&bytes[64..72], b"mariadbd");
    }

    #[test]
    fn a_record_splits_into_header_and_data_and_padding_is_left_out() {
        let mut record = sample().to_bytes().to_vec();
        record.extend_from_slice(b"abcPADDING");
        let (header, data) = Header::parse(&record).unwrap();
        assert_eq!(header, sample());
        assert_eq!(data, b"abc");
        assert_eq!(header.comm(), b"mariadbd");
        assert_eq!(header.key(), (2, 4802, 0x1122_3344_5566_7788));
    }

    #[test]
    fn a_record_shorter_than_it_claims_is_refused() {
        let mut record = sample().to_bytes().to_vec();
        record.extend_from_slice(b"abc");
        for len in 0..record.len() {
            assert!(Header::parse(&record[..len]).is_none(), "{len} bytes");
        }
        record[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Header::parse(&record).is_none());
    }

    #[test]
    fn a_name_without_a_nul_is_taken_whole() {
        let header = Header { comm: *b"0123456789abcdef", ..sample() };
        assert_eq!(header.comm(), b"0123456789abcdef");
    }
}
