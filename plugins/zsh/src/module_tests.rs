//! Tests of what crosses the module's interface: the plan for real and made-up files.

use super::*;
use crate::detect::{HOOKS, LAYOUT};
use ecapture_plugin_api::sdk::testing;
use proptest::prelude::*;
use std::fs;

/// A file with functions of these names, each of them no more than a `ret`.
fn elf(names: &[&str], rodata: &[u8]) -> Vec<u8> {
    let functions: Vec<_> = names.iter().map(|name| (*name, &[0xc3][..])).collect();
    testing::elf(&functions, rodata)
}

const VERSION: &[u8] = b"/usr/lib/zsh/site\0/usr/lib/x/zsh/5.9\0";

fn all() -> Vec<&'static str> {
    HOOKS.iter().map(|hook| hook.symbol).chain(["lastval"]).collect()
}

fn words(layout: &[u8]) -> Vec<u64> {
    layout.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn a_made_up_zsh() {
    for (version, text, form) in [
        (VERSION, "5.9", 2),
        (b"/usr/lib/zsh/5.8.1\0", "5.8.1", 1),
        (b"/zsh/5.8\0", "5.8", 1),
        (b"/zsh/6.0.1\0", "6.0.1", 2),
    ] {
        let plan = answer(&elf(&all(), version));
        let version = plan.version.clone().unwrap_or_else(|| panic!("{plan:?}"));
        assert_eq!((version.product.as_str(), version.text.as_str()), ("zsh", text));
        assert_eq!(plan.layout.0.len(), LAYOUT);
        let row = words(&plan.layout.0);
        assert_eq!((row[0], row[3]), (1, form));
        assert!(row[1..3].iter().all(|address| *address >= 120), "{row:?}");
        assert_eq!(plan.probes.iter().map(|probe| probe.args).collect::<Vec<_>>(), [4, 1, 1]);
        assert_eq!(plan.probes.iter().filter(|probe| probe.required && probe.group.is_some()).count(), 2);
        assert_eq!(Detected::from_json(&plan.to_json()).unwrap(), plan);
    }
}

#[test]
fn what_is_missing_is_said() {
    let plan = answer(&elf(&["execode", "freeeprog", "lastval"], VERSION));
    assert_eq!(plan.probes.len(), 2);
    assert!(plan.notes.iter().any(|note| note.contains("no function zleentry: what the line editor")), "{plan:?}");
}

#[test]
fn files_that_can_not_be_captured_from_say_why_and_what_to_do() {
    let refused = |bytes: &[u8]| answer(bytes).unsupported.unwrap();
    assert!(refused(b"#!/bin/sh\n").contains("ELF"));
    let stripped = refused(&elf(&[], VERSION));
    for words in ["this zsh has no symbols", "statically and stripped", "--zsh"] {
        assert!(stripped.contains(words), "{stripped}");
    }
    let other = refused(&elf(&["main"], b""));
    assert!(other.contains("this is no zsh") && other.contains("execode, freeeprog, lastval"), "{other}");
    let some: Vec<_> = all().into_iter().filter(|name| *name != "lastval").collect();
    let reason = refused(&elf(&some, VERSION));
    assert!(reason.contains("this zsh does not export lastval;"), "{reason}");
    for (version, words) in
        [(&b"/zsh/5.7.1\0"[..], "older than 5.8"), (b"/zsh/x\0/zsh/5\0", "version of this zsh is not")]
    {
        let reason = refused(&elf(&all(), version));
        assert!(reason.contains(words), "{reason}");
    }
}

/// The shell of this machine. Skipped where there is none.
#[test]
fn the_installed_zsh() {
    let Ok(bytes) = fs::read("/bin/zsh") else {
        eprintln!("skipped: /bin/zsh is not installed");
        return;
    };
    let plan = answer(&bytes);
    let version = plan.version.clone().unwrap_or_else(|| panic!("{plan:?}"));
    assert!(version.text.starts_with("5.") && version.how.contains(".rodata"), "{version:?}");
    assert_eq!(plan.probes.len(), HOOKS.len(), "{:?}", plan.notes);
}

#[test]
fn every_program_is_in_the_object() {
    let source = include_str!("../../../ebpf-objects/src/zsh.bpf.c");
    for hook in HOOKS {
        let program = format!("SEC(\"uprobe\")\nint {}(struct pt_regs *ctx)", hook.program);
        assert!(source.contains(&program), "{program}");
        assert!(source.contains(hook.symbol), "{}", hook.symbol);
    }
    for (program, to) in ATTACHMENTS {
        assert!(source.contains(&format!("SEC(\"tp_btf/{to}\")\nint {program}(const __u64 *ctx)")), "{program}");
    }
    let header = include_str!("../../../ebpf-objects/src/zsh.h");
    assert!(header.contains(&format!("_Static_assert(sizeof(struct zsh_layout) == {LAYOUT},")));
    let row = header.split("struct zsh_layout {").nth(1).and_then(|rest| rest.split("\n};").next()).unwrap();
    let fields: Vec<_> =
        row.lines().filter_map(|line| line.trim().strip_prefix("__u")?.split([' ', ';']).nth(1)).collect();
    assert_eq!(fields, ["valid", "release", "status", "format", "reserved"]);
}

proptest! {
    #[test]
    fn damaged_files_never_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12), cut in any::<proptest::sample::Index>()) {
        let mut file = elf(&all(), VERSION);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _either = answer(&file);
        let _either = answer(&file[..cut.index(file.len())]);
    }

    #[test]
    fn records_of_random_bytes_are_events_or_undecodable(records in proptest::collection::vec((0u32..9, proptest::collection::vec(any::<u8>(), 0..120)), 0..20)) {
        let mut decoder = ZshDecoder { machine: Machine::new(Limits::default()) };
        let data: Vec<_> = records.iter().map(|(kind, rest)| [&kind.to_le_bytes()[..], rest].concat()).collect();
        let records: Vec<_> = data.iter().map(|data| testing::record(data)).collect();
        let mut sink = testing::Collected::default();
        testing::decode(&mut decoder, &records, &mut sink);
        prop_assert!(testing::finish(&mut decoder, &mut sink).is_ok());
        prop_assert!(sink.undecodable.len() <= records.len());
    }
}
