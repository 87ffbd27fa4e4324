//! Tests of what crosses the module's interface: the plan for real and made-up files.

use super::*;
use crate::detect::{LAYOUT, SHELL};
use ecapture_plugin_api::sdk::testing;
use proptest::prelude::*;
use std::fs;

/// A file with functions of these names, each of them no more than a `ret`.
fn elf(names: &[&str], rodata: &[u8]) -> Vec<u8> {
    let functions: Vec<_> = names.iter().map(|name| (*name, &[0xc3][..])).collect();
    testing::elf(&functions, rodata)
}

const VARIABLES: [&str; 3] = ["the_printed_command", "command_string_index", "last_command_exit_value"];
const VERSION: &[u8] = b"x\0@(#)Bash version 5.2.15(1) release GNU\0";

fn all() -> Vec<&'static str> {
    SHELL.iter().map(|hook| hook.symbol).chain(VARIABLES).collect()
}

fn words(layout: &[u8]) -> Vec<u64> {
    layout.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn a_made_up_bash() {
    let plan = answer(&elf(&all(), VERSION));
    let version = plan.version.clone().unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!((version.product.as_str(), version.text.as_str()), ("bash", "5.2.15(1)"));
    assert_eq!(plan.layout.0.len(), LAYOUT);
    let row = words(&plan.layout.0);
    assert_eq!((row[0], row[5]), (1, 1));
    assert!(row[1..5].iter().all(|address| *address >= 120), "{row:?}");
    assert_eq!(plan.probes.len(), SHELL.len());
    let required: Vec<_> = plan.probes.iter().filter(|probe| probe.required).collect();
    assert!(required.len() == 5 && required.iter().all(|probe| probe.group.is_some()));
    assert_eq!(required.iter().map(|probe| probe.args).collect::<Vec<_>>(), [4, 0, 2, 2, 0]);
    assert_eq!(Detected::from_json(&plan.to_json()).unwrap(), plan);
}

#[test]
fn an_older_bash_says_what_is_not_exact() {
    let plan = answer(&elf(&all(), b"@(#)Bash version 5.0.18(1) release GNU\0"));
    assert_eq!(words(&plan.layout.0)[5], 0);
    assert!(plan.notes.iter().any(|note| note.starts_with("before 5.1:")), "{:?}", plan.notes);
}

#[test]
fn what_is_missing_is_said() {
    let some: Vec<_> = all().into_iter().filter(|name| !["readline", "get_exitstat"].contains(name)).collect();
    let plan = answer(&elf(&some, VERSION));
    assert_eq!(plan.probes.len(), SHELL.len() - 2);
    for words in ["no function readline: lines typed are taken from libreadline", "no function get_exitstat: `return`"]
    {
        assert!(plan.notes.iter().any(|note| note.contains(words)), "{words}: {:?}", plan.notes);
    }
}

#[test]
fn files_that_can_not_be_captured_from_say_why_and_what_to_do() {
    let refused = |bytes: &[u8]| answer(bytes).unsupported.unwrap();
    assert!(refused(b"#!/bin/sh\n").contains("ELF"));
    let stripped = refused(&elf(&[], VERSION));
    for words in ["this bash has no symbols", "statically and stripped", "--bash"] {
        assert!(stripped.contains(words), "{stripped}");
    }
    let other = refused(&elf(&["main"], b""));
    assert!(other.contains("this is no bash") && other.contains("execute_command_internal"), "{other}");
    let some: Vec<_> = all().into_iter().filter(|name| *name != "make_child").collect();
    let reason = refused(&elf(&some, VERSION));
    assert!(reason.contains("this bash does not export make_child;"), "{reason}");
}

/// The shell of this machine. Skipped where there is none.
#[test]
fn the_installed_bash() {
    let Ok(bytes) = fs::read("/bin/bash") else {
        eprintln!("skipped: /bin/bash is not installed");
        return;
    };
    let plan = answer(&bytes);
    let version = plan.version.clone().unwrap_or_else(|| panic!("{plan:?}"));
    assert!(version.text.starts_with(['4', '5']) && version.how.contains(".rodata"), "{version:?}");
    assert!(plan.probes.len() >= SHELL.len() - 1, "{:?}", plan.notes);
}

#[test]
fn every_program_is_in_the_object() {
    let source = include_str!("../../../ebpf-objects/src/bash.bpf.c");
    for hook in SHELL {
        let section = if hook.at_return { "SEC(\"uretprobe\")" } else { "SEC(\"uprobe\")" };
        let program = format!("{section}\nint {}(struct pt_regs *ctx)", hook.program);
        assert!(source.contains(&program), "{program}");
        assert!(source.contains(hook.symbol), "{}", hook.symbol);
    }
    for (program, to) in ATTACHMENTS {
        assert!(source.contains(&format!("SEC(\"tp_btf/{to}\")\nint {program}(const __u64 *ctx)")), "{program}");
    }
    let header = include_str!("../../../ebpf-objects/src/bash.h");
    assert!(header.contains(&format!("_Static_assert(sizeof(struct bash_layout) == {LAYOUT},")));
    let row = header.split("struct bash_layout {").nth(1).and_then(|rest| rest.split("\n};").next()).unwrap();
    let fields: Vec<_> = row.lines().filter_map(|line| line.trim().strip_prefix("__u64 ")?.split(';').next()).collect();
    let known = ["valid", "command", "text", "text_length", "status", "null_forks"];
    assert_eq!(fields, known);
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
        let mut decoder = BashDecoder { machine: Machine::new(Limits::default()) };
        let data: Vec<_> = records.iter().map(|(kind, rest)| [&kind.to_le_bytes()[..], rest].concat()).collect();
        let records: Vec<_> = data.iter().map(|data| testing::record(data)).collect();
        let mut sink = testing::Collected::default();
        testing::decode(&mut decoder, &records, &mut sink);
        prop_assert!(testing::finish(&mut decoder, &mut sink).is_ok());
        prop_assert!(sink.undecodable.len() <= records.len());
    }
}
