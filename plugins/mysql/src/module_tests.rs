//! Tests of what crosses the module's interface: the plan for real and made-up files, and the manifest.

use super::*;
use crate::detect::{LAYOUT, convention};
use ecapture_plugin_api::sdk::testing::elf;
use proptest::prelude::*;
use std::fs;

const RET: &[u8] = &[0xc3];
const THREAD_ID: &[u8] = &[0x48, 0x8b, 0x87, 0x18, 0x3f, 0, 0, 0xc3];
const MYSQL_DISPATCH: &str = "_Z16dispatch_commandP3THDPK8COM_DATA19enum_server_command";
const MARIADB_DISPATCH: &str = "_Z16dispatch_command19enum_server_commandP3THDPcjb";

fn words(layout: &[u8]) -> Vec<u32> {
    layout.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn a_made_up_mariadb() {
    let file = elf(
        &[(MARIADB_DISPATCH, RET), ("thd_get_thread_id", THREAD_ID)],
        b"mysqld-10.11\x0010.11.14-MariaDB-0+deb12u2\0",
    );
    let plan = answer(&file, None);
    let version = plan.version.clone().unwrap();
    assert_eq!((version.product.as_str(), version.text.as_str()), ("MariaDB", "10.11.14-MariaDB-0+deb12u2"));
    assert_eq!(version.how, "string \"10.11.14-MariaDB-0+deb12u2\" in .rodata");
    let programs: Vec<_> = plan.probes.iter().map(|probe| (probe.program.as_str(), probe.kind, probe.args)).collect();
    assert_eq!(programs, [("mysql_command", ProbeKind::Entry, 4), ("mysql_command_end", ProbeKind::Return, 0)]);
    assert!(plan.probes.iter().all(|probe| probe.required && probe.arg == 0 && probe.group.is_some()));
    assert_eq!(words(&plan.layout.0), [1, 0, 0x3f18, 8, u32::MAX, 1, u32::MAX, 0]);
    assert!(plan.notes.iter().any(|note| note.contains("offset 0x3f18 in THD, 8 bytes, from the code of thd_get")));
    assert!(
        plan.notes.iter().any(|note| note.contains("net_send_ok") && note.contains("not shown")),
        "{:?}",
        plan.notes
    );
    assert_eq!(Detected::from_json(&plan.to_json()).unwrap(), plan);
}

#[test]
fn a_made_up_mysql() {
    let thread_id: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa, 0x8b, 0x87, 0xd0, 0x25, 0, 0, 0xc3];
    let packets: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x47, 0x18, 0x8b, 0x80, 0x18, 0x1f, 0, 0, 0xc3];
    let functions = [
        (MYSQL_DISPATCH, RET),
        ("_ZN16Protocol_classic7send_okEjjyyPKc", RET),
        ("thd_get_thread_id", thread_id),
        ("_ZN16Protocol_classic17get_output_pkt_nrEv", packets),
    ];
    let plan = answer(&elf(&functions, b"mysqld-9.7\0MySQL 9.7.4\0"), None);
    assert_eq!(plan.version.unwrap().text, "9.7.4");
    assert_eq!(words(&plan.layout.0), [1, 1, 0x25d0, 4, 0x1f18, 2, u32::MAX, 0]);
    assert_eq!(plan.probes.len(), 3);
    assert!(plan.probes.iter().all(|probe| probe.arg == 1));
}

/// MySQL's structures are known by version, and only where it executes with them.
#[test]
fn parameters_of_mysql_are_restricted_to_what_is_known() {
    let plan = |version: &str, functions: &[(&str, &[u8])]| {
        let series = version.rsplit_once('.').unwrap().0;
        let plan = answer(&elf(functions, format!("mysqld-{series}\0MySQL {version}\0").as_bytes()), None);
        let note = plan.notes.iter().find(|note| note.starts_with("parameters")).cloned();
        (words(&plan.layout.0)[7], note.unwrap_or_default())
    };
    let whole: [(&str, &[u8]); 2] = [(MYSQL_DISPATCH, RET), (convention::MYSQL_EXECUTE, RET)];
    for version in ["8.0.23", "8.0.41", "8.4.3", "9.7.4"] {
        assert_eq!(plan(version, &whole).0, 1, "{version}");
    }
    for version in ["5.7.44", "8.0.22", "10.0.1"] {
        let (layout, note) = plan(version, &whole);
        assert!(layout == 0 && note.contains("not shown") && note.contains(version), "{note}");
    }
    let (layout, note) = plan("9.7.4", &whole[..1]);
    assert!(layout == 0 && note.contains("no function"), "{note}");
    assert_eq!(plan("9.7.4", &[(MARIADB_DISPATCH, RET), whole[1]]), (0, String::new()));
}

