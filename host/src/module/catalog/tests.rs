//! Whole directories of module files, good and bad, through the same door as `--list-modules`.

use std::fs;

use ecapture_plugin_api::manifest::Permissions;

use super::names::edits;
use super::*;
use crate::module::Code;
use crate::module::testelf::{TestElf, facts, manifest};
use crate::module::{info, list};

mod refused;

struct Modules(tempfile::TempDir);

impl Modules {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(self, file: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.0.path().join(file), bytes).unwrap();
        self
    }

    fn module(self, name: &str) -> Self {
        self.put(&format!("libecap_{name}.so"), TestElf::module(name).bytes())
    }

    fn read(&self) -> Catalog {
        self.read_with(&facts(), true)
    }

    fn read_with(&self, facts: &Facts, allow_untrusted: bool) -> Catalog {
        let search = Search::new(Some(self.0.path().to_owned()), allow_untrusted).unwrap();
        Catalog::read(&search, facts, &check).unwrap()
    }
}

/// Stands for the look into eBPF objects.
fn check(object: &[u8], _: &Permissions) -> Result<(), String> {
    if object == b"object" { Ok(()) } else { Err("calls bpf_probe_write_user, which no module may".to_owned()) }
}

/// The only entry of a directory with one file.
fn only(catalog: &Catalog) -> &ModuleEntry {
    assert_eq!(catalog.entries.len(), 1);
    &catalog.entries[0]
}

#[test]
fn a_good_module_is_listed_and_found() {
    let catalog = Modules::new().module("demo").read();
    let entry = only(&catalog);
    assert_eq!(entry.refusal, None);
    assert_eq!((entry.name(), entry.status(), entry.trust), ("demo", "ok", Trust::Tainted));
    assert_eq!(entry.targets(), ["demod", "demo-server"]);
    assert_eq!(catalog.find_by_command("demo").unwrap().name(), "demo");
    assert!(catalog.notes.is_empty(), "{:?}", catalog.notes);
}

#[test]
fn a_missing_and_an_empty_directory_give_a_hint() {
    let modules = Modules::new();
    let search = Search::new(Some(modules.0.path().join("none")), false).unwrap();
    let missing = Catalog::read(&search, &facts(), &check).unwrap();
    assert!(missing.entries.is_empty() && missing.notes[0].contains("does not exist"), "{:?}", missing.notes);
    let empty = modules.read();
    assert!(empty.entries.is_empty() && empty.notes[0].contains("holds no file"), "{:?}", empty.notes);
    assert!(list::table(&empty).starts_with("NAME  VERSION  API  TARGETS  TRUST  STATUS  FILE\nnote: no modules"));
    assert_eq!(list::json(&empty).unwrap(), "[]\n");
}

#[test]
fn a_module_of_another_major_is_listed_without_what_it_claims() {
    let text = manifest("demo").replace("api = \"1.0\"", "api = \"2.0\"");
    let elf = TestElf::with_manifest(&text).build("unwind", "2.0.0");
    let catalog = Modules::new().put("libecap_demo.so", elf.bytes()).read();
    let table = list::table(&catalog);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(&row[..6], ["-", "-", "-", "-", "tainted", "refused"], "{table}");
    assert!(table.contains("libecap_demo.so  E-API-MAJOR: needs module API 2.0, this host has 1.0\n"), "{table}");
}

#[test]
fn the_table_lines_up() {
    let catalog = Modules::new().module("demo").put("libecap_bad.so", b"x").read();
    let dir = catalog.entries[0].file.parent().unwrap().display().to_string();
    assert_eq!(
        list::table(&catalog),
        format!(
            "NAME  VERSION  API  TARGETS             TRUST    STATUS   FILE\n\
             -     -        -    -                   tainted  refused  {dir}/libecap_bad.so  E-ELF: has only 1 bytes\n\
             demo  0.1.0    1.0  demod, demo-server  tainted  ok       {dir}/libecap_demo.so\n"
        )
    );
}

#[test]
fn the_json_has_stable_keys() {
    let catalog = Modules::new().module("demo").put("libecap_bad.so", b"x").read();
    let rows: serde_json::Value = serde_json::from_str(&list::json(&catalog).unwrap()).unwrap();
    let keys: Vec<&String> = rows[1].as_object().unwrap().keys().collect();
    let mut expected = vec![
        "name",
        "version",
        "api",
        "title",
        "command",
        "aliases",
        "targets",
        "trust",
        "trust_problem",
        "status",
        "file",
        "refusal",
    ];
    let docs = include_str!("../../../../docs/refusals.md");
    for key in &expected {
        assert!(docs.contains(&format!("| `{key}` |")), "docs/refusals.md does not explain the key {key}");
    }
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(rows[0]["refusal"]["code"], "E-ELF");
    assert_eq!(rows[0]["name"], serde_json::Value::Null);
    assert_eq!(rows[1]["refusal"], serde_json::Value::Null);
    assert_eq!(rows[1]["status"], "ok");
}

#[test]
fn two_modules_of_one_command() {
    let with_command = |name: &str, line: &str| {
        let text = manifest(name).replace("[module]", &format!("[module]\n{line}"));
        TestElf::with_manifest(&text).build("unwind", "1.0.0").section(".ecapture.bpf.main", b"object").bytes()
    };
    let catalog = Modules::new()
        .put("libecap_aaa.so", with_command("aaa", "command = \"sql\""))
        .put("libecap_bbb.so", with_command("bbb", "command = \"sql\"\naliases = [\"mine\"]"))
        .put("libecap_ccc.so", with_command("ccc", "command = \"zzz\""))
        .module("zzz")
        .read();
    let refused: Vec<&str> =
        catalog.entries.iter().filter(|entry| entry.refusal.is_some()).map(|entry| entry.name()).collect();
    assert_eq!(refused, ["bbb", "ccc"], "a name is stronger than a command, and the first command wins");
    assert_eq!(catalog.find_by_command("sql").unwrap().name(), "aaa");
    assert_eq!(catalog.find_by_command("zzz").unwrap().name(), "zzz");
    assert!(catalog.find_by_command("mine").is_err(), "a refused module kept its alias");
    let refusal = catalog.entries[1].refusal.as_ref().unwrap();
    assert_eq!(refusal.to_string(), "E-NAME: claims the name \"sql\" of libecap_aaa.so");
}

