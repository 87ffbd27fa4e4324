//! The messages of `mysql.bpf.c`, read from bytes. Mirrors `ebpf-objects/src/mysql.h`, which owns the layout; a test
//! reads that header and compares sizes, offsets and values.
//!
//! Not here: what the messages mean together (`decode`). Every length is checked, nothing is indexed.

use crate::command::Command;
use ecapture_plugin_api::sdk::Fields;
use thiserror::Error;

/// Bytes of `struct mysql_head`.
pub const HEAD: usize = 32;
/// Bytes of `struct mysql_start`; the packet follows.
pub const START: usize = 48;
/// Bytes of `struct mysql_end`; nothing follows.
pub const END: usize = 104;
/// Bytes of `struct mysql_error`; the message's text follows.
pub const ERROR: usize = 48;
/// `MYSQL_ERROR_TEXT_MAX`: no error text is longer.
pub const ERROR_TEXT_MAX: usize = 512;
/// Bytes of `struct mysql_login`; nothing follows.
pub const LOGIN: usize = 688;
/// Bytes of `struct mysql_parameters`; the array follows.
pub const PARAMETERS: usize = 48;
/// `MYSQL_PS_PARAM`: bytes of an entry of MySQL's array of parameters.
pub const PS_PARAM: usize = 48;
/// `MYSQL_UNKNOWN_ID`.
pub const UNKNOWN_ID: u64 = u64::MAX;

/// `enum mysql_kind`.
pub mod kind {
    /// `MYSQL_START`.
    pub const START: u32 = 1;
    /// `MYSQL_END`.
    pub const END: u32 = 2;
    /// `MYSQL_ERROR`.
    pub const ERROR: u32 = 3;
    /// `MYSQL_LOGIN`.
    pub const LOGIN: u32 = 4;
    /// `MYSQL_PARAMETERS`.
    pub const PARAMETERS: u32 = 5;
}

/// `enum mysql_login_flags`.
pub mod login_flag {
    /// `user` is valid.
    pub const USER: u32 = 1;
    /// `database` is valid.
    pub const DATABASE: u32 = 2;
    /// `port` and `address` are valid.
    pub const PEER: u32 = 4;
}

/// `enum mysql_start_flags`.
pub mod start_flag {
    /// `statement` is valid.
    pub const STATEMENT: u32 = 1;
    /// The bytes are values, and PARAMETERS follows.
    pub const VALUES: u32 = 2;
}

/// `enum mysql_parameter_layout`.
pub mod parameter_layout {
    /// `MYSQL_PARAMETERS_UNKNOWN`.
    pub const UNKNOWN: u32 = 0;
    /// `MYSQL_PARAMETERS_NAMED`.
    pub const NAMED: u32 = 1;
    /// `MYSQL_PARAMETERS_ASKED`.
    pub const ASKED: u32 = 2;
}

/// `enum mysql_end_flags`.
pub mod end_flag {
    /// An OK packet was sent.
    pub const OK: u32 = 1;
    /// A result set was ended.
    pub const RESULT_SET: u32 = 2;
    /// An error was sent.
    pub const FAILED: u32 = 4;
    /// `statement` was prepared.
    pub const PREPARED: u32 = 8;
    /// `rows` is exact.
    pub const ROWS: u32 = 16;
    /// The command was put aside; the END that counts comes later.
    pub const SUSPENDED: u32 = 32;
    /// Nothing of START got through. (An END without START says as much, also after a restart.)
    #[cfg(test)]
    pub const START_LOST: u32 = 64;
    /// The server sent neither OK nor EOF nor error.
    pub const NO_STATUS: u32 = 128;
    /// `parameters` is valid.
    pub const PARAMETERS: u32 = 256;
    /// The thread was gone before the command was over.
    pub const GONE: u32 = 512;
}

/// `enum mysql_convention`.
pub mod convention {
    /// MariaDB: the packet of every command is given.
    pub const MARIADB: u32 = 0;
    /// MySQL: text or name only.
    pub const MYSQL: u32 = 1;
}

/// `enum mysql_eof_call`: how the function that `mysql_eof` is on is called.
pub mod eof {
    /// (this, THD, status, warnings).
    pub const WITH_THD: u32 = 0;
    /// (this, status, warnings).
    pub const WITHOUT_THD: u32 = 1;
    /// (this, THD); the status is not given.
    pub const PARTIAL: u32 = 2;
}

