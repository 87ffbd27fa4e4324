//! Module files that must not run, each with the code that it is refused with.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::module::testelf::{NOTE_BUILD, NOTE_MANIFEST};

fn refusal_of(elf: &TestElf, facts: &Facts) -> Refusal {
    let catalog = Modules::new().put("libecap_demo.so", elf.bytes()).read_with(facts, true);
    only(&catalog).refusal.clone().expect("it should have been refused")
}

fn with_line(after: &str, line: &str) -> TestElf {
    let text = manifest("demo").replacen(after, &format!("{after}\n{line}"), 1);
    TestElf::with_manifest(&text).build("unwind", "1.0.0").section(".ecapture.bpf.main", b"object")
}

#[test]
fn files_that_are_no_modules_at_all() {
    for (bytes, code) in [
        (&b""[..], Code::Elf),
        (b"#!/bin/sh\necho a script of some length that goes on beyond a header\n", Code::Elf),
        (&TestElf::new().bytes(), Code::Manifest),
        (&TestElf::new().note(7, b"another note").bytes(), Code::Manifest),
    ] {
        let catalog = Modules::new().put("libecap_demo.so", bytes).read();
        let refusal = only(&catalog).refusal.as_ref().unwrap();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(!refusal.message.is_empty() && !refusal.remedy.is_empty());
    }
}

#[test]
fn notes_have_to_be_there_once() {
    let text = manifest("demo");
    let two = TestElf::module("demo").note(NOTE_MANIFEST, text.as_bytes());
    assert_eq!(
        refusal_of(&two, &facts()).to_string(),
        "E-MANIFEST: the file has more than one manifest; is another module linked into it?"
    );
    let two_builds = TestElf::module("demo").note(NOTE_BUILD, b"panic=unwind");
    assert_eq!(refusal_of(&two_builds, &facts()).code, Code::Manifest);
    assert_eq!(refusal_of(&TestElf::with_manifest(&text), &facts()).code, Code::Manifest);
    let bytes = TestElf::new().note(NOTE_MANIFEST, b"schema = \xff").build("unwind", "1.0.0");
    assert!(refusal_of(&bytes, &facts()).message.contains("not UTF-8"));
}

#[test]
fn manifests_with_errors() {
    for (after, line, key) in [
        ("[module]", "colour = \"red\"", "colour"),
        ("[module]", "command = \"run\"", "command"),
        ("id = \"main\"", "[[config]]\nname = \"pids\"\ntype = \"int\"\nhelp = \"x\"\nshort = \"p\"", "short"),
        ("schema = 1", "this is not TOML", ""),
    ] {
        let refusal = refusal_of(&with_line(after, line), &facts());
        assert_eq!(refusal.code, Code::Manifest, "{line}: {refusal}");
        assert!(refusal.message.contains(key) && refusal.message.contains("line "), "{line}: {refusal}");
        assert!(!refusal.message.contains("E-MANIFEST"), "the code is said twice: {refusal}");
    }
}

#[test]
fn the_name_of_the_file_is_the_name_of_the_module() {
    let catalog = Modules::new().put("libecap_other.so", TestElf::module("demo").bytes()).read();
    let refusal = only(&catalog).refusal.as_ref().unwrap();
    assert_eq!(refusal.to_string(), "E-NAME: the file is called libecap_other.so, its manifest says module \"demo\"",);
    assert!(refusal.remedy.contains("libecap_demo.so"));
}

#[test]
fn each_need_in_its_order() {
    let good = facts();
    let elf = TestElf::module("demo");
    assert_eq!(
        refusal_of(&elf.clone().machine(183), &good).to_string(),
        "E-ARCH: is built for aarch64, this host is x86_64"
    );
    assert_eq!(refusal_of(&elf.clone().needed("libnone.so.9"), &good).code, Code::Libc);
    let abort = TestElf::with_manifest(&manifest("demo")).build("abort", "1.0.0");
    assert_eq!(
        refusal_of(&abort, &good).to_string(),
        "E-PANIC: is built with panic = \"abort\", this host needs panic = \"unwind\"",
    );
    assert_eq!(
        refusal_of(&with_line("[module]", "features = [\"packets\"]"), &good).to_string(),
        "E-FEATURE: needs the host feature packets, this host has none",
    );
    assert_eq!(
        refusal_of(&with_line("id = \"main\"", "[kernel]\nmin = \"6.2\""), &good).to_string(),
        "E-KERNEL: needs Linux 6.2, this kernel is 6.1.0-13-amd64",
    );
    let no_btf = Facts { has_btf: false, ..facts() };
    assert_eq!(refusal_of(&elf, &no_btf).code, Code::Kernel);
    let old = Facts { kernel: (5, 10), ..facts() };
    assert!(refusal_of(&elf, &old).message.contains("needs Linux 5.15"));
    let bad_object =
        TestElf::with_manifest(&manifest("demo")).build("unwind", "1.0.0").section(".ecapture.bpf.main", b"x");
    assert!(refusal_of(&bad_object, &good).to_string().starts_with("E-BPF: eBPF object \"main\": calls"));
    let no_object = TestElf::with_manifest(&manifest("demo")).build("unwind", "1.0.0");
    assert_eq!(refusal_of(&no_object, &good).code, Code::Bpf);
    // All of it at once: the first in the order is said.
    let all = TestElf::with_manifest(&manifest("demo")).build("abort", "1.0.0").machine(183).needed("libnone.so.9");
    assert_eq!(refusal_of(&all, &no_btf).code, Code::Arch);
}

