//! Builds small but complete ELF shared libraries for tests: headers, notes, `.dynamic`, `.gnu.version_r`, any section.
//!
//! No code and nothing that could be loaded: only what a reader of files sees. Every test of bad module files starts from
//! one of these and breaks it.

use std::io::Write as _;

use super::facts::Facts;
use super::image::Image;

pub(crate) use ecapture_plugin_api::manifest::elf::{NOTE_BUILD, NOTE_MANIFEST};

/// A shared library in the making.
#[derive(Clone)]
pub(crate) struct TestElf {
    machine: u16,
    needed: Vec<String>,
    versions: Vec<(String, Vec<String>)>,
    notes: Vec<u8>,
    sections: Vec<(String, Vec<u8>)>,
}

impl TestElf {
    /// For x86_64, without notes or needs.
    pub(crate) fn new() -> Self {
        Self { machine: 62, needed: Vec::new(), versions: Vec::new(), notes: Vec::new(), sections: Vec::new() }
    }

    /// A module that may run on the host of [`facts`]: notes, needs and one eBPF object.
    pub(crate) fn module(name: &str) -> Self {
        Self::with_manifest(&manifest(name)).build("unwind", "1.0.0").section(".ecapture.bpf.main", b"object")
    }

    /// A library with this manifest and nothing else of a module.
    pub(crate) fn with_manifest(manifest: &str) -> Self {
        Self::new().needed("libc.so.6").versions("libc.so.6", &["GLIBC_2.34"]).note(NOTE_MANIFEST, manifest.as_bytes())
    }

    /// Adds the build facts.
    pub(crate) fn build(self, panic: &str, api: &str) -> Self {
        let text =
            format!("panic={panic}\nrustc=rustc 1.95.0\ntarget=x86_64-unknown-linux-gnu\napi={api}\nprofile=release\n");
        self.note(NOTE_BUILD, text.as_bytes())
    }

    /// Sets `e_machine`.
    pub(crate) fn machine(mut self, machine: u16) -> Self {
        self.machine = machine;
        self
    }

    /// Adds a `DT_NEEDED`.
    pub(crate) fn needed(mut self, soname: &str) -> Self {
        self.needed.push(soname.to_owned());
        self
    }

    /// Adds a `Verneed` with these versions of `file`.
    pub(crate) fn versions(mut self, file: &str, names: &[&str]) -> Self {
        self.versions.push((file.to_owned(), names.iter().map(|name| (*name).to_owned()).collect()));
        self
    }

    /// Adds a note of owner `ecapture` to `.note.ecapture`.
    pub(crate) fn note(mut self, kind: u32, text: &[u8]) -> Self {
        for word in [9, u32::try_from(text.len()).unwrap(), kind] {
            self.notes.extend(word.to_le_bytes());
        }
        self.notes.extend(b"ecapture\0\0\0\0");
        self.notes.extend(text);
        self.notes.resize(self.notes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a section of plain bytes.
    pub(crate) fn section(mut self, name: &str, bytes: &[u8]) -> Self {
        self.sections.push((name.to_owned(), bytes.to_vec()));
        self
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        let needed: Vec<(u64, u64)> = self.needed.iter().map(|soname| (1, strings.add(soname).into())).collect();
        let versions = self.verneed(&mut strings);
        // Addresses are offsets. The first two sections with bytes follow the headers, so theirs are known beforehand.
        let strings_at = HEADERS.next_multiple_of(16) as u64;
        let versions_at = (strings_at + strings.bytes.len() as u64).next_multiple_of(16);
        let mut dynamic = [needed, vec![(5, strings_at), (10, strings.bytes.len() as u64)]].concat();
        if !self.versions.is_empty() {
            dynamic.extend([(0x6fff_fffe, versions_at), (0x6fff_ffff, self.versions.len() as u64)]);
        }
        dynamic.push((0, 0));
        let dynamic =
            dynamic.iter().flat_map(|(tag, value): &(u64, u64)| [tag.to_le_bytes(), value.to_le_bytes()].concat());
        let dynamic: Vec<u8> = dynamic.collect();
        // Number 1 is `.dynstr`, so that the links below are constants.
        let mut sections = vec![
            ("", 0u32, 0u64, 0u32, Vec::new()),
            (".dynstr", 3, 2, 0, strings.bytes),
            (".gnu.version_r", 0x6fff_fffe, 2, 1, versions),
            (".dynamic", 6, 3, 1, dynamic),
        ];
        if !self.notes.is_empty() {
            sections.push((".note.ecapture", 7, 2, 0, self.notes.clone()));
        }
        sections.extend(self.sections.iter().map(|(name, bytes)| (name.as_str(), 1, 0, 0, bytes.clone())));
        let mut names = Strings::default();
        let offsets: Vec<u32> =
            sections.iter().map(|part| part.0).chain([".shstrtab"]).map(|name| names.add(name)).collect();
        sections.push((".shstrtab", 3, 0, 0, names.bytes));
        assemble(self.machine, &sections, &offsets)
    }

    fn verneed(&self, strings: &mut Strings) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (file, names)) in self.versions.iter().enumerate() {
            let size = u32::try_from(16 + 16 * names.len()).unwrap();
            let next = if number + 1 == self.versions.len() { 0 } else { size };
            out.extend(1u16.to_le_bytes());
            out.extend(u16::try_from(names.len()).unwrap().to_le_bytes());
            out.extend([strings.add(file), 16, next].iter().flat_map(|word| word.to_le_bytes()));
            for (number, name) in names.iter().enumerate() {
                let next = if number + 1 == names.len() { 0 } else { 16 };
                out.extend([0, 0, strings.add(name), next].iter().flat_map(|word: &u32| word.to_le_bytes()));
            }
        }
        out
    }

