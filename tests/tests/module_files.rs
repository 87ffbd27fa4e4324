//! Module files that are not what they should be. Each is refused with its code; the others go on; nothing of it runs.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use ecapture_tests::capture::{Modules, bin_dir};
use ecapture_tests::workload::Numbers;
use ecapture_tests::{needs, skip_if};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

/// The bytes of a good module.
fn good() -> Vec<u8> {
    std::fs::read(bin_dir().join("libecap_mysql.so")).unwrap()
}

/// Replaces text by text of the same length, everywhere.
fn replaced(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut found = 0;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "{from:?} is not in the module");
    bytes
}

fn list(modules: &Modules) -> Vec<Value> {
    let output = modules.run(&["--list-modules", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    all.as_array().or_else(|| all["modules"].as_array()).expect("a list").clone()
}

/// What the list says of the only file of a directory.
fn listed(modules: &Modules) -> Value {
    let mut all = list(modules);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Alone in a directory, the file is refused with this code and these words; named as a command, it ends the program
/// with the same code and exit status 3.
fn refused(file: &str, bytes: &[u8], code: &str, words: &str) {
    let modules = Modules::empty();
    std::fs::write(modules.path().join(file), bytes).unwrap();
    refused_in(&modules, file, code, words);
}

/// The same of a file that is there already.
fn refused_in(modules: &Modules, file: &str, code: &str, words: &str) {
    let one = listed(modules);
    let place = format!("{file}, {code} {words:?}: {one}");
    assert_eq!(one["status"], "refused", "{place}");
    assert_eq!(one["refusal"]["code"], code, "{place}");
    assert!(one["refusal"]["message"].as_str().is_some_and(|m| m.contains(words)), "{place}");
    assert!(one["refusal"]["remedy"].as_str().is_some_and(|r| !r.is_empty()), "{place}");
    let word = file.trim_start_matches("libecap_").trim_end_matches(".so");
    let named = modules.run(&[word]);
    let said = String::from_utf8_lossy(&named.stderr).into_owned();
    assert_eq!(named.status.code(), Some(3), "{place}: {said}");
    assert!(said.contains(code) && said.contains(words), "{place}: {said}");
    // It is no command then.
    let help = String::from_utf8_lossy(&modules.run(&["--help"]).stdout).into_owned();
    assert!(!help.lines().any(|line| line.trim_start().starts_with(&format!("{word} "))), "{place}: {help}");
}

#[test]
fn no_directory_and_an_empty_one_are_no_errors() {
    let modules = Modules::empty();
    assert!(list(&modules).is_empty());
    let missing = Command::new(bin_dir().join("ecapture"))
        .args(["--modules-dir", "/nowhere/at/all", "--list-modules"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(0));
    let text = String::from_utf8_lossy(&missing.stdout).into_owned();
    assert!(text.contains("/nowhere/at/all does not exist"), "{text}");
}

#[test]
fn files_that_are_no_libraries() {
    refused("libecap_mysql.so", b"", "E-ELF", "is empty");
    refused("libecap_mysql.so", b"#!/bin/sh\n", "E-ELF", "has only 10 bytes");
    refused("libecap_mysql.so", &b"#!/bin/sh\necho hello\n".repeat(100), "E-ELF", "not an ELF file");
    let bytes = good();
    for part in [1, 63, 64, 65, 200, 4096, bytes.len() / 2, bytes.len() - 1] {
        refused("libecap_mysql.so", &bytes[..part], "E-ELF", "");
    }
    // A library, but no module; a program, but no library.
    let libm = std::fs::read("/lib/x86_64-linux-gnu/libm.so.6").unwrap();
    refused("libecap_mysql.so", &libm, "E-MANIFEST", "no manifest");
    let mut program = good();
    program[16] = 2; // e_type: executable
    refused("libecap_mysql.so", &program, "E-ELF", "is an executable");
}

#[test]
fn flipped_bits_are_survived() {
    let (bytes, mut numbers) = (good(), Numbers(1));
    let mut codes = std::collections::BTreeMap::new();
    for _ in 0..150 {
        let mut bad = bytes.clone();
        // Half of the damage where the tables are.
        let end = if numbers.below(2) == 0 { 4096 } else { bad.len() as u64 };
        for _ in 0..1 + numbers.below(8) {
            let at = usize::try_from(numbers.below(end)).unwrap();
            bad[at] ^= 1 << numbers.below(8);
        }
        let modules = Modules::empty();
        std::fs::write(modules.path().join("libecap_mysql.so"), &bad).unwrap();
        let all = list(&modules);
        *codes.entry(all[0]["refusal"]["code"].to_string()).or_insert(0) += 1;
    }
    println!("{codes:?}");
    assert!(codes.len() > 1, "{codes:?}");
}

#[test]
fn other_machines() {
    let mut bytes = good();
    bytes[18] = 183; // e_machine: aarch64
    refused("libecap_mysql.so", &bytes, "E-ARCH", "aarch64");
    bytes = good();
    bytes[4] = 1; // 32 bits
    refused("libecap_mysql.so", &bytes, "E-ARCH", "32-bit library");
    bytes = good();
    bytes[5] = 2; // big endian: the numbers behind it are to be read so as well
    bytes[16..20].copy_from_slice(&[0, 3, 0, 22]);
    refused("libecap_mysql.so", &bytes, "E-ARCH", "big-endian library for s390x");
}

#[test]
fn notes_and_manifests_that_are_wrong() {
    let refused_with = |changes: &[(&str, &str)], code: &str, words: &str| {
        let bytes = changes.iter().fold(good(), |bytes, (from, to)| replaced(bytes, from, to));
        refused("libecap_mysql.so", &bytes, code, words);
    };
    // The owner's name of the notes: without it, there is none.
    refused_with(&[("ecapture\0\0\0\0# What", "ecaptuer\0\0\0\0# What")], "E-MANIFEST", "no manifest");
    refused_with(&[("ecapture\0\0\0\0panic", "ecaptuer\0\0\0\0panic")], "E-MANIFEST", "no build facts");
    refused_with(&[("schema = 1\n", "schemb = 1\n")], "E-MANIFEST", "schema: missing");
    refused_with(&[("schema = 1\n", "schema = 9\n")], "E-MANIFEST", "line 3: schema: 9 is not a schema");
    refused_with(&[("schema = 1\n", "schema = [\n")], "E-MANIFEST", "not TOML");
    refused_with(&[("schema = 1\n", "schema =é\n")], "E-MANIFEST", "line 3: not TOML");
    refused_with(
        &[("kind = \"executable\"", "kind = \"executeble\"")],
        "E-MANIFEST",
        "line 21: target[0].kind: \"executeble\" is not one of",
    );
    refused_with(&[("title = \"Sta", "titel = \"Sta")], "E-MANIFEST", "module.titel: unknown key; did you mean");
    // Reserved words: commands of the host, a short and a long flag of the host.
    refused_with(&[("aliases = [\"mysqld\"]", "aliases = [\"config\"]")], "E-MANIFEST", "\"config\" is reserved");
    let command = ("\"mysql\"\naliases = [\"mysqld\"]", "\"module\"\naliases = [\"mysqd\"]");
    refused_with(&[command], "E-MANIFEST", "module.command: \"module\" is reserved");
    refused_with(&[("short = \"m\"", "short = \"p\"")], "E-MANIFEST", "-p is a flag of the host");
    let flag = [("option = \"mysqld\"", "option = \"output\""), ("name = \"mysqld\"", "name = \"output\"")];
    refused_with(&flag, "E-MANIFEST", "--output is a flag of the host");
    refused_with(&[("api = \"1.0\"", "api = \"2.0\"")], "E-API-MAJOR", "needs module API 2.0, this host has 1.0");
    refused_with(&[("api = \"1.0\"", "api = \"1.9\"")], "E-API-NEWER", "needs module API 1.9, this host has 1.0");
    refused_with(&[("min = \"5.15\"", "min = \"9.99\"")], "E-KERNEL", "needs Linux 9.99");
    refused_with(&[("arch = [\"x86_64\"]", "arch = [\"s390xx\"]")], "E-MANIFEST", "s390xx");
    refused_with(&[("panic=unwind", "panic=abort\n")], "E-PANIC", "\"abort\"");
    refused_with(&[("map_memory = \"64MiB\"", "map_memory = \"64KiB\"")], "E-BPF", "map_memory allows 65536");
    refused_with(&[(".ecapture.bpf.mysql", ".ecapture.bpf.nosql")], "E-BPF", "no section .ecapture.bpf.mysql");
}

#[test]
fn two_manifests_in_one_file() {
    let note = |kind: u32, text: &str| {
        let mut bytes = Vec::new();
        for word in [9, u32::try_from(text.len()).unwrap(), kind] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"ecapture\0\0\0\0");
        bytes.extend(text.as_bytes());
        bytes
    };
    let twice = with_section(good(), ".note.ecapture", &note(0xec01, "schema=1"));
    refused("libecap_mysql.so", &twice, "E-MANIFEST", "more than one manifest");
    let twice = with_section(good(), ".note.ecapture", &note(0xec02, "a=b\nc=de"));
    refused("libecap_mysql.so", &twice, "E-MANIFEST", "more than one note of build facts");
    let twice = with_section(good(), ".ecapture.bpf.mysql", b"12345678");
    refused("libecap_mysql.so", &twice, "E-ELF", "is there twice");
    // What makes these be refused is what was added, not that something was.
    let modules = Modules::empty();
    let later = with_section(good(), ".note.ecapture", &note(0xec77, "of a later host."));
    std::fs::write(modules.path().join("libecap_mysql.so"), later).unwrap();
    assert_eq!(listed(&modules)["status"], "ok");
}

/// A little-endian number of `n` bytes.
fn number(elf: &[u8], place: usize, n: usize) -> usize {
    elf[place..place + n].iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte))
}

/// The file with one more section of this name, which it has already: the table of sections moves to the end, and the
/// new one's bytes behind it.
fn with_section(mut elf: Vec<u8>, name: &str, bytes: &[u8]) -> Vec<u8> {
    let (table, count, names) = (number(&elf, 0x28, 8), number(&elf, 0x3c, 2), number(&elf, 0x3e, 2));
    let mut heads = elf[table..table + count * 64].to_vec();
    let names = number(&heads, names * 64 + 0x18, 8);
    let like = heads
        .chunks(64)
        .find(|head| elf[names + number(head, 0, 4)..].starts_with(format!("{name}\0").as_bytes()))
        .unwrap_or_else(|| panic!("no section {name}"));
    let mut head = like.to_vec();
    elf.resize(elf.len().next_multiple_of(8), 0);
    let new_table = elf.len();
    let place = new_table + (count + 1) * 64;
    // Not in memory: no flags, no address.
    head[0x08..0x18].fill(0);
    head[0x18..0x20].copy_from_slice(&(place as u64).to_le_bytes());
    head[0x20..0x28].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    heads.extend(head);
    elf.extend(heads);
    elf.extend(bytes);
    elf[0x28..0x30].copy_from_slice(&(new_table as u64).to_le_bytes());
    elf[0x3c..0x3e].copy_from_slice(&u16::try_from(count + 1).unwrap().to_le_bytes());
    elf
}

#[test]
fn names_that_do_not_fit() {
    refused("libecap_other.so", &good(), "E-NAME", "the file is called libecap_other.so");
    let modules = Modules::with(&["mysql"]);
    let twin = replaced(good(), "name = \"mysql\"", "name = \"mysq2\"");
    std::fs::write(modules.path().join("libecap_mysq2.so"), twin).unwrap();
    // Another name, but the same command: one keeps it.
    let all = list(&modules);
    let refused: Vec<&Value> = all.iter().filter(|m| m["status"] == "refused").collect();
    assert_eq!((all.len(), refused.len()), (2, 1), "{all:?}");
    assert_eq!(refused[0]["refusal"]["code"], "E-NAME");
}

#[test]
fn what_is_no_file() {
    // (how it is made, what the refusal says)
    type Make = fn(&Path);
    let cases: [(Make, &str); 5] = [
        (|path| symlink("/nowhere/at/all", path).unwrap(), "/nowhere/at/all, which is not there"),
        (|path| symlink(path, path).unwrap(), "which is not there"),
        (|path| symlink("/dev/zero", path).unwrap(), "a device"),
        (|path| std::fs::create_dir(path).unwrap(), "a directory"),
        // Nobody writes to it: opening it to read would wait for ever.
        (|path| mknodat(CWD, path, FileType::Fifo, Mode::from(0o644), 0).unwrap(), "a named pipe"),
    ];
    for (make, words) in cases {
        let modules = Modules::empty();
        make(&modules.path().join("libecap_odd.so"));
        refused_in(&modules, "libecap_odd.so", "E-ELF", words);
        // It does not stand in the way of others.
        modules.install("mysql");
        let all = list(&modules);
        assert_eq!(all.iter().filter(|m| m["status"] == "ok").count(), 1, "{all:?}");
    }
}

#[test]
fn what_nobody_vouches_for() {
    skip_if!("what_nobody_vouches_for", (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()));
    // A directory that only root can change, all the way up.
    let dir = tempfile::Builder::new().prefix("ecapture-trust-").tempdir_in("/root").unwrap();
    let file = dir.path().join("libecap_mysql.so");
    std::fs::write(&file, good()).unwrap();
    let set = |path: &Path, owner: u32, mode: u32| {
        chown(path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let run = |args: &[&str]| {
        Command::new(bin_dir().join("ecapture")).arg("--modules-dir").arg(dir.path()).args(args).output().unwrap()
    };
    // (owner and mode of the directory, of the file, what is wrong)
    for (directory, module, wrong) in [
        ((0, 0o755), (0, 0o644), None),
        ((0, 0o755), (0, 0o666), Some("writable by everybody")),
        ((0, 0o755), (0, 0o664), Some("writable by its group")),
        ((0, 0o755), (65534, 0o644), Some("owned by uid 65534")),
        ((0, 0o1777), (0, 0o644), Some("writable by everybody")),
        ((65534, 0o755), (0, 0o644), Some("owned by uid 65534")),
    ] {
        set(dir.path(), directory.0, directory.1);
        set(&file, module.0, module.1);
        let all: Value = serde_json::from_slice(&run(&["--list-modules", "--json"]).stdout).unwrap();
        let (one, place) = (&all[0], format!("directory {directory:?}, file {module:?}"));
        let named = run(&["mysql", "--mysqld", "/nowhere/at/all"]);
        let said = String::from_utf8_lossy(&named.stderr).into_owned();
        match wrong {
            None => {
                assert_eq!((&one["status"], &one["trust"]), (&"ok".into(), &"owner".into()), "{place}: {one}");
                assert!(said.contains("E-TARGET"), "{place}: {said}");
            }
            Some(wrong) => {
                assert_eq!((&one["status"], &one["trust"]), (&"refused".into(), &"tainted".into()), "{place}: {one}");
                assert_eq!(one["refusal"]["code"], "E-TRUST", "{place}: {one}");
                assert!(one["refusal"]["message"].as_str().unwrap().contains(wrong), "{place}: {one}");
                assert_eq!(named.status.code(), Some(3), "{place}: {said}");
                assert!(said.contains("E-TRUST") && said.contains(wrong), "{place}: {said}");
            }
        }
    }
    // A link to a file that is in order: who can change it was not judged.
    set(dir.path(), 0, 0o755);
    set(&file, 0, 0o644);
    let link = dir.path().join("libecap_link.so");
    symlink(&file, &link).unwrap();
    let all: Value = serde_json::from_slice(&run(&["--list-modules", "--json"]).stdout).unwrap();
    assert_eq!((&all[0]["refusal"]["code"], &all[1]["status"]), (&"E-TRUST".into(), &"ok".into()), "{all}");
}

#[test]
fn what_a_file_says_cannot_write_to_the_terminal() {
    let modules = Modules::empty();
    let title = "title = \"Statements of MariaDB";
    let hostile = replaced(good(), title, "title = \"\\u001bX\\u0007\\u202eDB");
    std::fs::write(modules.path().join("libecap_mysql.so"), &hostile).unwrap();
    std::fs::write(modules.path().join("libecap_\x1b[31m\n.so"), b"text").unwrap();
    for args in [
        &["--list-modules"][..],
        &["--list-modules", "--json"],
        &["--help"],
        &["mysql", "--help"],
        &["module", "info", "mysql"],
        &["module", "info", "mysql", "--json"],
        &["\x1b[31m"],
    ] {
        let output = modules.run(args);
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.contains(&0x1b) && !said.contains(&7), "{args:?}: {:?}", String::from_utf8_lossy(&said));
    }
    assert_eq!(list(&modules).len(), 2);
}

#[test]
fn copying_a_file_in_is_the_whole_installation() {
    let modules = Modules::empty();
    let help = |modules: &Modules| String::from_utf8_lossy(&modules.run(&["--help"]).stdout).into_owned();
    assert!(!help(&modules).contains("mysql"));
    modules.install("mysql");
    assert!(help(&modules).contains("mysql"));
    let all = list(&modules);
    assert_eq!((all[0]["name"].as_str(), all[0]["status"].as_str()), (Some("mysql"), Some("ok")));
    std::fs::remove_file(modules.path().join("libecap_mysql.so")).unwrap();
    assert!(!help(&modules).contains("mysql"));
    assert!(list(&modules).is_empty());
}

#[test]
fn listing_maps_no_module() {
    skip_if!("listing_maps_no_module", needs::program("/usr/bin/strace", "strace"));
    let modules = Modules::with(&["mysql"]);
    let trace = modules.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=mmap,execve,openat,openat2,open", "-o"])
        .arg(&trace)
        .arg(bin_dir().join("ecapture"))
        .args(["--modules-dir", modules.path().to_str().unwrap(), "--allow-untrusted", "--list-modules"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = std::fs::read_to_string(&trace).unwrap();
    assert!(
        trace.lines().any(|l| l.contains("open") && l.contains("libecap_mysql.so")),
        "the module was not even opened"
    );
    assert!(
        trace.lines().any(|l| l.contains("mmap(") && l.contains("libc.so")),
        "the trace shows no mappings of files"
    );
    let mapped: Vec<&str> = trace.lines().filter(|l| l.contains("mmap(") && l.contains("libecap_")).collect();
    assert!(mapped.is_empty(), "{mapped:?}");
    assert_eq!(trace.lines().filter(|l| l.contains("execve(")).count(), 1, "nothing else is run");
}
