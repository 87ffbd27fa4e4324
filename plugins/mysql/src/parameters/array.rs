//! MySQL's own reading of a packet: PS_PARAM, an array that says where in the packet each value is. Values only lie in the
//! packet; their lengths and types are the array's.
//!
//! Its layout was told by the server's version, not proven. So each entry is held against what the server can have made: a value
//! begins where the one before it ended, or behind a length of at most nine bytes. What is otherwise is not shown, nor what is behind it.

use super::{Execution, JSON_MAX, Json, Known, Packet, Parameters, Reader, Stop, Type, to_u64};
use crate::record::{Array, PS_PARAM};
use std::sync::Arc;

/// Most bytes that say how long a value is.
const LENGTH_MOST: u64 = 9;

/// One entry.
struct Entry {
    null: bool,
    kind: Type,
    /// Address behind what says its length; 0: NULL, or sent ahead.
    value: u64,
    length: u64,
}

impl Entry {
    /// `struct PS_PARAM`: null (1, at 0), type (4, at 4), unsigned (1, at 8), value (8, at 16), length (8, at 24); name and its length.
    fn read(bytes: &[u8; PS_PARAM]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let (head, flags) = (word(0)?, word(8)?);
        let null = u8::try_from(head & 0xff).ok().filter(|null| *null <= 1)?;
        let unsigned = u8::try_from(flags & 0xff).ok().filter(|unsigned| *unsigned <= 1)?;
        let code = u8::try_from(head >> 32).ok()?;
        let kind = Type { code, unsigned: unsigned == 1 };
        Some(Self { null: null == 1, kind, value: word(16)?, length: word(24)? })
    }
}

/// Reads an execution from the array and the bytes that its values are in. What is in the array behind the statement's own
/// parameters are attributes of the query.
pub fn execute_array(array: &Array<'_>, values: Packet<'_>, known: Known<'_>) -> Execution {
    let count = usize::from(known.count);
    if count == 0 {
        return Execution::default();
    }
    // Fewer than the statement has: the server will refuse it.
    if usize::try_from(array.count).is_ok_and(|entries| entries < count) {
        return Execution { parameters: Parameters::unknown(), types: None, types_lost: array.new_types };
    }
    let entries = array.entries.get(..count).unwrap_or(array.entries);
    let types: Option<Arc<[Type]>> = if array.new_types {
        let read: Option<Vec<Type>> = entries.iter().map(|entry| Entry::read(entry).map(|entry| entry.kind)).collect();
        read.filter(|types| types.len() == count).map(Into::into)
    } else {
        known.types.map(Arc::from)
    };
    let mut out = Execution { types_lost: array.new_types && types.is_none(), ..Execution::default() };
    let Some(types) = types else {
        out.parameters = Parameters { missing: values.missing, ..Parameters::unknown() };
        return out;
    };
    out.types = array.new_types.then(|| types.clone());
    let mut reader = Reader { bytes: values.bytes, at: 0, told: 0 };
    let mut json = Json::new(JSON_MAX);
    json.open();
    let mut stopped = None;
    for (index, kind) in types.iter().enumerate() {
        let long = u16::try_from(index).ok().and_then(|number| known.long.get(&number));
        let one = match (entries.get(index).map(Entry::read), long) {
            // Beyond what came of the array.
            (None, _) => Err(Stop::End),
            (Some(None), _) => Err(Stop::Strange),
            (Some(Some(_)), Some(long)) => json.bytes(&long.bytes, long.missing),
            (Some(Some(entry)), None) if entry.null => json.null(),
            (Some(Some(entry)), None) => reader.entry(*kind, &entry, array.base, values.missing, &mut json),
        };
        if let Err(stop) = one {
            stopped = Some(stop);
            break;
        }
    }
    json.close();
    out.parameters = reader.finish(values, json, stopped);
    out
}

impl Reader<'_> {
    /// One value, which is where the entry says.
    fn entry(&mut self, kind: Type, entry: &Entry, base: u64, missing: u64, json: &mut Json) -> Result<(), Stop> {
        let at = entry.value.checked_sub(base).filter(|_| base != 0).ok_or(Stop::Strange)?;
        let behind = at.checked_sub(to_u64(self.at).saturating_add(self.told)).ok_or(Stop::Strange)?;
        let end = at.checked_add(entry.length).ok_or(Stop::Strange)?;
        let whole = to_u64(self.bytes.len()).saturating_add(missing);
        if behind > LENGTH_MOST || end > whole {
            return Err(Stop::Strange);
        }
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        let (from, to) = (place(at), place(end));
        let content = self.bytes.get(from..to).unwrap_or_default();
        let lacks = entry.length.saturating_sub(to_u64(content.len()));
        Reader { bytes: content, at: 0, told: 0 }.content(kind, lacks, json)?;
        self.at = to;
        self.told = end.saturating_sub(to_u64(to));
        Ok(())
    }
}

#[cfg(test)]
#[path = "array_tests.rs"]
mod tests;
