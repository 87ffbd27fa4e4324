//! Files that are refused as a whole.

use super::super::MAX_PROBES;
use super::super::plan::{ScoutRequest, WantedKind};
use super::builder::Elf;
use super::{analyse, ask, probe, symbol};

fn refusal(file: &[u8]) -> String {
    let answer = ask(file, probe(WantedKind::Entry, symbol("f"), 0));
    assert!(answer.placed.is_empty() && answer.file.is_none());
    let why = answer.refused.expect("a refusal");
    assert_eq!(answer.failed.len(), 1);
    assert_eq!(answer.failed[0].why, why);
    why
}

fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = Elf::of_function(&[0x55, 0x5d, 0xc3]).build();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn other_files_are_refused() {
    assert!(refusal(b"").contains("not an ELF"));
    assert!(refusal(b"#!/bin/sh\n").contains("not an ELF"));
    assert!(refusal(b"\x7fELF\x02\x01").contains("cut short"));
    assert!(refusal(&changed(4, &[1])).contains("not a 64-bit"));
    assert!(refusal(&changed(5, &[2])).contains("not a 64-bit"));
    assert!(refusal(&changed(18, &[183, 0])).contains("machine 183"));
    assert!(refusal(&changed(16, &[1, 0])).contains("type 1"));
    assert!(refusal(&changed(16, &[4, 0])).contains("type 4"));
}

#[test]
fn truncated_and_contradicting_files_are_refused() {
    let whole = Elf::of_function(&[0x55, 0x5d, 0xc3]).build();
    assert!(refusal(&whole[..whole.len() - 1]).contains("truncated"));
    assert!(refusal(&changed(56, &[0, 0])).contains("no program headers"));
    assert!(refusal(&changed(32, &[0xff; 8])).contains("program headers"));
    // The first segment's address, then its length.
    assert!(refusal(&changed(64 + 16, &[0xff; 8])).contains("address space"));
    assert!(refusal(&changed(64 + 32, &0x2001u64.to_le_bytes())).contains("overlapping"));
    // The second segment becomes code at another address, of the same bytes.
    assert!(refusal(&changed(64 + 56 + 4, &[5, 0, 0, 0, 0, 0x10, 0, 0])).contains("two addresses"));
    let mut data_only = Elf::of_function(&[0x55, 0x5d, 0xc3]);
    data_only.code_flags = 4;
    assert!(refusal(&data_only.build()).contains("no code"));
}

#[test]
fn writable_code_is_not_probed() {
    let mut file = Elf::of_function(&[0x55, 0x5d, 0xc3]);
    file.code_flags = 7;
    let why = super::failure(&file.build(), probe(WantedKind::Entry, symbol("f"), 0));
    assert!(why.contains("writable"), "{why}");
}

#[test]
fn a_request_has_a_limit() {
    let one = probe(WantedKind::Entry, symbol("f"), 0);
    let request = ScoutRequest { probes: vec![one; MAX_PROBES + 1] };
    let answer = analyse(&Elf::of_function(&[0x55, 0x5d, 0xc3]).build(), &request);
    assert!(answer.refused.is_some());
    assert_eq!(answer.failed.len(), MAX_PROBES + 1);
}
