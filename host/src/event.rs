//! The event model: what a record of the kernel, an event on the link and a line of output mean, in plain types.
//!
//! Here live the Rust mirror of the record header ([`record`]), the bytes of one event between worker and collector
//! ([`wire`]), what a module declares about its events ([`schema`], [`template`]), the event that sinks see
//! ([`model`]), the two clocks ([`clock`]) and the totals of a run ([`summary`]). Nothing here opens, reads or writes
//! anything but the clock; nothing here knows a sink, and of the plug-in interface only names
//! and numbers are used.

pub mod clock;
mod declare;
pub mod model;
pub mod record;
pub mod schema;
pub mod summary;
pub mod template;
pub mod wire;

pub use clock::Clock;
pub use model::{Event, Field, Flags, Stream, Value};
pub use schema::{Column, ColumnType, EventSchema, Schema, SchemaError};
pub use summary::{ModuleTotals, PacketTotals, Summary, losses_text, summary_text};
