//! What the documents say about the code is true: codes, exit codes, pins, links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file below a directory with this ending.
fn files(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            out.push(path);
        }
    }
}

/// Every `"E-..."` literal of the host and of what modules are made of.
fn codes_of_the_source() -> BTreeSet<String> {
    let mut sources = Vec::new();
    files(&root().join("host/src"), "rs", &mut sources);
    files(&root().join("plugin-api/src"), "rs", &mut sources);
    let mut codes = BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(&source).unwrap();
        for part in text.split("\"E-").skip(1) {
            let code: String = part.chars().take_while(|c| c.is_ascii_uppercase() || *c == '-').collect();
            codes.insert(format!("E-{}", code.trim_end_matches('-')));
        }
    }
    codes
}

/// Sections of docs/refusals.md by their code.
fn explained() -> BTreeMap<String, String> {
    let text = read("docs/refusals.md");
    let sections = text.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'));
    sections
        .filter(|(heading, _)| heading.starts_with("E-"))
        .map(|(heading, body)| (heading.to_owned(), body.split("\n# ").next().unwrap_or_default().to_owned()))
        .collect()
}

#[test]
fn every_code_is_explained_with_exit_code_and_remedy() {
    let (codes, explained) = (codes_of_the_source(), explained());
    assert!(codes.len() > 20, "{codes:?}");
    let named: BTreeSet<String> = explained.keys().cloned().collect();
    assert_eq!(codes, named, "left: codes of the source, right: headings of docs/refusals.md");
    for (code, body) in explained {
        let line = |start: &str| {
            let found = body.lines().find_map(|l| l.strip_prefix(start)).map(str::trim);
            found.unwrap_or_else(|| panic!("{code} has no line {start:?}")).to_owned()
        };
        let exit = line("*Exit code:*");
        assert!(exit.starts_with(['1', '2', '3', '4']), "{code}: exit code {exit:?}");
        assert!(!line("*Do:*").is_empty(), "{code} has no remedy");
    }
}

/// Every `"C-..."` literal of the check.
#[test]
fn every_finding_is_explained() {
    let mut sources = Vec::new();
    files(&root().join("host/src/check"), "rs", &mut sources);
    let document = read("docs/module-check.md");
    let mut codes = BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(&source).unwrap();
        for part in text.split("\"C-").skip(1) {
            let code: String = part.chars().take_while(|c| c.is_ascii_uppercase() || *c == '-').collect();
            codes.insert(format!("C-{}", code.trim_end_matches('-')));
        }
    }
    assert!(codes.len() > 10, "{codes:?}");
    let explained: BTreeSet<String> = document
        .lines()
        .filter_map(|l| l.strip_prefix("| `C-")?.split_once('`').map(|(code, _)| format!("C-{code}")))
        .collect();
    assert_eq!(codes, explained, "left: codes of the source, right: docs/module-check.md");
}

/// Keys of the manifest: those that its reader takes, and those of the reference.
#[test]
fn the_reference_has_every_key_of_the_manifest() {
    let mut taken = BTreeSet::new();
    for source in ["parse.rs", "parse/options.rs", "parse/parts.rs"] {
        let text = read(&format!("plugin-api/src/manifest/{source}"));
        for list in text.split(".only(&[").skip(1) {
            let list = list.split(']').next().unwrap();
            taken.extend(
                list.split(',').map(|key| key.trim().trim_matches('"').to_owned()).filter(|key| !key.is_empty()),
            );
        }
    }
    assert!(taken.len() > 30, "{taken:?}");
    let reference = read("docs/reference/manifest.md");
    let explained: BTreeSet<String> = reference
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once('`').map(|(key, _)| key.to_owned()))
        .collect();
    assert_eq!(taken, explained, "left: keys that are read, right: docs/reference/manifest.md");
}

