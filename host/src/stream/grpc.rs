//! gRPC: the messages of a body, and what protobuf says without its schema.
//!
//! Works on what was kept of a body; it reads no connection. The framing is that of gRPC's "gRPC over HTTP2": a byte that says whether
//! the message is compressed, four of its length, the message.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{
    body::{Body, BodyLimits, BodyReader},
    exchange::Header,
};

/// Messages within messages that are looked into.
const DEPTH: usize = 16;
/// Fields of one message that are read, those within others included.
const FIELDS: usize = 10_000;

/// Whether a body of this content type is a run of messages.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    let Some(rest) = content_type.trim_ascii_start().get(..16) else { return false };
    let behind = content_type.trim_ascii_start().get(16);
    rest.eq_ignore_ascii_case(b"application/grpc") && matches!(behind, None | Some(b'+' | b';' | b' '))
}

/// One message of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// It is compressed as `grpc-encoding` says.
    pub compressed: bool,
    /// Its length, as was announced.
    pub len: u32,
    /// Its bytes; fewer than `len` if the body ends (or was cut) before its end.
    pub bytes: &'a [u8],
}

/// The messages of a body: each one that has at least its head.
pub fn messages(body: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let ([compressed, a, b, c, d], behind) = rest.split_first_chunk::<5>()?;
        // Other flags are no gRPC: the trailers of gRPC-web have 0x80, and nothing can be said of the rest.
        if *compressed > 1 {
            rest = &[];
            return None;
        }
        let len = u32::from_be_bytes([*a, *b, *c, *d]);
        let (bytes, behind) = behind.split_at(behind.len().min(len as usize));
        rest = behind;
        Some(Message { compressed: *compressed == 1, len, bytes })
    })
}

impl Message<'_> {
    /// All of its bytes are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.bytes.len() == self.len as usize
    }

    /// Its bytes as they were before they were compressed. `encoding`: the value of `grpc-encoding`.
    #[must_use]
    pub fn decode(&self, encoding: Option<&[u8]>, limits: BodyLimits) -> Body {
        let encoding = if self.compressed { Some(encoding.unwrap_or(b"that is not said")) } else { None };
        let mut reader = BodyReader::new(limits, encoding.into_iter());
        reader.push(self.bytes);
        if !self.is_complete() {
            reader.gap(u64::from(self.len) - self.bytes.len() as u64);
        }
        reader.finish()
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `grpc-status`.
    pub code: u32,
    /// `grpc-message`, decoded.
    pub message: Option<String>,
}

impl Status {
    /// Of the trailers of a response, or of its headers if it has nothing else.
    #[must_use]
    pub fn of(trailers: &[Header], headers: &[Header]) -> Option<Self> {
        let find = |name: &str| {
            let mut all = trailers.iter().chain(headers);
            all.find(|header| header.is(name)).and_then(|header| header.value.as_deref())
        };
        let code = std::str::from_utf8(find("grpc-status")?).ok()?.trim().parse().ok()?;
        Some(Self { code, message: find("grpc-message").map(percent_decoded) })
    }

    /// Its name; `None`: it has none.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        const NAMES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        NAMES.get(self.code as usize).copied()
    }
}

fn percent_decoded(value: &[u8]) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A field of a protobuf message.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its number in the schema.
    pub number: u32,
    /// What it has.
    pub value: Value,
}

/// What a field has, as far as the wire says it. Bytes may be a text, a message or just bytes: that is guessed.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `int32`, `int64`, `uint32`, `uint64`, `sint32`, `sint64`, `bool` or an enumeration.
    Varint(u64),
    /// `fixed64`, `sfixed64` or `double`.
    Fixed64(u64),
    /// `fixed32`, `sfixed32` or `float`.
    Fixed32(u32),
    /// Bytes that are a text: UTF-8 without control characters.
    Text(String),
    /// Bytes that are a message; or a group.
    Message(Vec<Field>),
    /// Other bytes.
    Bytes(Vec<u8>),
}

/// The fields of a message; `None`: it is no protobuf, or has more fields than anyone wants to read (10,000).
#[must_use]
pub fn fields(bytes: &[u8]) -> Option<Vec<Field>> {
    let mut budget = FIELDS;
    let (fields, rest) = read(bytes, DEPTH, None, &mut budget)?;
    rest.is_empty().then_some(fields)
}

