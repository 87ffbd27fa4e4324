//! Module files that are not what they should be. Each is refused with its code; the others go on; nothing of it runs.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use ecapture_tests::capture::{Modules, bin_dir};
use ecapture_tests::workload::Numbers;
use ecapture_tests::{needs, skip_if};
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

/// The code with which a directory that holds only this file refuses it; `None` if it does not.
fn code_of(file: &str, bytes: &[u8]) -> Option<String> {
    let modules = Modules::empty();
    std::fs::write(modules.path().join(file), bytes).unwrap();
    let all = list(&modules);
    assert_eq!(all.len(), 1, "{all:?}");
    let code = all[0]["refusal"]["code"].as_str().map(str::to_owned);
    assert_eq!(all[0]["status"], if code.is_some() { "refused" } else { "ok" });
    if let Some(code) = &code {
        // Named as a command, it ends the program with the same code and exit status 3.
        let word = file.trim_start_matches("libecap_").trim_end_matches(".so");
        let named = modules.run(&[word]);
        let said = String::from_utf8_lossy(&named.stderr).into_owned();
        assert_eq!(named.status.code(), Some(3), "{said}");
        assert!(said.contains(code), "{said}");
    }
    code
}

fn refused(file: &str, bytes: &[u8], code: &str) {
    assert_eq!(code_of(file, bytes).as_deref(), Some(code), "{file}, {} bytes", bytes.len());
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
    refused("libecap_mysql.so", b"", "E-ELF");
    refused("libecap_mysql.so", b"#!/bin/sh\necho hello\n", "E-ELF");
    let bytes = good();
    for part in [1, 63, 64, 65, 200, 4096, bytes.len() / 2, bytes.len() - 1] {
        refused("libecap_mysql.so", &bytes[..part], "E-ELF");
    }
    // A library, but no module.
    let libc = std::fs::read("/lib/x86_64-linux-gnu/libm.so.6").unwrap();
    refused("libecap_mysql.so", &libc, "E-MANIFEST");
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
    refused("libecap_mysql.so", &bytes, "E-ARCH");
}

#[test]
fn notes_and_manifests_that_are_wrong() {
    let with = |from: &str, to: &str| replaced(good(), from, to);
    // The owner's name of the notes: without it, there is none.
    refused("libecap_mysql.so", &with("ecapture\0\0\0\0# What", "ecaptuer\0\0\0\0# What"), "E-MANIFEST");
    refused("libecap_mysql.so", &with("schema = 1\n", "schemb = 1\n"), "E-MANIFEST");
    refused("libecap_mysql.so", &with("schema = 1\n", "schema = 9\n"), "E-MANIFEST");
    refused("libecap_mysql.so", &with("kind = \"executable\"", "kind = \"executeble\""), "E-MANIFEST");
    // Reserved words: a command of the host, a short flag of the host.
    refused("libecap_mysql.so", &with("aliases = [\"mysqld\"]", "aliases = [\"config\"]"), "E-MANIFEST");
    refused("libecap_mysql.so", &with("short = \"m\"", "short = \"p\""), "E-MANIFEST");
    refused("libecap_mysql.so", &with("api = \"1.0\"", "api = \"2.0\""), "E-API-MAJOR");
    refused("libecap_mysql.so", &with("api = \"1.0\"", "api = \"1.9\""), "E-API-NEWER");
    refused("libecap_mysql.so", &with("min = \"5.15\"", "min = \"9.99\""), "E-KERNEL");
    refused("libecap_mysql.so", &with("panic=unwind", "panic=abort\n"), "E-PANIC");
    refused("libecap_mysql.so", &with("map_memory = \"64MiB\"", "map_memory = \"64KiB\""), "E-BPF");
}

#[test]
fn two_manifests_in_one_file() {
    skip_if!("two_manifests_in_one_file", needs::program("/usr/bin/objcopy", "binutils"));
    let dir = tempfile::tempdir().unwrap();
    let (from, note, to) = (dir.path().join("a"), dir.path().join("note"), dir.path().join("b"));
    std::fs::write(&from, good()).unwrap();
    let mut bytes = Vec::new();
    for word in [9u32, 4, 0xec01] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"ecapture\0\0\0\0x=1\n");
    std::fs::write(&note, bytes).unwrap();
    let section = format!(".note.ecapturX={}", note.display());
    let status = Command::new("objcopy")
        .args(["--add-section", &section, "--set-section-flags", ".note.ecapturX=alloc,readonly"])
        .args([&from, &to])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let mut two = std::fs::read(&to).unwrap();
    retype_as_note(&mut two);
    refused("libecap_mysql.so", &two, "E-MANIFEST");
}

/// objcopy adds sections as PROGBITS whatever their name, and no second one of a name: both are mended here.
fn retype_as_note(elf: &mut [u8]) {
    let at = |elf: &[u8], place: usize, n: usize| {
        elf[place..place + n].iter().rev().fold(0usize, |word, b| word << 8 | usize::from(*b))
    };
    let (table, count, names) = (at(elf, 0x28, 8), at(elf, 0x3c, 2), at(elf, 0x3e, 2));
    let names = at(elf, table + names * 64 + 0x18, 8);
    for section in 0..count {
        let head = table + section * 64;
        let name = names + at(elf, head, 4);
        if elf[name..].starts_with(b".note.ecapturX\0") {
            elf[name..name + 14].copy_from_slice(b".note.ecapture");
            elf[head + 4..head + 8].copy_from_slice(&7u32.to_le_bytes());
        }
    }
}

#[test]
fn names_that_do_not_fit() {
    refused("libecap_other.so", &good(), "E-NAME");
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
fn what_is_no_file_or_nobody_vouches_for() {
    let modules = Modules::with(&["mysql"]);
    symlink("/nowhere/at/all", modules.path().join("libecap_dangling.so")).unwrap();
    std::fs::create_dir(modules.path().join("libecap_directory.so")).unwrap();
    let all = list(&modules);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(all.iter().filter(|m| m["status"] == "refused").count(), 2, "{all:?}");
    assert_eq!(modules.run(&["dangling"]).status.code(), Some(3));

    // In a directory that only root can write, a file that everybody can write; without --allow-untrusted.
    skip_if!(
        "what_is_no_file_or_nobody_vouches_for",
        (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned())
    );
    let dir = tempfile::Builder::new().prefix("ecapture-trust-").tempdir_in("/root").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.path().join("libecap_mysql.so");
    std::fs::write(&file, good()).unwrap();
    for (mode, status) in [(0o644, "ok"), (0o666, "refused")] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let output = Command::new(bin_dir().join("ecapture"))
            .args(["--modules-dir", dir.path().to_str().unwrap(), "--list-modules", "--json"])
            .output()
            .unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let one = all.as_array().map_or(&all["modules"][0], |a| &a[0]);
        assert_eq!(one["status"], status, "mode {mode:o}: {one}");
        if status == "refused" {
            assert_eq!(one["refusal"]["code"], "E-TRUST", "{one}");
        }
    }
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
    let mapped: Vec<&str> = trace.lines().filter(|l| l.contains("mmap(") && l.contains("libecap_")).collect();
    assert!(mapped.is_empty(), "{mapped:?}");
    assert_eq!(trace.lines().filter(|l| l.contains("execve(")).count(), 1, "nothing else is run");
}
