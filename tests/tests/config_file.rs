//! Options from the configuration file and from the environment, through the program itself.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, bin_dir, read_events};
use ecapture_tests::document;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;
use tempfile::TempDir;

/// Modules, and a directory that is root's alone.
struct Stage {
    modules: Modules,
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-config-").tempdir_in("/run").unwrap();
        Self { modules: Modules::with(&["mysql"]), dir }
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("ecapture.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        path
    }

    fn command(&self, args: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = self.modules.ecapture();
        command.args(args).envs(variables.iter().copied());
        command
    }

    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
        words(&self.command(args, variables).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs `config --show --json` and gives value and source of an option.
    fn shown(&self, args: &[&str], variables: &[(&str, &str)], section: &str, name: &str) -> (Value, Value) {
        let (code, out, said) = self.run(&[&["config", "--show", "--json"], args].concat(), variables);
        assert_eq!(code, Some(0), "{said}");
        let json: Value = serde_json::from_str(&out).unwrap();
        let options = json["options"].as_array().unwrap();
        let option = options.iter().find(|o| o["section"] == section && o["name"] == name);
        let option = option.unwrap_or_else(|| panic!("no {name} in {options:?}"));
        (option["values"].clone(), option["source"].clone())
    }
}

fn words(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "needs root".into())
}

#[test]
fn where_each_value_is_from_is_shown() {
    skip_if!("where_each_value_is_from_is_shown", root());
    let stage = Stage::new();
    let file = stage.write("[common]\noutput = \"hex\"\nring-size = \"1MiB\"\n\n[module.mysql]\nfuncname = \"f\"\n");
    let file = file.to_str().unwrap();
    let at = |line: u64| serde_json::json!({ "kind": "file", "file": file, "line": line, "column": 1 });
    let from = |flags: &[&str], variables: &[(&str, &str)], section: &str, name: &str| {
        stage.shown(&[&["--config", file, "mysql"], flags].concat(), variables, section, name)
    };
    assert_eq!(from(&[], &[], "common", "output"), (serde_json::json!(["hex"]), at(2)));
    assert_eq!(from(&[], &[], "module.mysql", "funcname"), (serde_json::json!(["f"]), at(6)));
    let json = [("ECAPTURE_OUTPUT", "json"), ("ECAPTURE_MYSQL_FUNCNAME", "g")];
    let variable = |name: &str| serde_json::json!({ "kind": "environment", "name": name });
    assert_eq!(from(&[], &json, "common", "output"), (serde_json::json!(["json"]), variable("ECAPTURE_OUTPUT")));
    let expected = (serde_json::json!(["g"]), variable("ECAPTURE_MYSQL_FUNCNAME"));
    assert_eq!(from(&[], &json, "module.mysql", "funcname"), expected);
    let flag = serde_json::json!({ "kind": "flag" });
    assert_eq!(from(&["-o", "none"], &json, "common", "output"), (serde_json::json!(["none"]), flag));
    let default = serde_json::json!({ "kind": "default" });
    assert_eq!(from(&[], &json, "common", "count"), (Value::Null, default));
    // As text, for people, and the alias of a module; without one, the options of every module.
    let (code, out, said) = stage.run(&["config", "--show", "--config", file, "mysqld", "-o", "none"], &json);
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "[common]",
        "output = \"none\" ",
        "# command line",
        "[module.mysql]",
        "funcname = \"g\"",
        "# ECAPTURE_MYSQL_FUNCNAME",
        &format!("# {file}:3"),
        "# not set",
    ] {
        assert!(out.contains(line), "no {line:?} in:\n{out}");
    }
    let (code, out, said) = stage.run(&["config", "--show", "--config", file], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("output = \"hex\"") && !out.contains("[module"), "{out}");
    assert_eq!(stage.run(&["config"], &[]).0, Some(2));
}

#[test]
fn what_is_wrong_in_the_file_is_said_with_its_place() {
    skip_if!("what_is_wrong_in_the_file_is_said_with_its_place", root());
    let stage = Stage::new();
    for (text, place, hint) in [
        ("[comon]\n", "1:2", "did you mean [common]?"),
        ("[mysql]\n", "1:2", "did you mean [module.mysql]?"),
        ("[common]\noutptu = \"json\"\n", "2:1", "did you mean \"output\"?"),
        ("[module.mysql]\n\nmysqd = \"/x\"\n", "3:1", "did you mean \"mysqld\"?"),
        ("[module.mysql]\nmysqld = \"x\"\n", "2:10", "not an absolute path"),
        ("[common]\nmodules-dir = \"/x\"\n", "2:1", "only --modules-dir on the command line"),
        ("[common\n", "1:8", ""),
    ] {
        let file = stage.write(text);
        let file = file.to_str().unwrap();
        for command in [&["config", "--show"][..], &["mysql"], &["config", "--show", "mysql"], &["doctor"]] {
            let (code, _, said) = stage.run(&[command, &["--config", file]].concat(), &[]);
            assert_eq!(code, Some(2), "{command:?} {text:?}: {said}");
            assert!(said.starts_with(&format!("ecapture: E-CONFIG: {file}:{place}: ")), "{text:?}: {said}");
            assert!(said.contains(hint), "{text:?}: {said}");
        }
        // Looking at modules needs no options.
        assert_eq!(stage.run(&["--list-modules", "--config", file], &[]).0, Some(0));
    }
}

