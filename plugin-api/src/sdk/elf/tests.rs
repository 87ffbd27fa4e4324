#![expect(unsafe_code, reason = "a symbol that the tests look for: no_mangle")]
use super::*;

/// Found by the tests in the program that they are part of.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn ecapture_test_landmark(n: u64) -> u64 {
    std::hint::black_box(n.wrapping_mul(31))
}

const VERSION: &str = "landmark-version 10.11.14-Test";

fn own() -> Vec<u8> {
    std::fs::read("/proc/self/exe").expect("readable")
}

#[test]
fn functions_are_found() {
    assert_eq!(ecapture_test_landmark(2), 62);
    let bytes = own();
    let elf = Elf::parse(&bytes).expect("this program");
    let symbol = elf.symbol("ecapture_test_landmark").expect("there");
    assert!(symbol.is_function && symbol.size > 0 && elf.has_function("ecapture_test_landmark"));
    assert_eq!(elf.symbol("ecapture_test_landmar"), None);
    let code = elf.code(&symbol).expect("code");
    let offset = elf.offset(symbol.address).expect("loaded");
    assert_eq!(elf.address(offset), Some(symbol.address));
    let start = usize::try_from(offset).expect("fits");
    assert_eq!(code, &bytes[start..start + code.len()]);
}

#[test]
fn strings_are_found() {
    let bytes = own();
    let elf = Elf::parse(&bytes).expect("this program");
    // Rust's strings have no NUL around them, so a C string is put beside.
    let c = std::hint::black_box(c"landmark-c-string 5.7");
    assert_eq!(c.count_bytes(), 21);
    let address = elf.find_string("landmark-c-string 5.7").expect("there");
    assert_eq!(elf.string_at(address), Some(c.to_bytes()));
    assert_eq!(elf.find_string("landmark-c-string 5.8"), None);
    assert!(std::hint::black_box(VERSION).len() > 10);
    assert!(elf.strings_with(b"landmark-version").any(|s| s.windows(VERSION.len()).any(|w| w == VERSION.as_bytes())));
    assert!(elf.find(b"landmark-version").count() >= 1);
    assert_eq!(elf.find(b"").count(), 0);
}

#[test]
fn the_dynamic_section_is_read() {
    let bytes = own();
    let elf = Elf::parse(&bytes).expect("this program");
    assert!(elf.needed().any(|n| n.starts_with("libc.so")));
    assert_eq!(elf.soname(), None);
    assert!(elf.build_id().is_some_and(|id| id.len() >= 8));
    assert!(elf.section(".text").is_some_and(|s| s.bytes.len() > 1000 && s.address > 0));
    assert!([62, 183].contains(&elf.machine()));
}

#[test]
fn functions_begin_where_the_index_and_the_unwind_information_say() {
    let bytes = own();
    let elf = Elf::parse(&bytes).expect("this program");
    let indexed = elf.function_starts();
    let frames = elf.section(".eh_frame").expect("there");
    let described: Vec<u64> = unwind::functions(frames.address, frames.bytes).into_iter().map(|f| f.start).collect();
    assert!(indexed.len() > 100);
    assert_eq!(indexed, described);
    let landmark = elf.symbol("ecapture_test_landmark").expect("there");
    assert!(indexed.contains(&landmark.address));
    let (base, code) = elf
        .executable()
        .find(|(base, code)| (*base..base + code.len() as u64).contains(&landmark.address))
        .expect("there");
    assert!(code.len() > 1000 && base <= landmark.address);
}

#[test]
fn damaged_unwind_information_never_panics() {
    let bytes = own();
    let elf = Elf::parse(&bytes).expect("this program");
    let frames = elf.section(".eh_frame").expect("there");
    let whole = frames.bytes.get(..20_000.min(frames.bytes.len())).expect("as many");
    for at in 0..2_000 {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 0xff;
        assert!(unwind::functions(frames.address, &damaged).len() <= whole.len() / 16);
        assert!(unwind::functions(u64::MAX - 8, whole.get(at..).expect("as many")).len() <= whole.len() / 16);
    }
}

#[test]
fn what_is_not_elf_says_so() {
    assert_eq!(Elf::parse(b"#!/bin/sh").err().as_deref(), Some("not an ELF file"));
    assert!(Elf::parse(b"\x7fELF\x01\x01").err().is_some_and(|e| e.contains("32-bit")));
    let mut foreign = own();
    foreign[18..20].copy_from_slice(&22_u16.to_le_bytes());
    let refused = Elf::parse(&foreign).err();
    assert_eq!(refused.as_deref(), Some("built for another kind of processor (ELF machine 22)"));
}

#[test]
fn hostile_tables_never_panic() {
    let original = own();
    let headers = u64::from_le_bytes(original[40..48].try_into().expect("eight"));
    let headers = usize::try_from(headers).expect("fits");
    let mut bytes = original.clone();
    let mut state = 0xDEAD_BEEF_CAFE_F00D_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("fits")
    };
    for _ in 0..60 {
        let mut places = Vec::new();
        for _ in 0..1 + random(6) {
            let tables = [0..64, 64..64 + 56 * 8, headers..original.len()];
            let range = &tables[random(3)];
            let at = range.start + random(range.len());
            bytes[at] = [0, 0x7F, 0xFF, 0x80][random(4)];
            places.push(at);
        }
        if let Ok(elf) = Elf::parse(&bytes) {
            let symbol = elf.symbols().find(|s| s.name == b"ecapture_test_landmark");
            let _ = symbol.and_then(|s| elf.code(&s).map(<[u8]>::len));
            let _ = (elf.section(".text"), elf.needed().count(), elf.soname(), elf.build_id());
            let _ = (elf.offset(u64::MAX), elf.address(u64::MAX), elf.string_at(u64::MAX - 1));
            let _ = elf.constants().len();
        }
        places.into_iter().for_each(|at| bytes[at] = original[at]);
    }
}
