//! Where a decoder's events go.

use super::Record;
use crate::abi::{
    EventSink, EventV1, NO_RECORD, ValueV1,
    abi_stable::std_types::{RSlice, RStr},
    event_flag, role, value_kind,
};

/// Columns that an event holds without an allocation. Initialising this array is most of what building an event costs,
/// so it is sized for what events have and not for what the manifest allows.
const INLINE: usize = 16;

const EMPTY: ValueV1<'static> = ValueV1 { column: 0, kind: 0, reserved: 0, bits: 0, bytes: RSlice::EMPTY };

/// Takes the events of one call.
pub struct Out<'a> {
    sink: &'a mut dyn EventSink,
    record: u32,
    flags: u32,
    missing: u64,
    stopped: bool,
}

impl<'a> Out<'a> {
    /// Around a sink of the ABI. The SDK does this; for tests of a decoder see [`super::testing`].
    pub fn new(sink: &'a mut dyn EventSink) -> Self {
        Self { sink, record: NO_RECORD, flags: 0, missing: 0, stopped: false }
    }

    /// Says which record the following events come from: time, process and thread of an event are those of its record.
    pub fn set_record(&mut self, record: &Record<'_>) {
        self.record = record.index();
        self.flags = if record.is_partial() { event_flag::PARTIAL } else { 0 };
        self.missing = record.missing();
    }

    pub(super) fn undecodable(&mut self, reason: &str) {
        self.sink.undecodable(self.record, RStr::from_str(reason));
    }

    /// Begins an event of the `[[event]]` with this number in the manifest. Nothing is sent before
    /// [`EventBuilder::emit`]. If the record is not whole, the event is flagged so.
    #[inline]
    pub fn event<'v>(&mut self, event: u16) -> EventBuilder<'_, 'a, 'v> {
        let (flags, missing) = (self.flags, self.missing);
        EventBuilder {
            out: self,
            event,
            role: role::OUTPUT,
            flags,
            missing,
            stream_id: 0,
            stream_offset: 0,
            payload: &[],
            len: 0,
            inline: [EMPTY; INLINE],
            spilled: Vec::new(),
        }
    }

    /// The host takes no more: return soon.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }
}

/// One event in the making. It lives on the stack and borrows text and bytes; up to 16 columns cost no allocation.
///
/// A column that is set twice is sent twice, and the host keeps the first.
#[must_use = "an event is sent by emit()"]
pub struct EventBuilder<'o, 'a, 'v> {
    out: &'o mut Out<'a>,
    event: u16,
    role: u16,
    flags: u32,
    missing: u64,
    stream_id: u64,
    stream_offset: u64,
    payload: &'v [u8],
    len: usize,
    inline: [ValueV1<'v>; INLINE],
    spilled: Vec<ValueV1<'v>>,
}

impl<'v> EventBuilder<'_, '_, 'v> {
    #[inline]
    fn push(mut self, column: u16, kind: u16, bits: u64, bytes: &'v [u8]) -> Self {
        let value = ValueV1 { column, kind, reserved: 0, bits, bytes: RSlice::from_slice(bytes) };
        match self.inline.get_mut(self.len) {
            Some(place) => {
                *place = value;
                self.len += 1;
            }
            None => {
                spill(&mut self.spilled, &self.inline, value);
            }
        }
        self
    }

    /// A `text` column: bytes as they were captured; they need not be UTF-8.
    #[inline]
    pub fn text(self, column: u16, text: &'v (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.push(column, value_kind::TEXT, 0, text.as_ref())
    }

    /// A `bytes` column.
    #[inline]
    pub fn bytes(self, column: u16, bytes: &'v [u8]) -> Self {
        self.push(column, value_kind::BYTES, 0, bytes)
    }

    /// A `u64`, `id` or `duration` (ns) column.
    #[inline]
    pub fn u64(self, column: u16, value: u64) -> Self {
        self.push(column, value_kind::U64, value, &[])
    }