#[test]
fn what_is_wrong_in_a_variable_is_said_with_its_name() {
    let stage = Modules::with(&["mysql"]);
    for (name, value, hint) in [
        ("ECAPTURE_OUTPUT", "xml", "text, json, hex, har, keylog, pcapng, none"),
        ("ECAPTURE_DURATION", "5 parsecs", "no unit of time"),
        ("ECAPTURE_MYSQL_STATEMENT_MEMORY", "lots", "not a size"),
    ] {
        let output = stage.ecapture().args(["mysql"]).env(name, value).output().unwrap();
        let (code, _, said) = words(&output);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("E-CONFIG") && said.contains(name) && said.contains(hint), "{said}");
    }
}

#[test]
fn no_variable_decides_where_modules_come_from() {
    let modules = Modules::with(&["mysql"]);
    let dir = modules.path().to_str().unwrap();
    let output = Command::new(bin_dir().join("ecapture"))
        .args(["--list-modules", "--json"])
        .env("ECAPTURE_MODULES_DIR", dir)
        .env("ECAPTURE_ALLOW_UNTRUSTED", "true")
        .output()
        .unwrap();
    let (_, listed, _) = words(&output);
    assert!(!listed.contains(dir), "{listed}");
    // And it is said, where options are looked at.
    let output = modules.ecapture().args(["config", "--show"]).env("ECAPTURE_MODULES_DIR", dir).output().unwrap();
    let (code, _, said) = words(&output);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ECAPTURE_MODULES_DIR is not looked at"), "{said}");
}

#[test]
fn a_file_that_others_could_write_is_not_used() {
    skip_if!("a_file_that_others_could_write_is_not_used", root());
    let stage = Stage::new();
    let refused = |path: &Path, word: &str| {
        let (code, _, said) = stage.run(&["config", "--show", "--config", path.to_str().unwrap()], &[]);
        assert_eq!(code, Some(2), "{}: {said}", path.display());
        assert!(said.contains("E-CONFIG") && said.contains(word), "{}: no {word:?} in {said}", path.display());
    };
    let good = stage.write("[common]\n");
    let args = ["config", "--show", "--config", good.to_str().unwrap()];
    assert_eq!(stage.run(&args, &[]).0, Some(0));
    std::fs::set_permissions(&good, PermissionsExt::from_mode(0o666)).unwrap();
    refused(&good, "writable by everybody");
    std::fs::set_permissions(&good, PermissionsExt::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&good, Some(65534), None).unwrap();
    refused(&good, "owned by uid 65534");
    std::os::unix::fs::chown(&good, Some(0), None).unwrap();
    let link = stage.dir.path().join("link.toml");
    symlink(&good, &link).unwrap();
    refused(&link, "symbolic link");
    refused(stage.dir.path(), "not a regular file");
    refused(&stage.dir.path().join("nothing.toml"), "No such file");
    refused(Path::new("/nowhere/at/all.toml"), "does not exist");
    refused(Path::new("/dev/zero"), "not a regular file");
    let large = stage.dir.path().join("large.toml");
    std::fs::write(&large, "#".repeat(300 << 10)).unwrap();
    refused(&large, "longer than 256 KiB");
    std::fs::write(&large, [0xff, 0xfe]).unwrap();
    refused(&large, "not UTF-8");
    // A directory where everybody may put files.
    let public = tempfile::Builder::new().prefix("ecapture-config-").tempdir_in("/tmp").unwrap();
    let there = public.path().join("x.toml");
    std::fs::write(&there, "").unwrap();
    refused(&there, "/tmp is writable by everybody");
}

#[test]
fn without_root_anybodys_own_file_will_do() {
    let name = "without_root_anybodys_own_file_will_do";
    skip_if!(name, root(), needs::program("/usr/bin/setpriv", "util-linux"));
    let dir = tempfile::Builder::new().prefix("ecapture-config-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for file in ["ecapture", "libecap_mysql.so"] {
        std::fs::copy(bin_dir().join(file), dir.path().join(file)).unwrap();
    }
    let file = dir.path().join("own.toml");
    std::fs::write(&file, "[common]\noutput = \"json\"\n").unwrap();
    std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
    let show = |file: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(dir.path().join("ecapture"));
        command
            .arg("--modules-dir")
            .arg(dir.path())
            .args(["--allow-untrusted", "config", "--show", "--config"])
            .arg(file);
        words(&command.output().unwrap())
    };
    let (code, out, said) = show(&file);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("output = \"json\"") && out.contains("own.toml:2"), "{out}");
    // One that it may not read is not passed over.
    std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (code, _, said) = show(&file);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("E-CONFIG") && said.contains("Permission denied"), "{said}");
}

