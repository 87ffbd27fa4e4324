//! The parts of an ELF file that the analysis needs, read with every offset checked.
//!
//! Own readers and not goblin: a scout meets files that nobody vouches for, and what is used here (program headers,
//! notes, a few dynamic tags, section headers for the symbol tables) is smaller than the proof that a general parser
//! stays within time and memory on all of them. Nothing here knows about instructions.

use super::plan::FileKind;
use thiserror::Error;

const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
/// Real files have at most a few dozen; the extended numbering above 0xfffe is not read.
const MAX_PROGRAM_HEADERS: usize = 512;
const MAX_SECTIONS: usize = 65_000;
const MAX_DYNAMIC: usize = 4096;
const MAX_NOTES: usize = 4096;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PT_GNU_PROPERTY: u32 = 0x6474_e553;
const DT_PLTRELSZ: u64 = 2;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_SONAME: u64 = 14;
const DT_JMPREL: u64 = 23;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_PIE: u64 = 0x0800_0000;
const NT_GNU_BUILD_ID: u32 = 3;
const NT_GNU_PROPERTY: u32 = 5;
const NT_GO_BUILD_ID: u32 = 4;
const PROPERTY_X86_FEATURE_1_AND: u32 = 0xc000_0002;
const FEATURE_SHADOW_STACK: u32 = 2;

/// Why a whole file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// Another class, byte order or machine.
    #[error("not a 64-bit little-endian x86-64 file (machine {machine})")]
    Machine {
        /// `e_machine`, or 0 when the class or byte order is already another.
        machine: u16,
    },
    /// An object file or a core dump.
    #[error("neither an executable nor a shared library (ELF type {0})")]
    Kind(u16),
    /// The headers contradict themselves or the file.
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
    /// A segment reaches behind the end of the file: a probe there could not be in the file.
    #[error("truncated: the segment at file offset {offset:#x} ends behind the file")]
    Truncated {
        /// File offset of the segment.
        offset: u64,
    },
    /// Larger than the analysis allows itself.
    #[error("too large to analyse: {0}")]
    TooLarge(&'static str),
}

/// A loadable part of the file (only the bytes that are in the file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) va: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) executable: bool,
    pub(super) writable: bool,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        self.va + self.len // checked when read
    }
    pub(super) fn contains(&self, va: u64) -> bool {
        va >= self.va && va < self.end()
    }
}

/// A section header, as far as symbol tables need it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    name: u32,
    pub(super) kind: u32,
    va: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) link: u32,
    pub(super) entry_size: u64,
}

/// The headers of a file that passed the checks.
#[derive(Debug)]
pub(super) struct Headers {
    /// Ascending by address, not overlapping.
    pub(super) segments: Vec<Segment>,
    pub(super) sections: Vec<Section>,
    pub(super) kind: FileKind,
    /// Linked for a fixed address: absolute addresses may stand in instructions.
    pub(super) fixed: bool,
    pub(super) build_id: Option<String>,
    pub(super) shadow_stack: bool,
    pub(super) go: bool,
    /// Address and length of `.eh_frame_hdr`, the index of the unwind table.
    pub(super) unwind_table: Option<(u64, u64)>,
    /// Address, file offset and length of `.eh_frame`.
    pub(super) frames: Option<(u64, u64, u64)>,
    /// Address and length of the relocations with addends.
    pub(super) relocations: Option<(u64, u64)>,
    /// The same, of the slots that stubs of the procedure linkage table jump through.
    pub(super) slot_relocations: Option<(u64, u64)>,
    /// Address of the symbols that relocations name; their number is not stated.
    pub(super) dynamic_symbols: Option<u64>,
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// `len` bytes from `offset`, or nothing.
pub(super) fn slice(file: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    file.get(start..end)
}

struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    va: u64,
    len: u64,
}

