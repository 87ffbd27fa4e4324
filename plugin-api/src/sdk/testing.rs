//! For the tests of a module: made-up target files for its version detector, a sink and records for its decoder, and the built
//! library through its interface.

mod built;
mod elf;

pub use built::{Built, Decoded};
pub use elf::elf;

use super::{Decode, Error, Out, Record};
use crate::abi::{
    EventSink, EventV1, RecordV1,
    abi_stable::std_types::{RSlice, RStr},
    value_kind,
};

/// One event, kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    /// Number of the `[[event]]`.
    pub event: u16,
    /// A [`role`](crate::abi::role).
    pub role: u16,
    /// Index of the record, [`NO_RECORD`](crate::abi::NO_RECORD) if none.
    pub record: u32,
    /// [`event_flag`](crate::abi::event_flag)s.
    pub flags: u32,
    /// The connection.
    pub stream_id: u64,
    /// Offset in it.
    pub stream_offset: u64,
    /// Bytes that it lacks.
    pub missing: u64,
    /// Columns in the order in which they were set.
    pub columns: Vec<(u16, Column)>,
    /// Bytes that belong to no column.
    pub payload: Vec<u8>,
}

/// A column's value, kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// `u64`, `id`, `duration`.
    U64(u64),
    /// `i64`.
    I64(i64),
    /// `bool`.
    Bool(bool),
    /// `f64`.
    F64(f64),
    /// `text`.
    Text(Vec<u8>),
    /// `bytes`.
    Bytes(Vec<u8>),
    /// Of a kind that this SDK does not know.
    Unknown(u16),
}

impl Event {
    /// A column's value; the first, if it was set twice, as the host takes it.
    pub fn column(&self, number: u16) -> Option<&Column> {
        self.columns.iter().find(|(n, _)| *n == number).map(|(_, value)| value)
    }

    /// A `text` column, as far as it is UTF-8.
    pub fn text(&self, number: u16) -> Option<String> {
        match self.column(number) {
            Some(Column::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        }
    }

    /// A `u64`, `id` or `duration` column.
    pub fn u64(&self, number: u16) -> Option<u64> {
        match self.column(number) {
            Some(Column::U64(value)) => Some(*value),
            _ => None,
        }
    }
}

/// A sink that keeps events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Collected {
    /// What was emitted.
    pub events: Vec<Event>,
    /// Records that could not be decoded, with the reason.
    pub undecodable: Vec<(u32, String)>,
    /// After so many events the sink says that it takes no more; 0: it always takes more.
    pub limit: usize,
}

impl EventSink for Collected {
    fn emit(&mut self, event: &EventV1<'_>) -> bool {
        let column = |v: &crate::abi::ValueV1<'_>| {
            let value = match v.kind {
                value_kind::U64 => Column::U64(v.bits),
                value_kind::I64 => Column::I64(v.bits.cast_signed()),
                value_kind::BOOL => Column::Bool(v.bits != 0),
                value_kind::F64 => Column::F64(f64::from_bits(v.bits)),
                value_kind::TEXT => Column::Text(v.bytes.to_vec()),
                value_kind::BYTES => Column::Bytes(v.bytes.to_vec()),
                other => Column::Unknown(other),
            };
            (v.column, value)
        };
        self.events.push(Event {
            event: event.event,
            role: event.role,
            record: event.record,
            flags: event.flags,
            stream_id: event.stream_id,
            stream_offset: event.stream_offset,
            missing: event.missing,
            columns: event.columns.iter().map(column).collect(),
            payload: event.payload.to_vec(),
        });
        self.limit == 0 || self.events.len() < self.limit
    }

    fn undecodable(&mut self, record: u32, reason: RStr<'_>) {
        self.undecodable.push((record, reason.to_string()));
    }
}

/// A whole record of stream 0, target 0, process and thread 1, at time 0; change what matters.
pub fn record(data: &[u8]) -> RecordV1<'_> {
    RecordV1 {
        stream: 0,
        flags: 0,
        target: 0,
        process: 1,
        thread: 1,
        time_ns: 0,
        lost_before: 0,
        missing: 0,
        data: RSlice::from_slice(data),
        reserved: [0; 2],
    }
}

/// Runs a decoder over records as the SDK does, without the panic guard: a panic is a failed test.
pub fn decode<D: Decode>(decoder: &mut D, records: &[RecordV1<'_>], sink: &mut Collected) {
    let mut out = Out::new(sink);
    for (index, raw) in (0_u32..).zip(records) {
        let record = Record::new(raw, index);
        out.set_record(&record);
        if let Err(error) = decoder.decode(&record, &mut out) {
            out.undecodable(error.message());
        }
        if out.is_stopped() {
            return;
        }
    }
}

/// Runs `tick`.
///
/// # Errors
///
/// The decoder's.
pub fn tick<D: Decode>(decoder: &mut D, now_ns: u64, sink: &mut Collected) -> Result<(), Error> {
    decoder.tick(now_ns, &mut Out::new(sink))
}

/// Runs `finish`.
///
/// # Errors
///
/// The decoder's.
pub fn finish<D: Decode>(decoder: &mut D, sink: &mut Collected) -> Result<(), Error> {
    decoder.finish(&mut Out::new(sink))
}

/// Has `ecapture module check` look at a built module, for `cargo test`. Runs the program that the variable `ECAPTURE` names, or
/// `ecapture` on the path; `args` as on its command line (`["--level", "robust", "--recording", ...]`).
///
/// # Errors
///
/// What was found, as text for people. `Ok(false)`: there is no such program, so nothing was checked; say so.
pub fn conformance(module: &std::path::Path, args: &[&str]) -> Result<bool, String> {
    let program = std::env::var_os("ECAPTURE").unwrap_or_else(|| "ecapture".into());
    let output = std::process::Command::new(&program).args(["module", "check"]).arg(module).args(args).output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{}: {error}", program.display())),
        Ok(output) if output.status.success() => Ok(true),
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }
}
