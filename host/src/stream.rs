//! From the bytes of connections to what was said on them.
//!
//! Pure: events with role `stream` go in, exchanges come out; no file, no clock, no output. It runs in the collector, without
//! privileges, on bytes that may be hostile: everything in here is bounded.

pub mod body;
pub mod exchange;
pub mod http1;
