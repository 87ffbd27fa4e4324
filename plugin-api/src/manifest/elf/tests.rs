use super::*;
use proptest::prelude::*;

/// A file of one load segment over everything, one section each of those given, and their names.
fn file(sections: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut names = vec![0_u8];
    let mut body = vec![0_u8; 64 + 56];
    let mut headers = vec![0_u8; 64];
    let mut push = |name: &str, kind: u32, data: &[u8], names: &mut Vec<u8>, body: &mut Vec<u8>| {
        let at = body.len().next_multiple_of(8);
        body.resize(at, 0);
        body.extend_from_slice(data);
        let mut header = [0_u8; 64];
        header[0..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
        headers.extend_from_slice(&header);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    };
    for (name, kind, data) in sections {
        push(name, *kind, data, &mut names, &mut body);
    }
    let mut table = names.clone();
    table.extend_from_slice(b".shstrtab\0");
    push(".shstrtab", 3, &table, &mut names, &mut body);
    let at = body.len().next_multiple_of(8);
    body.resize(at, 0);
    let count = headers.len() / 64;
    body.extend_from_slice(&headers);

    body[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    body[16..18].copy_from_slice(&3_u16.to_le_bytes());
    body[18..20].copy_from_slice(&62_u16.to_le_bytes());
    body[32..40].copy_from_slice(&64_u64.to_le_bytes());
    body[40..48].copy_from_slice(&(at as u64).to_le_bytes());
    for (offset, value) in [(54, 56), (56, 1), (58, 64), (60, count), (62, count - 1)] {
        body[offset..offset + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }
    let len = body.len() as u64;
    body[64..68].copy_from_slice(&1_u32.to_le_bytes());
    body[64 + 32..64 + 40].copy_from_slice(&len.to_le_bytes());
    body[64 + 40..64 + 48].copy_from_slice(&len.to_le_bytes());
    body
}

fn note(kind: u32, text: &str) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [9, text.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"ecapture\0\0\0\0");
    note.extend_from_slice(text.as_bytes());
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

const FACTS: &str =
    "panic=unwind\nrustc=rustc 1.95.0\ntarget=x86_64-unknown-linux-gnu\napi=1.0.0\nprofile=release\nnew=x\n";

fn good() -> Vec<u8> {
    let notes = [note(NOTE_BUILD, FACTS), note(NOTE_MANIFEST, "schema = 1"), note(0xEC77, "later")].concat();
    file(&[(NOTE_SECTION, 7, &notes), (".ecapture.bpf.one", 1, b"11111111"), (".ecapture.bpf.two", 1, b"22222222")])
}

#[track_caller]
fn refused(bytes: &[u8], code: &str, message: &str) {
    let error = ModuleNotes::read(bytes).expect_err("refused");
    assert!(error.code() == code && error.to_string().contains(message), "{} {error}", error.code());
}

#[test]
fn a_module_is_read() {
    let bytes = good();
    let notes = ModuleNotes::read(&bytes).expect("valid");
    assert_eq!(notes.manifest, "schema = 1");
    assert_eq!((notes.build.panic.as_str(), notes.build.profile.as_str()), ("unwind", "release"));
    assert_eq!(notes.build.other["new"], "x");
    assert_eq!(notes.objects, [("one", &b"11111111"[..]), ("two", &b"22222222"[..])]);
    assert_eq!((notes.elf.arch.as_str(), notes.elf.file_type), ("x86_64", 3));
    assert!(notes.elf.executable_stack, "without PT_GNU_STACK the kernel's default is executable");
}

#[test]
fn notes_are_checked() {
    let manifest = note(NOTE_MANIFEST, "a");
    let build = note(NOTE_BUILD, FACTS);
    let with = |notes: &[&[u8]]| file(&[(NOTE_SECTION, 7, &notes.concat())]);
    refused(&file(&[]), "E-MANIFEST", "no manifest");
    refused(&with(&[&build]), "E-MANIFEST", "no manifest");
    refused(&with(&[&manifest]), "E-MANIFEST", "no build facts");
    refused(&with(&[&manifest, &build, &manifest]), "E-MANIFEST", "more than one manifest");
    refused(
        &file(&[(NOTE_SECTION, 7, &[manifest.clone(), build.clone()].concat()), (NOTE_SECTION, 7, &manifest)]),
        "E-MANIFEST",
        "more than one manifest",
    );
    refused(&with(&[&build, &note(NOTE_MANIFEST, &"x".repeat(MAX_MANIFEST + 1))]), "E-MANIFEST", "at most");
    let mut bad = note(NOTE_MANIFEST, "abcd");
    let len = bad.len();
    bad[len - 1] = 0xFF;
    refused(&with(&[&bad]), "E-MANIFEST", "not UTF-8");
    let mut long = manifest.clone();
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&with(&[&build, &long]), "E-MANIFEST", "not well-formed");
    let mut other = manifest.clone();
    other[12] = b'E';
    refused(&with(&[&other, &build]), "E-MANIFEST", "no manifest");
}

#[test]
fn objects_are_checked() {
    let notes = [note(NOTE_MANIFEST, "a"), note(NOTE_BUILD, FACTS)].concat();
    let with = |name: &str, kind: u32, data: &[u8]| {
        file(&[(NOTE_SECTION, 7, &notes), (".ecapture.bpf.one", 1, b"1"), (name, kind, data)])
    };
    refused(&with(".ecapture.bpf.one", 1, b"2"), "E-ELF", "is there twice");
    refused(&with(".ecapture.bpf.Two", 1, b"2"), "E-ELF", "not a name");
    refused(&with(".ecapture.bpf.two", 8, b"2"), "E-ELF", "no plain bytes");
    refused(&with(".ecapture.bpf.two", 1, b""), "E-ELF", "0 bytes");
}

#[test]
fn what_is_no_module_is_refused() {
    refused(b"", "E-ELF", "not an ELF file");
    refused(b"#!/bin/sh\n", "E-ELF", "not an ELF file");
    refused(b"\x7fELF\x02\x01\x01", "E-ELF", "ends inside of the ELF header");
    let mut bytes = good();
    bytes[4] = 1;
    refused(&bytes, "E-ARCH", "32-bit");
    let mut bytes = good();
    bytes[5] = 2;
    refused(&bytes, "E-ARCH", "big-endian");
    let mut bytes = good();
    bytes[16] = 2;
    refused(&bytes, "E-ELF", "a module is a shared object");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = good();
    for len in 0..bytes.len() {
        let error = ModuleNotes::read(&bytes[..len]).expect_err("cut");
        assert_eq!(error.code(), "E-ELF", "at {len}: {error}");
    }
    // The section headers stand in front, and the last section is cut.
    let mut far = good();
    far[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&far, "E-ELF", "segment 0 ends at");
}

#[test]
fn versions_of_the_c_library() {
    assert_eq!(glibc("GLIBC_2.34"), Some((2, 34, 0)));
    assert_eq!(glibc("GLIBC_2.2.5"), Some((2, 2, 5)));
    assert_eq!(glibc("GLIBC_ABI_DT_RELR"), Some((2, 36, 0)));
    assert_eq!(glibc("GLIBC_PRIVATE"), None);
    assert_eq!(glibc("GCC_3.0"), None);
}

/// The header, the program headers and the section headers of this very program, where hostile numbers do most.
fn tables(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let at = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight")) as usize;
    let count = |offset: usize| usize::from(u16::from_le_bytes(bytes[offset..offset + 2].try_into().expect("two")));
    let image = Image::parse(bytes).expect("this program");
    let dynamic = image.segments.iter().find(|s| s.kind == 2).expect("PT_DYNAMIC");
    let start = dynamic.offset as usize;
    let mut ranges = vec![
        0..64,
        at(32)..at(32) + 56 * count(56),
        at(40)..at(40) + 64 * count(60),
        start..start + dynamic.file_size as usize,
    ];
    for name in [&b".gnu.version_r"[..], b".note.gnu.build-id"] {
        let section = image.sections.iter().find(|s| s.name == name).expect("there");
        ranges.push(section.offset as usize..(section.offset + section.size) as usize);
    }
    ranges
}

#[test]
fn this_program_mutated_never_panics() {
    let original = std::fs::read("/proc/self/exe").expect("readable");
    let ranges = tables(&original);
    let mut bytes = original.clone();
    // xorshift: the same sequence on every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let image = Image::parse(&original).expect("this program");
    assert!(read_facts(&image).expect("valid").glibc.is_some());
    for _ in 0..20_000 {
        let mut places = Vec::new();
        for _ in 0..1 + random(4) {
            let range = &ranges[random(ranges.len())];
            let at = range.start + random(range.len());
            bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, random(256) as u8][random(6)];
            places.push(at);
        }
        // What `read` does behind the notes, which this program has none of.
        if let Ok(image) = Image::parse(&bytes) {
            let _ = (image.check_inside(), read_facts(&image), read_objects(&image), read_notes(&image));
        }
        places.into_iter().for_each(|at| bytes[at] = original[at]);
    }
    assert!(bytes == original);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_module_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), cut in any::<prop::sample::Index>()) {
        let mut bytes = good();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = ModuleNotes::read(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(ModuleNotes::read(&bytes).is_err());
    }

    #[test]
    fn any_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 64..512)) {
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let _ = ModuleNotes::read(&bytes);
    }
}
