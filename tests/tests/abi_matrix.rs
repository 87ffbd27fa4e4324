//! Every host with every module: what should load loads and gives the same events, what should not is refused by its notes,
//! before a byte of its code runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::target::Program;
use ecapture_tests::variants::{Change, Workspace};
use ecapture_tests::versions::{NEXT_MAJOR, NEXT_MINOR, NEXT_MINOR_HOST};
use ecapture_tests::{needs, skip_if};
use serde_json::Value;
use tempfile::TempDir;

const COMPILER: &str = "/usr/bin/gcc";
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
/// Calls of the target: lengths from 0 to 131,073 and the number 13, which is not decoded.
const CALLS: u64 = 60;

/// The module as built against the frozen interface of 1.0, with these changes.
fn module(name: &str, changes: &[&[Change]]) -> Vec<u8> {
    let packages = [
        ("tests/abi/1.0/plugin-api", "plugin-api"),
        ("tests/abi/1.0/ebpf-objects", "ebpf-objects"),
        ("tests/abi/module", "module"),
    ];
    let name = format!("module-{name}");
    let workspace = Workspace::new(Path::new(SCRATCH), &name, &packages).with(&changes.concat());
    workspace.build("ecapture-abi-module", "libecap_steady.so", &[])
}

/// This host, with the interface changed.
fn host(dir: &TempDir, name: &str, changes: &[&[Change]]) -> PathBuf {
    let packages = [("plugin-api", "plugin-api"), ("ebpf-objects", "ebpf-objects"), ("host", "host")];
    let workspace = Workspace::new(Path::new(SCRATCH), &format!("host-{name}"), &packages).with(&changes.concat());
    let path = dir.path().join(format!("ecapture-{name}"));
    std::fs::write(&path, workspace.build("ecapture", "ecapture", &[])).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

const fn needs_api(to: &'static str) -> Change {
    Change { file: "module/module.toml", from: "api = \"1.0\"", to }
}

fn installed(host: &Path, module: &[u8]) -> Modules {
    let modules = Modules::of(host);
    std::fs::write(modules.path().join("libecap_steady.so"), module).unwrap();
    modules
}

/// The code of the refusal in the list.
fn listed(modules: &Modules) -> Option<String> {
    let list: Value = serde_json::from_slice(&modules.run(&["--list-modules", "--json"]).stdout).unwrap();
    let list = list.as_array().or_else(|| list["modules"].as_array()).expect("a list");
    assert_eq!(list.len(), 1, "{list:?}");
    list[0]["refusal"]["code"].as_str().map(str::to_owned)
}

/// The events of one run of the target, without what differs from run to run.
fn events(modules: &Modules, target: &Program) -> Vec<Value> {
    let capture = Capture::start(modules, &["steady", "--target", &target.text(), "-o", "json", "--loud"]);
    target.run(&[&CALLS.to_string()]);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    finished.events.into_iter().map(comparable).collect()
}

fn comparable(mut event: Value) -> Value {
    let object = event.as_object_mut().expect("an object");
    object.retain(|key, _| {
        !["time", "process.", "thread.", "ecapture.monotonic_ns", "ecapture.cgroup.id", "ecapture.session.duration_ns"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
            && !["ecapture.version", "ecapture.session.host"].contains(&key.as_str())
    });
    event
}

#[test]
fn every_host_with_every_module() {
    skip_if!("every_host_with_every_module", needs::capture(), needs::program(COMPILER, "gcc"));
    let dir = tempfile::tempdir().unwrap();
    let key = Change {
        file: "module/module.toml",
        from: "license = \"Apache-2.0\"",
        to: "license = \"Apache-2.0\"\nhomepage = \"https://example.org\"",
    };
    let minor = needs_api("api = \"1.1\"");
    let major = needs_api("api = \"2.0\"");
    let builds = [
        ("1.0", module("1.0", &[])),
        // Built with the newer interface, content with the older one.
        ("1.1 modest", module("1.1-modest", &[NEXT_MINOR])),
        ("1.1", module("1.1", &[NEXT_MINOR, &[minor, key]])),
        ("2.0", module("2.0", &[NEXT_MAJOR, &[major]])),
    ];
    let hosts = [
        ("1.0", bin_dir().join("ecapture")),
        ("1.1", host(&dir, "1.1", &[NEXT_MINOR, NEXT_MINOR_HOST])),
        ("2.0", host(&dir, "2.0", &[NEXT_MAJOR])),
    ];
    let refused = |host: &str, module: &str| match (host, module) {
        ("1.0", "1.1") => Some("E-API-NEWER"),
        ("2.0", "2.0") => None,
        ("2.0", _) | (_, "2.0") => Some("E-API-MAJOR"),
        _ => None,
    };
    let target = Program::compile("steady-target.c", "steady-target");
    let mut first: Option<Vec<Value>> = None;
    for (host_version, host) in &hosts {
        for (module_version, bytes) in &builds {
            let place = format!("host {host_version}, module {module_version}");
            let modules = installed(host, bytes);
            assert_eq!(listed(&modules).as_deref(), refused(host_version, module_version), "{place}");
            if let Some(code) = refused(host_version, module_version) {
                let output = modules.run(&["steady", "--target", &target.text()]);
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(3), "{place}: {said}");
                assert!(said.contains(code), "{place}: {said}");
                continue;
            }
            let events = events(&modules, &target);
            let of = |name: &str| events.iter().filter(|e| e["event.name"] == name).count() as u64;
            assert_eq!((of("steady.said"), of("steady.total")), (CALLS - 1, 1), "{place}: {events:?}");
            let end = &events.last().unwrap()["ecapture.session.modules"][0];
            let counts = ["produced", "seen", "undecodable", "lost", "unaccounted"].map(|key| end[key].as_u64());
            assert_eq!(counts, [CALLS, CALLS, 1, 0, 0].map(Some), "{place}: {end}");
            match &first {
                Some(first) => assert!(first == &events, "{place}: other events\n{first:?}\n{events:?}"),
                None => first = Some(events),
            }
        }
    }
    assert!(first.is_some());
}