impl Headers {
    pub(super) fn read(file: &[u8]) -> Result<Headers, Refusal> {
        if file.get(..4) != Some(b"\x7fELF") {
            return Err(Refusal::NotElf);
        }
        let head = file.get(..64).ok_or(Refusal::Damaged("the ELF header is cut short"))?;
        let field16 = |at| u16_at(head, at).unwrap_or(0);
        if head[4] != 2 || head[5] != 1 {
            return Err(Refusal::Machine { machine: 0 });
        }
        if field16(18) != 62 {
            return Err(Refusal::Machine { machine: field16(18) });
        }
        let elf_type = field16(16);
        if elf_type != 2 && elf_type != 3 {
            return Err(Refusal::Kind(elf_type));
        }
        let programs = read_program_headers(file, head)?;
        let segments = read_segments(file, &programs)?;
        let sections = read_sections(file, head);
        let mut headers = Headers {
            segments,
            frames: find_frames(file, head, &sections),
            sections,
            kind: FileKind::Library,
            fixed: elf_type == 2,
            build_id: None,
            shadow_stack: false,
            go: false,
            unwind_table: programs.iter().find(|p| p.kind == PT_GNU_EH_FRAME).map(|p| (p.va, p.len)),
            relocations: None,
            slot_relocations: None,
            dynamic_symbols: None,
        };
        for note in programs.iter().filter(|p| p.kind == PT_NOTE || p.kind == PT_GNU_PROPERTY) {
            if let Some(bytes) = slice(file, note.offset, note.len) {
                headers.read_notes(bytes);
            }
        }
        let dynamic = programs.iter().find(|p| p.kind == PT_DYNAMIC).and_then(|p| slice(file, p.offset, p.len));
        let interpreter = programs.iter().any(|p| p.kind == PT_INTERP);
        headers.read_dynamic(dynamic.unwrap_or_default(), interpreter);
        Ok(headers)
    }

    fn read_dynamic(&mut self, bytes: &[u8], interpreter: bool) {
        let (mut rela, mut rela_size, mut soname, mut pie) = (None, None, false, false);
        let (mut slots, mut slots_size) = (None, None);
        for entry in bytes.as_chunks::<16>().0.iter().take(MAX_DYNAMIC) {
            let (tag, value) = (u64_at(entry, 0).unwrap_or(0), u64_at(entry, 8).unwrap_or(0));
            match tag {
                0 => break,
                DT_RELA => rela = Some(value),
                DT_RELASZ => rela_size = Some(value),
                DT_JMPREL => slots = Some(value),
                DT_PLTRELSZ => slots_size = Some(value),
                DT_SYMTAB => self.dynamic_symbols = Some(value),
                DT_SONAME => soname = true,
                DT_FLAGS_1 => pie = value & DF_1_PIE != 0,
                _ => {}
            }
        }
        self.relocations = rela.zip(rela_size);
        self.slot_relocations = slots.zip(slots_size);
        // An interpreter alone says nothing: libc.so.6 has one and is a library.
        if self.fixed || pie || (interpreter && !soname) {
            self.kind = FileKind::Executable;
        }
    }

    fn read_notes(&mut self, mut bytes: &[u8]) {
        for _ in 0..MAX_NOTES {
            let (Some(name_len), Some(len), Some(kind)) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8)) else {
                return;
            };
            // Names are short, so padding to 4 is right for both note alignments; property values are padded to 8.
            let name_end = 12 + (name_len as usize).next_multiple_of(4);
            let (Some(name), Some(rest)) = (bytes.get(12..12 + name_len as usize), bytes.get(name_end..)) else {
                return;
            };
            let Some(value) = rest.get(..len as usize) else { return };
            match (name, kind) {
                (b"GNU\0", NT_GNU_BUILD_ID) if !value.is_empty() && value.len() <= 64 => {
                    self.build_id = Some(value.iter().map(|b| format!("{b:02x}")).collect());
                }
                (b"GNU\0", NT_GNU_PROPERTY) => self.shadow_stack |= marks_shadow_stack(value),
                (b"Go\0\0", NT_GO_BUILD_ID) => self.go = true,
                _ => {}
            }
            let padding = if kind == NT_GNU_PROPERTY { 8 } else { 4 };
            let Some(next) = rest.get((len as usize).next_multiple_of(padding)..) else { return };
            bytes = next;
        }
    }
}

fn marks_shadow_stack(mut properties: &[u8]) -> bool {
    while let (Some(kind), Some(len)) = (u32_at(properties, 0), u32_at(properties, 4)) {
        if kind == PROPERTY_X86_FEATURE_1_AND {
            return u32_at(properties, 8).is_some_and(|bits| bits & FEATURE_SHADOW_STACK != 0);
        }
        let Some(rest) = properties.get((8 + len as usize).next_multiple_of(8)..) else { return false };
        properties = rest;
    }
    false
}

