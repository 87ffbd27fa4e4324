//! The bytes of one event on the link from worker to collector.
//!
//! [`encode`] runs in the worker, [`View::decode`] in the collector, where the bytes are hostile: a worker runs module
//! code. So decoding borrows, checks every bound before it reads, never panics and never allocates by a length it was
//! told. Whether the columns fit what the module declared is [`super::schema`]'s question, not this one's.
//!
//! Little endian. Fixed part of 96 bytes: `u16 event, u16 role, u32 flags, u64 time_ns, u32 pid, u32 tid, u32 uid,
//! u32 target, u64 cgroup, [u8; 16] comm, u64 stream_id, u64 stream_offset, u64 missing, u64 lost_before,
//! u32 n_columns, u32 payload_len`. Then each column: `u16 column, u16 kind, u32 len, u64 bits`, `len` bytes, zeros up
//! to a multiple of 8. Then the payload, to the last byte of the message.

pub use ecapture_plugin_api::abi::{role, value_kind as kind};

/// Bytes of the fixed part.
pub const FIXED_LEN: usize = 96;
/// Bytes of a column before its own bytes.
pub const COLUMN_LEN: usize = 16;
/// Most columns in one event: far above what a manifest declares, low enough to bound the collector's work.
pub const MAX_COLUMNS: usize = 1024;

/// The fixed part of an event. All but `event`, `role`, `flags`, `stream_*` comes from the record's header and is
/// filled in by the host: a module cannot forge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fixed {
    /// Number of the `[[event]]` in the manifest, from 0.
    pub event: u16,
    /// One of [`role`].
    pub role: u16,
    /// [`super::model::Flags`].
    pub flags: u32,
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// User id.
    pub uid: u32,
    /// Target number.
    pub target: u32,
    /// Control group id.
    pub cgroup: u64,
    /// Thread name, NUL padded.
    pub comm: [u8; 16],
    /// Connection the event belongs to; 0 = none.
    pub stream_id: u64,
    /// Offset in that connection, bytes.
    pub stream_offset: u64,
    /// Bytes of the message that never arrived.
    pub missing: u64,
    /// Records lost before this one.
    pub lost_before: u64,
}

/// A column as it travels: unchecked against the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawColumn<'a> {
    /// Number of the column in its event's declaration, from 0.
    pub column: u16,
    /// One of [`kind`], or a later one.
    pub kind: u16,
    /// The value of a kind that fits 64 bits, else 0.
    pub bits: u64,
    /// The value of a kind that does not, else empty.
    pub bytes: &'a [u8],
}

/// Why an event could not be encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends inside the named part.
    #[error("event ends inside its {0}")]
    Short(&'static str),
    /// Bytes after the payload.
    #[error("{0} bytes after the payload of an event")]
    Trailing(usize),
    /// More columns than [`MAX_COLUMNS`].
    #[error("event with {0} columns (at most {MAX_COLUMNS})")]
    Columns(usize),
    /// A part longer than a 32-bit length can say.
    #[error("event with a {0} of 4 GiB or more")]
    Huge(&'static str),
}

/// Bytes that [`encode`] will append; `None` if that overflows.
pub fn encoded_len<'a>(columns: impl IntoIterator<Item = RawColumn<'a>>, payload: usize) -> Option<usize> {
    let mut len = FIXED_LEN.checked_add(payload)?;
    for column in columns {
        len = len.checked_add(COLUMN_LEN)?.checked_add(column.bytes.len().checked_next_multiple_of(8)?)?;
    }
    Some(len)
}

/// Appends one event to `out`.
///
/// # Errors
/// More than [`MAX_COLUMNS`], or a part of 4 GiB or more. `out` is then as it was before.
pub fn encode<'a>(
    fixed: &Fixed,
    columns: impl IntoIterator<Item = RawColumn<'a>, IntoIter: Clone>,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let columns = columns.into_iter();
    let count = columns.clone().count();
    if count > MAX_COLUMNS {
        return Err(WireError::Columns(count));
    }
    let count = u32::try_from(count).map_err(|_| WireError::Columns(count))?;
    let payload_len = u32::try_from(payload.len()).map_err(|_| WireError::Huge("payload"))?;
    if columns.clone().any(|c| u32::try_from(c.bytes.len()).is_err()) {
        return Err(WireError::Huge("column"));
    }
    out.reserve(encoded_len(columns.clone(), payload.len()).ok_or(WireError::Huge("payload"))?);
    out.extend_from_slice(&fixed.to_bytes(count, payload_len));
    for column in columns {
        let mut head = [0; COLUMN_LEN];
        let (number, rest) = head.split_at_mut(2);
        let (kind, rest) = rest.split_at_mut(2);
        let (len, bits) = rest.split_at_mut(4);
        number.copy_from_slice(&column.column.to_le_bytes());
        kind.copy_from_slice(&column.kind.to_le_bytes());
        // Checked above: fits.
        len.copy_from_slice(&(column.bytes.len() as u32).to_le_bytes());
        bits.copy_from_slice(&column.bits.to_le_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(column.bytes);
        let padding = column.bytes.len().next_multiple_of(8) - column.bytes.len();
        out.extend_from_slice(&[0; 8][..padding]);
    }
    out.extend_from_slice(payload);
    Ok(())
}

