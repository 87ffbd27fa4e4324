//! Reading a module *file*: notes, bundled objects and what the dynamic loader will want. No mapping, no execution.

use super::{MAX_MANIFEST, MAX_PARTS, names};
use crate::image::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_VERNEED, DT_VERNEEDNUM, Image, ImageError, PF_X, PT_GNU_STACK,
    PT_INTERP, SHF_COMPRESSED, SHT_NOTE, SHT_PROGBITS, c_str, notes, shown, u16_at, u32_at,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Type of the note that holds the manifest's text.
pub const NOTE_MANIFEST: u32 = 0xEC01;
/// Type of the note that holds the build facts: lines `key=value`.
pub const NOTE_BUILD: u32 = 0xEC02;
/// Owner of both notes.
pub const NOTE_OWNER: &str = "ecapture";
/// Section of both notes.
pub const NOTE_SECTION: &str = ".note.ecapture";
/// Prefix of the sections with eBPF objects.
pub const BPF_SECTION: &str = ".ecapture.bpf.";
/// Longest module file, in bytes.
pub const MAX_FILE: usize = 256 << 20;
/// Longest eBPF object, in bytes.
pub const MAX_OBJECT: usize = 16 << 20;
/// Longest note of build facts, in bytes.
const MAX_FACTS: usize = 4096;
/// Most libraries or symbol versions that are read.
const MAX_NAMES: usize = 256;
/// `e_type` of a shared object.
const ET_DYN: u16 = 3;

/// What a module file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleNotes<'a> {
    /// Text of `module.toml`, not parsed.
    pub manifest: &'a str,
    /// Build facts.
    pub build: BuildFacts,
    /// eBPF objects in the order of the file, by id.
    pub objects: Vec<(&'a str, &'a [u8])>,
    /// What the dynamic loader needs.
    pub elf: ElfFacts,
}

/// What the module was built with: the note of type [`NOTE_BUILD`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BuildFacts {
    /// `unwind` or `abort` (`E-PANIC`).
    pub panic: String,
    /// `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub rustc: String,
    /// `x86_64-unknown-linux-gnu`.
    pub target: String,
    /// Version of the API crate: `1.0.0`.
    pub api: String,
    /// `release` or `debug`.
    pub profile: String,
    /// Keys that this host does not know.
    pub other: BTreeMap<String, String>,
}

/// What the ELF headers say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ElfFacts {
    /// `e_machine`: 62 x86_64, 183 aarch64.
    pub machine: u16,
    /// Its Rust name (`x86_64`, `aarch64`), or `machine-N`.
    pub arch: String,
    /// `e_type`: 3 is a shared object, the only one allowed.
    pub file_type: u16,
    /// DT_SONAME.
    pub soname: Option<String>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// Every symbol version that is required (`GLIBC_2.34`, `GCC_3.0`), without doubles.
    pub versions: Vec<String>,
    /// Highest `GLIBC_x.y[.z]` of the symbol versions that are required.
    pub glibc: Option<(u32, u32, u32)>,
    /// DT_RUNPATH or DT_RPATH: where libraries come from is not the module's business.
    pub runpath: Option<String>,
    /// PT_GNU_STACK asks for an executable stack, or is missing.
    pub executable_stack: bool,
    /// A program interpreter is asked for.
    pub interpreter: bool,
}

/// Why a file is no module. `Display` names the cause; [`ElfError::code`] gives the code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF file of a kind that can be a module: `E-ELF`.
    #[error("{0}")]
    NotElf(String),
    /// 32-bit or big endian: `E-ARCH`.
    #[error("{0}")]
    Class(String),
    /// A part of the file lies outside of it, or its tables are not well-formed: `E-ELF`.
    #[error("{0}")]
    Damaged(String),
    /// No manifest, two of them, or one that is not text: `E-MANIFEST`.
    #[error("{0}")]
    Note(String),
}

impl ElfError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotElf(_) | Self::Damaged(_) => "E-ELF",
            Self::Class(_) => "E-ARCH",
            Self::Note(_) => "E-MANIFEST",
        }
    }
}

impl From<ImageError> for ElfError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::NotElf => Self::NotElf("not an ELF file".to_owned()),
            ImageError::Class(what) => Self::Class(format!("a {what} ELF file; modules are 64-bit, little endian")),
            ImageError::Damaged(what) => Self::Damaged(what),
        }
    }
}

