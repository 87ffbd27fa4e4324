//! Bounds of the BTF and BTF.ext sections of an object, checked before aya-obj reads them. See `elf.rs` for why.

use super::elf::{Bytes, ElfError, ensure};
use std::collections::BTreeSet;

const MAX_TYPES: usize = 64 << 10;
/// Members, enumerators, parameters of one type.
const MAX_MEMBERS: usize = 4096;
/// Variables of all sections together: aya-obj walks a structure for each of those in `.maps`.
const MAX_VARIABLES: usize = 1024;
const MAX_RELOCATIONS: usize = 8192;
/// For each type that is relocated, aya-obj walks all 130,000 types of the kernel once (2-5 ms).
const MAX_RELOCATED_TYPES: usize = 256;

const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
/// The only relocation that is not looked up in the kernel.
const TYPE_ID_LOCAL: u32 = 6;

/// The checked parts of a `.BTF` section that `.BTF.ext` refers to.
pub(super) struct Types<'a> {
    strings: Bytes<'a>,
    /// Where the name of each type is; 0 = it has none. Type 0 is void.
    names: Vec<u32>,
}

/// Bytes that follow the 12 of a type's head.
fn tail(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        0 | 2 | 7..=12 | 16 | 18 => 0, // void, ptr, fwd, typedef, volatile, const, restrict, func, float, type tag
        1 | KIND_VAR | 17 => 4,        // int, var, decl tag
        3 => 12,                       // array
        4 | 5 | KIND_DATASEC | 19 => members * 12, // struct, union, datasec, enum64
        6 | 13 => members * 8,         // enum, func proto
        _ => return None,
    })
}

/// Checks the header, the types' sizes and names, and the values that aya-obj turns into enums unchecked.
pub(super) fn check(section: Bytes<'_>) -> Result<Types<'_>, ElfError> {
    let cut = || ElfError(".BTF is cut short".into());
    let word = |at| section.u32(at).ok_or_else(cut);
    ensure!(section.u16(0) == Some(0xeb9f) && section.u8(2) == Some(1), ".BTF is not BTF version 1");
    let header = u64::from(word(4)?);
    let (type_off, type_len) = (u64::from(word(8)?), u64::from(word(12)?));
    let (str_off, str_len) = (u64::from(word(16)?), u64::from(word(20)?));
    ensure!(header == 24, ".BTF has a header of {header} bytes, expected 24");
    let mut types = section.sub(header + type_off, type_len).ok_or_else(cut)?;
    let strings = section.sub(header + str_off, str_len).ok_or_else(cut)?;
    ensure!(strings.0.first() == Some(&0) && strings.0.last() == Some(&0), "the strings of .BTF have no ends");
    // aya-obj writes the sections back one after the other, and counts string offsets from there.
    ensure!(type_off == 0 && str_off == type_len, "the parts of .BTF are not in the usual order");

    let (mut names, mut variables) = (vec![0], 0);
    while !types.0.is_empty() {
        let count = names.len();
        let bad = || ElfError(format!("BTF type {count} is broken"));
        let (name, info) = (types.u32(0).ok_or_else(bad)?, types.u32(4).ok_or_else(bad)?);
        let (kind, members) = (info >> 24 & 31, (info & 0xffff) as usize);
        let size = 12 + tail(kind, members).ok_or_else(bad)?;
        let whole = types.sub(0, size as u64).ok_or_else(bad)?;
        ensure!(kind != 0, "BTF type {count} has no kind");
        ensure!(strings.name(name).is_some(), "BTF type {count} has no name of a sensible length");
        ensure!(members <= MAX_MEMBERS, "BTF type {count} has {members} members; at most {MAX_MEMBERS} are read");
        if kind == KIND_VAR {
            let linkage = whole.u32(12);
            ensure!(linkage.is_some_and(|l| l <= 2), "BTF variable {count} has linkage {linkage:?}");
        }
        if kind == KIND_DATASEC {
            variables += members;
        }
        types = types.sub(size as u64, (types.0.len() - size) as u64).ok_or_else(bad)?;
        names.push(name);
        ensure!(names.len() <= MAX_TYPES, "more than {MAX_TYPES} BTF types");
    }
    ensure!(variables <= MAX_VARIABLES, "{variables} variables in BTF; at most {MAX_VARIABLES} are read");
    Ok(Types { strings, names })
}

/// Checks `.BTF.ext` and answers how many CO-RE relocations it holds.
pub(super) fn check_ext(section: Bytes<'_>, types: &Types<'_>) -> Result<usize, ElfError> {
    let cut = || ElfError(".BTF.ext is cut short".into());
    let word = |at| section.u32(at).ok_or_else(cut);
    ensure!(section.u16(0) == Some(0xeb9f) && section.u8(2) == Some(1), ".BTF.ext is not BTF version 1");
    let header = u64::from(word(4)?);
    ensure!(header == 24 || header == 32, ".BTF.ext has a header of {header} bytes, expected 32");
    let (mut relocations, mut relocated) = (0, BTreeSet::new());
    // func_info, line_info, core_relo: where the pair (offset, length) is, and the record's size.
    for (at, record) in [(8, 8), (16, 16), (24, 16)] {
        if at as u64 + 8 > header {
            break;
        }
        let mut part = section.sub(header + u64::from(word(at)?), u64::from(word(at + 4)?)).ok_or_else(cut)?;
        if part.0.is_empty() {
            continue;
        }
        let size = part.u32(0).ok_or_else(cut)?;
        ensure!(size == record, ".BTF.ext has records of {size} bytes, expected {record}");
        part = part.sub(4, part.0.len() as u64 - 4).ok_or_else(cut)?;
        while !part.0.is_empty() {
            let (name, count) = (part.u32(0).ok_or_else(cut)?, part.u32(4).ok_or_else(cut)?);
            ensure!(types.strings.name(name).is_some(), ".BTF.ext names no section");
            let len = u64::from(count) * u64::from(record);
            let records = part.sub(8, len).ok_or_else(cut)?;
            if at == 24 {
                relocations += count as usize;
                ensure!(relocations <= MAX_RELOCATIONS, "more than {MAX_RELOCATIONS} CO-RE relocations");
                for r in records.0.chunks_exact(16).map(Bytes) {
                    let (id, kind) = (r.u32(4).ok_or_else(cut)?, r.u32(12).ok_or_else(cut)?);
                    let name = types.names.get(id as usize);
                    let name = name
                        .ok_or_else(|| ElfError(format!("a CO-RE relocation names type {id}, which is not there")))?;
                    // The kernel has some ten thousand types without a name, and all would be compared each time.
                    ensure!(
                        *name != 0 || kind == TYPE_ID_LOCAL,
                        "a CO-RE relocation names type {id}, which has no name"
                    );
                    // Names of types are short already; access strings ("0:1:2") must be, too.
                    ensure!(
                        r.u32(8).is_some_and(|s| types.strings.name(s).is_some()),
                        "a CO-RE relocation has no access string"
                    );
                    relocated.insert(id);
                }
            }
            part = part.sub(8 + len, part.0.len() as u64 - 8 - len).ok_or_else(cut)?;
        }
    }
    ensure!(
        relocated.len() <= MAX_RELOCATED_TYPES,
        "{} kernel types are relocated; at most {MAX_RELOCATED_TYPES} are",
        relocated.len()
    );
    Ok(relocations)
}
