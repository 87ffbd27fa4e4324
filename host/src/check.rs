//! `ecapture module check`: does a module keep the rules, before a user finds out that it does not?
//!
//! Five levels, each with those before it: `static` reads the file; `load` loads it; `behaviour` calls every function with
//! everything that the manifest allows; `robust` throws records at its decoder that no kernel side would send; `live` captures
//! with it. The module runs where it always runs, in a worker without rights, so a crash is a finding and no accident. Only
//! `live` needs root; everything else begins by giving up whatever rights there are.
//!
//! Here: what is asked and answered (`finding`), how a job is run and watched (`job`), records out of nothing (`mutate`),
//! everything else that a module is given (`inputs`), the levels (`levels`) and the one that needs root (`live`).

mod finding;
mod inputs;
mod job;
mod levels;
mod live;
mod mutate;

pub use finding::{Finding, Level, Report, Severity};
pub use levels::run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What is to be checked, and how hard.
#[derive(Debug)]
pub struct Options {
    /// The module's file.
    pub file: PathBuf,
    /// The last level.
    pub level: Level,
    /// Recordings of the module: decoded as they are, and as seeds for what is not.
    pub recordings: Vec<PathBuf>,
    /// Target files, beside those in the usual places.
    pub targets: Vec<PathBuf>,
    /// Options of the module.
    pub set: BTreeMap<String, Vec<String>>,
    /// Time for `robust`.
    pub time: Duration,
    /// Where its random numbers begin.
    pub seed: u64,
    /// A process for `live`.
    pub pid: Option<u32>,
}
