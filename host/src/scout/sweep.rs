//! Who can transfer control to an address: one search over the whole file for all addresses that matter.
//!
//! A full decode of all code would answer it, at 50-100 MB/s. Instead each 4-byte window of the code is taken for the
//! distance (or, in files of fixed address, the absolute address) in an instruction; where that leads to a wanted
//! address, and around the wanted addresses themselves, where short jumps come from, the code is decoded from the next
//! known start of a function before it. The result is that of the full decode: every direct branch and every address
//! in an instruction has those four bytes.

use super::image::Image;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use std::ops::Range;

/// Reach of a short jump, with the longest instruction.
const SHORT: u64 = 128 + 15;
/// Code searched at most. Chromium has 180 MB.
const MAX_CODE: u64 = 1 << 30;
const MAX_REFERENCES: usize = 1 << 20;

/// How an address is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    /// Direct call.
    Call,
    /// Direct jump.
    Jump,
    /// Its address is taken in code.
    Address,
    /// A word of data, or a relocation, holds its address.
    Data,
    /// A symbol names it.
    Symbol,
    /// The unwind table has a piece of code that starts there.
    Unwind,
}

/// One way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) target: u64,
    pub(super) source: u64,
    pub(super) how: How,
}

impl Reference {
    /// "a jump at 0x1234", for texts.
    pub(super) fn by(&self) -> String {
        match self.how {
            How::Call => format!("a call at {:#x}", self.source),
            How::Jump => format!("a jump at {:#x}", self.source),
            How::Address => format!("an address taken at {:#x}", self.source),
            How::Data => format!("a pointer at {:#x}", self.source),
            How::Symbol => "a symbol".to_owned(),
            How::Unwind => "the unwind table".to_owned(),
        }
    }
}

/// References to the wanted addresses, sorted by target.
#[derive(Debug, Default)]
pub(super) struct References(Vec<Reference>);

impl References {
    pub(super) fn within(&self, range: Range<u64>) -> &[Reference] {
        let first = self.0.partition_point(|r| r.target < range.start);
        let behind = self.0.partition_point(|r| r.target < range.end);
        self.0.get(first..behind).unwrap_or_default()
    }
}

/// Sorted ranges of addresses with a quick rejection: most of the file leads nowhere near.
pub(super) struct Wanted {
    ranges: Vec<Range<u64>>,
    first: u64,
    width: u64,
    shift: u32,
    buckets: Vec<bool>,
}

impl Wanted {
    pub(super) fn new(mut ranges: Vec<Range<u64>>) -> Option<Self> {
        ranges.retain(|r| r.start < r.end);
        ranges.sort_unstable_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let first = merged.first()?.start;
        let width = merged.last()?.end - first;
        let mut shift = 0;
        while width >> shift >= 1 << 16 {
            shift += 1;
        }
        let mut buckets = vec![false; (width >> shift) as usize + 1];
        for range in &merged {
            for bucket in (range.start - first) >> shift..=(range.end - 1 - first) >> shift {
                if let Some(bucket) = buckets.get_mut(bucket as usize) {
                    *bucket = true;
                }
            }
        }
        Some(Wanted { ranges: merged, first, width, shift, buckets })
    }

    #[inline]
    pub(super) fn contains(&self, va: u64) -> bool {
        let distance = va.wrapping_sub(self.first);
        distance < self.width
            && self.buckets.get((distance >> self.shift) as usize).is_some_and(|b| *b)
            && self.contains_exactly(va)
    }

    fn contains_exactly(&self, va: u64) -> bool {
        let after = self.ranges.partition_point(|r| r.start <= va);
        after.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|r| va < r.end)
    }

    fn meets(&self, range: Range<u64>) -> bool {
        let after = self.ranges.partition_point(|r| r.end <= range.start);
        self.ranges.get(after).is_some_and(|r| r.start < range.end)
    }
}