fn read_program_headers(file: &[u8], head: &[u8]) -> Result<Vec<ProgramHeader>, Refusal> {
    let cut = Refusal::Damaged("the program headers are not in the file");
    let (offset, size, count) = (u64_at(head, 32), u16_at(head, 54), u16_at(head, 56));
    let (Some(offset), Some(size), Some(count)) = (offset, size, count) else { return Err(cut) };
    if usize::from(size) != PROGRAM_HEADER || count == 0 {
        return Err(Refusal::Damaged("no program headers"));
    }
    if usize::from(count) > MAX_PROGRAM_HEADERS {
        return Err(Refusal::TooLarge("program headers"));
    }
    let table = slice(file, offset, u64::from(count) * PROGRAM_HEADER as u64).ok_or(cut)?;
    let read = |h: &[u8; PROGRAM_HEADER]| {
        Some(ProgramHeader {
            kind: u32_at(h, 0)?,
            flags: u32_at(h, 4)?,
            offset: u64_at(h, 8)?,
            va: u64_at(h, 16)?,
            len: u64_at(h, 32)?,
        })
    };
    Ok(table.as_chunks::<PROGRAM_HEADER>().0.iter().filter_map(read).collect())
}

fn read_segments(file: &[u8], programs: &[ProgramHeader]) -> Result<Vec<Segment>, Refusal> {
    let mut segments = Vec::new();
    for p in programs.iter().filter(|p| p.kind == PT_LOAD && p.len > 0) {
        if slice(file, p.offset, p.len).is_none() {
            return Err(Refusal::Truncated { offset: p.offset });
        }
        // User space ends below 2^47; above it address arithmetic could wrap.
        if p.va.checked_add(p.len).is_none_or(|end| end > 1 << 47) {
            return Err(Refusal::Damaged("a segment outside the address space"));
        }
        segments.push(Segment {
            va: p.va,
            offset: p.offset,
            len: p.len,
            executable: p.flags & 1 != 0,
            writable: p.flags & 2 != 0,
        });
    }
    segments.sort_by_key(|s| s.va);
    if segments.windows(2).any(|w| w[0].end() > w[1].va) {
        return Err(Refusal::Damaged("overlapping segments"));
    }
    // A probe belongs to a file offset: code mapped twice would be hit at a second address that nothing was proven for.
    let mut code: Vec<&Segment> = segments.iter().filter(|s| s.executable).collect();
    code.sort_by_key(|s| s.offset);
    if code.windows(2).any(|w| w[0].offset + w[0].len > w[1].offset) {
        return Err(Refusal::Damaged("the same code mapped at two addresses"));
    }
    if code.is_empty() {
        return Err(Refusal::Damaged("no code"));
    }
    Ok(segments)
}

/// Section headers are a courtesy of the linker (the loader never reads them): damaged ones cost the symbols only.
fn read_sections(file: &[u8], head: &[u8]) -> Vec<Section> {
    let (Some(offset), Some(size), Some(count)) = (u64_at(head, 40), u16_at(head, 58), u16_at(head, 60)) else {
        return Vec::new();
    };
    if offset == 0 || usize::from(size) != SECTION_HEADER || usize::from(count) > MAX_SECTIONS {
        return Vec::new();
    }
    let Some(table) = slice(file, offset, u64::from(count) * SECTION_HEADER as u64) else { return Vec::new() };
    let read = |h: &[u8; SECTION_HEADER]| {
        Some(Section {
            name: u32_at(h, 0)?,
            kind: u32_at(h, 4)?,
            va: u64_at(h, 16)?,
            offset: u64_at(h, 24)?,
            size: u64_at(h, 32)?,
            link: u32_at(h, 40)?,
            entry_size: u64_at(h, 56)?,
        })
    };
    table.as_chunks::<SECTION_HEADER>().0.iter().filter_map(read).collect()
}

/// `.eh_frame`, by its name.
fn find_frames(file: &[u8], head: &[u8], sections: &[Section]) -> Option<(u64, u64, u64)> {
    let names = sections.get(usize::from(u16_at(head, 62)?))?;
    let names = slice(file, names.offset, names.size)?;
    let named = |section: &&Section| {
        let name = usize::try_from(section.name).ok().and_then(|at| names.get(at..));
        name.is_some_and(|name| name.starts_with(b".eh_frame\0"))
    };
    sections.iter().find(named).map(|section| (section.va, section.offset, section.size))
}