/// Reads to the end, or to the end of this group; and what is behind.
fn read<'a>(bytes: &'a [u8], depth: usize, group: Option<u32>, budget: &mut usize) -> Option<(Vec<Field>, &'a [u8])> {
    let (mut fields, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        *budget = budget.checked_sub(1)?;
        let (key, behind) = varint(rest)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number))?;
        let (value, behind) = match key & 7 {
            0 => varint(behind).map(|(value, rest)| (Value::Varint(value), rest))?,
            1 => behind.split_first_chunk().map(|(value, rest)| (Value::Fixed64(u64::from_le_bytes(*value)), rest))?,
            5 => behind.split_first_chunk().map(|(value, rest)| (Value::Fixed32(u32::from_le_bytes(*value)), rest))?,
            2 => {
                let (len, behind) = varint(behind)?;
                let (value, behind) = behind.split_at_checked(usize::try_from(len).ok()?)?;
                (guess(value, depth, budget), behind)
            }
            3 if depth > 0 => {
                read(behind, depth - 1, Some(number), budget).map(|(fields, rest)| (Value::Message(fields), rest))?
            }
            4 if group == Some(number) => return Some((fields, behind)),
            _ => return None,
        };
        fields.push(Field { number, value });
        rest = behind;
    }
    group.is_none().then_some((fields, rest))
}

/// A message begins with a key, which is a control character for the fields up to 3, and the key of field 1 is a line feed: what is
/// a text and also a message is a text unless it begins so.
fn guess(bytes: &[u8], depth: usize, budget: &mut usize) -> Value {
    let is_text = |text: &&str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    let text = std::str::from_utf8(bytes).ok().filter(is_text);
    if let Some(text) = text.filter(|text| !text.starts_with(['\n', '\r', '\t'])) {
        return Value::Text(text.to_owned());
    }
    // What turns out to be no message must not use up what there is for those that are.
    let mut tried = *budget;
    let message = if depth > 0 { read(bytes, depth - 1, None, &mut tried) } else { None };
    *budget = if message.is_some() { tried } else { budget.saturating_sub((*budget - tried) / 8 + 1) };
    match (message, text) {
        (Some((fields, _)), _) => Value::Message(fields),
        (None, Some(text)) => Value::Text(text.to_owned()),
        (None, None) => Value::Bytes(bytes.to_vec()),
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        if at == 9 && *byte > 1 {
            return None;
        }
        value |= part << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

/// As text, a line a field: `1: "text"`, `2: 150`, `3 {`.
#[must_use]
pub fn text(fields: &[Field]) -> String {
    let mut out = String::new();
    write(fields, 0, &mut out);
    out
}

fn write(fields: &[Field], depth: usize, out: &mut String) {
    for Field { number, value } in fields {
        let indent = depth * 2;
        // Writing to a string cannot fail.
        let _ = match value {
            Value::Varint(value) => writeln!(out, "{:indent$}{number}: {value}", ""),
            Value::Fixed64(value) => {
                writeln!(out, "{:indent$}{number}: {value:#018x} # {:?}", "", f64::from_bits(*value))
            }
            Value::Fixed32(value) => {
                writeln!(out, "{:indent$}{number}: {value:#010x} # {:?}", "", f32::from_bits(*value))
            }
            Value::Text(value) => writeln!(out, "{:indent$}{number}: {value:?}", ""),
            Value::Bytes(value) => writeln!(out, "{:indent$}{number}: \"{}\"", "", value.escape_ascii()),
            Value::Message(fields) => {
                let _ = writeln!(out, "{:indent$}{number} {{", "");
                write(fields, depth + 1, out);
                writeln!(out, "{:indent$}}}", "")
            }
        };
    }
}

/// As JSON: a list of `{"field": 1, "wire": "varint", "value": 150}`. `wire` is `varint`, `i64`, `i32` (their value is the number
/// of their bits), `text`, `message` (its value is such a list) or `bytes` (in hexadecimal digits).
#[must_use]
pub fn json(fields: &[Field]) -> Json {
    let one = |Field { number, value }: &Field| {
        let (wire, value) = match value {
            Value::Varint(value) => ("varint", json!(value)),
            Value::Fixed64(value) => ("i64", json!(value)),
            Value::Fixed32(value) => ("i32", json!(value)),
            Value::Text(value) => ("text", json!(value)),
            Value::Message(fields) => ("message", json(fields)),
            Value::Bytes(value) => {
                let digits = value.iter().fold(String::with_capacity(value.len() * 2), |mut out, byte| {
                    let _ = write!(out, "{byte:02x}");
                    out
                });
                ("bytes", Json::String(digits))
            }
        };
        json!({ "field": number, "wire": wire, "value": value })
    };
    Json::Array(fields.iter().map(one).collect())
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
