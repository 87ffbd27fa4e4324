//! Bounds of an eBPF object file, checked before aya-obj sees a byte of it.
//!
//! aya-obj trusts what compilers write: it slices by symbol sizes without a check (a panic), reads two of its enums straight
//! from the file (undefined behaviour for odd values) and does work that grows with the *product* of counts in the file (a
//! hang, or all memory). So everything that it follows is checked here, and every count that it multiplies is bounded. The
//! limits are far above what a module needs and far below what hurts.
//!
//! Must not live here: meaning. Whether a program or a map is welcome is `scan.rs`' business.

use super::btf;
use std::collections::BTreeSet;

/// Largest object that is looked at. Modules with debug info are some 100 KiB.
pub const MAX_OBJECT: usize = 8 << 20;
const MAX_SECTIONS: usize = 512;
const MAX_SYMBOLS: usize = 32 << 10;
const MAX_NAME: usize = 256;
const MAX_FUNCTIONS: usize = 256;
/// All code of an object. The kernel takes a million instructions a program, of which nobody writes a tenth.
const MAX_CODE: u64 = 2 << 20;
/// `.data`, `.rodata` and `.bss` together: aya-obj allocates them while it parses.
const MAX_DATA: u64 = 64 << 20;

const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHT_REL: u32 = 9;
const SHT_DYNSYM: u32 = 11;
const SHT_SYMTAB_SHNDX: u32 = 18;
const SHF_EXECINSTR: u64 = 4;
const SHF_COMPRESSED: u64 = 0x800;
const SHN_UNDEF: u16 = 0;
const SHN_LORESERVE: u16 = 0xff00;
const SHN_ABS: u16 = 0xfff1;
const STT_FUNC: u8 = 2;
const STT_SECTION: u8 = 3;
const STT_FILE: u8 = 4;
const R_BPF_64_64: u32 = 1;
const R_BPF_64_32: u32 = 10;
/// First byte of `ld_imm64` and of a call.
const LD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;

/// What is wrong with an object file, in words for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ElfError(pub(super) String);

macro_rules! ensure {
    ($good:expr, $($why:tt)+) => {
        if !$good {
            return Err(ElfError(format!($($why)+)));
        }
    };
}
pub(super) use ensure;

/// Little-endian reads that cannot go outside.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn sub(self, from: u64, len: u64) -> Option<Bytes<'a>> {
        let from = usize::try_from(from).ok()?;
        let end = from.checked_add(usize::try_from(len).ok()?)?;
        self.0.get(from..end).map(Bytes)
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    pub fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// A NUL-ended string of at most `MAX_NAME` bytes.
    pub fn name(self, at: u32) -> Option<&'a str> {
        let rest = self.0.get(at as usize..)?;
        let end = rest.iter().take(MAX_NAME + 1).position(|b| *b == 0)?;
        std::str::from_utf8(rest.get(..end)?).ok()
    }
}

struct Section<'a> {
    name: &'a str,
    kind: u32,
    flags: u64,
    address: u64,
    link: u32,
    info: u32,
    entry: u64,
    size: u64,
    /// Empty for `NOBITS`.
    data: Bytes<'a>,
}

impl Section<'_> {
    fn is_code(&self) -> bool {
        self.flags & SHF_EXECINSTR != 0
    }

    /// The names that aya-obj turns into array maps (it compares beginnings, too).
    fn is_data(&self) -> bool {
        [".data", ".rodata", ".bss"].iter().any(|start| self.name.starts_with(start))
    }
}

/// Facts found on the way that aya-obj does not tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Names that the object wants from the kernel: kfuncs, ksyms and kconfig values.
    pub externs: BTreeSet<String>,
    /// Named constants and variables: name, size.
    pub globals: Vec<(String, u64)>,
    pub core_relocations: usize,
}

/// Checks that every offset, size and index in `bytes` that a parser follows stays inside.
pub(super) fn check(bytes: &[u8]) -> Result<Facts, ElfError> {
    ensure!(bytes.len() <= MAX_OBJECT, "{} bytes; at most {MAX_OBJECT} are read", bytes.len());
    let file = Bytes(bytes);
    ensure!(
        bytes.get(..7).is_some_and(|ident| ident == [0x7f, b'E', b'L', b'F', 2, 1, 1]),
        "not a 64-bit little-endian ELF file"
    );
    let header = file.sub(0, 64).ok_or_else(|| ElfError("the ELF header is cut short".into()))?;
    ensure!(header.u16(16) == Some(1) && header.u16(18) == Some(247), "not a relocatable eBPF object");
    let sections = sections(file, header)?;
    let mut facts = Facts::default();

    let symtabs: Vec<usize> = (0..sections.len()).filter(|i| sections[*i].kind == SHT_SYMTAB).collect();
    ensure!(symtabs.len() == 1, "{} symbol tables, expected 1", symtabs.len());
    let symtab = symtabs[0];
    check_symbols(&sections, symtab, &mut facts)?;
    check_relocations(&sections, symtab, &mut facts)?;

    let find = |name| sections.iter().find(|s| s.name == name).map(|s| s.data);
    if let Some(types) = find(".BTF") {
        let types = btf::check(types)?;
        if let Some(ext) = find(".BTF.ext") {
            facts.core_relocations = btf::check_ext(ext, &types)?;
        }
    }
    Ok(facts)
}

