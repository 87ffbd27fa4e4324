//! Probes at exits which see a whole call.

use super::super::plan::{Cost, Kept, PointKind, WantedKind};
use super::builder::{CODE, Elf};
use super::{failure, placed, probe, symbol};

/// `call g`; where that is, is put in later.
const CALL: [u8; 5] = [0xe8, 0xaa, 0xaa, 0xaa, 0xaa];
/// push r12; push r14; push rbx; mov r12, rdi; mov r14, rsi
const BEGIN: [u8; 11] = [0x41, 0x54, 0x41, 0x56, 0x53, 0x49, 0x89, 0xfc, 0x49, 0x89, 0xf6];
/// mov rbx, rax
const MOVE: [u8; 3] = [0x48, 0x89, 0xc3];
/// test eax, eax
const TEST: [u8; 2] = [0x85, 0xc0];
/// jne FAIL
const BRANCH: [u8; 2] = [0x75, 0x09];
/// mov rax, rbx
const VALUE: [u8; 3] = [0x48, 0x89, 0xd8];
/// pop rbx; pop r14; pop r12; ret; FAIL:
const END: [u8; 6] = [0x5b, 0x41, 0x5e, 0x41, 0x5c, 0xc3];

/// The function, and `g`, which is called.
fn file(parts: &[&[u8]]) -> Elf {
    let mut bytes = parts.concat();
    let end = bytes.len();
    for at in 0..end {
        if bytes[at..].starts_with(&CALL) {
            bytes[at + 1..at + 5].copy_from_slice(&((end - at - 5) as i32).to_le_bytes());
        }
    }
    bytes.push(0xc3);
    Elf::of_code(&bytes).function("f", 0, end as u64).function("g", end as u64, 1)
}

/// The usual one, with something else as its check or its value.
fn usual(check: &[u8], value: &[u8]) -> Elf {
    file(&[&BEGIN, &CALL, &MOVE, &CALL, check, &BRANCH, value, &END, &CALL])
}

fn wanted(args: u8) -> super::super::plan::ProbeWanted {
    probe(WantedKind::Exit, symbol("f"), args)
}

#[test]
fn a_branch_that_still_has_all_is_found() {
    let point = placed(&usual(&TEST, &VALUE).build(), wanted(2));
    assert_eq!((point.points.len(), point.points[0].kind, point.cost), (1, PointKind::Exit, Cost::Emulated));
    assert_eq!(point.delta, 26, "{}", point.why);
    assert_eq!(point.kept, Some(Kept { value: 1, args: vec![3, 5] }));
    assert_eq!(point.kept.and_then(|kept| kept.number()), Some(1 | 3 << 3 | 5 << 6));
    assert!(point.why.contains("rbx holds the value, r12 argument 0, r14 argument 1"), "{}", point.why);
}

#[test]
fn what_is_not_kept_to_the_end_is_not_there() {
    let plain = usual(&TEST, &VALUE);
    assert!(failure(&plain.build(), wanted(3)).contains("argument 2"));
    // xor r14d, r14d instead of the test; a jump over `mov r14, rsi` would do the same.
    let lost = usual(&[0x45, 0x31, 0xf6], &VALUE);
    assert!(failure(&lost.build(), wanted(2)).contains("argument 1"));
    assert_eq!(placed(&lost.build(), wanted(1)).kept, Some(Kept { value: 1, args: vec![3] }));
    // mov r12, [rsp] instead: whatever that is.
    let loaded = usual(&[0x4c, 0x8b, 0x24, 0x24], &VALUE);
    assert!(failure(&loaded.build(), wanted(1)).contains("argument 0"));
}

#[test]
fn a_value_that_is_made_behind_the_branch_is_none() {
    // lea eax, [rbx + 1] behind it.
    let late = usual(&TEST, &[0x8d, 0x43, 0x01]);
    assert!(failure(&late.build(), wanted(0)).contains("rax is set"));
    // mov rax, rcx: it is in a register that no call leaves alone, and the program does not look at.
    let elsewhere = usual(&TEST, &[0x48, 0x89, 0xc8]);
    assert!(failure(&elsewhere.build(), wanted(0)).contains("the value is in rcx"));
}

#[test]
fn exits_that_differ_are_none() {
    // je OTHER at first; ud2 behind the failure; and OTHER: mov rax, r14; test eax, eax; jne FAIL; ...
    let first = [&CALL[..], &MOVE, &CALL, &TEST, &BRANCH, &VALUE, &END, &CALL, &[0x0f, 0x0b]].concat();
    let jump = [0x74, first.len() as u8];
    let bytes = file(&[&BEGIN, &jump, &first, &[0x4c, 0x89, 0xf0], &TEST, &[0x75, 0x06], &END, &CALL]);
    let why = failure(&bytes.build(), wanted(1));
    assert!(why.contains("different registers"), "{why}");
}

#[test]
fn ways_around_it_and_go_are_refused() {
    let plain = usual(&TEST, &VALUE);
    let around = plain.clone().data(&(CODE + 31).to_le_bytes());
    assert!(failure(&around.build(), wanted(2)).contains("a pointer"));
    assert!(failure(&plain.go().build(), wanted(2)).contains("Go"));
}