    /// An `i64` column.
    #[inline]
    pub fn i64(self, column: u16, value: i64) -> Self {
        self.push(column, value_kind::I64, value.cast_unsigned(), &[])
    }

    /// A `bool` column.
    #[inline]
    pub fn bool(self, column: u16, value: bool) -> Self {
        self.push(column, value_kind::BOOL, u64::from(value), &[])
    }

    /// An `f64` column.
    #[inline]
    pub fn f64(self, column: u16, value: f64) -> Self {
        self.push(column, value_kind::F64, value.to_bits(), &[])
    }

    /// A `text` column that is there only for `Some`.
    #[inline]
    pub fn text_if(self, column: u16, text: Option<&'v (impl AsRef<[u8]> + ?Sized)>) -> Self {
        match text {
            Some(text) => self.text(column, text),
            None => self,
        }
    }

    /// A `u64`, `id` or `duration` column that is there only for `Some`.
    #[inline]
    pub fn u64_if(self, column: u16, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.u64(column, value),
            None => self,
        }
    }

    /// Bytes that belong to no column.
    #[inline]
    pub fn payload(mut self, payload: &'v [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Bytes of a connection, at an offset of its direction: for the host's protocol parsers.
    #[inline]
    pub fn stream(mut self, id: u64, offset: u64, payload: &'v [u8]) -> Self {
        self.role = role::STREAM;
        self.stream_id = id;
        self.stream_offset = offset;
        self.payload = payload;
        self
    }

    /// Opens, closes or labels a connection.
    #[inline]
    pub fn connection(mut self, id: u64) -> Self {
        self.role = role::CONNECTION;
        self.stream_id = id;
        self
    }

    /// One line of a key log (NSS format), without the newline: a secret, or `# ` and a comment about one that is missing.
    #[inline]
    pub fn secret(mut self, line: &'v [u8]) -> Self {
        self.role = role::SECRET;
        self.payload = line;
        self
    }

    /// How many bytes the texts and the payload of this event lack. Set by itself to what the record lacks; a decoder says
    /// it where it knows better, for example because the text came with an earlier record.
    #[inline]
    pub fn missing(mut self, bytes: u64) -> Self {
        self.missing = bytes;
        if bytes > 0 {
            self.flags |= event_flag::PARTIAL;
        } else {
            self.flags &= !event_flag::PARTIAL;
        }
        self
    }

    /// A text or the payload of this event is only a part of what there was. [`EventBuilder::missing`] says it by itself; this is
    /// for bytes that another event has counted already, for example because each of several events shows the same text.
    #[inline]
    pub fn partial(mut self) -> Self {
        self.flags |= event_flag::PARTIAL;
        self
    }

    /// The event lacks what an earlier record would have told.
    #[inline]
    pub fn state_lost(mut self) -> Self {
        self.flags |= event_flag::STATE_LOST;
        self
    }

    /// Sends the event. `false`: the host takes no more, return soon.
    #[inline]
    pub fn emit(self) -> bool {
        let columns = if self.spilled.is_empty() { self.inline.get(..self.len).unwrap_or(&[]) } else { &self.spilled };
        let event = EventV1 {
            event: self.event,
            role: self.role,
            record: self.out.record,
            flags: self.flags,
            reserved0: 0,
            stream_id: self.stream_id,
            stream_offset: self.stream_offset,
            missing: self.missing,
            columns: RSlice::from_slice(columns),
            payload: RSlice::from_slice(self.payload),
            reserved: [0; 3],
        };
        if self.out.stopped {
            return false;
        }
        let more = self.out.sink.emit(&event);
        self.out.stopped = !more;
        more
    }
}

#[cold]
fn spill<'v>(spilled: &mut Vec<ValueV1<'v>>, inline: &[ValueV1<'v>], value: ValueV1<'v>) {
    if spilled.is_empty() {
        spilled.extend_from_slice(inline);
    }
    spilled.push(value);
}