fn sections<'a>(file: Bytes<'a>, header: Bytes<'a>) -> Result<Vec<Section<'a>>, ElfError> {
    let cut = || ElfError("a section header is outside the file".into());
    let table = header.u64(40).ok_or_else(cut)?;
    let (entry, count, names) =
        (header.u16(58).ok_or_else(cut)?, header.u16(60).ok_or_else(cut)? as usize, header.u16(62).ok_or_else(cut)?);
    ensure!(entry == 64, "section headers of {entry} bytes, expected 64");
    ensure!((1..=MAX_SECTIONS).contains(&count), "{count} sections, expected 1 to {MAX_SECTIONS}");
    ensure!((names as usize) < count, "the section of section names is number {names} of {count}");
    let headers = file.sub(table, count as u64 * 64).ok_or_else(cut)?;
    let raw = |i: usize| -> Option<(u32, Section<'a>)> {
        let h = headers.sub(i as u64 * 64, 64)?;
        let (kind, offset, size) = (h.u32(4)?, h.u64(24)?, h.u64(32)?);
        let stored = if kind == SHT_NOBITS || kind == 0 { 0 } else { size };
        Some((
            h.u32(0)?,
            Section {
                name: "",
                kind,
                flags: h.u64(8)?,
                address: h.u64(16)?,
                link: h.u32(40)?,
                info: h.u32(44)?,
                entry: h.u64(56)?,
                size: if kind == 0 { 0 } else { size },
                data: if stored == 0 { Bytes(&[]) } else { file.sub(offset, stored)? },
            },
        ))
    };
    let outside = |i: usize| ElfError(format!("section {i} is outside the file"));
    let strings = raw(names as usize).ok_or_else(|| outside(names as usize))?.1.data;
    let (mut out, mut stored, mut code, mut data) = (Vec::with_capacity(count), 0u64, 0u64, 0u64);
    for i in 0..count {
        let (name, mut section) = raw(i).ok_or_else(|| outside(i))?;
        section.name =
            if i == 0 { "" } else { strings.name(name).ok_or_else(|| ElfError(format!("section {i} has no name")))? };
        let name = section.name;
        ensure!(section.address == 0, "section {name} has an address: not a relocatable object");
        ensure!(section.flags & SHF_COMPRESSED == 0, "section {name} is compressed");
        ensure!(
            ![SHT_RELA, SHT_DYNSYM, SHT_SYMTAB_SHNDX].contains(&section.kind),
            "section {name} is of type {}, which no eBPF compiler writes",
            section.kind
        );
        // aya-obj reads their `pinning` field into an enum without a check.
        ensure!(!name.starts_with("maps"), "section {name}: maps are declared in .maps (with BTF), not in the old way");
        stored = stored.saturating_add(section.data.0.len() as u64);
        code = code.saturating_add(if section.is_code() { section.size } else { 0 });
        data = data.saturating_add(if section.is_data() { section.size } else { 0 });
        ensure!(!section.is_code() || section.kind != SHT_NOBITS, "section {name} is code without bytes");
        ensure!(!section.is_data() || section.size <= u64::from(u32::MAX), "section {name} is too large");
        out.push(section);
    }
    // Sections that overlap multiply the work; a compiler's do not.
    ensure!(stored <= file.0.len() as u64, "the sections overlap");
    ensure!(code <= MAX_CODE, "{code} bytes of code; at most {MAX_CODE} are read");
    ensure!(data <= MAX_DATA, "{data} bytes of variables; at most {MAX_DATA} are read");
    Ok(out)
}

