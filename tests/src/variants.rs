//! Hosts and modules built from a changed copy of the tree: what a third party with another version of the module
//! interface, or with one of its own making, would install.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One change to a file of a copy.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Below the copy: `plugin-api/...`, `evil/...`, `Cargo.toml`.
    pub file: &'static str,
    /// What is there, at least once.
    pub from: &'static str,
    /// What is to be there.
    pub to: &'static str,
}

/// A workspace of its own with some of the tree's packages.
pub struct Workspace {
    name: String,
    /// The directory of all copies, and what they are built into.
    all: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Workspace {
    /// Copies packages: where each is below the top of the tree, and where it goes below the copy. `scratch` is
    /// `CARGO_TARGET_TMPDIR`; what is built there once serves all copies.
    ///
    /// # Panics
    /// If the tree cannot be read.
    #[must_use]
    pub fn new(scratch: &Path, name: &str, packages: &[(&str, &str)]) -> Self {
        let mut files = BTreeMap::new();
        for (from, to) in packages {
            read_tree(&top().join(from), Path::new(to), &mut files);
        }
        let text = String::from_utf8(read(&top().join("Cargo.toml"))).expect("text");
        let members = text.split_once("members = ").and_then(|(_, rest)| rest.split_once(']')).expect("members").0;
        let own: Vec<String> = packages.iter().map(|(_, to)| format!("{to:?}")).collect();
        let text = text.replace(&format!("members = {members}]"), &format!("members = [{}]", own.join(", ")));
        // What is not copied is taken from where it is.
        let text = ["plugin-api", "ebpf-objects", "host"]
            .iter()
            .filter(|p| !packages.iter().any(|(_, to)| to == *p))
            .fold(text, |text, package| {
                text.replace(&format!("path = \"{package}\""), &format!("path = \"{}\"", top().join(package).display()))
            });
        files.insert("Cargo.toml".into(), text.into_bytes());
        files.insert("Cargo.lock".into(), read(&top().join("Cargo.lock")));
        Self { name: name.into(), all: scratch.join("abi-variants"), files }
    }

    /// Changes the copy.
    ///
    /// # Panics
    /// If a change does not apply.
    #[must_use]
    pub fn with(mut self, changes: &[Change]) -> Self {
        for Change { file, from, to } in changes {
            let bytes = self.files.get_mut(Path::new(file)).unwrap_or_else(|| panic!("{}: no {file}", self.name));
            let text = std::str::from_utf8(bytes).expect("text");
            assert!(text.contains(from), "{}: {file} has no {from:?}", self.name);
            *bytes = text.replace(from, to).into_bytes();
        }
        self
    }

    /// Builds a package, and gives the bytes of the file that comes of it.
    ///
    /// # Panics
    /// If it does not build.
    #[must_use]
    pub fn build(&self, package: &str, product: &str, rustc: &[&str]) -> Vec<u8> {
        let copy = self.all.join(&self.name);
        self.write(&copy);
        let target = self.all.join("target");
        let kind: &[&str] = if product.ends_with(".so") { &["--lib"] } else { &["--bin", product] };
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(&copy)
            .args(["rustc", "--offline", "--quiet", "-p", package])
            .args(kind)
            .arg("--target-dir")
            .arg(&target)
            .arg("--")
            .args(rustc)
            .output()
            .expect("cargo");
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        read(&target.join("debug").join(product))
    }

    /// All files are new each time: cargo tells packages apart by their place below the workspace, which is the same in all
    /// copies, and would take one copy's library for the other's.
    fn write(&self, copy: &Path) {
        let _ = std::fs::remove_dir_all(copy);
        for (file, bytes) in &self.files {
            let path = copy.join(file);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
            std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

/// Builds the fixture `evil` against a copy of the interface with these changes, and gives the library's bytes.
///
/// # Panics
/// If a change does not apply, or the copy does not build.
#[must_use]
pub fn build(scratch: &Path, name: &str, changes: &[Change], rustc: &[&str]) -> Vec<u8> {
    let packages = [("plugin-api", "plugin-api"), ("tests/fixtures/evil", "evil")];
    Workspace::new(scratch, name, &packages).with(changes).build("ecapture-fixture-evil", "libecap_evil.so", rustc)
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the source tree")
}

fn read_tree(from: &Path, to: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
        let into = to.join(entry.file_name());
        if entry.path().is_dir() {
            read_tree(&entry.path(), &into, files);
        } else {
            files.insert(into, read(&entry.path()));
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
