//! The file as the loader maps it: addresses, bytes, and where functions begin and end.
//!
//! Reads what the file says; knows nothing of instructions or of what a probe is.

use super::elf::{Headers, Refusal, Segment, slice, u32_at};
use super::symbols::{Starts, Symbols};
use ecapture_plugin_api::unwind;
use std::cell::Cell;
use std::ops::Range;

/// Entries of the unwind table that are read; Chromium has under a million.
const MAX_UNWIND: usize = 4_000_000;
/// Bytes that may be decoded for one request, beside the one search over all code.
const WORK: u64 = 256 << 20;

/// A function: `start..end` in virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The unwind table or a symbol's size states the end; without either nothing is known behind the first instruction.
    pub(super) proven_end: bool,
}

impl Function {
    pub(super) fn contains(&self, va: u64) -> bool {
        va >= self.start && va < self.end
    }
}

/// A file that passed the checks.
pub(super) struct Image<'f> {
    file: &'f [u8],
    pub(super) headers: Headers,
    pub(super) symbols: Symbols<'f>,
    pub(super) starts: Starts,
    /// From the unwind table: `(start, end)`, ascending.
    pub(super) unwind: Vec<(u64, u64)>,
    work_left: Cell<u64>,
}

impl<'f> Image<'f> {
    pub(super) fn open(file: &'f [u8]) -> Result<Self, Refusal> {
        let headers = Headers::read(file)?;
        let symbols = Symbols::read(file, &headers.sections)?;
        let mut image =
            Image { file, headers, symbols, starts: Starts::default(), unwind: Vec::new(), work_left: Cell::new(WORK) };
        image.starts = image.symbols.starts(|va| image.is_code(va));
        image.unwind = image.read_unwind_table();
        Ok(image)
    }

    pub(super) fn segment(&self, va: u64) -> Option<&Segment> {
        let after = self.headers.segments.partition_point(|s| s.va <= va);
        self.headers.segments.get(after.checked_sub(1)?).filter(|s| s.contains(va))
    }

    pub(super) fn is_code(&self, va: u64) -> bool {
        self.segment(va).is_some_and(|s| s.executable)
    }

    /// At most `want` bytes from `va`, fewer at the end of the segment.
    pub(super) fn bytes(&self, va: u64, want: u64) -> &'f [u8] {
        self.segment(va)
            .and_then(|s| slice(self.file, s.offset + (va - s.va), want.min(s.end() - va)))
            .unwrap_or_default()
    }

    pub(super) fn segment_bytes(&self, segment: &Segment) -> &'f [u8] {
        slice(self.file, segment.offset, segment.len).unwrap_or_default()
    }

    pub(super) fn code(&self, function: &Function) -> &'f [u8] {
        self.bytes(function.start, function.end - function.start)
    }

    pub(super) fn u32(&self, va: u64) -> Option<u32> {
        u32_at(self.bytes(va, 4), 0)
    }

    pub(super) fn file_offset(&self, va: u64) -> Option<u64> {
        self.segment(va).map(|s| s.offset + (va - s.va)).filter(|offset| *offset < self.file.len() as u64)
    }

    /// Takes `amount` from the work allowed; false when it is used up.
    pub(super) fn work(&self, amount: u64) -> bool {
        match self.work_left.get().checked_sub(amount) {
            Some(left) => {
                self.work_left.set(left);
                true
            }
            None => {
                self.work_left.set(0);
                false
            }
        }
    }

    /// The function that starts at `va`, with the best statement of its end.
    pub(super) fn function(&self, va: u64) -> Option<Function> {
        let segment = self.segment(va).filter(|s| s.executable)?;
        let unwind = self.unwind.binary_search_by_key(&va, |f| f.0).ok().map(|i| self.unwind[i].1);
        let symbol = self.starts.functions.binary_search_by_key(&va, |f| f.0).ok().map(|i| self.starts.functions[i].1);
        let sized = symbol.filter(|size| *size > 0).map(|size| va.saturating_add(size));
        let stated = unwind.or(sized).filter(|end| *end <= segment.end());
        let end = stated.unwrap_or_else(|| {
            let next = self.starts.functions.partition_point(|f| f.0 <= va);
            self.starts.functions.get(next).map_or(va + 4096, |f| f.0).min(va + 4096).min(segment.end())
        });
        Some(Function { start: va, end, proven_end: stated.is_some() })
    }

    /// Whether the unwind table or a function symbol has a function that starts here.
    pub(super) fn starts_function(&self, va: u64) -> bool {
        self.unwind.binary_search_by_key(&va, |f| f.0).is_ok()
            || self.starts.functions.binary_search_by_key(&va, |f| f.0).is_ok()
    }

    /// The function around `va` by the unwind table.
    pub(super) fn enclosing(&self, va: u64) -> Option<Function> {
        let after = self.unwind.partition_point(|f| f.0 <= va);
        let (start, end) = *self.unwind.get(after.checked_sub(1)?)?;
        (va < end).then_some(Function { start, end, proven_end: true })
    }

    /// Bounds of every function, static ones of stripped files too.
    fn read_unwind_table(&self) -> Vec<(u64, u64)> {
        let indexed = self.read_unwind_index();
        if !indexed.is_empty() {
            return indexed;
        }
        // A program that was linked with `-static` may have no index.
        let Some((va, offset, len)) = self.headers.frames else { return Vec::new() };
        let functions = unwind::functions(va, slice(self.file, offset, len).unwrap_or_default());
        let inside = |f: &Range<u64>| self.segment(f.start).is_some_and(|s| s.executable && f.end <= s.end());
        functions.into_iter().filter(inside).map(|f| (f.start, f.end)).collect()
    }

    /// The sorted table of `.eh_frame_hdr`. An entry counts only if the description it points to begins at the same address.
    fn read_unwind_index(&self) -> Vec<(u64, u64)> {
        let Some((header, len)) = self.headers.unwind_table else { return Vec::new() };
        let table = self.bytes(header, len);
        // Version 1, and the encodings that every linker writes: section-relative pairs of 32-bit numbers.
        if table.get(..4) != Some(&[1, 0x1b, 0x03, 0x3b]) {
            return Vec::new();
        }
        let count = u32_at(table, 8).unwrap_or(0) as usize;
        let count = count.min(MAX_UNWIND);
        let relative = |base: u64, distance: u32| base.wrapping_add_signed(i64::from(distance.cast_signed()));
        let mut functions = Vec::new();
        for pair in table.get(12..).unwrap_or_default().as_chunks::<8>().0.iter().take(count) {
            let (Some(start), Some(at)) = (u32_at(pair, 0), u32_at(pair, 4)) else { break };
            let (start, description) = (relative(header, start), relative(header, at));
            let begin_field = description.wrapping_add(8);
            let fields = self.bytes(begin_field, 8);
            let (Some(begin), Some(len)) = (u32_at(fields, 0), u32_at(fields, 4)) else { continue };
            let Some(segment) = self.segment(start).filter(|s| s.executable) else { continue };
            let end = start + u64::from(len);
            if relative(begin_field, begin) == start && len > 0 && end <= segment.end() {
                functions.push((start, end));
            }
        }
        functions.sort_unstable();
        functions.dedup_by_key(|f| f.0);
        functions
    }
}
