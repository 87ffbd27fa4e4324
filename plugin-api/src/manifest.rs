//! `module.toml`: all that is known of a module without running anything of it.
//!
//! Here live the manifest's schema and its validation ([`Manifest::parse`]), the checking of configuration values
//! against it ([`Manifest::check_config`]), the text templates of events ([`Template`]) and the reading of a module
//! *file* ([`elf`]). What does not live here: judging (kernel, trust, libc: that asks the machine) and running.
//!
//! Everything is pure: the same text gives the same answer on any machine. The text is hostile until it has been parsed;
//! nothing here panics on it.

mod config;
pub mod elf;
mod error;
mod names;
mod parse;
mod reader;
mod template;
mod types;
mod units;

pub use config::ConfigError;
pub use error::ManifestError;
pub use names::{HOST_COLUMNS, HOST_PREFIXES, RESERVED_LONG, RESERVED_NAMES, RESERVED_SHORT};
pub use template::{Template, TemplatePart};
pub use types::{
    ApiVersion, BpfObject, Column, ColumnType, ConfigOption, Event, Kernel, KernelVersion, Manifest, Mode, ModeOutput,
    ModuleInfo, OptionType, Permissions, Stream, Target, TargetKind, Version,
};
pub use units::{format_duration, format_size, parse_duration, parse_size};

/// The schema of the manifest that this crate reads.
pub const SCHEMA: i64 = 1;

/// Longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 64 * 1024;
/// Most `[[event]]`s.
pub const MAX_EVENTS: usize = 64;
/// Most columns of one event.
pub const MAX_COLUMNS: usize = 64;
/// Most `[[stream]]`s, `[[bpf]]`s, `[[mode]]`s or `[[target]]`s.
pub const MAX_PARTS: usize = 16;
/// Most `[[config]]` options.
pub const MAX_OPTIONS: usize = 64;
/// Most entries of a list (names, paths, values, ...).
pub const MAX_LIST: usize = 64;
/// Longest text of any key but `help`, in bytes.
pub const MAX_TEXT: usize = 256;
/// Longest `help`, template or path, in bytes.
pub const MAX_HELP: usize = 2048;