#[test]
fn an_alias_goes_to_the_first_by_name_and_the_list_says_so() {
    let with_alias = |name: &str| {
        let text = manifest(name).replace("[module]", "[module]\naliases = [\"db\", \"zzz\"]");
        TestElf::with_manifest(&text).build("unwind", "1.0.0").section(".ecapture.bpf.main", b"object").bytes()
    };
    let catalog = Modules::new()
        .put("libecap_bbb.so", with_alias("bbb"))
        .put("libecap_aaa.so", with_alias("aaa"))
        .module("zzz")
        .read();
    assert_eq!(catalog.find_by_command("db").unwrap().name(), "aaa");
    assert_eq!(catalog.find_by_command("zzz").unwrap().name(), "zzz");
    assert_eq!(catalog.entries[0].aliases, ["db"]);
    assert!(catalog.entries[1].aliases.is_empty());
    assert!(
        list::table(&catalog).contains("note: the alias \"db\" of module bbb belongs to module aaa\n"),
        "{:?}",
        catalog.notes
    );
}

#[test]
fn a_slip_of_the_hand_is_understood() {
    let catalog = Modules::new().module("mysql").module("bash").read();
    let message = |word: &str| catalog.find_by_command(word).unwrap_err().to_string();
    assert!(message("mysq").ends_with("; did you mean mysql?"), "{}", message("mysq"));
    assert!(message("bahs").ends_with("bash?") || !message("bahs").contains("did you mean"));
    assert!(!message("kubernetes").contains("did you mean"));
    assert!(!message("\u{1b}[2J").contains('\u{1b}'));
}

#[test]
fn edits_are_counted() {
    assert_eq!(edits("mysql", "mysql"), 0);
    assert_eq!(edits("mysq", "mysql"), 1);
    assert_eq!(edits("msyql", "mysql"), 2);
    assert_eq!(edits("", "abc"), 3);
    assert_eq!(edits("abc", ""), 3);
}

#[test]
fn a_hostile_manifest_cannot_drive_the_terminal() {
    let text = manifest("demo").replace("title = \"What demo says\"", "title = \"\\u001b[2J\\u202eevil\"");
    let text = text.replace("\"demod\"", "\"demo\\u001b]0;x\\u0007\"");
    let elf = TestElf::with_manifest(&text).build("unw\u{1b}ind", "1.0.0").section(".ecapture.bpf.main", b"object");
    let catalog = Modules::new().put("libecap_demo.so", elf.bytes()).put("libecap_\u{1b}[31m.so", b"").read();
    for text in [list::table(&catalog), info::text(&catalog.entries[0]), info::text(&catalog.entries[1])] {
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    }
    assert_eq!(list::table(&catalog).lines().count(), 3);
}

#[test]
fn info_shows_what_the_file_says() {
    let catalog = Modules::new().module("demo").read();
    let text = info::text(&catalog.entries[0]);
    for words in [
        "module      demo 0.1.0\n",
        "status      ok\n",
        "event demo.said\n",
        "db.query.text",
        "rustc 1.95.0",
        "trust       tainted\n",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&info::json(&catalog.entries[0]).unwrap()).unwrap();
    assert_eq!(json["manifest"]["module"]["name"], "demo");
    assert_eq!(json["build"]["panic"], "unwind");
}

#[test]
fn what_is_run_is_judged_again() {
    let modules = Modules::new().module("demo");
    let catalog = modules.read();
    let entry = only(&catalog);
    let loaded = catalog.load(entry, &facts(), &check).unwrap();
    assert_eq!(loaded.manifest_text, manifest("demo"));
    assert_eq!(loaded.libraries, ["libc.so.6"]);
    assert_eq!(loaded.object("main"), Some(&b"object"[..]));
    assert_eq!(loaded.image.bytes(), TestElf::module("demo").bytes());
    let file = modules.0.path().join("libecap_demo.so");
    fs::write(&file, TestElf::module("demo").machine(183).bytes()).unwrap();
    assert_eq!(catalog.load(entry, &facts(), &check).unwrap_err().code, Code::Arch);
    let text = manifest("demo").replace("[module]", "[module]\ncommand = \"other\"");
    let other = TestElf::with_manifest(&text).build("unwind", "1.0.0").section(".ecapture.bpf.main", b"object");
    fs::write(&file, other.bytes()).unwrap();
    assert_eq!(catalog.load(entry, &facts(), &check).unwrap_err().code, Code::Name);
    fs::remove_file(&file).unwrap();
    assert_eq!(catalog.load(entry, &facts(), &check).unwrap_err().code, Code::Elf);
}

#[test]
fn many_files_keep_their_order_across_threads() {
    let mut modules = Modules::new();
    for number in 0..40 {
        modules = modules.module(&format!("m{number:02}"));
    }
    let catalog = modules.read();
    let names: Vec<&str> = catalog.entries.iter().map(ModuleEntry::name).collect();
    assert_eq!(names.len(), 40);
    assert!(names.is_sorted() && catalog.runnable().count() == 40);
}
