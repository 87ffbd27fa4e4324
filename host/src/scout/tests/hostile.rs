//! Damaged files: no panic, no long work, and no offset outside the file or on a forbidden instruction.

use super::super::image::Image;
use super::super::instruction::{Class, class, decode};
use super::super::plan::{Behind, Field, Locator, ProbeWanted, ScoutRequest, WantedKind, WrapperArgument};
use super::builder::Elf;
use super::wrappers::{behind, whole_file};
use super::{analyse, symbol};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Probes on functions of the undamaged file, by every kind of locator.
fn request(file: &[u8]) -> ScoutRequest {
    let image = Image::open(file).expect("the undamaged file");
    let some = image.unwind.iter().step_by(image.unwind.len() / 6 + 1).map(|f| Locator::FunctionAt(f.0));
    let strings = ["LABEL_A", "GNU", "/"].map(str::to_owned).to_vec();
    let behind = |wrappers: &[&str]| {
        let out = Some(WrapperArgument { wrapper: wrappers[0].to_owned(), argument: 3 });
        let wrappers = wrappers.iter().map(|name| (*name).to_owned()).collect();
        Locator::Behind(Behind { wrappers, args: 1, buffer: 0, out })
    };
    let named = [
        behind(&["f"]),
        behind(&["g", "f"]),
        symbol("f"),
        symbol("g"),
        Locator::SymbolOffset("f".to_owned(), 4),
        Locator::CalleeOfStrings { strings: strings.clone(), min: 1, field: None },
        Locator::CalleeOfStrings { strings, min: 1, field: Some(Field { argument: 0, bytes: 32, most: 2 }) },
    ];
    let locators: Vec<Locator> = some.chain(named).collect();
    let kinds = [(WantedKind::Entry, 2), (WantedKind::Return, 0)];
    let probes = locators.iter().flat_map(|at| kinds.map(|(kind, args)| (at.clone(), kind, args)));
    let probes = probes.zip(0..);
    ScoutRequest {
        probes: probes
            .map(|((at, kind, args), index)| ProbeWanted { index, kind, at, args, exit_ok: index % 4 == 1 })
            .collect(),
    }
}

fn check(file: &[u8], request: &ScoutRequest) {
    let started = Instant::now();
    let answer = analyse(file, request);
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
    assert_eq!(answer.placed.len() + answer.failed.len(), request.probes.len());
    for point in answer.placed.iter().flat_map(|p| &p.points) {
        let bytes = file.get(point.offset as usize..).expect("an offset in the file");
        let instruction = decode(bytes, 0).expect("an instruction");
        assert!(!matches!(class(&bytes[..instruction.len()], &instruction), Class::Forbidden(_)));
    }
}

fn built() -> Vec<u8> {
    let f = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08, 0x75, 0x05, 0x48, 0x83, 0xc4, 0x08, 0xc3, 0xeb, 0xf9];
    let len = f.len() as u64;
    let bytes = [f.as_slice(), &[0x55, 0xe8, 0xe9, 0xff, 0xff, 0xff, 0x5d, 0xc3]].concat();
    let file = Elf::of_code(&bytes).function("f", 0, len).function("g", len, 8).unwind(0, len).unwind(len, 8);
    file.data(b"LABEL_A\0").shadow_stack().build()
}

fn real() -> Option<Vec<u8>> {
    let file = std::fs::read("/bin/true").ok().filter(|file| Image::open(file).is_ok());
    if file.is_none() {
        eprintln!("skipped: /bin/true is not a file that can be analysed here");
    }
    file
}

/// Where damage matters most: the headers, and for the built file everything that is not padding.
fn place(file: &[u8], seed: usize, headers: bool) -> usize {
    if headers { seed % 1024 } else { seed % file.len() }
}

#[test]
fn damage_to_a_built_file_is_harmless() {
    let file = built();
    let request = request(&file);
    check(&file, &request);
    assert!(analyse(&file, &request).placed.len() >= 6, "{:?}", analyse(&file, &request).failed);
    // Every byte of it that is not padding, in three ways.
    for at in (0..file.len()).filter(|at| file[*at] != 0) {
        for new in [0, 0xff, file[at] ^ 0x80] {
            let mut damaged = file.clone();
            damaged[at] = new;
            check(&damaged, &request);
        }
    }
    for len in (0..file.len()).step_by(37) {
        check(&file[..len], &request);
    }
}

#[test]
fn damage_to_a_real_file_is_harmless() {
    let Some(file) = real() else { return };
    let request = request(&file);
    check(&file, &request);
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    let damage = prop::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..12);
    proptest!(config, |(damage in damage, cut in prop::option::weighted(0.2, 0usize..file.len()))| {
        let mut damaged = file.clone();
        for (seed, bits, headers) in damage {
            let at = place(&damaged, seed, headers);
            damaged[at] ^= bits;
        }
        check(&damaged[..cut.unwrap_or(damaged.len())], &request);
    });
}