/// `enum mysql_statement_call`: how the function that `mysql_statement` is on is called.
pub mod statement {
    /// (this, LEX, MEM_ROOT, state, id).
    pub const MADE: u32 = 0;
    /// (this, id, ...).
    pub const TOLD: u32 = 1;
    /// (this, THD, Statement): the id is in Statement.
    pub const LISTED: u32 = 2;
}

/// `product` of the layout row, which the kernel side hands through to START unread. 0: not known.
pub mod product {
    /// MariaDB.
    pub const MARIADB: u32 = 1;
    /// MySQL and its kin.
    pub const MYSQL: u32 = 2;
}

/// Why a message makes no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It ends inside its fixed part.
    #[error("{what} of {len} bytes, its fixed part has {fixed}")]
    Short {
        /// Which message.
        what: &'static str,
        /// Bytes that came.
        len: usize,
        /// Bytes it should have at least.
        fixed: usize,
    },
    /// It is longer than it can be.
    #[error("{what} has {len} bytes where {most} are the most")]
    Long {
        /// Which part.
        what: &'static str,
        /// Bytes that came.
        len: usize,
        /// Most bytes that make sense.
        most: usize,
    },
    /// Its kind is none that this module knows.
    #[error("message of unknown kind {0}")]
    Kind(u32),
    /// Its command is no byte.
    #[error("command number {0}, a command is one byte")]
    Command(u32),
    /// It came on a stream that the manifest does not have.
    #[error("record of stream {0}, the module has stream 0 only")]
    Stream(u16),
}

/// `struct mysql_head` without its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The command, as the server was called with it.
    pub command: Command,
    /// Address of the connection's THD.
    pub thd: u64,
    /// Connection id, if the offset is known.
    pub connection: Option<u64>,
    /// Time of the command's START.
    pub start_ns: u64,
}

/// `struct mysql_start` and its packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// Bytes that the packet has, whatever of them came.
    pub length: u32,
    /// [`start_flag`]s.
    pub flags: u32,
    /// Id of the prepared statement that the command names.
    pub statement: Option<u32>,
    /// [`product`] of the target.
    pub product: u32,
    /// The packet without its command byte: a prefix.
    pub packet: &'a [u8],
}

/// `struct mysql_end`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// [`end_flag`]s.
    pub flags: u32,
    /// Valid with [`end_flag::PREPARED`].
    pub statement: u32,
    /// Rows sent.
    pub rows: u64,
    /// Rows affected.
    pub affected_rows: u64,
    /// Last insert id that was not 0.
    pub insert_id: u64,
    /// OK, EOF and error packets.
    pub results: u32,
    /// Result sets.
    pub result_sets: u32,
    /// Errors.
    pub errors: u32,
    /// Warning count of the last OK or EOF.
    pub warnings: u32,
    /// Error number of the last error.
    pub error: u32,
    /// SQLSTATE of the last error.
    pub sqlstate: [u8; 5],
    /// What dispatch_command returned.
    pub returned: u32,
    /// Parameters of the statement that was prepared; valid with [`end_flag::PARAMETERS`].
    pub parameters: u32,
}

/// `struct mysql_error` and its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Error number.
    pub error: u32,
    /// SQLSTATE, or zeros.
    pub sqlstate: [u8; 5],
    /// Text: a prefix.
    pub text: &'a [u8],
}

/// `struct mysql_login`.
#[derive(Debug, PartialEq, Eq)]
pub struct Login<'a> {
    /// Name of the user, as the client gave it.
    pub user: Option<&'a [u8]>,
    /// Name of the database that the client asked for; empty if for none.
    pub database: Option<&'a [u8]>,
    /// The client's address as text, and its port.
    pub peer: Option<(&'a [u8], u16)>,
}

/// `struct mysql_parameters` and the array.
#[derive(Debug, PartialEq, Eq)]
pub struct Array<'a> {
    /// Address of the first byte that START carries.
    pub base: u64,
    /// Entries that the array has, whatever of it came.
    pub count: u32,
    /// Whether the types in it are those that the client sent now.
    pub new_types: bool,
    /// The whole entries that came.
    pub entries: &'a [[u8; PS_PARAM]],
}

