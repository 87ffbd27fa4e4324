//! The tables of an ELF file, from bytes: 64-bit, little endian. Shared by the readers of modules and of targets.
//!
//! Every access is bounded; nothing here trusts a number of the file, panics, or allocates more than its tables hold.
//! Hand-written instead of goblin's eager parse: a module links this, the broker runs it on hostile bytes, and a dozen
//! structures are all that both need.

/// A program header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub file_size: u64,
    pub memory_size: u64,
}

/// A section header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    pub name: &'a [u8],
    pub kind: u32,
    pub flags: u64,
    pub address: u64,
    pub offset: u64,
    pub size: u64,
    pub link: u32,
}

/// A symbol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol<'a> {
    pub name: &'a [u8],
    pub info: u8,
    pub section: u16,
    pub address: u64,
    pub size: u64,
}

/// The tables.
#[derive(Debug, Clone)]
pub(crate) struct Image<'a> {
    pub bytes: &'a [u8],
    pub kind: u16,
    pub machine: u16,
    pub segments: Vec<Segment>,
    pub sections: Vec<Section<'a>>,
}

/// Why the tables can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageError {
    /// Not ELF.
    NotElf,
    /// 32-bit, or big endian.
    Class(&'static str),
    /// A table is not well-formed or lies outside of the file.
    Damaged(String),
}

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_DYNAMIC: u32 = 2;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_NOTE: u32 = 4;
pub(crate) const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
pub(crate) const PT_GNU_STACK: u32 = 0x6474_e551;
pub(crate) const PF_X: u32 = 1;
pub(crate) const PF_W: u32 = 2;
pub(crate) const SHT_PROGBITS: u32 = 1;
pub(crate) const SHT_SYMTAB: u32 = 2;
pub(crate) const SHT_NOTE: u32 = 7;
pub(crate) const SHT_NOBITS: u32 = 8;
pub(crate) const SHT_DYNSYM: u32 = 11;
pub(crate) const SHF_COMPRESSED: u64 = 0x800;
pub(crate) const DT_NEEDED: u64 = 1;
pub(crate) const DT_STRTAB: u64 = 5;
pub(crate) const DT_STRSZ: u64 = 10;
pub(crate) const DT_SONAME: u64 = 14;
pub(crate) const DT_RPATH: u64 = 15;
pub(crate) const DT_RUNPATH: u64 = 29;
pub(crate) const DT_VERNEED: u64 = 0x6fff_fffe;
pub(crate) const DT_VERNEEDNUM: u64 = 0x6fff_ffff;