impl<'a> ModuleNotes<'a> {
    /// Reads a whole module file. The bytes may be anything.
    ///
    /// # Errors
    ///
    /// [`ElfError`]: no 64-bit little-endian shared object, a part of it outside of the file, or notes that are missing,
    /// double or not text.
    pub fn read(bytes: &'a [u8]) -> Result<Self, ElfError> {
        if bytes.len() > MAX_FILE {
            return Err(ElfError::NotElf(format!("{} bytes; a module has at most {MAX_FILE}", bytes.len())));
        }
        let image = Image::parse(bytes)?;
        if image.kind != ET_DYN {
            return Err(ElfError::NotElf(format!("an ELF file of type {}; a module is a shared object", image.kind)));
        }
        image.check_inside()?;
        let (manifest, build) = read_notes(&image)?;
        Ok(Self { manifest, build, objects: read_objects(&image)?, elf: read_facts(&image)? })
    }

    /// The bytes of an eBPF object, zeros up to a multiple of eight behind them.
    pub fn object(&self, id: &str) -> Option<&'a [u8]> {
        self.objects.iter().find(|(i, _)| *i == id).map(|(_, bytes)| *bytes)
    }
}

fn note_error<T>(what: impl Into<String>) -> Result<T, ElfError> {
    Err(ElfError::Note(what.into()))
}

fn read_notes<'a>(image: &Image<'a>) -> Result<(&'a str, BuildFacts), ElfError> {
    let (mut manifest, mut facts) = (None, None);
    for section in image.sections.iter().filter(|s| s.name == NOTE_SECTION.as_bytes()) {
        if section.kind != SHT_NOTE && section.kind != SHT_PROGBITS {
            return note_error(format!("{NOTE_SECTION} is of type {}, not a note", section.kind));
        }
        for note in notes(image.data(section).unwrap_or(&[])) {
            let Ok((owner, kind, text)) = note else {
                return note_error(format!("{NOTE_SECTION} holds a note that is not well-formed"));
            };
            if owner != NOTE_OWNER.as_bytes() {
                continue;
            }
            let (place, max, what) = match kind {
                NOTE_MANIFEST => (&mut manifest, MAX_MANIFEST, "manifest"),
                NOTE_BUILD => (&mut facts, MAX_FACTS, "note of build facts"),
                // Of a later host.
                _ => continue,
            };
            if text.len() > max {
                return note_error(format!("a {what} of {} bytes; at most {max} are allowed", text.len()));
            }
            let Ok(text) = std::str::from_utf8(text) else { return note_error(format!("the {what} is not UTF-8")) };
            if place.replace(text).is_some() {
                return note_error(format!("the file has more than one {what}; is another module linked into it?"));
            }
        }
    }
    match (manifest, facts) {
        (Some(manifest), Some(facts)) => Ok((manifest, BuildFacts::parse(facts))),
        (None, _) => note_error(format!(
            "no manifest (note {NOTE_MANIFEST:#x} in {NOTE_SECTION}); build the module with the SDK's export_module! macro"
        )),
        (Some(_), None) => note_error(format!("no build facts (note {NOTE_BUILD:#x} in {NOTE_SECTION})")),
    }
}

impl BuildFacts {
    /// Lines `key=value`; the first of a key counts.
    fn parse(text: &str) -> Self {
        let mut facts = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value: String = value.chars().filter(|c| !c.is_control()).take(256).collect();
            let place = match key {
                "panic" => &mut facts.panic,
                "rustc" => &mut facts.rustc,
                "target" => &mut facts.target,
                "api" => &mut facts.api,
                "profile" => &mut facts.profile,
                other => facts.other.entry(shown(other.as_bytes())).or_default(),
            };
            if place.is_empty() {
                *place = value;
            }
        }
        facts
    }
}

