//! What a capture module of `ecapture` is made of.
//!
//! - [`abi`]: `ModuleV1`, the binary interface between the host and a module. The only home of `abi_stable`.
//! - [`manifest`]: `module.toml`, readable from the file without running anything.
//! - [`plan`]: what `configure` and `detect` answer, and what the host sends them (JSON with a schema version).
//! - [`unwind`]: where functions begin and end, for detectors and for the host.
//! - [`sdk`]: what an author writes: two traits and one macro.
#![doc(html_no_source)]

pub mod abi;
mod image;
pub mod manifest;
pub mod plan;
pub mod sdk;
pub mod unwind;