/// All references to the wanted addresses; an error when the file is too large or refers to them too often.
pub(super) fn references(image: &Image<'_>, wanted: &Wanted) -> Result<References, String> {
    let mut found = Vec::new();
    named(image, wanted, &mut found)?;
    pointed_to(image, wanted, &mut found)?;
    for span in spans(image, wanted, true)? {
        decode_span(image, &span, wanted, &mut found)?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(References(found))
}

fn push(found: &mut Vec<Reference>, reference: Reference) -> Result<(), String> {
    if found.len() >= MAX_REFERENCES {
        return Err("too many references to it".to_owned());
    }
    found.push(reference);
    Ok(())
}

fn named(image: &Image<'_>, wanted: &Wanted, found: &mut Vec<Reference>) -> Result<(), String> {
    let symbols = image.starts.functions.iter().map(|f| f.0).chain(image.starts.labels.iter().copied());
    let named = symbols.map(|va| (va, How::Symbol)).chain(image.unwind.iter().map(|f| (f.0, How::Unwind)));
    let mut wanted = named.filter(|(va, _)| wanted.contains(*va));
    wanted.try_for_each(|(va, how)| push(found, Reference { target: va, source: va, how }))
}

/// Words of data that are code addresses (pointers, packed relocations, absolute jump tables, read-only data that an
/// old linker put among the code), and the addends of relocations, whose words are zero in the file.
fn pointed_to(image: &Image<'_>, wanted: &Wanted, found: &mut Vec<Reference>) -> Result<(), String> {
    for segment in &image.headers.segments {
        let skip = (segment.va.next_multiple_of(8) - segment.va) as usize;
        let words = image.segment_bytes(segment).get(skip..).unwrap_or_default().as_chunks::<8>().0;
        for (number, word) in words.iter().enumerate() {
            let target = u64::from_le_bytes(*word);
            if wanted.contains(target) {
                let source = segment.va + skip as u64 + 8 * number as u64;
                push(found, Reference { target, source, how: How::Data })?;
            }
        }
    }
    if let Some((va, len)) = image.headers.relocations {
        for entry in image.bytes(va, len).as_chunks::<24>().0 {
            let (place, addend) = (&entry[..8], &entry[16..]);
            let read = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or(0);
            if wanted.contains(read(addend)) {
                push(found, Reference { target: read(addend), source: read(place), how: How::Data })?;
            }
        }
    }
    Ok(())
}

/// Pieces of code, each from a known start of a function to the next, that may refer to the wanted addresses.
/// `near`: also those from which a short jump could reach them.
pub(super) fn spans(image: &Image<'_>, wanted: &Wanted, near: bool) -> Result<Vec<Range<u64>>, String> {
    let code = || image.headers.segments.iter().filter(|s| s.executable);
    if code().map(|s| s.len).sum::<u64>() > MAX_CODE {
        return Err("more code than the search takes on".to_owned());
    }
    let mut starts: Vec<u64> = image.starts.functions.iter().chain(&image.unwind).map(|f| f.0).collect();
    starts.extend(code().flat_map(|s| [s.va, s.end()]));
    starts.sort_unstable();
    starts.dedup();
    let mut chosen = Vec::new();
    for segment in code() {
        let bytes = image.segment_bytes(segment);
        let first = starts.partition_point(|s| *s < segment.va);
        for bounds in starts[first..].windows(2).take_while(|w| w[0] < segment.end()) {
            let (start, end) = (bounds[0], bounds[1]);
            let nearby = near && wanted.meets(start.saturating_sub(SHORT)..end + SHORT);
            if nearby || refers(bytes, segment.va, start..end, wanted, image.headers.fixed) {
                chosen.push(start..end);
            }
        }
    }
    Ok(chosen)
}

fn refers(bytes: &[u8], base: u64, span: Range<u64>, wanted: &Wanted, fixed: bool) -> bool {
    let code = bytes.get((span.start - base) as usize..(span.end - base) as usize).unwrap_or_default();
    // The distance counts from the end of the instruction, which is the end of the window for branches and `lea`.
    code.windows(4).zip(span.start + 4..).any(|(window, behind)| {
        let word = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
        wanted.contains(behind.wrapping_add_signed(i64::from(word.cast_signed())))
            || (fixed && wanted.contains(u64::from(word)))
    })
}

fn decode_span(
    image: &Image<'_>,
    span: &Range<u64>,
    wanted: &Wanted,
    found: &mut Vec<Reference>,
) -> Result<(), String> {
    let code = image.bytes(span.start, span.end - span.start);
    let mut decoder = Decoder::with_ip(64, code, span.start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        for (target, how) in targets_of(&instruction, image.headers.fixed) {
            if wanted.contains(target) {
                push(found, Reference { target, source: instruction.ip(), how })?;
            }
        }
    }
    Ok(())
}

/// The addresses that an instruction names.
pub(super) fn targets_of(instruction: &Instruction, fixed: bool) -> impl Iterator<Item = (u64, How)> {
    let instruction = *instruction;
    let branch = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
    let how = if instruction.flow_control() == FlowControl::Call { How::Call } else { How::Jump };
    let branch = branch.then(|| (instruction.near_branch_target(), how));
    let relative = instruction.is_ip_rel_memory_operand().then(|| (instruction.ip_rel_memory_address(), How::Address));
    let immediates = (0..if fixed { instruction.op_count() } else { 0 }).filter_map(move |operand| {
        match instruction.op_kind(operand) {
            OpKind::Immediate32 => Some((u64::from(instruction.immediate32()), How::Address)),
            OpKind::Immediate32to64 | OpKind::Immediate64 => Some((instruction.immediate(operand), How::Address)),
            _ => None,
        }
    });
    branch.into_iter().chain(relative).chain(immediates)
}