fn read_objects<'a>(image: &Image<'a>) -> Result<Vec<(&'a str, &'a [u8])>, ElfError> {
    let mut objects: Vec<(&str, &[u8])> = Vec::new();
    for section in &image.sections {
        let Some(id) = section.name.strip_prefix(BPF_SECTION.as_bytes()) else { continue };
        let damaged = |what: String| Err(ElfError::Damaged(format!("section {BPF_SECTION}{} {what}", shown(id))));
        let Some(id) = std::str::from_utf8(id).ok().filter(|id| names::is_name(id)) else {
            return damaged("has an id that is not a name".to_owned());
        };
        if section.kind != SHT_PROGBITS || section.flags & SHF_COMPRESSED != 0 {
            return damaged("holds no plain bytes".to_owned());
        }
        let bytes = image.data(section).unwrap_or(&[]);
        if bytes.is_empty() || bytes.len() > MAX_OBJECT {
            return damaged(format!("has {} bytes; 1 to {MAX_OBJECT} are allowed", bytes.len()));
        }
        if objects.iter().any(|(other, _)| *other == id) {
            return damaged("is there twice".to_owned());
        }
        if objects.len() == MAX_PARTS {
            return damaged(format!("is one more than the {MAX_PARTS} that are allowed"));
        }
        objects.push((id, bytes));
    }
    Ok(objects)
}

fn read_facts(image: &Image<'_>) -> Result<ElfFacts, ElfError> {
    let dynamic = image.dynamic();
    let strings = image.dynamic_strings(&dynamic);
    let text = |at: u64| match c_str(strings, at) {
        Some(name) => Ok(shown(name)),
        None => Err(ElfError::Damaged("a name of the dynamic section lies outside of its strings".to_owned())),
    };
    let value = |tag: u64| dynamic.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
    let needed = dynamic.iter().filter(|(tag, _)| *tag == DT_NEEDED).take(MAX_NAMES);
    let versions = match (value(DT_VERNEED), value(DT_VERNEEDNUM)) {
        (Some(address), Some(count)) => read_versions(image, strings, address, count)?,
        _ => Vec::new(),
    };
    let stack = image.segments.iter().find(|s| s.kind == PT_GNU_STACK);
    Ok(ElfFacts {
        machine: image.machine,
        arch: match image.machine {
            62 => "x86_64".to_owned(),
            183 => "aarch64".to_owned(),
            243 => "riscv64".to_owned(),
            other => format!("machine-{other}"),
        },
        file_type: image.kind,
        soname: value(DT_SONAME).map(text).transpose()?,
        needed: needed.map(|(_, at)| text(*at)).collect::<Result<_, _>>()?,
        glibc: versions.iter().filter_map(|v| glibc(v)).max(),
        versions,
        runpath: value(DT_RUNPATH).or_else(|| value(DT_RPATH)).map(text).transpose()?,
        executable_stack: stack.is_none_or(|s| s.flags & PF_X != 0),
        interpreter: image.segments.iter().any(|s| s.kind == PT_INTERP),
    })
}

/// The chain of `Elf64_Verneed`, and of `Elf64_Vernaux` in each.
fn read_versions(image: &Image<'_>, strings: &[u8], address: u64, count: u64) -> Result<Vec<String>, ElfError> {
    let broken = || ElfError::Damaged("the table of required symbol versions is not well-formed".to_owned());
    let table = image.bytes_at(address).ok_or_else(broken)?;
    let mut versions: Vec<String> = Vec::new();
    let mut at = 0_usize;
    for _ in 0..usize::try_from(count).unwrap_or(usize::MAX).min(MAX_NAMES) {
        let entry = table.get(at..).ok_or_else(broken)?;
        let field = |offset| u32_at(entry, offset).and_then(|v| usize::try_from(v).ok()).ok_or_else(broken);
        let mut aux_at = field(8)?;
        for _ in 0..usize::from(u16_at(entry, 2).ok_or_else(broken)?).min(MAX_NAMES) {
            let aux = entry.get(aux_at..).ok_or_else(broken)?;
            let name = u32_at(aux, 8).and_then(|name| c_str(strings, u64::from(name))).ok_or_else(broken)?;
            let name = shown(name);
            if !versions.contains(&name) && versions.len() < MAX_NAMES {
                versions.push(name);
            }
            match u32_at(aux, 12).and_then(|next| usize::try_from(next).ok()) {
                Some(0) => break,
                next => aux_at = next.and_then(|next| aux_at.checked_add(next)).ok_or_else(broken)?,
            }
        }
        match field(12)? {
            0 => break,
            next => at = at.checked_add(next).ok_or_else(broken)?,
        }
    }
    Ok(versions)
}

/// `GLIBC_2.34`; `GLIBC_ABI_DT_RELR` came with 2.36.
fn glibc(version: &str) -> Option<(u32, u32, u32)> {
    if version == "GLIBC_ABI_DT_RELR" {
        return Some((2, 36, 0));
    }
    let mut parts = version.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    Some((major, minor, parts.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
