//! The messages of a call of gRPC, as JSON and as lines of text. What is read in them is what was kept of the body.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::stream::body::BodyLimits;
use crate::stream::exchange::Message;
use crate::stream::grpc;
use crate::stream::options::{Bodies, is_text};

use super::json::{key, number, string};

/// Messages of a body that are shown; the rest is counted.
const MESSAGES: usize = 10_000;
/// What is decompressed of one.
const LIMITS: BodyLimits = BodyLimits { keep: 1 << 20, decode: 1 << 20 };

/// Whether the body of this half has messages that are to be shown.
pub fn shows(half: &Message, bodies: Bodies) -> bool {
    bodies != Bodies::None && !half.body.bytes.is_empty() && half.header("content-type").is_some_and(grpc::is_grpc)
}

fn messages(half: &Message) -> impl Iterator<Item = (grpc::Message<'_>, crate::stream::body::Body)> {
    let encoding = half.header("grpc-encoding");
    grpc::messages(&half.body.bytes).map(move |message| (message, message.decode(encoding, LIMITS)))
}

/// Their keys. `name`: `request` or `response`.
pub fn json(name: &str, half: &Message, out: &mut Vec<u8>) {
    key(&format!("ecapture.grpc.{name}.messages"), out);
    out.push(b'[');
    for (at, (message, body)) in messages(half).take(MESSAGES).enumerate() {
        let mut one = json!({ "size": message.len });
        if message.compressed {
            one["compressed"] = true.into();
        }
        if !message.is_complete() {
            one["incomplete"] = true.into();
        } else if let Some(problem) = &body.problem {
            one["problem"] = problem.as_str().into();
        } else if let Some(fields) = fields(half, &body.bytes) {
            one["fields"] = grpc::json(&fields);
        } else if let Ok(text) = std::str::from_utf8(&body.bytes) {
            one["text"] = text.into();
        }
        if at > 0 {
            out.push(b',');
        }
        write(&one, out);
    }
    out.push(b']');
    let more = grpc::messages(&half.body.bytes).skip(MESSAGES).count();
    if more > 0 {
        number(&format!("ecapture.grpc.{name}.messages_left_out"), more as u64, out);
    }
}

/// Text is escaped as everywhere else, which is more than JSON asks for.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => {
            string(text.as_bytes(), out);
        }
        Value::Array(values) => {
            for (at, value) in values.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                write(value, out);
            }
            out.extend_from_slice(if values.is_empty() { b"[]" } else { b"]" });
        }
        Value::Object(members) => {
            for (at, (name, value)) in members.iter().enumerate() {
                out.push(if at == 0 { b'{' } else { b',' });
                string(name.as_bytes(), out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
        // Into memory: it cannot fail.
        Value::Null | Value::Bool(_) | Value::Number(_) => _ = write!(out, "{value}"),
    }
}

/// One after the other, each with what is in it.
pub fn text(half: &Message) -> Vec<Vec<u8>> {
    let line = |(at, (message, body)): (usize, (grpc::Message<'_>, crate::stream::body::Body))| {
        let mut line = Vec::new();
        let compressed = if message.compressed { ", compressed" } else { "" };
        let _ = write!(line, "message {}, {} B{compressed}: ", at + 1, message.len);
        if !message.is_complete() {
            line.extend_from_slice(b"(its end was not kept)");
        } else if let Some(problem) = &body.problem {
            let _ = write!(line, "({problem})");
        } else if let Some(fields) = fields(half, &body.bytes) {
            line.extend_from_slice(grpc::text(&fields).trim_end().as_bytes());
        } else if is_text(&body.bytes) {
            line.extend_from_slice(&body.bytes);
        } else {
            line.extend_from_slice(b"(not protobuf: -o json has it)");
        }
        line
    };
    messages(half).take(MESSAGES).enumerate().map(line).collect()
}

/// What protobuf has in it; messages may be of other kinds (`application/grpc+json`).
fn fields(half: &Message, bytes: &[u8]) -> Option<Vec<grpc::Field>> {
    let kind = half.header("content-type").unwrap_or_default();
    let other = kind.iter().position(|byte| *byte == b'+').and_then(|at| kind.get(at + 1..));
    match other {
        Some(kind) if !kind.starts_with(b"proto") => None,
        _ => grpc::fields(bytes),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sink::json::Json;
    use crate::sink::samples::{self, parse_one, render_one};
    use crate::sink::text::{Text, TextOptions};
    use crate::stream::body::Body;
    use crate::stream::exchange::{Exchange, Header, Response};

    /// A call answered with two messages: `1: 150` and `2: "a\u{202e}b"`; and one that is cut.
    pub fn exchange() -> Exchange {
        let header =
            |name: &str, value: &str| Header { name: Some(name.as_bytes().to_vec()), value: Some(value.into()) };
        let bytes =
            [&b"\0\0\0\0\x03\x08\x96\x01"[..], b"\0\0\0\0\x07\x12\x05a\xe2\x80\xaeb", b"\0\0\0\0\x09\x08"].concat();
        let body = Body { decoded: bytes.len() as u64, wire: bytes.len() as u64, bytes, ..Body::default() };
        let headers = vec![header("content-type", "application/grpc")];
        let message = Message { headers, body: body.into(), complete: true, ..Message::default() };
        Exchange { response: Some(Response { message, ..Response::default() }), ..Exchange::default() }
    }

    #[test]
    fn messages_are_shown_with_their_fields() {
        let (schema, exchange) = (samples::schema(), exchange());
        let mut event = samples::event(&schema, &[]);
        event.exchange = Some(&exchange);
        let line = parse_one(&mut Json::new(Bodies::All), &event);
        assert_eq!(
            line["ecapture.grpc.response.messages"],
            json!([
                { "size": 3, "fields": [{ "field": 1, "wire": "varint", "value": 150 }] },
                { "size": 7, "fields": [{ "field": 2, "wire": "text", "value": "a\u{202e}b" }] },
                { "size": 9, "incomplete": true },
            ])
        );
        assert!(!render_one(&mut Json::new(Bodies::All), &event).contains('\u{202e}'));
        assert!(parse_one(&mut Json::new(Bodies::None), &event).get("ecapture.grpc.response.messages").is_none());
        let options = TextOptions { bodies: Bodies::Text, ..TextOptions::default() };
        let text = render_one(&mut Text::new(options), &event);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines[0], "    < message 1, 3 B: 1: 150");
        assert!(lines[1].starts_with("    < message 2, 7 B: 2: \"a") && !lines[1].contains('\u{202e}'), "{text}");
        assert_eq!((lines[2], lines.len()), ("    < message 3, 9 B: (its end was not kept)", 3));
    }
}