#[test]
fn random_code_is_harmless() {
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(code in prop::collection::vec(any::<u8>(), 1..300), at in 0u64..300, fixed in any::<bool>())| {
        let mut file = Elf::of_function(&code).function("g", at % code.len() as u64, 20);
        file.elf_type = if fixed { 2 } else { 3 };
        let file = file.data(b"LABEL_A\0").build();
        let request = request(&file);
        check(&file, &request);
    });
}

#[test]
fn a_file_made_to_be_slow_is_not() {
    // A function of nothing but jumps into itself, probed many times.
    let code =
        [0xf3, 0x0f, 0x1e, 0xfa].into_iter().chain([0x75, 0xfe].into_iter().cycle()).take(60_000).collect::<Vec<u8>>();
    let mut file = Elf::of_code(&[]);
    file = file.function("f", 0, 0x1ff0);
    let mut bytes = file.build();
    let room = 0x2000 - 16;
    bytes[0x1000..0x1000 + room].copy_from_slice(&code[..room]);
    bytes[64 + 32..64 + 40].copy_from_slice(&(room as u64).to_le_bytes());
    let wanted = ProbeWanted { index: 0, kind: WantedKind::Return, at: symbol("f"), args: 6, exit_ok: true };
    let started = Instant::now();
    let answer = analyse(&bytes, &ScoutRequest { probes: vec![wanted; 64] });
    assert_eq!(answer.placed.len() + answer.failed.len(), 64);
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
}

#[test]
fn damage_to_wrappers_is_harmless() {
    let file = whole_file().build();
    let wanted = |index, kind| ProbeWanted {
        index,
        kind,
        at: behind(&["w", "w_ex"], Some(("w_ex", 3))),
        args: 3,
        exit_ok: true,
    };
    let request = ScoutRequest { probes: vec![wanted(0, WantedKind::Entry), wanted(1, WantedKind::Return)] };
    let whole = analyse(&file, &request);
    assert_eq!(whole.placed.iter().map(|p| p.out).collect::<Vec<_>>(), [Some(4); 2], "{:?}", whole.failed);
    // Every byte of it that is not padding, in any way that is one bit, and some others.
    for at in (0..file.len()).filter(|at| file[*at] != 0) {
        for new in (0..8).map(|bit| file[at] ^ 1 << bit).chain([0, 0xff, 0x90]) {
            let mut damaged = file.clone();
            damaged[at] = new;
            check(&damaged, &request);
            let answer = analyse(&damaged, &request);
            assert!(answer.placed.iter().all(|p| p.out.is_some_and(|out| out < 6)), "{at:#x}: {:?}", answer.placed);
        }
    }
}

#[test]
fn wrappers_made_to_be_slow_are_not() {
    const FUNCTIONS: i32 = 7;
    const SIZE: i32 = 0x480;
    const BLOCKS: i32 = 100;
    // Each: push, 40 times; blocks that move registers about and jump to one another; calls of all of them; ret.
    let mut code = Vec::new();
    for function in 0..FUNCTIONS {
        let start = code.len() as i32;
        code.extend((0..40).map(|n| 0x50 + [6, 7, 2, 1, 3, 5][n % 6]));
        for block in 0..BLOCKS {
            let register = |n: i32| [0, 1, 2, 3, 5, 6, 7][(n % 7) as usize];
            code.extend([0x48, 0x89, 0xc0 | register(block * 5 + function) << 3 | register(block)]);
            let (target, behind) = (start + 40 + 9 * (block * 37 % BLOCKS), code.len() as i32 + 6);
            code.extend([0x0f, 0x85]);
            code.extend((target - behind).to_le_bytes());
        }
        for other in 0..FUNCTIONS {
            code.push(0xe8);
            code.extend((other * SIZE - (code.len() as i32 + 4)).to_le_bytes());
        }
        code.push(0xc3);
        code.resize(((function + 1) * SIZE) as usize, 0xcc);
    }
    let starts = (0..FUNCTIONS as u64).map(|f| (format!("f{f}"), f * SIZE as u64));
    let file = starts.fold(Elf::of_code(&code), |file, (name, at)| file.function(&name, at, SIZE as u64)).build();
    let wanted = (0..64).map(|index| {
        let wrappers = (0..7).map(|at| format!("f{}", (at + index) % 7)).collect();
        let behind = Behind { wrappers, args: 1 + (index % 6) as u8, buffer: (index % 6) as u8, out: None };
        ProbeWanted { index, kind: WantedKind::Entry, at: Locator::Behind(behind), args: 6, exit_ok: false }
    });
    let request = ScoutRequest { probes: wanted.collect() };
    let started = Instant::now();
    let answer = analyse(&file, &request);
    let took = started.elapsed();
    eprintln!("took {took:?}: {:?} {:?}", answer.failed.first(), answer.failed.last());
    assert_eq!(answer.failed.len(), 64);
    assert!(took < Duration::from_secs(30), "took {took:?}");
}
