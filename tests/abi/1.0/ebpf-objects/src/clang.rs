//! Finds the compiler and the tool that strips debug information. What is done with them is in `builder`.

use std::env;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::BuildError;

/// The first major version whose BPF back end does all that the headers use (atomic exchange, BTF type tags, long jumps);
/// also the oldest that is tested.
const MINIMUM: u32 = 14;
/// The newest whose versioned name is tried. A later one is found as `clang`.
const NEWEST: u32 = 21;

/// A compiler that was run and said that it is new enough.
#[derive(Debug, Clone)]
pub struct Clang {
    program: OsString,
    major: u32,
}

impl Clang {
    /// `$CLANG` if it is set, and then no other; else the first of `clang`, `clang-14`, ... `clang-21` that is at least
    /// version 14. The oldest versioned name goes first: objects built on different machines are then more alike.
    pub fn find() -> Result<Self, BuildError> {
        match env::var_os("CLANG").filter(|name| !name.is_empty()) {
            Some(name) => Self::first_of([name]),
            None => Self::first_of(
                std::iter::once("clang".into()).chain((MINIMUM..=NEWEST).map(|major| format!("clang-{major}").into())),
            ),
        }
    }

    /// The first of these programs that will do.
    pub fn first_of(names: impl IntoIterator<Item = OsString>) -> Result<Self, BuildError> {
        let mut tried = Vec::new();
        for program in names {
            let shown = program.to_string_lossy().into_owned();
            match version_of(&program) {
                Some(major) if major >= MINIMUM => return Ok(Self { program, major }),
                Some(major) => tried.push(format!("{shown}: version {major}")),
                None => tried.push(format!("{shown}: not found")),
            }
        }
        Err(BuildError::NoClang { minimum: MINIMUM, tried: tried.join(", ") })
    }

    /// Major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Ready to be given arguments.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// `$LLVM_STRIP`, `llvm-strip` or the one of the compiler's own version, if there is one. Without it objects keep their
    /// DWARF: several times larger, and just as good.
    pub(crate) fn strip(&self) -> Option<OsString> {
        let set = env::var_os("LLVM_STRIP").filter(|name| !name.is_empty());
        let usual = ["llvm-strip".into(), format!("llvm-strip-{}", self.major).into()];
        set.into_iter().chain(usual).find(|name| {
            Command::new(name)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
    }
}

fn version_of(program: &OsString) -> Option<u32> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// From `clang version 16.0.6`, with whatever a distribution puts before it.
fn parse_version(text: &str) -> Option<u32> {
    let after = text.split_once("clang version ")?.1;
    after[..after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions() {
        assert_eq!(parse_version("Debian clang version 14.0.6\nTarget: x86_64"), Some(14));
        assert_eq!(parse_version("Ubuntu clang version 18.1.3 (1ubuntu1)"), Some(18));
        assert_eq!(parse_version("clang version 21"), Some(21));
        assert_eq!(parse_version("gcc (Debian 12.2.0)"), None);
        assert_eq!(parse_version("clang version x"), None);
    }

    #[test]
    fn absence_names_the_packages_and_what_was_tried() {
        let error = Clang::first_of(["no-such-clang".into(), "true".into()]).unwrap_err().to_string();
        for part in ["no-such-clang: not found", "apt install clang", "dnf install clang", "pacman -S clang", "CLANG"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