    /// The file as an image, by way of a real file.
    pub(crate) fn image(&self) -> Image {
        image_of(&self.bytes()).unwrap()
    }
}

/// A manifest that has what every manifest must have, one target and one object.
pub(crate) fn manifest(name: &str) -> String {
    format!(
        r#"schema = 1
[module]
name = "{name}"
version = "0.1.0"
title = "What {name} says"
license = "Apache-2.0"
api = "1.0"

[[target]]
kind = "executable"
names = ["{name}d", "{name}-server"]

[[bpf]]
id = "main"

[[stream]]
name = "commands"

[[event]]
name = "said"

[[event.column]]
name = "db.query.text"
type = "text"
help = "What was said."
"#
    )
}

/// Reads bytes as a module file.
pub(crate) fn image_of(bytes: &[u8]) -> Result<Image, super::Refusal> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Image::sparse(&file, bytes.len() as u64)
}

/// Facts that hold on no particular machine, so that tests do on every one.
pub(crate) fn facts() -> Facts {
    Facts {
        kernel: (6, 1),
        kernel_release: "6.1.0-13-amd64".to_owned(),
        has_btf: true,
        arch: "x86_64".to_owned(),
        machine: 62,
        libc: Some((2, 36)),
        library_dirs: Vec::new(),
        api: (1, 0),
        features: Vec::new(),
    }
}

#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    fn add(&mut self, text: &str) -> u32 {
        if self.bytes.is_empty() {
            self.bytes.push(0);
        }
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.bytes.len()).unwrap();
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        at
    }
}

/// The header and three segments.
const HEADERS: usize = 64 + 3 * 56;

type Part<'a> = (&'a str, u32, u64, u32, Vec<u8>);

/// Header, three segments (all of it, the notes, the dynamic section), the sections' bytes, the section headers.
fn assemble(machine: u16, sections: &[Part<'_>], names: &[u32]) -> Vec<u8> {
    let mut out = vec![0u8; HEADERS];
    let places: Vec<u64> = sections
        .iter()
        .map(|(.., bytes)| {
            out.resize(out.len().next_multiple_of(16), 0);
            let at = out.len() as u64;
            out.extend(bytes);
            at
        })
        .collect();
    out.resize(out.len().next_multiple_of(16), 0);
    let table = out.len() as u64;
    for ((&(_, kind, flags, link, ref bytes), place), name) in sections.iter().zip(&places).zip(names) {
        out.extend([*name, kind].iter().flat_map(|word| word.to_le_bytes()));
        out.extend([flags, 0, *place, bytes.len() as u64].iter().flat_map(|word| word.to_le_bytes()));
        out.extend([link, 0].iter().flat_map(|word| word.to_le_bytes()));
        out.extend([if kind == 7 { 4u64 } else { 1 }, 0].iter().flat_map(|word| word.to_le_bytes()));
    }
    let length = out.len() as u64;
    let find = |kind| sections.iter().zip(&places).find(|((_, k, ..), _)| *k == kind);
    let segment = |kind: u32, at: u64, size: u64, align: u64| {
        let words = [at, at, at, size, size, align];
        [kind.to_le_bytes(), 4u32.to_le_bytes()]
            .concat()
            .into_iter()
            .chain(words.into_iter().flat_map(u64::to_le_bytes))
    };
    let of = |kind: u32, section| match find(section) {
        Some(((.., bytes), place)) => segment(kind, *place, bytes.len() as u64, 4).collect::<Vec<_>>(),
        None => segment(0, 0, 0, 0).collect(),
    };
    let segments = [segment(1, 0, length, 4096).collect(), of(4, 7), of(2, 6)].concat();
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    header.extend([3u16, machine].iter().flat_map(|word| word.to_le_bytes()));
    header.extend(1u32.to_le_bytes());
    header.extend([0u64, 64, table].iter().flat_map(|word| word.to_le_bytes()));
    header.extend(0u32.to_le_bytes());
    let count = u16::try_from(sections.len()).unwrap();
    header.extend([64u16, 56, 3, 64, count, count - 1].iter().flat_map(|word| word.to_le_bytes()));
    header.extend(segments);
    out.splice(..header.len(), header);
    out
}
