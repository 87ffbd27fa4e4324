//! Parameters of prepared statements, read from the packets that carry them (COM_STMT_EXECUTE and MariaDB's
//! COM_STMT_BULK_EXECUTE), or from the array that MySQL makes of such a packet, and written as JSON.
//!
//! Not here: how many parameters a statement has, which types were sent before, what was sent as long data (`session`).
//!
//! The packet alone can't be read: it does not say how many parameters it has, and says their types only when the client
//! has bound them anew. So what is not known is left out, and said to be. Source of the format: "COM_STMT_EXECUTE" of the
//! MariaDB knowledge base and of the MySQL internals manual; where they are silent, what the servers' own readers do.

use std::collections::BTreeMap;
use std::sync::Arc;

mod array;
mod json;
mod value;

pub use array::execute_array;

pub use json::Json;

/// Bytes of JSON that are made of one execution's parameters. A message to the collector has room for 2 MiB, of which the
/// statement's text may take 1 MiB.
pub const JSON_MAX: usize = 512 << 10;

/// Behind statement id, flags and iteration count.
const EXECUTE_HEAD: usize = 9;
/// Behind statement id and bulk flags.
const BULK_HEAD: usize = 6;
/// Bulk flag: types follow.
const BULK_TYPES: u16 = 128;

/// Type of one parameter, as clients send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// `enum enum_field_types`.
    pub code: u8,
    /// Whether an integer has no sign.
    pub unsigned: bool,
}

/// A value that came in pieces, by COM_STMT_SEND_LONG_DATA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Long {
    /// What was kept of it: a prefix.
    pub bytes: Vec<u8>,
    /// Bytes behind that.
    pub missing: u64,
}

impl Long {
    /// Another piece, of which `missing` bytes at its end did not come; at most `room` bytes are kept.
    pub fn append(&mut self, piece: &[u8], missing: u64, room: usize) {
        let kept = if self.missing > 0 { 0 } else { piece.len().min(room) };
        self.bytes.extend_from_slice(piece.get(..kept).unwrap_or_default());
        self.missing = self.missing.saturating_add(to_u64(piece.len() - kept)).saturating_add(missing);
    }
}

/// Values that came by COM_STMT_SEND_LONG_DATA, by the parameter's number.
pub type LongData = BTreeMap<u16, Long>;

/// What is known of a statement before it is executed.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Number of parameters.
    pub count: u16,
    /// Their types, as they were sent last.
    pub types: Option<&'a [Type]>,
    /// Values that do not come with the execution.
    pub long: &'a LongData,
}

/// A packet: a prefix, and how many bytes there are behind it.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// What came, from the statement's id on.
    pub bytes: &'a [u8],
    /// Bytes that did not.
    pub missing: u64,
}

/// Parameters of one execution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// A JSON array, or none if there are no parameters or not even the first is known.
    pub json: Option<Arc<str>>,
    /// Parameters, or those behind the ones in `json`, are not known.
    pub unknown: bool,
    /// Bytes of values that are not in `json` although it is known where they belong, and of what follows them.
    pub missing: u64,
}

impl Parameters {
    /// Nothing is known, not even whether there are any.
    pub fn unknown() -> Self {
        Self { unknown: true, ..Self::default() }
    }
}

/// What an execution says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Execution {
    /// Its parameters.
    pub parameters: Parameters,
    /// Types that hold from here on. None: those that held before, unless `types_lost`.
    pub types: Option<Arc<[Type]>>,
    /// There were types in the packet, but not all of them came.
    pub types_lost: bool,
}

/// Why reading stopped before the last parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The packet's prefix ends.
    End,
    /// A type that has no form in this protocol, or a length that its type can't have.
    Strange,
    /// No more room in the JSON.
    Full,
}