/// Ways to say where a function is: those that a plan can have, and those of the reference; and its examples are true.
#[test]
fn the_reference_has_every_locator() {
    let source = read("plugin-api/src/plan/answer.rs");
    let variants =
        source.split("pub enum Locator {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("Locator");
    let variants =
        variants.lines().filter_map(|l| l.strip_prefix("    ").filter(|l| l.starts_with(char::is_uppercase)));
    let snake_case = |variant: &str| {
        let name = variant.chars().take_while(|c| c.is_alphanumeric());
        let words = name.flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase()));
        words.collect::<String>().trim_start_matches('_').to_owned()
    };
    let variants: BTreeSet<String> = variants.map(snake_case).collect();
    assert!(variants.len() >= 5, "{variants:?}");
    let reference = read("docs/reference/plans.md");
    let table = reference.split("## Locators").nth(1).and_then(|rest| rest.split("###").next()).expect("Locators");
    let rows = table.lines().filter_map(|l| l.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned()));
    let explained: BTreeSet<String> = rows.filter(|name| name != "at").collect();
    assert_eq!(variants, explained, "left: those of a plan, right: docs/reference/plans.md");
    let example = reference.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let answer =
        format!(r#"{{"schema":1,"probes":[{{"object":"o","program":"p","kind":"entry","at":{}}}]}}"#, example.trim());
    ecapture_plugin_api::plan::Detected::from_json(&answer).expect("the example");
}

#[test]
fn exit_codes_are_said_alike_everywhere() {
    let said = "0 done, 1 failed, 2 usage, 3 module refused, 4 no privilege or kernel support";
    for document in ["README.md", "tests/listings/command-line.txt"] {
        assert!(read(document).contains(&format!("xit codes: {said}")), "{document}");
    }
    let source = read("host/src/failure.rs");
    for (name, number) in [("Done", 0), ("Failed", 1), ("Usage", 2), ("Refused", 3), ("Privilege", 4)] {
        assert!(source.contains(&format!("{name} = {number},")), "{name} is not {number}");
    }
}

/// Numbers that the documents give, beside the source that has them.
#[test]
fn limits_are_as_documented() {
    for (source, has, document, says) in [
        ("host/src/sink/output.rs", "batch: 128 << 10, pending: 8 << 20", "docs/events.md", "gathers up to 128 KiB"),
        ("host/src/sink/output.rs", "batch: 128 << 10, pending: 8 << 20", "docs/events.md", "keeps, up to 8 MiB"),
        (
            "host/src/sink/output.rs",
            "STUCK: Duration = Duration::from_secs(1)",
            "docs/events.md",
            "at least every second",
        ),
        ("host/src/sink/rotate.rs", "MIN_SIZE: u64 = 1 << 20", "docs/output-files.md", "(1MiB or more)"),
        ("host/src/broker/rotation.rs", "RATE: f64 = 100.0", "docs/output-files.md", "At most 100 files"),
        ("host/src/cli/settings/file.rs", "MAX: u64 = 256 << 10", "docs/configuration.md", "At most 256 KiB"),
        ("host/src/worker/join.rs", "PATIENCE_NS: u64 = 200_000_000", "docs/decisions/005-joining.md", "by 200 ms"),
        ("host/src/worker/pump.rs", "CALL: usize = 256", "docs/architecture.md", "up to 256 messages"),
        ("ebpf-objects/src/mysql.h", "MYSQL_PACKET_MAX (1 << 20)", "README.md", "beyond 1 MiB"),
        ("host/src/target/discover.rs", "MAX_TARGETS: usize = 64", "docs/targets.md", "At most 64 files"),
        ("host/src/broker/session/discovery.rs", "LOOKS_PER_SECOND: f64 = 2.0", "docs/targets.md", "two a second"),
        ("host/src/bpf/host_maps.rs", "CGROUPS: usize = 8", "docs/targets.md", "up to 8"),
        (
            "host/src/collector/merge.rs",
            "PATIENCE: Duration = Duration::from_secs(2)",
            "docs/events.md",
            "for at most 2 seconds",
        ),
        ("host/src/broker/policy.rs", "FORGIVEN: usize = 5", "docs/architecture.md", "The sixth death within 60 s"),
        ("host/src/packet.rs", "MAX_FRAME: usize = 262_144", "docs/packets.md", "over 262,144 bytes"),
        ("host/src/collector/interfaces.rs", "MOST: usize = 8192", "docs/packets.md", "The last 8,192"),
        ("host/src/sink/pcapng/secrets.rs", "KEPT: usize = 1 << 20", "docs/packets.md", "the last MiB"),
        ("host/src/module/image.rs", "MAX_FILE: u64 = 64 << 20", "docs/refusals.md", "larger than 64 MiB"),
    ] {
        assert!(read(source).contains(has), "{source} does not say {has:?} any more; what does {document}?");
        assert!(read(document).contains(says), "{document} does not say {says:?}, as {source} does");
    }
}

