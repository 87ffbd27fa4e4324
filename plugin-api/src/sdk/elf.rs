//! Looking into a target's ELF file, for detectors. Bounded and panic-free on hostile bytes.
//!
//! Lenient where [`crate::manifest::elf`] is strict: a section that lies outside of the file is as good as absent, since
//! targets are what they are. 64-bit little-endian files only.

use crate::image::{
    DT_NEEDED, DT_SONAME, Image, ImageError, PF_W, PF_X, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, SHT_DYNSYM, SHT_NOTE,
    SHT_SYMTAB, c_str, notes, range,
};

use crate::unwind;

/// Longest string that is looked at around a match, in bytes to each side.
const MAX_STRING: usize = 1024;

/// A target file, read.
#[derive(Debug, Clone)]
pub struct Elf<'a> {
    image: Image<'a>,
    dynamic: Vec<(u64, u64)>,
}

/// A function or an object with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Without a version.
    pub name: &'a [u8],
    /// Virtual address.
    pub address: u64,
    /// In bytes; 0 if the file does not say.
    pub size: u64,
    /// It is code.
    pub is_function: bool,
}

/// `e_machine` of the files that this module can capture from.
const OWN_MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// A section that lies inside of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its virtual address; 0 if it is not loaded.
    pub address: u64,
    /// Its file offset.
    pub offset: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Reads the headers. Costs some microseconds; symbols and strings are looked for only when they are asked for.
    ///
    /// # Errors
    ///
    /// What is wrong, for [`Detected::unsupported`](super::Detected::unsupported).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let image = Image::parse(bytes).map_err(|e| match e {
            ImageError::NotElf => "not an ELF file".to_owned(),
            ImageError::Class(what) => format!("a {what} ELF file; only 64-bit little-endian ones are captured from"),
            ImageError::Damaged(what) => what,
        })?;
        if OWN_MACHINE.is_some_and(|own| own != image.machine) {
            return Err(format!("built for another kind of processor (ELF machine {})", image.machine));
        }
        let dynamic = image.dynamic();
        Ok(Self { image, dynamic })
    }

    /// `e_machine`: 62 x86_64, 183 aarch64.
    pub fn machine(&self) -> u16 {
        self.image.machine
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<Section<'a>> {
        let named = self.image.sections.iter().filter(|s| s.name == name.as_bytes());
        let mut found =
            named.filter_map(|s| Some(Section { address: s.address, offset: s.offset, bytes: self.image.data(s)? }));
        found.next()
    }

    /// Every defined symbol that has a name: first those of `.dynsym`, then those of `.symtab`.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol<'a>> {
        const STT_FUNC: u8 = 2;
        const STT_GNU_IFUNC: u8 = 10;
        let tables = |kind| self.image.sections.iter().filter(move |s| s.kind == kind);
        let all = tables(SHT_DYNSYM).chain(tables(SHT_SYMTAB)).flat_map(|table| self.image.symbols(table));
        all.filter(|s| s.section != 0 && !s.name.is_empty()).map(|s| Symbol {
            name: s.name,
            address: s.address,
            size: s.size,
            is_function: matches!(s.info & 15, STT_FUNC | STT_GNU_IFUNC),
        })
    }

    /// The symbol of this name, a function before anything else.
    pub fn symbol(&self, name: &str) -> Option<Symbol<'a>> {
        let mut other = None;
        for symbol in self.symbols().filter(|s| s.name == name.as_bytes()) {
            if symbol.is_function {
                return Some(symbol);
            }
            other.get_or_insert(symbol);
        }
        other
    }

    /// Whether the function is there under this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.symbol(name).is_some_and(|s| s.is_function)
    }

    /// A function's code, if the file says how long it is.
    pub fn code(&self, function: &Symbol<'_>) -> Option<&'a [u8]> {
        let size = usize::try_from(function.size).ok().filter(|size| *size > 0)?;
        self.bytes_at(function.address)?.get(..size)
    }

    /// The bytes from a virtual address to the end of its segment.
    pub fn bytes_at(&self, address: u64) -> Option<&'a [u8]> {
        self.image.bytes_at(address)
    }

    /// The NUL-terminated string at a virtual address, without its NUL; at most 1024 bytes.
    pub fn string_at(&self, address: u64) -> Option<&'a [u8]> {
        let bytes = self.bytes_at(address)?;
        c_str(bytes.get(..MAX_STRING + 1).unwrap_or(bytes), 0)
    }

    /// Loaded bytes that are run: virtual address and bytes of each segment.
    pub fn executable(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        let run = self.image.segments.iter().filter(|s| s.kind == PT_LOAD && s.flags & PF_X != 0);
        run.filter_map(|s| Some((s.address, range(self.image.bytes, s.offset, s.file_size)?)))
    }

    /// Where functions begin, and those parts of them that the compiler put elsewhere: virtual addresses, ascending, from the
    /// unwind information (the index `.eh_frame_hdr`, else `.eh_frame`), which stripped files have too. Empty if there is none.
    pub fn function_starts(&self) -> Vec<u64> {
        let segment = self.image.segments.iter().find(|s| s.kind == PT_GNU_EH_FRAME);
        let index = segment.and_then(|s| Some((s.address, range(self.image.bytes, s.offset, s.file_size)?)));
        let mut starts = index.map_or_else(Vec::new, |(address, bytes)| unwind_starts(address, bytes));
        if starts.is_empty()
            && let Some(section) = self.section(".eh_frame")
        {
            starts = unwind::functions(section.address, section.bytes).into_iter().map(|f| f.start).collect();
        }
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The file offset of a virtual address.
    pub fn offset(&self, address: u64) -> Option<u64> {
        self.image.offset(address).map(|(offset, _)| offset)
    }

    /// The virtual address of a file offset.
    pub fn address(&self, offset: u64) -> Option<u64> {
        self.image.address(offset)
    }

    /// Where these bytes are in loaded data that is neither written nor run: virtual addresses, in order. Strings are in
    /// `.rodata`; without section headers every segment that is not written is searched, code included.
    pub fn find<'n>(&'n self, needle: &'n [u8]) -> impl Iterator<Item = u64> + 'n {
        self.constants().into_iter().flat_map(move |(address, bytes)| {
            matches(bytes, needle).filter_map(move |at| address.checked_add(u64::try_from(at).ok()?))
        })
    }

    /// Virtual address of the whole NUL-terminated string, as a pointer in code would hold it.
    pub fn find_string(&self, string: &str) -> Option<u64> {
        self.constants().into_iter().find_map(|(address, bytes)| {
            let whole = |at: &usize| {
                let starts = at.checked_sub(1).is_none_or(|before| bytes.get(before) == Some(&0));
                starts && bytes.get(at + string.len()) == Some(&0)
            };
            let at = matches(bytes, string.as_bytes()).find(whole)?;
            address.checked_add(u64::try_from(at).ok()?)
        })
    }

    /// Where the NUL-terminated string around this address begins, if that is at most 1024 bytes before.
    pub fn string_start(&self, address: u64) -> Option<u64> {
        let constants = self.constants();
        let (base, bytes) = constants.iter().find(|(base, bytes)| {
            address.checked_sub(*base).is_some_and(|at| at < u64::try_from(bytes.len()).unwrap_or(u64::MAX))
        })?;
        let at = usize::try_from(address - base).ok()?;
        let before = bytes.get(at.saturating_sub(MAX_STRING)..at)?;
        let back = before.iter().rev().position(|b| *b == 0).or_else(|| (at <= MAX_STRING).then_some(at))?;
        address.checked_sub(u64::try_from(back).ok()?)
    }

    /// The whole strings (up to 1024 bytes to each side) that these bytes are part of: for version strings.
    pub fn strings_with<'n>(&'n self, needle: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + 'n {
        self.constants().into_iter().flat_map(move |(_, bytes)| {
            matches(bytes, needle).filter_map(move |at| {
                let before = bytes.get(at.saturating_sub(MAX_STRING)..at)?;
                let start = at - before.iter().rev().position(|b| *b == 0).unwrap_or(before.len());
                let after = bytes.get(at..)?.iter().take(MAX_STRING);
                let len = after.clone().position(|b| *b == 0).unwrap_or(after.len());
                bytes.get(start..at + len)
            })
        })
    }

    /// The GNU build id.
    pub fn build_id(&self) -> Option<&'a [u8]> {
        const NT_GNU_BUILD_ID: u32 = 3;
        let segments = self.image.segments.iter().filter(|s| s.kind == PT_NOTE);
        let segments = segments.filter_map(|s| range(self.image.bytes, s.offset, s.file_size));
        let sections = self.image.sections.iter().filter(|s| s.kind == SHT_NOTE).filter_map(|s| self.image.data(s));
        let mut all = segments.chain(sections).flat_map(notes).filter_map(Result::ok);
        all.find(|(owner, kind, _)| *owner == b"GNU" && *kind == NT_GNU_BUILD_ID).map(|(_, _, id)| id)
    }

    /// DT_NEEDED: the libraries that it is linked to.
    pub fn needed(&self) -> impl Iterator<Item = &'a str> {
        self.names(DT_NEEDED)
    }

    /// DT_SONAME.
    pub fn soname(&self) -> Option<&'a str> {
        self.names(DT_SONAME).next()
    }

    fn names(&self, tag: u64) -> impl Iterator<Item = &'a str> {
        let strings = self.image.dynamic_strings(&self.dynamic);
        let tagged = self.dynamic.iter().filter(move |(t, _)| *t == tag);
        tagged.filter_map(move |(_, at)| std::str::from_utf8(c_str(strings, *at)?).ok())
    }

    /// Loaded bytes that are neither written nor run.
    fn constants(&self) -> Vec<(u64, &'a [u8])> {
        const SHF_WRITE: u64 = 1;
        const SHF_ALLOC: u64 = 2;
        const SHF_EXECINSTR: u64 = 4;
        let plain = self.image.sections.iter().filter(|s| {
            s.flags & (SHF_WRITE | SHF_ALLOC | SHF_EXECINSTR) == SHF_ALLOC && s.kind == crate::image::SHT_PROGBITS
        });
        let found: Vec<_> = plain.filter_map(|s| Some((s.address, self.image.data(s)?))).collect();
        if !found.is_empty() {
            return found;
        }
        let loaded = self.image.segments.iter().filter(|s| s.kind == PT_LOAD && s.flags & PF_W == 0);
        let separate = loaded.clone().any(|s| s.flags & PF_X == 0);
        let wanted = loaded.filter(|s| !separate || s.flags & PF_X == 0);
        wanted.filter_map(|s| Some((s.address, range(self.image.bytes, s.offset, s.file_size)?))).collect()
    }
}