/// More entries than any dynamic section has.
const MAX_DYNAMIC: usize = 4096;

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    word(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    word(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    word(bytes, at).map(u64::from_le_bytes)
}

/// The bytes of a range, if it lies inside.
pub(crate) fn range(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    bytes.get(start..end)
}

/// The bytes up to the next NUL.
pub(crate) fn c_str(table: &[u8], at: u64) -> Option<&[u8]> {
    let rest = table.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    rest.get(..end)
}

fn damaged<T>(what: impl Into<String>) -> Result<T, ImageError> {
    Err(ImageError::Damaged(what.into()))
}

impl<'a> Image<'a> {
    /// Reads the header and both tables. Whether segments and sections lie inside of the file is not looked at: see
    /// [`Image::check_inside`].
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ImageError::NotElf);
        }
        match (bytes.get(4), bytes.get(5)) {
            (Some(2), Some(1)) => {}
            (Some(2), Some(2)) => return Err(ImageError::Class("big-endian")),
            (Some(1), Some(_)) => return Err(ImageError::Class("32-bit")),
            _ => return damaged("the ELF header is not well-formed"),
        }
        let cut = || ImageError::Damaged(format!("the file ends inside of the ELF header, at {} bytes", bytes.len()));
        let header = bytes.get(..64).ok_or_else(cut)?;
        let half = |at| u16_at(header, at).ok_or_else(cut);
        let long = |at| u64_at(header, at).ok_or_else(cut);
        let mut image = Self { bytes, kind: half(16)?, machine: half(18)?, segments: Vec::new(), sections: Vec::new() };
        image.segments = read_segments(bytes, long(32)?, half(54)?, half(56)?)?;
        image.sections = read_sections(bytes, long(40)?, half(58)?, half(60)?, half(62)?)?;
        Ok(image)
    }

    /// Every segment and every section that has bytes lies inside of the file. A library that is cut short is a SIGBUS
    /// when it is loaded.
    pub(crate) fn check_inside(&self) -> Result<(), ImageError> {
        let len = self.bytes.len();
        for (i, segment) in self.segments.iter().enumerate() {
            if range(self.bytes, segment.offset, segment.file_size).is_none() {
                return damaged(format!(
                    "segment {i} ends at {}, but the file has {len} bytes; is it cut short?",
                    u128::from(segment.offset) + u128::from(segment.file_size)
                ));
            }
            let too_small = segment.memory_size < segment.file_size;
            let wraps = segment.address.checked_add(segment.memory_size).is_none();
            if segment.kind == PT_LOAD && (too_small || wraps) {
                return damaged(format!("segment {i} does not fit the memory it asks for"));
            }
        }
        for (i, section) in self.sections.iter().enumerate() {
            if section.has_bytes() && self.data(section).is_none() {
                return damaged(format!(
                    "section {i} ({}) ends at {}, but the file has {len} bytes; is it cut short?",
                    shown(section.name),
                    u128::from(section.offset) + u128::from(section.size)
                ));
            }
        }
        Ok(())
    }

    /// A section's bytes; `None` if it has none or they lie outside of the file.
    pub(crate) fn data(&self, section: &Section<'_>) -> Option<&'a [u8]> {
        if section.has_bytes() { range(self.bytes, section.offset, section.size) } else { None }
    }

    /// The file offset of an address, and how many bytes of the file follow it in its segment.
    pub(crate) fn offset(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD).find_map(|s| {
            let into = address.checked_sub(s.address)?;
            let left = s.file_size.checked_sub(into).filter(|left| *left > 0)?;
            Some((s.offset.checked_add(into)?, left))
        })
    }

    /// The address of a file offset.
    pub(crate) fn address(&self, offset: u64) -> Option<u64> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD).find_map(|s| {
            let into = offset.checked_sub(s.offset).filter(|into| *into < s.file_size)?;
            s.address.checked_add(into)
        })
    }

    /// The bytes from an address to the end of its segment, clipped to the file.
    pub(crate) fn bytes_at(&self, address: u64) -> Option<&'a [u8]> {
        let (offset, left) = self.offset(address)?;
        let rest = self.bytes.get(usize::try_from(offset).ok()?..)?;
        Some(usize::try_from(left).ok().and_then(|left| rest.get(..left)).unwrap_or(rest))
    }

    /// The entries of the dynamic segment: what the dynamic loader reads, whatever the sections say.
    pub(crate) fn dynamic(&self) -> Vec<(u64, u64)> {
        let segment = self.segments.iter().find(|s| s.kind == PT_DYNAMIC);
        let Some(table) = segment.and_then(|s| range(self.bytes, s.offset, s.file_size)) else { return Vec::new() };
        let entry = |e: &[u8]| Some((u64_at(e, 0)?, u64_at(e, 8)?));
        table.chunks_exact(16).take(MAX_DYNAMIC).map_while(entry).take_while(|(tag, _)| *tag != 0).collect()
    }

    /// The string table of the dynamic segment.
    pub(crate) fn dynamic_strings(&self, dynamic: &[(u64, u64)]) -> &'a [u8] {
        let value = |tag| dynamic.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
        let table = value(DT_STRTAB).and_then(|address| self.bytes_at(address)).unwrap_or(&[]);
        let size = value(DT_STRSZ).and_then(|size| usize::try_from(size).ok());
        size.and_then(|size| table.get(..size)).unwrap_or(table)
    }

    /// The symbols of a table section. Names that lie outside of the string table are empty.
    pub(crate) fn symbols(&self, table: &Section<'_>) -> impl Iterator<Item = Symbol<'a>> {
        let names = usize::try_from(table.link).ok().and_then(|i| self.sections.get(i));
        let names = names.and_then(|s| self.data(s)).unwrap_or(&[]);
        self.data(table).unwrap_or(&[]).chunks_exact(24).filter_map(move |entry| {
            Some(Symbol {
                name: c_str(names, u64::from(u32_at(entry, 0)?)).unwrap_or(&[]),
                info: *entry.get(4)?,
                section: u16_at(entry, 6)?,
                address: u64_at(entry, 8)?,
                size: u64_at(entry, 16)?,
            })
        })
    }
}