impl Fixed {
    fn to_bytes(self, columns: u32, payload: u32) -> [u8; FIXED_LEN] {
        let mut out = [0; FIXED_LEN];
        let mut rest = out.as_mut_slice();
        // Every part has a fixed width and they add up to FIXED_LEN (a test checks each offset).
        let mut put = |bytes: &[u8]| {
            if let Some((slot, tail)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
                slot.copy_from_slice(bytes);
                rest = tail;
            }
        };
        put(&self.event.to_le_bytes());
        put(&self.role.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.time_ns.to_le_bytes());
        for word in [self.pid, self.tid, self.uid, self.target] {
            put(&word.to_le_bytes());
        }
        put(&self.cgroup.to_le_bytes());
        put(&self.comm);
        for word in [self.stream_id, self.stream_offset, self.missing, self.lost_before] {
            put(&word.to_le_bytes());
        }
        put(&columns.to_le_bytes());
        put(&payload.to_le_bytes());
        out
    }
}

/// A decoded event: every bound is checked, the bytes are still the sender's.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The fixed part.
    pub fixed: Fixed,
    /// The payload.
    pub payload: &'a [u8],
    count: usize,
    columns: &'a [u8],
}

impl<'a> View<'a> {
    /// Reads one event that fills `message` from its first byte to its last.
    ///
    /// # Errors
    /// Anything but a well-formed event. The caller counts the message as undecodable.
    pub fn decode(message: &'a [u8]) -> Result<Self, WireError> {
        let mut input = Input(message);
        let short = WireError::Short("fixed part");
        let fixed = Fixed {
            event: input.u16().ok_or(short)?,
            role: input.u16().ok_or(short)?,
            flags: input.u32().ok_or(short)?,
            time_ns: input.u64().ok_or(short)?,
            pid: input.u32().ok_or(short)?,
            tid: input.u32().ok_or(short)?,
            uid: input.u32().ok_or(short)?,
            target: input.u32().ok_or(short)?,
            cgroup: input.u64().ok_or(short)?,
            comm: input.array().ok_or(short)?,
            stream_id: input.u64().ok_or(short)?,
            stream_offset: input.u64().ok_or(short)?,
            missing: input.u64().ok_or(short)?,
            lost_before: input.u64().ok_or(short)?,
        };
        let count = input.u32().ok_or(short)? as usize;
        let payload_len = input.u32().ok_or(short)? as usize;
        if count > MAX_COLUMNS {
            return Err(WireError::Columns(count));
        }
        let columns = input.0;
        for _ in 0..count {
            input.column().ok_or(WireError::Short("columns"))?;
        }
        let columns = &columns[..columns.len() - input.0.len()];
        let payload = input.take(payload_len).ok_or(WireError::Short("payload"))?;
        if !input.0.is_empty() {
            return Err(WireError::Trailing(input.0.len()));
        }
        Ok(Self { fixed, payload, count, columns })
    }

    /// The columns, in the order they were sent. Nothing is known yet of their numbers and kinds.
    pub fn columns(&self) -> impl Iterator<Item = RawColumn<'a>> + use<'a> {
        let mut input = Input(self.columns);
        (0..self.count).map_while(move |_| input.column())
    }
}

