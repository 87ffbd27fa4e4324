//! Modules built against a changed copy of the module interface: what a third party with another version of it, or with
//! one of its own making, would install.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One change to a file of the copy.
pub struct Change {
    /// Below the copy: `plugin-api/...` or `evil/...`.
    pub file: &'static str,
    /// What is there, at least once.
    pub from: &'static str,
    /// What is to be there.
    pub to: &'static str,
}

/// Builds the fixture `evil` against a copy of the interface with these changes, and gives the library's bytes. `scratch`
/// is `CARGO_TARGET_TMPDIR`; what is built there once serves all variants.
///
/// # Panics
/// If a change does not apply, or the copy does not build.
#[must_use]
pub fn build(scratch: &Path, name: &str, changes: &[Change], rustc: &[&str]) -> Vec<u8> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the source tree");
    let all = scratch.join("abi-variants");
    let copy = all.join(name);
    copy_tree(&top.join("plugin-api"), &copy.join("plugin-api"));
    copy_tree(&top.join("tests/fixtures/evil"), &copy.join("evil"));
    let workspace = read(&top.join("Cargo.toml"));
    let members = workspace.split_once("members = ").and_then(|(_, rest)| rest.split_once(']')).expect("members").0;
    let ebpf = format!("path = \"{}\"", top.join("ebpf-objects").display());
    let workspace = workspace
        .replace(&format!("members = {members}]"), "members = [\"plugin-api\", \"evil\"]")
        .replace("path = \"ebpf-objects\"", &ebpf);
    write(&copy.join("Cargo.toml"), &workspace);
    write(&copy.join("Cargo.lock"), &read(&top.join("Cargo.lock")));
    for Change { file, from, to } in changes {
        let text = read(&copy.join(file));
        assert!(text.contains(from), "{name}: {file} has no {from:?}");
        write(&copy.join(file), &text.replace(from, to));
    }
    let target = all.join("target");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&copy)
        .args(["rustc", "--offline", "--quiet", "-p", "ecapture-fixture-evil", "--target-dir"])
        .arg(&target)
        .arg("--")
        .args(rustc)
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(target.join("debug/libecap_evil.so")).expect("the library")
}

fn copy_tree(from: &Path, to: &Path) {
    // Left from an earlier run, and perhaps of an older source.
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("directory").flatten() {
        let into: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &into);
        } else {
            std::fs::copy(entry.path(), into).expect("copy");
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
