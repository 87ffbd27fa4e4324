//! The event as sinks see it: everything resolved, everything borrowed.
//!
//! The collector builds one from a [`super::wire::View`], the module's [`EventSchema`], the [`super::Clock`] and what
//! the broker answered about the process. Text is bytes as captured; making it safe to print is the sinks' duty.

use super::schema::{Column, EventSchema};
use crate::stream::exchange::Exchange;

/// One event of role `output`, `stream` or `secret`.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its declaration: name, module, columns, text form.
    pub schema: &'a EventSchema,
    /// `CLOCK_MONOTONIC` in ns, exact; orders the events of a host.
    pub time_ns: u64,
    /// Wall clock in ns since 1970 (UTC), from [`super::Clock`].
    pub wall_ns: u64,
    /// Process (thread group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// User id.
    pub uid: u32,
    /// Control group id, 0 if unknown.
    pub cgroup: u64,
    /// Name of the thread, without padding.
    pub comm: &'a [u8],
    /// Path of the process's executable, if it was still there to ask.
    pub exe: Option<&'a [u8]>,
    /// Id of the container, if the control group belongs to one.
    pub container: Option<&'a str>,
    /// Path of the file the probe sits in; none for host-wide attachments.
    pub target: Option<&'a [u8]>,
    /// Connection the event belongs to.
    pub stream: Option<Stream>,
    /// The columns that are present, each once, of their declared type.
    pub fields: &'a [Field<'a>],
    /// Columns sent that did not fit the declaration and were dropped.
    pub refused: u32,
    /// Bytes beside the columns; empty if none.
    pub payload: &'a [u8],
    /// The payload is a line of a key log.
    pub secret: bool,
    /// Bytes of the message that were never captured.
    pub missing: u64,
    /// Records of this module lost between the last event and this one.
    pub lost_before: u64,
    /// What else has to be said.
    pub flags: Flags,
    /// What the event is about, if it is a request with its response.
    pub exchange: Option<&'a Exchange>,
}

/// A place in a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Number of the connection, unique in a session; never 0.
    pub id: u64,
    /// Offset of the event in its direction, bytes; `None`: it is not at one place.
    pub offset: Option<u64>,
}

/// A column that is present.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field<'a> {
    /// Number in [`EventSchema::columns`].
    pub column: u16,
    /// Its value.
    pub value: Value<'a>,
}

/// A value, by the declared type of its column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Captured text, not promised to be UTF-8.
    Text(&'a [u8]),
    /// Captured bytes.
    Bytes(&'a [u8]),
    /// Count or size.
    U64(u64),
    /// Signed number.
    I64(i64),
    /// Yes or no.
    Bool(bool),
    /// Nanoseconds.
    Duration(u64),
    /// Opaque id.
    Id(u64),
    /// Floating point; may be NaN or infinite.
    F64(f64),
}

/// Bits of `EventV1::flags`; unknown ones are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// The text is only a part of what there was.
    pub const PARTIAL: u32 = 1;
    /// State that the decoder needed was lost in a restart.
    pub const STATE_LOST: u32 = 2;

    /// The text is only a part of what there was.
    pub fn partial(self) -> bool {
        self.0 & Self::PARTIAL != 0
    }

    /// State that the decoder needed was lost in a restart.
    pub fn state_lost(self) -> bool {
        self.0 & Self::STATE_LOST != 0
    }
}

impl<'a> Event<'a> {
    /// The value of column number `column`, if present. Events have about ten columns: a scan beats an index.
    pub fn value(&self, column: u16) -> Option<Value<'a>> {
        self.fields.iter().find(|field| field.column == column).map(|field| field.value)
    }

    /// The columns that are present with their declarations, in the order the module sent them.
    pub fn columns(&self) -> impl Iterator<Item = (&'a Column, Value<'a>)> + use<'a> {
        let declared = self.schema.columns();
        self.fields.iter().filter_map(move |field| Some((declared.get(usize::from(field.column))?, field.value)))
    }

    /// What the process is called on a line of text: the file name of its executable, else the thread's name.
    pub fn program(&self) -> &'a [u8] {
        let name = self.exe.and_then(|exe| exe.rsplit(|b| *b == b'/').find(|part| !part.is_empty()));
        name.unwrap_or(self.comm)
    }
}
