//! Symbol tables: which function a name means, and where functions start.
//!
//! Names are looked up by walking the tables once for all names wanted; no index of all names is built.

use super::elf::{Refusal, Section, slice, u16_at, u32_at, u64_at};
use std::collections::{HashMap, HashSet};

const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const SHT_GNU_VERSYM: u32 = 0x6fff_ffff;
const SYMBOL: usize = 24;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;
const SHN_UNDEF: u16 = 0;
const SHN_LORESERVE: u16 = 0xff00;
/// Bit of `.gnu.version`: an old version, kept for programs linked long ago.
const VERSION_HIDDEN: u16 = 0x8000;
/// Chromium has 1.5 million with all symbols.
const MAX_SYMBOLS: usize = 4_000_000;
/// Longest name compared. Mangled C++ names of a few kilobytes exist, but nobody names one in a module.
const MAX_NAME: usize = 1024;
/// Longest `@@VERSION` behind a name.
const MAX_VERSION: usize = 64;

struct Table<'f> {
    entries: &'f [u8],
    strings: &'f [u8],
    versions: &'f [u8],
    dynamic: bool,
}

/// All symbol tables of a file.
pub(super) struct Symbols<'f> {
    tables: Vec<Table<'f>>,
}

/// A defined symbol of code.
#[derive(Clone, Copy)]
struct Symbol<'f> {
    value: u64,
    size: u64,
    kind: u8,
    rank: Rank,
    /// From the first byte of the name to the end of the string table.
    name: &'f [u8],
}

/// Which definition wins when a name occurs more than once; the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ExportedDefault,
    Global,
    ExportedOld,
    Local,
}

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Function(u64),
    /// The address is that of a resolver, not of the function that programs call.
    Indirect,
    Ambiguous,
}

/// Where functions start, as far as symbols say.
#[derive(Default)]
pub(super) struct Starts {
    /// (address, size), ascending, one per address, the largest size.
    pub(super) functions: Vec<(u64, u64)>,
    /// Untyped symbols: labels of hand-written assembly. Ascending.
    pub(super) labels: Vec<u64>,
}

impl<'f> Symbol<'f> {
    /// The name, unless it is longer than `longest`.
    fn name(&self, longest: usize) -> Option<&'f [u8]> {
        let head = &self.name[..self.name.len().min(longest + 1)];
        head.iter().position(|b| *b == 0).map(|end| &head[..end])
    }
}

impl<'f> Symbols<'f> {
    pub(super) fn read(file: &'f [u8], sections: &[Section]) -> Result<Self, Refusal> {
        let mut tables = Vec::new();
        let mut count = 0;
        for (number, section) in sections.iter().enumerate() {
            let dynamic = section.kind == SHT_DYNSYM;
            if !(dynamic || section.kind == SHT_SYMTAB) || section.entry_size != SYMBOL as u64 {
                continue;
            }
            let Some(entries) = slice(file, section.offset, section.size) else { continue };
            let strings = usize::try_from(section.link).ok().and_then(|i| sections.get(i));
            let Some(strings) = strings.and_then(|s| slice(file, s.offset, s.size)) else { continue };
            let versions = sections.iter().find(|s| s.kind == SHT_GNU_VERSYM && s.link as usize == number);
            let versions = versions.and_then(|s| slice(file, s.offset, s.size)).unwrap_or_default();
            count += entries.len() / SYMBOL;
            tables.push(Table { entries, strings, versions, dynamic });
        }
        if count > MAX_SYMBOLS {
            return Err(Refusal::TooLarge("symbols"));
        }
        Ok(Symbols { tables })
    }

    fn each(&self, mut visit: impl FnMut(Symbol<'f>)) {
        for table in &self.tables {
            for (number, entry) in table.entries.as_chunks::<SYMBOL>().0.iter().enumerate() {
                let section = u16_at(entry, 6).unwrap_or(SHN_UNDEF);
                let (value, size) = (u64_at(entry, 8).unwrap_or(0), u64_at(entry, 16).unwrap_or(0));
                if section == SHN_UNDEF || section >= SHN_LORESERVE || value == 0 {
                    continue;
                }
                let name = u32_at(entry, 0).and_then(|at| table.strings.get(at as usize..)).unwrap_or_default();
                let old = u16_at(table.versions, number * 2).is_some_and(|v| v & VERSION_HIDDEN != 0);
                let rank = match (entry[4] >> 4, table.dynamic) {
                    (STB_LOCAL, _) => Rank::Local,
                    (_, true) if old => Rank::ExportedOld,
                    (_, true) => Rank::ExportedDefault,
                    (_, false) => Rank::Global,
                };
                visit(Symbol { value, size, kind: entry[4] & 0xf, rank, name });
            }
        }
    }

    pub(super) fn starts(&self, is_code: impl Fn(u64) -> bool) -> Starts {
        let mut starts = Starts::default();
        self.each(|s| match s.kind {
            STT_FUNC | STT_GNU_IFUNC if is_code(s.value) => starts.functions.push((s.value, s.size)),
            STT_NOTYPE if is_code(s.value) => starts.labels.push(s.value),
            _ => {}
        });
        starts.functions.sort_unstable_by_key(|f| (f.0, std::cmp::Reverse(f.1)));
        starts.functions.dedup_by_key(|f| f.0);
        starts.labels.sort_unstable();
        starts
    }

    /// The meaning of each name that occurs.
    pub(super) fn find<'n>(&self, names: &HashSet<&'n [u8]>) -> HashMap<&'n [u8], Meaning> {
        let longest = names.iter().map(|name| name.len()).max().unwrap_or(0).min(MAX_NAME) + MAX_VERSION;
        let mut found: HashMap<&'n [u8], (Rank, Meaning)> = HashMap::new();
        self.each(|s| {
            if s.kind != STT_FUNC && s.kind != STT_GNU_IFUNC {
                return;
            }
            let Some(name) = s.name(longest) else { return };
            // `.symtab` writes the default version as part of the name.
            let name = name.windows(2).position(|w| w == b"@@").map_or(name, |at| &name[..at]);
            let Some(name) = names.get(name) else { return };
            let meaning = if s.kind == STT_GNU_IFUNC { Meaning::Indirect } else { Meaning::Function(s.value) };
            let new = (s.rank, meaning);
            found
                .entry(name)
                .and_modify(|old| {
                    if new.0 < old.0 {
                        *old = new;
                    } else if new.0 == old.0 && new.1 != old.1 {
                        old.1 = Meaning::Ambiguous;
                    }
                })
                .or_insert(new);
        });
        found.into_iter().map(|(name, (_, meaning))| (name, meaning)).collect()
    }

    /// A name for each of these addresses, if there is one; exported names are preferred.
    pub(super) fn names_of(&self, addresses: &HashSet<u64>) -> HashMap<u64, String> {
        let mut names: HashMap<u64, (Rank, String)> = HashMap::new();
        self.each(|s| {
            if s.kind != STT_FUNC || !addresses.contains(&s.value) || names.get(&s.value).is_some_and(|n| n.0 <= s.rank)
            {
                return;
            }
            if let Some(name) = s.name(MAX_NAME).and_then(|n| std::str::from_utf8(n).ok()) {
                names.insert(s.value, (s.rank, name.to_owned()));
            }
        });
        names.into_iter().map(|(va, (_, name))| (va, name)).collect()
    }
}