/// Debian 13's MariaDB: the compiler has put copies of net_send_eof where it would be called from.
#[test]
fn functions_that_end_result_sets_themselves_are_probed_too() {
    const SEND_EOF: &str = "_ZN8Protocol8send_eofEjj";
    let plan = |code: &[u8]| {
        let functions = [
            (MARIADB_DISPATCH, RET),
            ("my_net_write", RET),
            (SEND_EOF, code),
            ("_ZN8Protocol12net_send_eofEP3THDjj", RET),
        ];
        let probes = answer(&elf(&functions, b""), None).probes;
        let eof = probes.into_iter().filter(|probe| probe.program == "mysql_eof");
        eof.map(|probe| (probe.at, probe.args, probe.arg)).collect::<Vec<_>>()
    };
    let symbol = |name: &str| Locator::Symbol(name.to_owned());
    let usual = (symbol("_ZN8Protocol12net_send_eofEP3THDjj"), 4, 0);
    // A call to the function right before it.
    let copy = [0xe8, 0xfa, 0xff, 0xff, 0xff, 0xc3];
    assert_eq!(plan(&copy), [usual.clone(), (symbol(SEND_EOF), 3, 1)]);
    assert_eq!(plan(RET), [usual]);
}

/// The constructor has the id in a register but is dear to stop at; the list has a cheap beginning but needs the offset.
#[test]
fn the_id_of_a_prepared_statement_is_taken_where_it_is_cheap() {
    let plan = |constructor: &[u8]| {
        let functions =
            [(MARIADB_DISPATCH, RET), (convention::STATEMENT_LIST, RET), (convention::STATEMENT, constructor)];
        let plan = answer(&elf(&functions, b""), None);
        let probes = plan.probes.into_iter().filter(|probe| probe.program == "mysql_statement");
        let probes: Vec<_> = probes.map(|probe| (probe.at, probe.args, probe.arg)).collect();
        (probes, words(&plan.layout.0)[6])
    };
    let symbol = |name: &str| Locator::Symbol(name.to_owned());
    let known = plan(&[0x4c, 0x89, 0x47, 0x38, 0xc3]);
    assert_eq!(known, (vec![(symbol(convention::STATEMENT_LIST), 3, 2)], 0x38));
    assert_eq!(plan(RET), (vec![(symbol(convention::STATEMENT), 5, 0)], u32::MAX));
}

#[test]
fn files_that_can_not_be_captured_from_say_why_and_what_to_do() {
    let refused = |bytes: &[u8]| answer(bytes, None).unsupported.unwrap();
    assert!(refused(b"#!/bin/sh\n").contains("ELF"));
    assert!(refused(&elf(&[], b"")).contains("no symbols"));
    let other = refused(&elf(&[("main", RET)], b""));
    assert!(other.contains(MARIADB_DISPATCH) && other.contains(MYSQL_DISPATCH), "{other}");
    assert!(other.contains("--mysqld") && other.contains("--funcname"), "{other}");
    let reason = answer(&elf(&[("main", RET)], b""), Some("dispatch")).unsupported.unwrap();
    assert!(reason.contains("no function dispatch") && reason.contains("--funcname"), "{reason}");
}

#[test]
fn a_named_function_is_taken() {
    let file = elf(&[("my_dispatch_COM_DATA", RET), ("my_dispatch", RET)], b"");
    let symbol = |name| match answer(&file, Some(name)).probes.swap_remove(0) {
        Probe { at: Locator::Symbol(symbol), arg, .. } => (symbol, arg),
        other => panic!("{other:?}"),
    };
    assert_eq!(symbol("my_dispatch_COM_DATA"), ("my_dispatch_COM_DATA".to_owned(), 1));
    assert_eq!(symbol("my_dispatch"), ("my_dispatch".to_owned(), 0));
}