/// What a message says beyond its head.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A command begins.
    Start(Start<'a>),
    /// A command returned.
    End(End),
    /// The server sent an error.
    Error(Failure<'a>),
    /// Somebody logs in.
    Login(Login<'a>),
    /// Where the values of a START are.
    Parameters(Array<'a>),
}

/// Reads one message.
///
/// # Errors
/// [`RecordError`], for every input that the kernel side can't have written.
pub fn parse(data: &[u8]) -> Result<(Head, Body<'_>), RecordError> {
    let (fields, _) = split::<HEAD>("message", data)?;
    let kind = fields.u32::<0>();
    let number = fields.u32::<4>();
    let command = u8::try_from(number).map_err(|_| RecordError::Command(number))?;
    let connection = fields.u64::<16>();
    let head = Head {
        command: Command(command),
        thd: fields.u64::<8>(),
        connection: (connection != UNKNOWN_ID).then_some(connection),
        start_ns: fields.u64::<24>(),
    };
    let body = match kind {
        kind::START => Body::Start(start(data)?),
        kind::END => Body::End(end(data)?),
        kind::ERROR => Body::Error(error(data)?),
        kind::LOGIN => Body::Login(login(data)?),
        kind::PARAMETERS => Body::Parameters(parameters(data)?),
        other => return Err(RecordError::Kind(other)),
    };
    Ok((head, body))
}

fn start(data: &[u8]) -> Result<Start<'_>, RecordError> {
    let (fields, packet) = split::<START>("START", data)?;
    let length = fields.u32::<32>();
    let most = usize::try_from(length).unwrap_or(usize::MAX);
    if packet.len() > most {
        return Err(RecordError::Long { what: "packet of START", len: packet.len(), most });
    }
    let flags = fields.u32::<36>();
    let statement = fields.u32::<40>();
    Ok(Start {
        length,
        flags,
        statement: (flags & start_flag::STATEMENT != 0).then_some(statement),
        product: fields.u32::<44>(),
        packet,
    })
}

fn end(data: &[u8]) -> Result<End, RecordError> {
    let (fields, rest) = split::<END>("END", data)?;
    if !rest.is_empty() {
        return Err(RecordError::Long { what: "END", len: data.len(), most: END });
    }
    Ok(End {
        flags: fields.u32::<32>(),
        statement: fields.u32::<36>(),
        rows: fields.u64::<40>(),
        affected_rows: fields.u64::<48>(),
        insert_id: fields.u64::<56>(),
        results: fields.u32::<64>(),
        result_sets: fields.u32::<68>(),
        errors: fields.u32::<72>(),
        warnings: fields.u32::<76>(),
        error: fields.u32::<84>(),
        sqlstate: *fields.bytes::<88, 5>(),
        returned: fields.u32::<96>(),
        parameters: fields.u32::<100>(),
    })
}

fn error(data: &[u8]) -> Result<Failure<'_>, RecordError> {
    let (fields, text) = split::<ERROR>("ERROR", data)?;
    if text.len() > ERROR_TEXT_MAX {
        return Err(RecordError::Long { what: "text of ERROR", len: text.len(), most: ERROR_TEXT_MAX });
    }
    Ok(Failure { error: fields.u32::<32>(), sqlstate: *fields.bytes::<40, 5>(), text })
}

fn login(data: &[u8]) -> Result<Login<'_>, RecordError> {
    let (fields, rest) = split::<LOGIN>("LOGIN", data)?;
    if !rest.is_empty() {
        return Err(RecordError::Long { what: "LOGIN", len: data.len(), most: LOGIN });
    }
    let flags = fields.u32::<32>();
    let has = |flag: u32| flags & flag != 0;
    let port = u16::try_from(fields.u32::<36>()).unwrap_or(0);
    Ok(Login {
        user: has(login_flag::USER).then(|| text(fields.bytes::<88, 400>())),
        database: has(login_flag::DATABASE).then(|| text(fields.bytes::<488, { LOGIN - 488 }>())),
        peer: has(login_flag::PEER).then(|| (text(fields.bytes::<40, 48>()), port)),
    })
}

fn parameters(data: &[u8]) -> Result<Array<'_>, RecordError> {
    let (fields, rest) = split::<PARAMETERS>("PARAMETERS", data)?;
    let count = fields.u32::<40>();
    let most = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(PS_PARAM);
    if rest.len() > most {
        return Err(RecordError::Long { what: "array of PARAMETERS", len: rest.len(), most });
    }
    let (entries, _cut) = rest.as_chunks::<PS_PARAM>();
    Ok(Array { base: fields.u64::<32>(), count, new_types: fields.u32::<44>() != 0, entries })
}

/// The fixed part of a message, and what follows it.
fn split<'a, const N: usize>(what: &'static str, data: &'a [u8]) -> Result<(Fields<'a, N>, &'a [u8]), RecordError> {
    Fields::split(data).ok_or(RecordError::Short { what, len: data.len(), fixed: N })
}

/// A text with a NUL at its end, or without one all of its place.
fn text(place: &[u8]) -> &[u8] {
    place.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
