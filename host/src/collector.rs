//! The collector: host code without privilege. Takes events from every worker's link, puts them in order of time, resolves
//! what numbers mean, hands them to the outputs. Single-threaded, and it opens nothing: what it needs was handed to it.

mod exchanges;
mod interfaces;
mod mail;
mod merge;
mod messages;
mod out;
mod packets;
mod run;
mod source;
mod streams;
mod who;

pub use run::main;
