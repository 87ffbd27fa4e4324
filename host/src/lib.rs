//! The host of `ecapture`: one binary, four roles (broker, scout, worker, collector). See docs/architecture.md.

pub mod bpf;
pub mod broker;
pub mod check;
pub mod cli;
pub mod collector;
pub mod doctor;
pub mod event;
pub mod explain;
pub mod failure;
pub mod link;
pub mod module;
pub mod packet;
pub mod protocol;
pub mod recording;
pub mod redact;
pub mod sandbox;
pub mod scout;
pub mod sink;
pub mod statements;
pub mod stream;
pub mod target;
pub mod template;
pub mod worker;
