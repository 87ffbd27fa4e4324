//! Modules as files: finding them, reading them, judging them, listing them.
//!
//! Everything here reads bytes and runs none of them: a module file is never mapped and never passed to the dynamic
//! linker in this process. [`find`] opens what a directory holds, [`trust`] says who could have put it there, [`image`]
//! takes the few ranges that a judgement needs, [`judge`] goes through the refusals in their fixed order, and
//! [`catalog`] puts the results side by side. [`list`] and [`info`] only print.
//!
//! What must not live here: loading eBPF, starting processes, or any decision about a target.

pub mod catalog;
pub mod escape;
pub mod facts;
pub mod find;
pub mod image;
pub mod info;
pub mod judge;
pub mod libc_needs;
pub mod list;
pub mod refusal;
pub mod trust;

#[cfg(test)]
pub(crate) mod testelf;

pub use catalog::{Catalog, Loaded, ModuleEntry, Unknown, closest};
pub use facts::Facts;
pub use find::{DEFAULT_DIR, Search, SearchError};
pub use judge::Judged;
pub use refusal::{Code, Refusal};
pub use trust::Trust;