impl Section<'_> {
    fn has_bytes(&self) -> bool {
        self.kind != SHT_NOBITS && self.kind != 0
    }
}

/// Bytes of the file for a message.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(60).collect()
}

fn read_segments(bytes: &[u8], at: u64, size: u16, count: u16) -> Result<Vec<Segment>, ImageError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if size != 56 {
        return damaged(format!("a program header of {size} bytes"));
    }
    let Some(table) = range(bytes, at, 56 * u64::from(count)) else {
        return damaged("the program headers lie outside of the file; is it cut short?");
    };
    let read = |e: &[u8]| {
        Some(Segment {
            kind: u32_at(e, 0)?,
            flags: u32_at(e, 4)?,
            offset: u64_at(e, 8)?,
            address: u64_at(e, 16)?,
            file_size: u64_at(e, 32)?,
            memory_size: u64_at(e, 40)?,
        })
    };
    Ok(table.chunks_exact(56).filter_map(read).collect())
}

fn read_sections<'a>(
    bytes: &'a [u8],
    at: u64,
    size: u16,
    count: u16,
    names: u16,
) -> Result<Vec<Section<'a>>, ImageError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if size != 64 {
        return damaged(format!("a section header of {size} bytes"));
    }
    let Some(table) = range(bytes, at, 64 * u64::from(count)) else {
        return damaged("the section headers lie outside of the file; is it cut short?");
    };
    let read = |e: &'a [u8]| {
        let section = Section {
            name: &[],
            kind: u32_at(e, 4)?,
            flags: u64_at(e, 8)?,
            address: u64_at(e, 16)?,
            offset: u64_at(e, 24)?,
            size: u64_at(e, 32)?,
            link: u32_at(e, 40)?,
        };
        Some((u32_at(e, 0)?, section))
    };
    let mut sections: Vec<(u32, Section<'a>)> = table.chunks_exact(64).filter_map(read).collect();
    let names = sections.get(usize::from(names)).map(|(_, s)| *s).filter(Section::has_bytes);
    let names = names.and_then(|s| range(bytes, s.offset, s.size)).unwrap_or(&[]);
    for (name, section) in &mut sections {
        section.name = c_str(names, u64::from(*name)).unwrap_or(&[]);
    }
    Ok(sections.into_iter().map(|(_, s)| s).collect())
}

/// Walks the notes of a note section or segment: owner without its NUL, type, text. Stops at the first that is not
/// well-formed; `Err` says so.
pub(crate) fn notes(data: &[u8]) -> impl Iterator<Item = Result<(&[u8], u32, &[u8]), ()>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        // What follows the last note is padding.
        if rest.len() < 12 {
            return None;
        }
        let note = read_note(rest);
        rest = note.map_or(&[], |(_, rest)| rest);
        Some(note.map(|(note, _)| note).ok_or(()))
    })
}

type Note<'a> = (&'a [u8], u32, &'a [u8]);

fn read_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let padded = |len: u32| usize::try_from(len).ok()?.checked_next_multiple_of(4);
    let (owner_len, text_len, kind) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let (owner, rest) = bytes.get(12..)?.split_at_checked(padded(owner_len)?)?;
    let owner = owner.get(..usize::try_from(owner_len).ok()?)?;
    let text = rest.get(..usize::try_from(text_len).ok()?)?;
    // The last note of a section may lack its padding.
    let rest = rest.get(padded(text_len)?..).unwrap_or(&[]);
    Some(((owner.strip_suffix(b"\0").unwrap_or(owner), kind, text), rest))
}
