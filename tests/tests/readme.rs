//! What the README and the documents say is true: every command runs, every code is explained.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Commands of the README's console blocks, without their prompts.
fn commands() -> Vec<String> {
    let text = read("README.md");
    let blocks = text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let lines = blocks.flat_map(str::lines);
    lines.filter_map(|l| l.strip_prefix("# ").or_else(|| l.strip_prefix("$ "))).map(str::to_owned).collect()
}

#[test]
fn every_command_of_the_readme_runs() {
    let name = "every_command_of_the_readme_runs";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let file = server.dir().join("statements.jsonl");
    let xtask = read("xtask/src/main.rs");
    let all = commands();
    assert!(all.len() >= 7, "{all:?}");
    for command in all {
        if let Some(task) = command.strip_prefix("cargo xtask ") {
            assert!(xtask.contains(&format!("[\"{task}\"] =>")), "{command}");
            continue;
        }
        let arguments = command.strip_prefix("ecapture ").unwrap_or_else(|| panic!("unknown command: {command}"));
        // The same command, on the private server.
        let arguments = arguments
            .replace("4711", &server.pid().to_string())
            .replace("/usr/sbin/mariadbd", server.binary().to_str().unwrap())
            .replace("statements.jsonl", file.to_str().unwrap())
            .replace("10s", "2s");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        if arguments[0] == "mysql" && !arguments.contains(&"--duration") {
            let mut capture = Capture::start(&modules, &[&arguments[..], &["-o", "json"]].concat());
            Client::connect(&server.socket()).unwrap().query(b"select 'readme'").unwrap();
            capture.wait_for("the statement", Duration::from_secs(10), |e| e["db.query.text"] == "select 'readme'");
            assert_eq!(capture.stop().code, Some(0), "{command}");
        } else {
            let output = modules.run(&arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "{command}: {said}");
            if arguments[0] != "mysql" {
                assert!(String::from_utf8_lossy(&output.stdout).contains("mysql"), "{command}");
            }
        }
    }
    assert!(std::fs::read_to_string(&file).unwrap().contains("ecapture.session.end"));
}

/// Every source file of the host.
fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_code_is_explained() {
    let docs = read("docs/refusals.md");
    let mut files = Vec::new();
    sources(&root().join("host/src"), &mut files);
    sources(&root().join("plugin-api/src"), &mut files);
    let mut codes = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for part in text.split("\"E-").skip(1) {
            let code: String = part.chars().take_while(|c| c.is_ascii_uppercase() || *c == '-').collect();
            codes.insert(format!("E-{}", code.trim_end_matches('-')));
        }
    }
    assert!(codes.len() > 20, "{codes:?}");
    let missing: Vec<&String> = codes.iter().filter(|code| !docs.contains(&format!("## {code}\n"))).collect();
    assert!(missing.is_empty(), "docs/refusals.md does not explain {missing:?}");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for document in ["README.md", "docs/architecture.md", "docs/benchmarks.md", "docs/events.md", "docs/refusals.md"] {
        let folder = root().join(document).parent().unwrap().to_owned();
        let text = read(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !target.starts_with('#') {
                let path = folder.join(target.split('#').next().unwrap_or(target));
                assert!(path.exists(), "{document}: {target}");
            }
        }
    }
}
