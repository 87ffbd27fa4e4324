//! `ModuleV1`: the binary interface between the host and a module, and the only home of `abi_stable`.
//!
//! Here live the types that cross the border and the one way to load them ([`load()`]). What does not live here: anything
//! that an author writes by hand ([`crate::sdk`] wraps all of it in safe Rust) and anything that can be read without
//! running a module ([`crate::manifest`]).
//!
//! The border is small on purpose, and 1.0.0 from day one. The hot path is plain `repr(C)` data ([`RecordV1`],
//! [`ValueV1`], [`EventV1`]) and two traits ([`Decoder`], [`EventSink`]); the cold path is JSON text with a schema
//! version of its own ([`crate::plan`]). No Rust enum of ours crosses it: kinds, roles and flags are integers, and an
//! unknown one is ignored, so that a new one is never a break. Growth: a field after the last prefix field, a method
//! with a default body, a `reserved` word that was zero, a new constant. Never change, reorder, rename, retype, remove;
//! `abi-listing.txt` beside this crate's `Cargo.toml` is compared with the code by a test.
#![expect(unsafe_code, reason = "the derives of abi_stable, and turning a checked library header into the root module")]
#![expect(
    non_camel_case_types,
    non_local_definitions,
    unused_qualifications,
    reason = "what the macros of abi_stable 0.11 expand to"
)]

mod constants;
mod data;
mod export;
#[cfg(test)]
mod listing;
mod load;
mod root;
mod traits;

pub use abi_stable;
pub use constants::{NO_RECORD, call_error, event_flag, log_level, record_flag, role, value_kind};
pub use data::{EventV1, ModuleError, RecordV1, TargetV1, ValueV1};
pub use export::{Exported, library_header};
pub use load::{API_VERSION, AbiError, load};
pub use root::{HostApiV1, HostApiV1_Ref, ModuleV1, ModuleV1_Ref};
pub use traits::{Decoder, Decoder_TO, DecoderBox, EventSink, EventSink_TO, SinkMut, decoder_box, sink_mut};
