use serde_json::Value as J;

use super::*;
use crate::event::Flags;
use crate::sink::json::Json;
use crate::sink::samples::{self, parse_one, render_one};
use crate::sink::text::{Text, TextOptions};
use crate::stream::body::Body;
use crate::stream::exchange::{Request, Response};

fn header(name: &str, value: Option<&[u8]>) -> Header {
    Header { name: Some(name.as_bytes().to_vec()), value: value.map(<[u8]>::to_vec) }
}

pub fn exchange() -> Exchange {
    let asked = Message {
        headers: vec![header("Host", Some(b"h")), header("X-\"\n", Some(b"\xff")), header("Cookie", None)],
        body: Body { bytes: b"a=1\nb\x1b".to_vec(), decoded: 6, wire: 6, ..Body::default() }.into(),
        complete: true,
        ..Message::default()
    };
    let answered = Message {
        headers: vec![header("Set-Cookie", Some(b"a")), header("x", Some(b"y")), header("set-cookie", Some(b"b"))],
        trailers: vec![header("Sum", Some(b"1"))],
        body: Body {
            bytes: b"\x00\xff".to_vec(),
            decoded: 5,
            wire: 9,
            problem: Some("broken gzip data".into()),
            ..Body::default()
        }
        .into(),
        missing: 3,
        ..Message::default()
    };
    Exchange {
        version: "1.1",
        request: Some(Request { method: b"POST".to_vec(), message: asked, ..Request::default() }),
        response: Some(Response { status: Some(200), message: answered, ..Response::default() }),
        ..Exchange::default()
    }
}

fn line(bodies: Bodies) -> J {
    let (schema, exchange) = (samples::schema(), exchange());
    let mut event = samples::event(&schema, &[]);
    (event.exchange, event.missing, event.flags) = (Some(&exchange), 3, Flags(Flags::PARTIAL));
    parse_one(&mut Json::new(bodies), &event)
}

#[test]
fn headers_and_bodies_are_keys() {
    let line = line(Bodies::All);
    let expected = serde_json::json!({
        "http.request.header.host": ["h"],
        "http.request.header.x-\"\n": ["\u{fffd}"],
        "ecapture.base64.http.request.header.x-\"\n": ["/w=="],
        "http.request.header.cookie": [null],
        "http.response.header.set-cookie": ["a", "b"],
        "ecapture.http.response.trailer.sum": ["1"],
        "ecapture.http.response.incomplete": true,
        "ecapture.http.response.missing_bytes": 3,
        "ecapture.http.response.body.problem": "broken gzip data",
        "ecapture.http.response.body.decoded_size": 5,
        "ecapture.http.response.body.cut": true,
        "ecapture.http.response.body.base64": "AP8=",
        "ecapture.http.request.body.text": "a=1\nb\u{1b}",
        "ecapture.truncated_bytes": 3,
        "ecapture.partial": true,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key}");
    }
    assert!(line.get("ecapture.http.request.incomplete").is_none());
}

#[test]
fn bodies_are_shown_as_asked_for() {
    let has = |bodies, half: &str| {
        let line = line(bodies);
        ["text", "base64"].iter().any(|form| line.get(format!("ecapture.http.{half}.body.{form}")).is_some())
    };
    assert_eq!((has(Bodies::Text, "request"), has(Bodies::Text, "response")), (true, false));
    assert_eq!((has(Bodies::None, "request"), has(Bodies::None, "response")), (false, false));
}

#[test]
fn in_text_bodies_are_indented_lines() {
    let (schema, exchange) = (samples::schema(), exchange());
    let mut event = samples::event(&schema, &[]);
    event.exchange = Some(&exchange);
    let of = |bodies, multiline| {
        let mut text = Text::new(TextOptions { bodies, multiline, ..TextOptions::default() });
        render_one(&mut text, &event).lines().skip(1).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(of(Bodies::None, false), Vec::<String>::new());
    assert_eq!(of(Bodies::Text, false), ["    > a=1\\nb\\x1b"]);
    let binary = "    < (2 bytes that are not text: -o json has them) ... (3 more bytes) [broken gzip data]";
    assert_eq!(of(Bodies::All, true), ["    > a=1", "    b\\x1b", binary]);
}