/// A cursor that cannot leave its bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn column(&mut self) -> Option<RawColumn<'a>> {
        let (column, kind, len, bits) = (self.u16()?, self.u16()?, self.u32()? as usize, self.u64()?);
        let bytes = self.take(len)?;
        self.take(len.checked_next_multiple_of(8)? - len)?;
        Some(RawColumn { column, kind, bits, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixed() -> impl Strategy<Value = Fixed> {
        let ids = (any::<u16>(), any::<u16>(), any::<u32>(), any::<u64>());
        let who = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<[u8; 16]>());
        let rest = any::<[u64; 4]>();
        (ids, who, rest).prop_map(|((event, role, flags, time_ns), (pid, tid, uid, target, cgroup, comm), rest)| {
            Fixed {
                event,
                role,
                flags,
                time_ns,
                pid,
                tid,
                uid,
                target,
                cgroup,
                comm,
                stream_id: rest[0],
                stream_offset: rest[1],
                missing: rest[2],
                lost_before: rest[3],
            }
        })
    }

    type Parts = (Fixed, Vec<(u16, u16, u64, Vec<u8>)>, Vec<u8>);

    fn parts() -> impl Strategy<Value = Parts> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let column = (any::<u16>(), 0_u16..9, any::<u64>(), bytes());
        (fixed(), prop::collection::vec(column, 0..12), bytes())
    }

    fn message((fixed, columns, payload): &Parts) -> Vec<u8> {
        let columns: Vec<_> = columns
            .iter()
            .map(|(column, kind, bits, bytes)| RawColumn { column: *column, kind: *kind, bits: *bits, bytes })
            .collect();
        let mut out = vec![0xAA; 3];
        encode(fixed, columns.iter().copied(), payload, &mut out).unwrap();
        assert_eq!(out.len() - 3, encoded_len(columns.iter().copied(), payload.len()).unwrap());
        out.split_off(3)
    }

    /// Reads all there is, as the collector would.
    fn exhaust(bytes: &[u8]) -> usize {
        match View::decode(bytes) {
            Ok(view) => view.columns().map(|c| c.bytes.len()).sum::<usize>() + view.payload.len(),
            Err(_) => 0,
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_is_what_is_read(parts in parts()) {
            let bytes = message(&parts);
            let view = View::decode(&bytes).unwrap();
            prop_assert_eq!(view.fixed, parts.0);
            prop_assert_eq!(view.payload, parts.2.as_slice());
            let columns: Vec<_> = view.columns().map(|c| (c.column, c.kind, c.bits, c.bytes.to_vec())).collect();
            prop_assert_eq!(columns, parts.1);
        }

        #[test]
        fn every_cut_is_noticed(parts in parts(), cut in any::<prop::sample::Index>()) {
            let bytes = message(&parts);
            prop_assert!(View::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn mutations_stay_inside_the_message(
            parts in parts(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = message(&parts);
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert!(exhaust(&bytes) <= bytes.len());
        }

        #[test]
        fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(exhaust(&bytes) <= bytes.len());
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let sent = Fixed {
            event: 1,
            role: 2,
            flags: 3,
            time_ns: 4,
            pid: 5,
            tid: 6,
            uid: 7,
            target: 8,
            cgroup: 9,
            ..Fixed::default()
        };
        let sent = Fixed { comm: [b'c'; 16], stream_id: 10, stream_offset: 11, missing: 12, lost_before: 13, ..sent };
        let columns = [RawColumn { column: 14, kind: kind::TEXT, bits: 0, bytes: b"abc" }];
        let mut bytes = Vec::new();
        encode(&sent, columns, b"pay", &mut bytes).unwrap();
        for (at, value) in [(0, 1), (2, 2), (4, 3), (8, 4), (16, 5), (20, 6), (24, 7), (28, 8), (32, 9), (40, b'c')] {
            assert_eq!(bytes[at], value, "offset {at}");
        }
        for (at, value) in
            [(55, b'c'), (56, 10), (64, 11), (72, 12), (80, 13), (88, 1), (92, 3), (96, 14), (98, 4), (100, 3)]
        {
            assert_eq!(bytes[at], value, "offset {at}");
        }
        assert_eq!(&bytes[112..], b"abc\0\0\0\0\0pay");
    }

    #[test]
    fn a_count_of_columns_is_not_believed() {
        let mut bytes = Vec::new();
        encode(&Fixed::default(), [], &[], &mut bytes).unwrap();
        bytes[88..92].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(View::decode(&bytes).unwrap_err(), WireError::Columns(u32::MAX as usize));
        bytes[88..92].copy_from_slice(&1_u32.to_le_bytes());
        assert_eq!(View::decode(&bytes).unwrap_err(), WireError::Short("columns"));
    }

    #[test]
    fn bytes_after_the_payload_are_refused() {
        let mut bytes = Vec::new();
        encode(&Fixed::default(), [], b"x", &mut bytes).unwrap();
        bytes.push(0);
        assert_eq!(View::decode(&bytes).unwrap_err(), WireError::Trailing(1));
    }
}
