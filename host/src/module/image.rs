//! The bytes of a module file in memory, as few of them as a judgement needs.
//!
//! A listing needs the headers, the notes, what the dynamic linker will ask for, and the eBPF objects: some tens of
//! kilobytes of files that are megabytes large (with debug information, tens of them). So [`Image::sparse`] reads those
//! ranges only, into a buffer of the file's full size: offsets stay those of the file, and the same code reads a sparse
//! and a whole image. What was not read is zero, and is zeroed once a thread, not once a file (`space`). Read with `pread`, never mapped: a file cut
//! short under a mapping is a SIGBUS for the reader.
//!
//! Here too is the one check that the rest leans on: every table, segment and section lies inside the file.

mod space;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use space::Space;

use super::refusal::{Code, Refusal};

/// Largest module file that is looked at. A Rust module with its debug information is some 10 MiB.
pub const MAX_FILE: u64 = 64 << 20;
const MAX_SEGMENTS: usize = 256;
const MAX_SECTIONS: usize = 2048;

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const SECTION: usize = 64;

const ET_DYN: u16 = 3;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const SHT_STRTAB: u32 = 3;
const SHT_DYNAMIC: u32 = 6;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHT_GNU_VERDEF: u32 = 0x6fff_fffd;
const SHT_GNU_VERNEED: u32 = 0x6fff_fffe;
const SHF_ALLOC: u64 = 2;

/// The bytes of a file, at their offsets.
#[derive(Debug)]
pub struct Image {
    space: Space,
    machine: u16,
    sections: Vec<Section>,
}

