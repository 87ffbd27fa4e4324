//! Recordings: the raw records of a run, as the kernel gave them, in a file that can be decoded again without a kernel.
//!
//! Here is the format (`format`), its reader (`reader`), and what the configuration of then means to the module of today (`config`). The writer is an output of the collector
//! ([`crate::sink::recording`]): there, what a restarted worker sends again is known and dropped. The format for people:
//! docs/recordings.md. What must not live here: what a record means.

pub mod config;
pub mod format;
pub mod reader;

pub use config::{config, number};
pub use format::{Ended, Header, RecordedModule};
pub use reader::{Block, Damage, Reader, late_targets};