/// Reads COM_STMT_EXECUTE.
pub fn execute(packet: Packet<'_>, known: Known<'_>) -> Execution {
    if known.count == 0 {
        return Execution::default();
    }
    let mut reader = Reader { bytes: packet.bytes, at: EXECUTE_HEAD, told: 0 };
    let count = usize::from(known.count);
    let Some(nulls) = reader.take(count.div_ceil(8)) else { return no_types(packet) };
    let (types, sent) = match reader.byte() {
        None => return no_types(packet),
        Some(0) => (known.types.map(Arc::from), false),
        Some(_) => match reader.types(count) {
            None => return no_types(packet),
            types => (types, true),
        },
    };
    let mut out = Execution { types: types.clone().filter(|_| sent), ..Execution::default() };
    let Some(types) = types else {
        out.parameters = Parameters::unknown();
        return out;
    };
    let mut json = Json::new(JSON_MAX);
    json.open();
    let mut stopped = None;
    for (index, kind) in types.iter().enumerate() {
        let null = nulls.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0);
        let one = match u16::try_from(index).ok().and_then(|number| known.long.get(&number)) {
            // A value that came before wins over whatever the execution says, as in the server.
            Some(long) => json.bytes(&long.bytes, long.missing),
            None if null => json.null(),
            None => reader.value(*kind, packet.missing, &mut json),
        };
        if let Err(stop) = one {
            stopped = Some(stop);
            break;
        }
    }
    json.close();
    out.parameters = reader.finish(packet, json, stopped);
    out
}

/// Reads MariaDB's COM_STMT_BULK_EXECUTE: the statement, executed with one row of parameters after the other. The JSON is an
/// array of arrays.
pub fn bulk_execute(packet: Packet<'_>, known: Known<'_>) -> Execution {
    if known.count == 0 {
        return Execution::default();
    }
    let flags = packet.bytes.get(4..BULK_HEAD).and_then(|flags| flags.first_chunk::<2>());
    let Some(flags) = flags.map(|flags| u16::from_le_bytes(*flags)) else { return no_types(packet) };
    let mut reader = Reader { bytes: packet.bytes, at: BULK_HEAD, told: 0 };
    let sent = flags & BULK_TYPES != 0;
    let types = if sent {
        match reader.types(usize::from(known.count)) {
            None => return no_types(packet),
            types => types,
        }
    } else {
        known.types.map(Arc::from)
    };
    let mut out = Execution { types: types.clone().filter(|_| sent), ..Execution::default() };
    let Some(types) = types else {
        out.parameters = Parameters::unknown();
        return out;
    };
    let mut json = Json::new(JSON_MAX);
    json.open();
    let mut stopped = None;
    while stopped.is_none() && (reader.at < packet.bytes.len() || packet.missing > 0) {
        json.open();
        stopped = reader.row(&types, packet.missing, &mut json).err();
        json.close();
    }
    json.close();
    out.parameters = reader.finish(packet, json, stopped);
    out
}

/// The packet ends before its types do.
fn no_types(packet: Packet<'_>) -> Execution {
    let parameters = Parameters { missing: packet.missing, ..Parameters::unknown() };
    Execution { parameters, types: None, types_lost: true }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes behind the packet's prefix that were said to be missing already.
    told: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.take(N).and_then(|bytes| bytes.first_chunk::<N>()).copied().ok_or(Stop::End)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn types(&mut self, count: usize) -> Option<Arc<[Type]>> {
        let pairs = self.take(count.checked_mul(2)?)?;
        let one = |pair: &[u8; 2]| Type { code: pair[0], unsigned: pair[1] & 0x80 != 0 };
        Some(pairs.as_chunks::<2>().0.iter().map(one).collect())
    }

    /// One row of a bulk execution: an indicator before each value.
    fn row(&mut self, types: &[Type], missing: u64, json: &mut Json) -> Result<(), Stop> {
        for kind in types {
            match self.byte().ok_or(Stop::End)? {
                0 => self.value(*kind, missing, json)?,
                1 => json.null()?,
                2 => json.mark("default")?,
                3 => json.mark("ignore")?,
                _ => return Err(Stop::Strange),
            }
        }
        Ok(())
    }

    /// What all this comes to. `stopped`: where there should have been more.
    fn finish(&self, packet: Packet<'_>, json: Json, stopped: Option<Stop>) -> Parameters {
        let (text, cut) = json.into_text();
        let behind = packet.missing.saturating_sub(self.told);
        let rest = match stopped {
            None => 0,
            Some(Stop::Strange) => behind,
            Some(Stop::End | Stop::Full) => to_u64(self.bytes.len().saturating_sub(self.at)).saturating_add(behind),
        };
        let nothing = text.trim_start_matches('[').trim_end_matches(']').is_empty();
        Parameters {
            json: (!nothing || stopped.is_none()).then(|| text.into()),
            unknown: stopped.is_some(),
            missing: cut.saturating_add(rest),
        }
    }
}

#[cfg(test)]
#[path = "parameters_tests.rs"]
mod tests;