/// A section header, its name resolved, its range checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name, as far as it is UTF-8.
    pub name: String,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_link`: another section, depending on the type.
    pub link: u32,
    /// Where its bytes are in the file; empty for a section without bytes.
    pub range: Range<usize>,
}

impl Image {
    /// Reads what a judgement needs of a file of `size` bytes.
    ///
    /// # Errors
    /// `E-ELF` if it cannot be read or is no complete shared library, `E-ARCH` if its headers are of another word size
    /// or byte order, so that nothing more of it can be read.
    pub fn sparse(file: &File, size: u64) -> Result<Self, Refusal> {
        Self::read(file, size, false)
    }

    /// Reads the whole file: for running it from exactly the bytes that were judged.
    ///
    /// # Errors
    /// As [`Image::sparse`].
    pub fn whole(file: &File, size: u64) -> Result<Self, Refusal> {
        Self::read(file, size, true)
    }

    fn read(file: &File, size: u64, whole: bool) -> Result<Self, Refusal> {
        if size > MAX_FILE {
            return Err(Refusal::new(
                Code::Elf,
                format!("is {} MiB large, the limit is {} MiB", size >> 20, MAX_FILE >> 20),
                "strip it: strip --strip-debug",
            ));
        }
        let length = usize::try_from(size).map_err(|_| cut("the file"))?;
        if length < HEADER {
            let what = if length == 0 { "is empty".to_owned() } else { format!("has only {length} bytes") };
            return Err(not_elf(what));
        }
        let mut space = if whole { Space::of_its_own(length) } else { Space::shared(length) };
        fill(file, &mut space, if whole { 0..length } else { 0..HEADER })?;
        let header = Header::parse(space.bytes())?;
        if !whole {
            fill(file, &mut space, header.segments.clone())?;
            fill(file, &mut space, header.sections.clone())?;
        }
        let mut wanted = segment_ranges(space.bytes(), &header)?;
        let raw = raw_sections(space.bytes(), &header)?;
        let names = raw.get(header.names).filter(|section| section.kind == SHT_STRTAB);
        let names = names.ok_or_else(|| damaged("it has no table of section names"))?.range.clone();
        if !whole {
            fill(file, &mut space, names.clone())?;
        }
        let names = space.bytes().get(names).unwrap_or_default();
        let sections: Vec<Section> = raw.iter().map(|section| section.named(names)).collect();
        if !whole {
            wanted.extend(
                raw.iter().zip(&sections).filter(|(raw, named)| raw.wanted(named)).map(|(raw, _)| raw.range.clone()),
            );
            // Merged first: sections of a hostile file may all claim the same bytes, which must not be read over and over.
            for range in merged(wanted) {
                fill(file, &mut space, range)?;
            }
        }
        Ok(Self { space, machine: header.machine, sections })
    }

    /// The bytes at their offsets in the file; zero where nothing was read.
    pub fn bytes(&self) -> &[u8] {
        self.space.bytes()
    }

    /// `e_machine`.
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// All sections, in the order of the file.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The bytes of the section of this name.
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        self.sections.iter().find(|section| section.name == name).map(|section| self.data(section))
    }

    /// The GNU build id in hexadecimal, if the linker left one: behind the three words and the owner of its note.
    pub fn build_id(&self) -> Option<String> {
        let id = self.section(".note.gnu.build-id")?.get(16..)?;
        Some(id.iter().take(64).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The bytes of a section.
    pub fn data(&self, section: &Section) -> &[u8] {
        self.space.bytes().get(section.range.clone()).unwrap_or_default()
    }
}

struct Header {
    machine: u16,
    segments: Range<usize>,
    sections: Range<usize>,
    names: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.get(..4) != Some(b"\x7fELF") {
            return Err(not_elf("is not an ELF file".to_owned()));
        }
        let little = bytes.get(5) == Some(&1);
        let machine = if little { u16_at(bytes, 18) } else { u16_at(bytes, 18).swap_bytes() };
        match (bytes.get(4), bytes.get(5)) {
            (Some(2), Some(1)) => {}
            (Some(1), Some(1 | 2)) => return Err(other_form("a 32-bit", machine)),
            (Some(2), Some(2)) => return Err(other_form("a big-endian", machine)),
            _ => return Err(damaged("its first bytes name no known word size or byte order")),
        }
        let kind = u16_at(bytes, 16);
        if kind != ET_DYN {
            let what = match kind {
                1 => "an object file",
                2 => "an executable",
                4 => "a core dump",
                _ => "of an unknown kind",
            };
            return Err(not_elf(format!("is {what}, not a shared library")));
        }
        let table = |offset: u64, count: usize, entry: usize, most: usize, what: &str| {
            if count > most {
                return Err(damaged(&format!("it has {count} {what}, the limit is {most}")));
            }
            let start = usize::try_from(offset).map_err(|_| cut(&format!("the table of {what}")))?;
            let end = start.checked_add(count * entry).filter(|end| *end <= bytes.len());
            end.map(|end| start..end).ok_or_else(|| cut(&format!("the table of {what}")))
        };
        let (segments, sections) = (usize::from(u16_at(bytes, 56)), usize::from(u16_at(bytes, 60)));
        if segments == 0 || usize::from(u16_at(bytes, 54)) != SEGMENT {
            return Err(damaged("it has no segments"));
        }
        if sections == 0 || usize::from(u16_at(bytes, 58)) != SECTION {
            return Err(Refusal::new(Code::Elf, "has no sections", "build it without removing the section headers"));
        }
        Ok(Self {
            machine,
            segments: table(u64_at(bytes, 32), segments, SEGMENT, MAX_SEGMENTS, "segments")?,
            sections: table(u64_at(bytes, 40), sections, SECTION, MAX_SECTIONS, "sections")?,
            names: usize::from(u16_at(bytes, 62)),
        })
    }
}

struct RawSection {
    name: usize,
    kind: u32,
    flags: u64,
    link: u32,
    range: Range<usize>,
}

impl RawSection {
    fn named(&self, names: &[u8]) -> Section {
        let name = names.get(self.name..).unwrap_or_default();
        // Section names are short; a name without an end must not make each of 2,048 sections carry megabytes.
        let name = name.get(..name.len().min(256)).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        Section { name, kind: self.kind, link: self.link, range: self.range.clone() }
    }

    fn wanted(&self, named: &Section) -> bool {
        match self.kind {
            SHT_NOTE | SHT_DYNAMIC | SHT_GNU_VERNEED | SHT_GNU_VERDEF => true,
            SHT_STRTAB => self.flags & SHF_ALLOC != 0,
            _ => named.name.starts_with(".ecapture.") || named.name.starts_with(".note"),
        }
    }
}

/// Checks all segments; returns the ranges of those to read.
fn segment_ranges(bytes: &[u8], header: &Header) -> Result<Vec<Range<usize>>, Refusal> {
    let mut wanted = Vec::new();
    let table = bytes.get(header.segments.clone()).unwrap_or_default();
    for (number, segment) in table.chunks_exact(SEGMENT).enumerate() {
        let range = inside(u64_at(segment, 8), u64_at(segment, 32), bytes.len())
            .ok_or_else(|| cut(&format!("segment {number}")))?;
        if matches!(u32_at(segment, 0), PT_DYNAMIC | PT_NOTE) {
            wanted.push(range);
        }
    }
    Ok(wanted)
}

fn raw_sections(bytes: &[u8], header: &Header) -> Result<Vec<RawSection>, Refusal> {
    let table = bytes.get(header.sections.clone()).unwrap_or_default();
    let mut sections = Vec::with_capacity(table.len() / SECTION);
    for (number, section) in table.chunks_exact(SECTION).enumerate() {
        let kind = u32_at(section, 4);
        let range = if kind == SHT_NOBITS || kind == 0 {
            0..0
        } else {
            inside(u64_at(section, 24), u64_at(section, 32), bytes.len())
                .ok_or_else(|| cut(&format!("section {number}")))?
        };
        sections.push(RawSection {
            name: usize::try_from(u32_at(section, 0)).unwrap_or(usize::MAX),
            kind,
            flags: u64_at(section, 8),
            link: u32_at(section, 40),
            range,
        });
    }
    Ok(sections)
}

fn inside(offset: u64, length: u64, size: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= size).then_some(start..end)
}

fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            // A gap of less than a page is cheaper to read than to skip.
            Some(last) if range.start <= last.end.saturating_add(4096) => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

fn fill(file: &File, space: &mut Space, range: Range<usize>) -> Result<(), Refusal> {
    let offset = u64::try_from(range.start).unwrap_or(u64::MAX);
    let Some(into) = space.part(range) else { return Err(cut("a part of it")) };
    file.read_exact_at(into, offset).map_err(|error| {
        let what = if error.kind() == std::io::ErrorKind::UnexpectedEof {
            "became shorter while it was read".to_owned()
        } else {
            format!("cannot be read: {error}")
        };
        Refusal::new(Code::Elf, what, "install the file again, and list when that is done")
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u16::from_le_bytes(*word))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_le_bytes(*word))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The name of an `e_machine`, as `uname -m` would say it.
pub fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386".to_owned(),
        8 => "mips".to_owned(),
        21 => "ppc64".to_owned(),
        22 => "s390x".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv64".to_owned(),
        247 => "bpf".to_owned(),
        258 => "loongarch64".to_owned(),
        other => format!("machine number {other}"),
    }
}

fn not_elf(what: String) -> Refusal {
    Refusal::new(Code::Elf, what, "install a module built as a shared library (crate-type cdylib), or remove the file")
}

fn damaged(what: &str) -> Refusal {
    Refusal::new(Code::Elf, format!("is damaged: {what}"), "install the file again")
}

fn cut(what: &str) -> Refusal {
    Refusal::new(
        Code::Elf,
        format!("is cut short or damaged: {what} lies outside the file"),
        "install the file again: the copy is not complete",
    )
}

fn other_form(form: &str, machine: u16) -> Refusal {
    let host = std::env::consts::ARCH;
    Refusal::new(
        Code::Arch,
        format!("is {form} library for {}, this host is {host}", machine_name(machine)),
        format!("install the build for {host}"),
    )
}

#[cfg(test)]
mod tests;