/// The addresses in the index of an unwind table, as every linker writes it: pairs of 32-bit distances from its beginning.
fn unwind_starts(address: u64, bytes: &[u8]) -> Vec<u64> {
    // Version 1; where the frames are, 4 bytes; how many they are, as 4 bytes without a sign; the pairs.
    let [1, frames, 0x03, 0x3b, rest @ ..] = bytes else { return Vec::new() };
    // Absolute or relative, with or without a sign: 4 bytes.
    if !matches!(frames & 0x0f, 0x03 | 0x0b) {
        return Vec::new();
    }
    let Some((count, pairs)) = rest.get(4..).and_then(|rest| rest.split_first_chunk::<4>()) else { return Vec::new() };
    let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
    let pairs = pairs.as_chunks::<8>().0.iter().take(count);
    pairs.map(|[a, b, c, d, ..]| address.wrapping_add_signed(i32::from_le_bytes([*a, *b, *c, *d]).into())).collect()
}

/// Where `needle` begins in `bytes`; nowhere if it is empty.
fn matches<'n>(bytes: &'n [u8], needle: &'n [u8]) -> impl Iterator<Item = usize> + 'n {
    let first = needle.first().copied();
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = first?;
        loop {
            let rest = bytes.get(at..)?;
            let found = at + rest.iter().position(|b| *b == first)?;
            at = found + 1;
            if bytes.get(found..)?.starts_with(needle) {
                return Some(found);
            }
        }
    })
}

#[cfg(test)]
mod tests;
