//! Unwind information (`.eh_frame`): where functions begin and end, in stripped files too.
//!
//! For files that lack its index (`.eh_frame_hdr`), as programs that are linked with `-static` do. Bounded: one pass over the
//! bytes, nothing remembered but the answer and one kind of encoding for each description. Layout: Linux Standard Base,
//! "Exception Frames".

use crate::image::{c_str, u32_at, u64_at};
use std::collections::BTreeMap;
use std::ops::Range;

/// Functions that are read, at most; Chromium has under a million.
const MAX_FUNCTIONS: usize = 4_000_000;

/// The functions, and those parts of functions that the compiler put elsewhere, that an `.eh_frame` at this virtual address
/// describes: ascending, each once. What cannot be read is left out.
#[must_use]
pub fn functions(address: u64, bytes: &[u8]) -> Vec<Range<u64>> {
    // How addresses are written, by the place of the entry that says so.
    let mut encodings: BTreeMap<usize, u8> = BTreeMap::new();
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(len) = u32_at(bytes, at)
        && found.len() < MAX_FUNCTIONS
    {
        // 0 ends the part of one object file: another one may follow. The long form is used by nobody.
        let Ok(len) = usize::try_from(len) else { break };
        let body = at + 4;
        let Some(entry) = bytes.get(body..).and_then(|rest| rest.get(..len)) else { break };
        at = body + len;
        match u32_at(entry, 0) {
            Some(0) => _ = encoding(entry).map(|encoding| encodings.insert(body - 4, encoding)),
            Some(back) => {
                let of = usize::try_from(back).ok().and_then(|back| body.checked_sub(back));
                let encoding = of.and_then(|of| encodings.get(&of));
                let field = u64::try_from(body + 4).ok().and_then(|into| address.checked_add(into));
                let range = encoding.zip(field).and_then(|(encoding, field)| range(entry.get(4..)?, field, *encoding));
                found.extend(range);
            }
            None => {}
        }
    }
    found.sort_unstable_by_key(|range| (range.start, range.end));
    found.dedup_by_key(|range| range.start);
    found
}

/// How the addresses are written that refer to this common entry: `None` if it says so in a way that nobody writes.
fn encoding(entry: &[u8]) -> Option<u8> {
    let version = *entry.get(4)?;
    let augmentation = c_str(entry, 5)?;
    let Some(letters) = augmentation.strip_prefix(b"z") else {
        // Absolute, as long as an address is.
        return augmentation.is_empty().then_some(0);
    };
    let mut at = 5 + augmentation.len() + 1;
    // Two factors; the register of the return address; the length of what follows.
    for number in 0..4 {
        at = if number == 2 && version == 1 { at + 1 } else { behind_number(entry, at)? };
    }
    for letter in letters {
        match letter {
            b'R' => return entry.get(at).copied(),
            b'L' => at += 1,
            b'P' => at += 1 + width(*entry.get(at)?)?,
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    Some(0)
}

/// Behind a number of variable length.
fn behind_number(bytes: &[u8], at: usize) -> Option<usize> {
    let len = bytes.get(at..)?.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    Some(at + len + 1)
}

fn width(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

/// Begin and length, behind one another.
fn range(fields: &[u8], address: u64, encoding: u8) -> Option<Range<u64>> {
    let width = width(encoding)?;
    let number = |at: usize| match (width, encoding & 0x08) {
        (8, _) => u64_at(fields, at),
        (_, 0) => u32_at(fields, at).map(u64::from),
        _ => u32_at(fields, at).map(|word| i64::from(word.cast_signed()).cast_unsigned()),
    };
    let begin = match encoding & 0x70 {
        0x00 => number(0)?,
        0x10 => address.wrapping_add(number(0)?),
        _ => return None,
    };
    // Never relative, and without a sign.
    let len = if width == 8 { u64_at(fields, 8)? } else { u64::from(u32_at(fields, 4)?) };
    let end = begin.checked_add(len).filter(|_| len > 0)?;
    Some(begin..end)
}
