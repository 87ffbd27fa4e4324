//! What the host and a module tell each other on the cold path: JSON, with a schema version of its own.
//!
//! Here live the structs and their checks, shared by the SDK (which writes them) and the host (which reads them from a
//! module it does not trust). What an answer *means* for the kernel is the host's business.
//!
//! Unknown keys are ignored, so that a newer module may say more to an older host; a missing or another `schema` is
//! refused. Every answer is bounded ([`MAX_ANSWER`] bytes of JSON, and a limit for each list).

mod answer;
mod hex;
mod value;

pub use answer::{
    AttachKind, Attachment, Behind, Configured, Detected, DetectedVersion, Field, Locator, Object, PlanError, Probe,
    ProbeKind, WrapperArgument,
};
pub use hex::Hex;
pub use value::{Config, GlobalValue, Value};

/// The schema that this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// Longest JSON text of one answer or one configuration, in bytes.
pub const MAX_ANSWER: usize = 1 << 20;

/// Most probes of one target file.
pub const MAX_PROBES: usize = 4096;

/// Most objects, host-wide attachments, services, notes or globals of one answer.
pub const MAX_ITEMS: usize = 256;

/// Longest name (program, symbol, global, service), in bytes. Mangled C++ and Rust symbols are long.
pub const MAX_NAME: usize = 1024;

/// Longest layout row, in bytes.
pub const MAX_LAYOUT: usize = 4096;

/// Arguments that a program may say it reads, at most.
pub const MAX_ARGS: u8 = 16;

/// Arguments that registers carry; the others are on the stack.
pub const REGISTER_ARGS: u8 = 6;

/// Wrappers of one function, at most.
pub const MAX_WRAPPERS: usize = 8;
