//! Why a module is not run: a stable code, the cause with both sides named, and what to do about it.
//!
//! The codes are an interface (scripts match on them, `docs/refusals.md` explains them): they are never renamed and
//! never reused. Messages are for people and may change.

use std::fmt;

/// The stable codes, in the order in which a module is judged: the first that applies is the one reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Not readable as an ELF shared library, or a part of it lies outside the file.
    Elf,
    /// Somebody other than root could have put the file there or changed it.
    Trust,
    /// No manifest, two of them, or one with an error.
    Manifest,
    /// The file's name and the manifest's name differ, or two modules claim one name.
    Name,
    /// Built for another processor.
    Arch,
    /// Needs a newer libc, or a library that is not there.
    Libc,
    /// Built so that a panic cannot be caught.
    Panic,
    /// Built for another major version of the module API.
    ApiMajor,
    /// Built for a newer minor version of the module API.
    ApiNewer,
    /// Needs a feature that this host does not have.
    Feature,
    /// This kernel is too old, has no BTF, or the module does not know this processor.
    Kernel,
    /// An eBPF object is missing, malformed, or does more than the manifest permits.
    Bpf,
    /// A value of the configuration is refused (known at run time only).
    Config,
    /// The module's interface has another layout than its API version says (known in the worker only).
    Layout,
    /// The loaded module reports another manifest than its file shows (known in the worker only).
    Forged,
    /// A probe could not be proven safe, or goes beyond the manifest's permissions (known at attach only).
    Plan,
}

impl Code {
    /// All codes, in the order in which they are judged.
    pub const ALL: [Code; 16] = [
        Code::Elf,
        Code::Trust,
        Code::Manifest,
        Code::Name,
        Code::Arch,
        Code::Libc,
        Code::Panic,
        Code::ApiMajor,
        Code::ApiNewer,
        Code::Feature,
        Code::Kernel,
        Code::Bpf,
        Code::Config,
        Code::Layout,
        Code::Forged,
        Code::Plan,
    ];

    /// The code as printed and as found in the JSON of the list.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Elf => "E-ELF",
            Code::Trust => "E-TRUST",
            Code::Manifest => "E-MANIFEST",
            Code::Name => "E-NAME",
            Code::Arch => "E-ARCH",
            Code::Libc => "E-LIBC",
            Code::Panic => "E-PANIC",
            Code::ApiMajor => "E-API-MAJOR",
            Code::ApiNewer => "E-API-NEWER",
            Code::Feature => "E-FEATURE",
            Code::Kernel => "E-KERNEL",
            Code::Bpf => "E-BPF",
            Code::Config => "E-CONFIG",
            Code::Layout => "E-LAYOUT",
            Code::Forged => "E-FORGED",
            Code::Plan => "E-PLAN",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A module that is not run, and why. Both texts may quote what a hostile file says: escape them before they are
/// printed ([`super::escape`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The cause, with both sides named: what the module has or needs, what this host has.
    pub message: String,
    /// What to do about it, as an instruction.
    pub remedy: String,
}

impl Refusal {
    /// A refusal from its three parts.
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_judging_order() {
        let texts: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn every_code_is_explained_in_the_docs_in_order() {
        let docs = include_str!("../../../docs/refusals.md");
        let at: Vec<usize> = Code::ALL
            .iter()
            .map(|code| {
                let heading = format!("## {code}\n");
                docs.find(&heading).unwrap_or_else(|| panic!("docs/refusals.md has no heading for {code}"))
            })
            .collect();
        assert!(at.is_sorted(), "docs/refusals.md lists the codes in another order than they are judged in");
    }

    #[test]
    fn display_is_code_then_cause() {
        let refusal = Refusal::new(Code::ApiMajor, "needs module API 2.0, this host has 1.0", "get a build for 1.x");
        assert_eq!(refusal.to_string(), "E-API-MAJOR: needs module API 2.0, this host has 1.0");
    }
}
