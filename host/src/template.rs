//! `ecapture module new`: a workspace for a module of one's own. This program carries the template and the SDK, so that nothing
//! has to be published and no network is needed for them. (build.rs gathers them.)

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::RESERVED_NAMES;

use crate::failure::{Exit, Failure};
use crate::recording::format::{self, kind};
use crate::recording::{Block, Damage, Reader};

/// Path below the new directory, and bytes.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/template.rs"));

/// What the template is called in itself, where that is not the name of what it captures from.
const NAMES: [&str; 4] = ["ecapture-module-sqlite", "libecap_sqlite", "ecap_sqlite", "ecapture sqlite"];

/// Makes `dir/NAME`, or `dir` if that is given, which must not be there or be empty.
///
/// # Errors
/// `E-USAGE` for a name that a module cannot have; `E-OUTPUT` if the directory is not empty, or cannot be written.
pub fn make(name: &str, dir: Option<&Path>) -> Result<PathBuf, Failure> {
    check(name)?;
    let dir = dir.map_or_else(|| PathBuf::from(name), Path::to_owned);
    match fs::read_dir(&dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            let text = format!("{} is not empty", dir.display());
            return Err(Failure::new("E-OUTPUT", text).remedy("name another directory with --dir"));
        }
        Err(e) if e.kind() == ErrorKind::NotADirectory => return Err(failed(&dir, &e)),
        Ok(false) | Err(_) => {}
    }
    for (file, bytes) in FILES {
        let path = dir.join(file);
        let parent = path.parent().unwrap_or(&dir);
        fs::create_dir_all(parent).map_err(|e| failed(parent, &e))?;
        fs::write(&path, renamed(file, bytes, name)).map_err(|e| failed(&path, &e))?;
    }
    Ok(dir)
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new("E-OUTPUT", format!("cannot write {}: {error}", path.display()))
        .remedy("make room, or name another directory with --dir; remove what is half written")
}

fn check(name: &str) -> Result<(), Failure> {
    let usage = |why: String| Err(Failure::new("E-USAGE", format!("module name {name:?}: {why}")).exit(Exit::Usage));
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) || name.len() > 32 {
        return usage("expected lower-case letters, digits and _, a letter first, at most 32".into());
    }
    if RESERVED_NAMES.contains(&name) {
        return usage(format!("reserved for the host ({})", RESERVED_NAMES.join(", ")));
    }
    Ok(())
}

/// The file for a module of this name. The SDK stays as it is.
fn renamed(file: &str, bytes: &[u8], name: &str) -> Vec<u8> {
    if file.ends_with(".ecaprec") {
        return recorded(bytes, name).unwrap_or_else(|_| bytes.to_vec());
    }
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|_| !file.starts_with("vendor/")) else {
        return bytes.to_vec();
    };
    let mut text = text.to_owned();
    for old in NAMES {
        text = text.replace(old, &old.replace("sqlite", name));
    }
    if file == "module.toml" {
        text = text.replacen("name = \"sqlite\"", &format!("name = \"{name}\""), 1);
    }
    if file.ends_with(".jsonl") {
        text = text.replace("\"sqlite.", &format!("\"{name}."));
        for key in ["ecapture.module", "name"] {
            text = text.replace(&format!("\"{key}\":\"sqlite\""), &format!("\"{key}\":\"{name}\""));
        }
    }
    text.into_bytes()
}

/// A recording as if the module of this name had made it.
fn recorded(bytes: &[u8], name: &str) -> Result<Vec<u8>, Damage> {
    let (mut reader, mut header) = Reader::new(bytes)?;
    for module in &mut header.modules {
        name.clone_into(&mut module.name);
    }
    let mut out = format::MAGIC.to_vec();
    format::push(&mut out, kind::HEADER, 0, 0, &serde_json::to_vec(&header).unwrap_or_default());
    loop {
        match reader.block()? {
            Block::Record { module, end, bytes } => format::push(&mut out, kind::RECORD, module, end, bytes),
            Block::Gap { lost } => format::push(&mut out, kind::GAP, 0, lost, &[]),
            Block::End(ended) => {
                format::push(&mut out, kind::END, 0, 0, &serde_json::to_vec(&ended).unwrap_or_default());
                return Ok(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_module_cannot_have() {
        for name in ["", "1st", "Über", "a b", "../up", "a-b", "run", "config", "module", &"x".repeat(33)] {
            let failure = check(name).unwrap_err();
            assert_eq!((failure.code, failure.exit), ("E-USAGE", Exit::Usage), "{name}");
        }
        for name in ["a", "pg_bouncer", "x9"] {
            assert!(check(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_program_carries_template_and_sdk() {
        let has = |name: &str| FILES.iter().any(|(file, bytes)| *file == name && !bytes.is_empty());
        for file in [
            "Cargo.toml",
            "module.toml",
            "src/decode.rs",
            "bpf/module.bpf.c",
            ".github/workflows/ci.yml",
            "vendor/ecapture-plugin-api/Cargo.toml",
            "vendor/ecapture-plugin-api/build.rs",
            "vendor/ecapture-plugin-api/src/abi/root.rs",
            "vendor/ecapture-ebpf/include/ecapture/emit.h",
        ] {
            assert!(has(file), "{file}");
        }
        for (file, bytes) in FILES.iter().filter(|(file, _)| file.ends_with("Cargo.toml")) {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(!text.contains("workspace = true"), "{file}: {text}");
        }
    }

    #[test]
    fn a_directory_that_is_not_empty_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "mine").unwrap();
        let failure = make("mine", Some(dir.path())).unwrap_err();
        assert_eq!(failure.code, "E-OUTPUT");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(make("mine", Some(&dir.path().join("mine"))).is_err());
    }

    #[test]
    fn names_are_replaced_and_the_sdk_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let made = make("pgb", Some(&dir.path().join("new"))).unwrap();
        let read = |file: &str| fs::read_to_string(made.join(file)).unwrap();
        assert!(read("Cargo.toml").contains("name = \"ecapture-module-pgb\""));
        assert!(read("module.toml").contains("name = \"pgb\""));
        assert!(read("tests/module.rs").contains("libecap_pgb.so"));
        assert!(read("README.md").contains("ecapture pgb"));
        // What it captures from has not changed by that.
        assert!(read("src/lib.rs").contains("sqlite3_step"));
    }
}
