//! The integers that cross the border. Not Rust enums: an unknown value is ignored by whoever does not know it.

/// [`super::EventV1::record`] of an event that comes from `tick` or `finish` and so belongs to no record.
pub const NO_RECORD: u32 = u32::MAX;

/// Bits of [`super::RecordV1::flags`].
pub mod record_flag {
    /// The message is not whole: [`missing`](crate::abi::RecordV1::missing) bytes at its end did not arrive, because the
    /// ring was full or user memory could not be read.
    pub const PARTIAL: u16 = 1;
    /// The message was longer than the stream's `join_max`: the rest was never sent. The bytes beyond are in
    /// [`missing`](crate::abi::RecordV1::missing) too.
    pub const CUT: u16 = 2;
    /// The first record after the decoder was made anew during a run (crash, hang, panic): what earlier records taught
    /// it is lost.
    pub const RESTARTED: u16 = 4;
}

/// Values of [`super::ValueV1::kind`]: which of `bits` and `bytes` holds the value.
pub mod value_kind {
    /// `bits` is an unsigned integer (column types `u64`, `duration` in ns, `id`).
    pub const U64: u16 = 1;
    /// `bits` is a signed integer in two's complement (column type `i64`).
    pub const I64: u16 = 2;
    /// `bits` is 0 or 1 (column type `bool`).
    pub const BOOL: u16 = 3;
    /// `bytes` is text, meant as UTF-8 but not checked: captured text is what it is (column type `text`).
    pub const TEXT: u16 = 4;
    /// `bytes` is raw (column type `bytes`).
    pub const BYTES: u16 = 5;
    /// `bits` are the bits of an IEEE 754 double (column type `f64`).
    pub const F64: u16 = 6;
}

/// Values of [`super::EventV1::role`]: what the host does with an event. 0 is never used.
pub mod role {
    /// Goes to the sinks.
    pub const OUTPUT: u16 = 1;
    /// `payload` is bytes of a connection: `stream_id` says which, `stream_offset` where, for the protocol parsers.
    pub const STREAM: u16 = 2;
    /// Opens, closes or labels the connection `stream_id`.
    pub const CONNECTION: u16 = 3;
    /// `payload` is one line of a key log (NSS format), without the newline.
    pub const SECRET: u16 = 4;
}

/// Bits of [`super::EventV1::flags`].
pub mod event_flag {
    /// A text of the event is not whole, because its record was not.
    pub const PARTIAL: u32 = 1;
    /// The event lacks what an earlier record would have taught the decoder (for example the text of a prepared
    /// statement), because the decoder was made anew or joined late.
    pub const STATE_LOST: u32 = 2;
}

/// Values of `level` in [`super::HostApiV1::log`].
pub mod log_level {
    /// Something the user asked for does not work.
    pub const ERROR: u32 = 1;
    /// Something is missing, and the module goes on without.
    pub const WARN: u32 = 2;
    /// What the user wants to know once a run.
    pub const INFO: u32 = 3;
    /// Shown with `-v`.
    pub const DEBUG: u32 = 4;
    /// Shown with `-vv`.
    pub const TRACE: u32 = 5;
}

/// Values of [`super::ModuleError::code`].
pub mod call_error {
    /// The module's own refusal; `message` is written for the user.
    pub const MODULE: u32 = 1;
    /// The module panicked; the panic was caught inside it. A decoder that panicked refuses every further call.
    pub const PANIC: u32 = 2;
    /// The call went to a decoder that has panicked before. Make a new one.
    pub const POISONED: u32 = 3;
    /// What the host handed over could not be read by the SDK (JSON of a schema that the module is too old for).
    pub const HOST: u32 = 4;
    /// The configuration is refused; `message` starts with the option's name and a colon.
    pub const CONFIG: u32 = 5;
}
