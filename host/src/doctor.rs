//! `ecapture doctor`: what this machine has of what capturing needs, what is missing, what that costs, and how to get it.
//!
//! `machine` is the only place that looks; `judge` turns what was seen into [`Check`]s without looking at anything, so
//! that every machine can be had in a test. The questions to the kernel are those of a run (`bpf::kernel`,
//! `sandbox::privileges`). Must not live here: a second opinion about them.

mod judge;
mod kernel_config;
mod machine;
mod show;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::failure::Exit;
use crate::module::Catalog;

pub use judge::{Check, Status};
pub use machine::{Machine, Roots};
pub use show::{json, text};

/// Looks at this machine. `btf` replaces the kernel's own types.
#[must_use]
pub fn examine(catalog: &Catalog, btf: Option<&Path>) -> Vec<Check> {
    judge::judge(&Machine::look(&Roots::default(), catalog, btf))
}

/// How the program ends after these checks.
#[must_use]
pub fn exit(checks: &[Check]) -> Exit {
    if works(checks) { Exit::Done } else { Exit::Privilege }
}

/// Nothing that capturing needs is missing.
#[must_use]
pub fn works(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.status != Status::Missing)
}