fn check_symbols(sections: &[Section<'_>], symtab: usize, facts: &mut Facts) -> Result<(), ElfError> {
    let table = &sections[symtab];
    ensure!(table.entry == 24 && table.size.is_multiple_of(24), "symbols of {} bytes, expected 24", table.entry);
    let count = table.data.0.len() / 24;
    ensure!(count <= MAX_SYMBOLS, "{count} symbols; at most {MAX_SYMBOLS} are read");
    let strings = sections.get(table.link as usize).ok_or_else(|| ElfError("the symbols have no names".into()))?.data;
    let mut functions = 0usize;
    let mut code = 0u64;
    for i in 0..count {
        let broken = || ElfError(format!("symbol {i} is broken"));
        let s = table.data.sub(i as u64 * 24, 24).ok_or_else(broken)?;
        let name = strings.name(s.u32(0).ok_or_else(broken)?).ok_or_else(broken)?;
        let (kind, index) = (s.u8(4).ok_or_else(broken)? & 15, s.u16(6).ok_or_else(broken)?);
        let (value, size) = (s.u64(8).ok_or_else(broken)?, s.u64(16).ok_or_else(broken)?);
        if index == SHN_UNDEF || index == SHN_ABS {
            ensure!(index == SHN_UNDEF || kind == STT_FILE, "symbol {name} has a fixed address");
            continue; // undefined ones count only when something refers to them
        }
        ensure!(index < SHN_LORESERVE && (index as usize) < sections.len(), "symbol {name} is in section {index}");
        let home = &sections[index as usize];
        let end = value.checked_add(size).ok_or_else(broken)?;
        ensure!(
            end <= home.size,
            "symbol {name} ({value:#x}, {size} bytes) ends outside section {} ({} bytes)",
            home.name,
            home.size
        );
        if home.is_code() && kind == STT_FUNC {
            ensure!(
                value.is_multiple_of(8) && size.is_multiple_of(8) && size > 0,
                "function {name} is not made of whole instructions"
            );
            functions += 1;
            code = code.saturating_add(size);
        } else if home.is_data() && kind != STT_SECTION && !name.is_empty() {
            facts.globals.push((name.to_owned(), size));
        }
    }
    ensure!(functions <= MAX_FUNCTIONS, "{functions} functions; at most {MAX_FUNCTIONS} are read");
    // Aliases of one function are rare, thousands of them are an attack on our memory.
    ensure!(code <= 2 * MAX_CODE, "the functions overlap");
    Ok(())
}

fn check_relocations(sections: &[Section<'_>], symtab: usize, facts: &mut Facts) -> Result<(), ElfError> {
    let symbols = sections[symtab].data;
    let strings = sections.get(sections[symtab].link as usize).map_or(Bytes(&[]), |s| s.data);
    let mut done = BTreeSet::new();
    for rel in sections.iter().filter(|s| s.kind == SHT_REL) {
        let name = rel.name;
        ensure!(
            rel.entry == 16 && rel.size.is_multiple_of(16),
            "{name}: relocations of {} bytes, expected 16",
            rel.entry
        );
        ensure!(rel.link as usize == symtab, "{name} uses section {} for its symbols", rel.link);
        // The `object` crate chains the relocation sections of one target; a loop there would never end.
        ensure!(done.insert(rel.info), "{name}: section {} has relocations twice", rel.info);
        let target = sections.get(rel.info as usize).filter(|t| rel.info != 0 && t.kind != SHT_REL);
        let target = target.ok_or_else(|| ElfError(format!("{name} relocates section {}", rel.info)))?;
        for i in 0..rel.data.0.len() / 16 {
            let at = i * 16;
            let outside = || ElfError(format!("{name}: relocation {i} is outside"));
            let offset = rel.data.u64(at).ok_or_else(outside)?;
            let (kind, symbol) =
                (rel.data.u32(at + 8).ok_or_else(outside)?, rel.data.u32(at + 12).ok_or_else(outside)?);
            let sym = symbols.sub(u64::from(symbol) * 24, 24).ok_or_else(outside)?;
            let place = target.data.sub(offset, 4).ok_or_else(outside)?;
            if !target.is_code() {
                continue;
            }
            // Only these may change, else a "relocation" could turn one helper call into another behind the scan.
            let good = match (kind, place.u8(0)) {
                (R_BPF_64_64, Some(LD_IMM64)) => {
                    target.data.sub(offset, 16).is_some_and(|wide| wide.u64(8).is_some_and(|w| w & 0xffff_ffff == 0))
                }
                (R_BPF_64_32, Some(CALL)) => target.data.sub(offset, 8).and_then(|call| call.u8(1)) == Some(0x10),
                _ => false,
            };
            ensure!(
                good && offset.is_multiple_of(8),
                "{name}: relocation {i} (type {kind}) changes what it must not change"
            );
            if sym.u16(6) == Some(SHN_UNDEF) {
                let wanted = sym.u32(0).and_then(|n| strings.name(n)).filter(|n| !n.is_empty());
                facts.externs.insert(wanted.ok_or_else(outside)?.to_owned());
            }
        }
    }
    Ok(())
}
