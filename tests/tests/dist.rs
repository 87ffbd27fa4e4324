//! What is handed out can be installed and used, and leaves nothing behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_tests::{needs, skip_if};
use tempfile::TempDir;

fn xtask_dist() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(cargo).current_dir(top).args(["xtask", "dist"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let sums = PathBuf::from(said.lines().last().unwrap());
    assert_eq!(sums.file_name().unwrap(), "SHA256SUMS", "{said}");
    sums.parent().unwrap().to_owned()
}

fn one(dir: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let found: Vec<PathBuf> = files.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// A root with the C library and nothing else.
fn clean_root(program: &Path) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let listed = Command::new("ldd").arg(program).output().unwrap();
    for library in String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|w| w.starts_with('/')) {
        let to = root.path().join(&library[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
    for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "tmp"] {
        std::fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    std::fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
    root
}

/// All files but those in which dpkg keeps its books.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.strip_prefix(root).unwrap().starts_with("var") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                dirs.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned());
        }
    }
    found
}

#[test]
fn the_package_installs_lists_its_modules_and_leaves_nothing() {
    let name = "the_package_installs_lists_its_modules_and_leaves_nothing";
    skip_if!(name, needs::capture(), needs::program("/usr/bin/dpkg-deb", "dpkg"));
    let dist = xtask_dist();
    let (deb, tarball) = (one(&dist, ".deb"), one(&dist, ".tar.gz"));
    let check =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&dist).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    let unpacked = tempfile::tempdir().unwrap();
    let tar = Command::new("tar").arg("-C").arg(unpacked.path()).arg("-xzf").arg(&tarball).status().unwrap();
    assert!(tar.success());
    let top = one(unpacked.path(), "-linux");
    let root = clean_root(&top.join("usr/bin/ecapture"));
    let before = files(root.path());
    let dpkg = |args: &[&str]| {
        let output = Command::new("dpkg")
            // It depends on packages that a root with the bare libraries does not know.
            .args(["--force-depends", "--force-script-chrootless", "--log=/dev/null"])
            .arg(format!("--root={}", root.path().display()))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    dpkg(&["--install", deb.to_str().unwrap()]);
    let installed = files(root.path());
    for file in [
        "usr/share/bash-completion/completions/ecapture",
        "usr/share/zsh/vendor-completions/_ecapture",
        "usr/share/fish/vendor_completions.d/ecapture.fish",
        "usr/share/man/man1/ecapture.1.gz",
        "usr/share/doc/ecapture/changelog.gz",
        "usr/share/doc/ecapture/copyright",
        "usr/lib/x86_64-linux-gnu/wireshark/extcap/ecapture",
    ] {
        assert!(installed.contains(Path::new(file)), "{file} is not there: {installed:?}");
        // The tarball holds the same.
        assert!(top.join(file).exists(), "{file}");
    }
    let listed =
        Command::new("chroot").arg(root.path()).args(["/usr/bin/ecapture", "--list-modules"]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.status.success(), "{text} {}", String::from_utf8_lossy(&listed.stderr));
    let modules = std::fs::read_dir(root.path().join("usr/lib/ecapture/modules")).unwrap().count();
    assert!(modules >= 1 && text.lines().count() == modules + 1, "{text}");
    for line in text.lines().skip(1) {
        assert!(line.contains(" owner ") && line.contains(" /usr/lib/ecapture/modules/libecap_"), "{text}");
    }
    assert!(text.contains("libecap_mysql.so"), "{text}");

    dpkg(&["--purge", "ecapture"]);
    let left: Vec<_> = files(root.path()).difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_same_commit_gives_the_same_bytes() {
    skip_if!("the_same_commit_gives_the_same_bytes", needs::program("/usr/bin/dpkg-deb", "dpkg"));
    let sums = || std::fs::read_to_string(xtask_dist().join("SHA256SUMS")).unwrap();
    let first = sums();
    assert_eq!(first.lines().count(), 2, "{first}");
    assert_eq!(first, sums());
}