/// Key and version of each `name = "=x.y.z"` or `name = { version = "=x.y.z" ...`.
fn pins(manifest: &str) -> BTreeSet<(String, String)> {
    let pinned = manifest.lines().filter_map(|line| {
        let (name, rest) = line.split_once(" = ")?;
        let (_, version) = rest.split_once("\"=")?;
        Some((name.to_owned(), version.split('"').next()?.to_owned()))
    });
    pinned.collect()
}

#[test]
fn every_pin_is_a_decision() {
    let pins = pins(&read("Cargo.toml"));
    assert_eq!(pins.len(), 4, "{pins:?}");
    let decision = read("docs/decisions/002-pins.md");
    for (name, version) in pins {
        assert!(decision.contains(&format!("`{name} = {version}`")), "{name} {version}");
    }
}

#[test]
fn every_decision_has_its_four_parts() {
    let mut decisions = Vec::new();
    files(&root().join("docs/decisions"), "md", &mut decisions);
    decisions.sort();
    assert!(decisions.len() >= 11, "{decisions:?}");
    for (number, decision) in (1..).zip(decisions) {
        let name = decision.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{number:03}-")), "{name} is not number {number}");
        let text = std::fs::read_to_string(&decision).unwrap();
        assert!(text.starts_with(&format!("# {number:03} ")), "{name}");
        let mut rest = text.as_str();
        for part in ["**Context.**", "**Decision.**", "**Turned down.**", "**Consequences.**"] {
            let at = rest.find(part).unwrap_or_else(|| panic!("{name} has no {part} (in this order)"));
            rest = &rest[at..];
        }
    }
}

/// Numbers of a session's end, as the host's source names them.
fn totals(list: &str) -> Vec<String> {
    let source = read("host/src/event/summary.rs");
    let start = format!("\n{list}! {{");
    let list = source.split(&start).nth(1).and_then(|rest| rest.split("\n}").next()).expect("a list of totals");
    list.lines()
        .filter_map(|l| l.trim().strip_suffix(','))
        .filter(|l| !l.starts_with("///"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_number_of_a_session_is_explained() {
    let (totals, of_packets) = (totals("totals"), totals("packet_totals"));
    assert!(of_packets.contains(&"without_secrets".into()), "{of_packets:?}");
    let text = read("docs/events.md");
    for total in &of_packets {
        assert!(text.contains(&format!("`{total}`")), "docs/events.md does not explain {total}");
    }
    assert!(totals.len() > 15 && totals.contains(&"produced".into()), "{totals:?}");
    for document in ["docs/events.md", "docs/architecture.md"] {
        let text = read(document);
        for total in &totals {
            assert!(text.contains(&format!("`{total}`")), "{document} does not explain {total}");
        }
    }
}

#[test]
fn every_folder_of_the_host_is_on_the_map() {
    let map = read("docs/architecture.md");
    for entry in std::fs::read_dir(root().join("host/src")).unwrap().flatten() {
        if entry.path().is_dir() {
            let folder = format!("host/src/{}", entry.file_name().to_string_lossy());
            assert!(map.contains(&format!("`{folder}`")), "docs/architecture.md does not name {folder}");
        }
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), "md", &mut documents);
    let mut followed = 0;
    for document in documents {
        let folder = document.parent().unwrap().to_owned();
        let text = std::fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !target.starts_with('#') {
                let path = folder.join(target.split('#').next().unwrap_or(target));
                assert!(path.exists(), "{}: {target}", document.display());
                followed += 1;
            }
        }
    }
    assert!(followed > 6, "{followed} links");
}

/// `cargo xtask` installs clang, so it must itself be built without: nothing that it is made of compiles eBPF programs.
#[test]
fn xtask_is_built_where_nothing_is_installed_yet() {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(["tree", "--offline", "-p", "xtask", "-e", "normal,build", "--prefix", "none"]);
    let output = cargo.output().expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let has = |package: &str| tree.lines().any(|line| line.split(' ').next() == Some(package));
    assert!(has("ecapture-tests"), "{tree}");
    assert!(!has("ecapture-ebpf"), "xtask would need clang before it can install it:\n{tree}");
}
