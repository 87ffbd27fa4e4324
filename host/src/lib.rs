//! The host of `ecapture`: one binary, four roles (broker, scout, worker, collector). See docs/architecture.md.

pub mod bpf;
pub mod event;
pub mod failure;
pub mod link;
pub mod module;
pub mod sandbox;
pub mod scout;
pub mod sink;
pub mod target;