#[test]
fn the_usual_file_is_read_if_it_is_there() {
    let name = "the_usual_file_is_read_if_it_is_there";
    skip_if!(name, root(), needs::program("/usr/bin/unshare", "util-linux"));
    let stage = Stage::new();
    let show = |before: &str| {
        let script = format!("mount -t tmpfs -o mode=0755 tmpfs /etc && {before} exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(bin_dir().join("ecapture"));
        command.arg("--modules-dir").arg(stage.modules.path()).args(["--allow-untrusted", "config", "--show"]);
        words(&command.output().unwrap())
    };
    let (code, out, said) = show("");
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("output = \"text\"") && !out.contains("/etc"), "{out}");
    let write = "mkdir /etc/ecapture; printf '[common]\\noutput = \"json\"\\n' > /etc/ecapture/ecapture.toml;";
    let (code, out, said) = show(write);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("# /etc/ecapture/ecapture.toml:2"), "{out}");
    // One that is not to be trusted is not passed over.
    let (code, _, said) = show(&format!("{write} chmod 777 /etc/ecapture;"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/etc/ecapture is writable by everybody"), "{said}");
}

#[test]
fn a_run_does_what_the_file_and_the_environment_say() {
    let name = "a_run_does_what_the_file_and_the_environment_say";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let server = Mariadb::start();
    let out = server.dir().join("out.jsonl");
    let text = format!(
        "[common]\npid = [{}]\noutput = \"hex\"\nwrite = [\"{}\", \"-\"]\n\n[module.mysql]\nmysqld = \"{}\"\n",
        server.pid(),
        out.display(),
        server.binary().display(),
    );
    let file = stage.write(&text);
    // The variable beats the file's "hex". Tests share one environment, so this program alone gets it.
    let program = stage.dir.path().join("ecapture");
    std::fs::write(
        &program,
        format!("#!/bin/sh\nECAPTURE_OUTPUT=json exec {} \"$@\"\n", bin_dir().join("ecapture").display()),
    )
    .unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let modules = Modules::of(&program);
    modules.install("mysql");
    let mut capture = Capture::start(&modules, &["mysql", "--config", file.to_str().unwrap()]);
    Client::connect(&server.socket()).unwrap().query(b"select 'by file'").unwrap();
    capture.wait_for("the statement", Duration::from_secs(10), |e| e["db.query.text"] == "select 'by file'");
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(read_events(&out), finished.events);
}

#[test]
fn a_run_of_several_takes_the_options_of_each_from_the_file() {
    let name = "a_run_of_several_takes_the_options_of_each_from_the_file";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let server = Mariadb::start();
    // No process is named: that only this server is captured from is the module's own option.
    let text = format!(
        "[common]\noutput = \"json\"\nno-new-targets = true\n\n[module.mysql]\nmysqld = \"{}\"\n",
        server.binary().display()
    );
    let file = stage.write(&text);
    let file = file.to_str().unwrap();
    let (code, out, said) = stage.run(&["config", "--show", "--config", file, "run", "mysql"], &[]);
    assert_eq!(code, Some(0), "{said}");
    let line = format!("mysqld = \"{}\"", server.binary().display());
    assert!(out.contains("[common]") && out.contains("[module.mysql]") && out.contains(&line), "{out}");
    assert!(out.contains(&format!("# {file}:6")), "{out}");
    let mut capture = Capture::start(&stage.modules, &["run", "mysql", "--config", file]);
    Client::connect(&server.socket()).unwrap().query(b"select 'one of several'").unwrap();
    capture.wait_for("the statement", Duration::from_secs(10), |e| e["db.query.text"] == "select 'one of several'");
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    // A bad value is refused before anything is looked for.
    let (code, _, said) = stage.run(&["run", "mysql", "--config", file], &[("ECAPTURE_MYSQL_MYSQLD", "relative")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("ECAPTURE_MYSQL_MYSQLD"), "{said}");
}

#[test]
fn every_command_of_the_document_runs() {
    skip_if!("every_command_of_the_document_runs", root());
    let stage = Stage::new();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")).unwrap();
    let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let file = stage.write(example);
    let commands = document::commands("docs/configuration.md");
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        // What captures is not started: what it would be told is shown instead.
        let shows = command.contains("config --show");
        let (before, after) = command.split_once("ecapture ").unwrap();
        let variables: Vec<(&str, &str)> = before.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let words: Vec<&str> =
            after.split(' ').map(|w| if w == "ecapture.toml" { file.to_str().unwrap() } else { w }).collect();
        let words = if shows { words } else { [&["config", "--show"], &words[..]].concat() };
        let (code, out, said) = stage.run(&words, &variables);
        assert_eq!(code, Some(0), "{command}: {said}");
        for (name, value) in variables {
            assert!(out.contains(name) && out.contains(value), "{command}: {out}");
        }
    }
}