#[test]
fn versions_of_the_api() {
    let with = |needs: &str, built: &str, more: &str| {
        let text = manifest("demo").replace("api = \"1.0\"", &format!("api = \"{needs}\"{more}"));
        TestElf::with_manifest(&text).build("unwind", built).section(".ecapture.bpf.main", b"object")
    };
    let major = refusal_of(&with("2.0", "2.0.0", ""), &facts());
    assert_eq!(major.to_string(), "E-API-MAJOR: needs module API 2.0, this host has 1.0");
    // Keys of another major, or of a newer minor, are not the author's mistake.
    assert_eq!(refusal_of(&with("2.0", "2.0.0", "\nwarp = 9"), &facts()).code, Code::ApiMajor);
    assert_eq!(
        refusal_of(&with("1.7", "1.7.0", "\nwarp = 9"), &facts()).to_string(),
        "E-API-NEWER: needs module API 1.7, this host has 1.0",
    );
    assert_eq!(refusal_of(&with("1.7", "1.7.0", ""), &facts()).code, Code::ApiNewer);
    // Built with a newer minor but content with an older one: runs.
    let catalog = Modules::new().put("libecap_demo.so", with("1.0", "1.7.0", "").bytes()).read();
    assert_eq!(only(&catalog).refusal, None);
    // An older minor always runs.
    let newer_host = Facts { api: (1, 4), ..facts() };
    let catalog = Modules::new().module("demo").read_with(&newer_host, true);
    assert_eq!(only(&catalog).refusal, None);
}

#[test]
fn untrusted_files_are_refused_unless_allowed() {
    let modules = Modules::new().module("demo");
    let catalog = modules.read_with(&facts(), false);
    let entry = only(&catalog);
    assert_eq!(entry.refusal.as_ref().unwrap().code, Code::Trust);
    assert!(entry.manifest.is_none(), "claims of a file that nobody vouches for were read");
    assert!(matches!(catalog.find_by_command("demo"), Err(Unknown::Refused { .. })));
    assert_eq!(only(&modules.read()).refusal, None);
}

#[test]
fn owners_and_modes_of_the_file_and_its_directory() {
    // Needs a directory that only root can write to, all the way up.
    let Some(dir) = tempfile::tempdir_in("/run").ok().filter(|_| rustix::process::geteuid().is_root()) else {
        eprintln!("skipped: needs root, to make a directory in /run");
        return;
    };
    let modules = Modules(dir).module("demo");
    let (dir, file) = (modules.0.path().to_owned(), modules.0.path().join("libecap_demo.so"));
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let message = || only(&modules.read_with(&facts(), false)).refusal.clone().map(|refusal| refusal.to_string());
    let refused = |path: &Path, what: &str| {
        let expected = format!("E-TRUST: could be changed by others than root: {} {what}", path.display());
        assert_eq!(message(), Some(expected));
    };
    assert_eq!(message(), None);
    assert_eq!(only(&modules.read_with(&facts(), false)).trust, Trust::Owner);
    chmod(&file, 0o666);
    refused(&file, "is writable by everybody (mode 0666)");
    chmod(&file, 0o664);
    refused(&file, "is writable by its group (mode 0664)");
    chmod(&file, 0o600);
    std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
    refused(&file, "is owned by uid 1234, not by root");
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    assert_eq!(message(), None);
    chmod(&dir, 0o777);
    refused(&dir, "is writable by everybody (mode 0777)");
    assert_eq!(only(&modules.read()).trust, Trust::Tainted);
    assert_eq!(only(&modules.read()).refusal, None);
}

#[test]
fn links_and_two_names_of_one_file() {
    let modules = Modules::new().module("demo");
    let dir = modules.0.path();
    std::os::unix::fs::symlink("gone", dir.join("libecap_link.so")).unwrap();
    fs::hard_link(dir.join("libecap_demo.so"), dir.join("libecap_copy.so")).unwrap();
    let catalog = modules.read();
    let code = |at: usize| catalog.entries[at].refusal.as_ref().map(|refusal| refusal.code);
    assert_eq!((code(0), code(1), code(2)), (Some(Code::Name), None, Some(Code::Elf)));
}

#[test]
fn cut_at_any_length_it_is_refused() {
    let bytes = TestElf::module("demo").bytes();
    let modules = Modules::new();
    for length in (0..bytes.len()).step_by(7) {
        fs::write(modules.0.path().join("libecap_demo.so"), &bytes[..length]).unwrap();
        assert_eq!(
            only(&modules.read()).refusal.as_ref().map(|refusal| refusal.code),
            Some(Code::Elf),
            "cut at {length}"
        );
    }
}

#[test]
fn flipped_bits_never_panic() {
    let good = TestElf::module("demo").bytes();
    let modules = Modules::new();
    for at in (0..good.len()).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(modules.0.path().join("libecap_demo.so"), &bytes).unwrap();
        let catalog = modules.read();
        let entry = only(&catalog);
        assert!(entry.refusal.is_some() || entry.name() == "demo", "flipped in byte {at}");
    }
}