#[test]
fn a_server_of_another_architecture_is_refused() {
    let mut file = elf(&[(MARIADB_DISPATCH, RET), ("thd_get_thread_id", THREAD_ID)], b"");
    file[0x12] = 22;
    let plan = answer(&file, None);
    assert!(plan.unsupported.is_some_and(|why| why.contains("another kind of processor")));
    assert!(plan.probes.is_empty());
}

/// Debian 12's own server. Skipped where it is not installed.
#[test]
fn the_installed_mariadb() {
    let Ok(bytes) = fs::read("/usr/sbin/mariadbd") else {
        eprintln!("skipped: /usr/sbin/mariadbd is not installed");
        return;
    };
    let plan = answer(&bytes, None);
    let version = plan.version.clone().unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!(version.product, "MariaDB");
    assert!(version.text.contains("-MariaDB") && version.how.contains(".rodata"), "{version:?}");
    let programs: Vec<_> = plan.probes.iter().map(|probe| probe.program.as_str()).collect();
    assert_eq!(
        programs,
        [
            "mysql_command",
            "mysql_command_end",
            "mysql_ok",
            "mysql_eof",
            "mysql_error",
            "mysql_describe",
            "mysql_result_set",
            "mysql_statement",
            "mysql_login",
            "mysql_connect",
            "mysql_peer",
            "mysql_peer_end"
        ],
        "{:?}",
        plan.notes
    );
    let row = words(&plan.layout.0);
    assert_eq!((row[0], row[1], row[5]), (1, 0, 1));
    assert!(row[2] != u32::MAX && row[3] == 8 && row[4] != u32::MAX, "{row:x?} {:?}", plan.notes);
    for note in &plan.notes {
        eprintln!("{note}");
    }
}

/// Names of the programs and the layout's size, of the tree that this crate is built in.
#[test]
fn every_program_is_in_the_object() {
    let source = include_str!("../../../ebpf-objects/src/mysql.bpf.c");
    for convention in [&convention::MARIADB, &convention::MYSQL] {
        for hook in convention.hooks {
            let section = if hook.at_return { "SEC(\"uretprobe\")" } else { "SEC(\"uprobe\")" };
            let program = format!("{section}\nint {}(struct pt_regs *ctx)", hook.program);
            assert!(source.contains(&program), "{program}");
        }
    }
    assert!(source.contains(&format!("SEC(\"tp_btf/sched_process_exit\")\nint {EXIT}(const __u64 *ctx)")));
    let header = include_str!("../../../ebpf-objects/src/mysql.h");
    assert!(header.contains(&format!("_Static_assert(sizeof(struct mysql_layout) == {LAYOUT},")));
    let row = header.split("struct mysql_layout {").nth(1).and_then(|rest| rest.split("\n};").next()).unwrap();
    let fields: Vec<_> = row.lines().filter_map(|line| line.trim().strip_prefix("__u32 ")?.split(';').next()).collect();
    let known = [
        "valid",
        "convention",
        "thread_id_offset",
        "thread_id_size",
        "packet_number_offset",
        "product",
        "statement_id_offset",
    ];
    assert_eq!(fields.get(..7), Some(&known[..]), "all of them 32 bits");
}

proptest! {
    #[test]
    fn damaged_files_never_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12), cut in any::<proptest::sample::Index>()) {
        let mut file = elf(&[(MARIADB_DISPATCH, RET), ("thd_get_thread_id", THREAD_ID), ("my_net_write", THREAD_ID)], b"10.11.14-MariaDB\0");
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _either = answer(&file, None);
        let _either = answer(&file[..cut.index(file.len())], None);
        let _either = answer(&file, Some("thd_get_thread_id"));
    }

    #[test]
    fn random_bytes_are_no_server(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(answer(&bytes, None).unsupported.is_some());
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.extend(bytes);
        prop_assert!(answer(&file, None).unsupported.is_some());
    }
}
