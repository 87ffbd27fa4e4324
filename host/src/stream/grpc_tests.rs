//! Messages of gRPC and protobuf, by their documentation's examples and by chance.

use proptest::prelude::*;
use serde_json::json;

use super::{Field, Message, Status, Value, fields, is_grpc, json as as_json, messages, text};
use crate::stream::{
    body::BodyLimits,
    exchange::{Direction, Header, Protocol},
    http2::Http2,
};

#[test]
fn content_types() {
    for is in ["application/grpc", "application/grpc+proto", "Application/gRPC;charset=x", " application/grpc+json"] {
        assert!(is_grpc(is.as_bytes()), "{is}");
    }
    for other in ["application/grpc-web", "application/json", "application/grp", "application/grpcx", ""] {
        assert!(!is_grpc(other.as_bytes()), "{other}");
    }
}

#[test]
fn a_body_is_messages() {
    let body = b"\0\0\0\0\x03abc\x01\0\0\0\0\0\0\0\0\x05de";
    let all: Vec<_> = messages(body).collect();
    assert_eq!(
        all,
        [
            Message { compressed: false, len: 3, bytes: b"abc" },
            Message { compressed: true, len: 0, bytes: b"" },
            Message { compressed: false, len: 5, bytes: b"de" },
        ]
    );
    assert_eq!(all.iter().map(Message::is_complete).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(messages(b"\0\0\0\0").count(), 0);
    assert_eq!(messages(b"\x80\0\0\0\x0fgrpc-status: 0\r\n").count(), 0, "trailers of gRPC-web");
    let whole = all[0].decode(None, BodyLimits::default());
    assert_eq!((&whole.bytes[..], whole.missing, whole.problem), (&b"abc"[..], 0, None));
    let cut = all[2].decode(Some(b"gzip"), BodyLimits::default());
    assert_eq!((&cut.bytes[..], cut.missing, cut.problem.is_some()), (&b"de"[..], 3, true));
    let compressed = Message { compressed: true, len: 1, bytes: b"x" }.decode(None, BodyLimits::default());
    assert!(compressed.problem.unwrap().contains("that is not said"));
}

#[test]
fn how_a_call_ended() {
    let header = |name: &str, value: &str| Header { name: Some(name.into()), value: Some(value.into()) };
    let trailers = [header("grpc-status", "5"), header("grpc-message", "no%20such%20k%C3%A4se %zz %")];
    let status = Status::of(&trailers, &[]).unwrap();
    assert_eq!((status.code, status.name()), (5, Some("NOT_FOUND")));
    assert_eq!(status.message.as_deref(), Some("no such käse %zz %"));
    assert_eq!(Status::of(&[], &[header("grpc-status", "99")]).unwrap().name(), None);
    assert_eq!(Status::of(&[header("grpc-status", "x")], &[]), None);
    assert_eq!(Status::of(&[Header { name: Some("grpc-status".into()), value: None }], &[]), None);
}

#[test]
fn fields_of_protobuf() {
    // "Encoding" of protobuf's documentation: Test1 { a: 150 }, Test2 { b: "testing" }, Test3 { c: { a: 150 } }, packed numbers
    let number = |number, value| Field { number, value: Value::Varint(value) };
    assert_eq!(fields(b"\x08\x96\x01"), Some(vec![number(1, 150)]));
    assert_eq!(fields(b"\x12\x07testing"), Some(vec![Field { number: 2, value: Value::Text("testing".into()) }]));
    let nested = Field { number: 3, value: Value::Message(vec![number(1, 150)]) };
    assert_eq!(fields(b"\x1a\x03\x08\x96\x01"), Some(vec![nested.clone()]));
    let packed = Field { number: 6, value: Value::Bytes(b"\x03\x8e\x02\x9e\xa7\x05".to_vec()) };
    assert_eq!(fields(b"\x32\x06\x03\x8e\x02\x9e\xa7\x05"), Some(vec![packed.clone()]));
    let group = Field { number: 8, value: Value::Message(vec![number(1, 1)]) };
    assert_eq!(fields(b"\x43\x08\x01\x44"), Some(vec![group]));
    // A message whose only field is a text looks like a text that begins with a new line.
    let inner = Field { number: 1, value: Value::Text("0123456789".into()) };
    let is_message = Field { number: 1, value: Value::Message(vec![inner]) };
    assert_eq!(fields(b"\x0a\x0c\x0a\x0a0123456789"), Some(vec![is_message]));
    assert_eq!(fields(b""), Some(vec![]));
    for wrong in [
        &b"\x08"[..],
        b"\x00\x01",
        b"\x0a\x05abc",
        b"\x0f",
        b"\x43\x08\x01",
        b"\x44",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
    ] {
        assert_eq!(fields(wrong), None, "{wrong:x?}");
    }
    let all = [
        nested,
        packed,
        Field { number: 4, value: Value::Fixed64(1.5_f64.to_bits()) },
        Field { number: 5, value: Value::Fixed32(7) },
        Field { number: 7, value: Value::Text("a\"b".into()) },
    ];
    let lines = [
        "3 {",
        "  1: 150",
        "}",
        r#"6: "\x03\x8e\x02\x9e\xa7\x05""#,
        "4: 0x3ff8000000000000 # 1.5",
        "5: 0x00000007 # 1e-44",
        r#"7: "a\"b""#,
        "",
    ];
    assert_eq!(text(&all), lines.join("\n"));
    let expected = json!([
        { "field": 3, "wire": "message", "value": [{ "field": 1, "wire": "varint", "value": 150 }] },
        { "field": 6, "wire": "bytes", "value": "038e029ea705" },
        { "field": 4, "wire": "i64", "value": 1.5_f64.to_bits() },
        { "field": 5, "wire": "i32", "value": 7 },
        { "field": 7, "wire": "text", "value": "a\"b" },
    ]);
    assert_eq!(as_json(&all), expected);
}

#[test]
fn depth_and_number_of_fields_are_bounded() {
    let mut deep = Vec::new();
    for _ in 0..40 {
        deep = [&[0x0a, u8::try_from(deep.len()).unwrap()], &deep[..]].concat();
    }
    let mut message = fields(&deep).unwrap();
    let mut depth = 0;
    while let Some(Field { value: Value::Message(inner), .. }) = message.pop() {
        (message, depth) = (inner, depth + 1);
    }
    assert_eq!(depth, super::DEPTH);
    assert_eq!(fields(&b"\x43".repeat(100_000)), None);
    assert_eq!(fields(&b"\x08\x01".repeat(super::FIELDS)).unwrap().len(), super::FIELDS);
    assert_eq!(fields(&b"\x08\x01".repeat(super::FIELDS + 1)), None);
}

/// Calls of Python's grpcio, recorded: three that are answered, one that is answered five times, one with three messages both
/// ways, one that fails, one that is compressed.
#[test]
fn recorded_calls() {
    let mut rest = &include_bytes!("http2/recorded/grpc.bin")[..];
    let (mut parser, mut out) = (Http2::new(BodyLimits::default(), false), Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        let (bytes, behind) = behind.split_at(u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        let direction = if head[0] == 0 { Direction::Transmit } else { Direction::Receive };
        parser.data(direction, 1, bytes, &mut out);
        rest = behind;
    }
    parser.finish(&mut out);
    let shown = |body: &[u8]| -> Vec<String> {
        let one = |message: Message<'_>| {
            assert!(message.is_complete());
            if message.compressed {
                return "compressed".to_owned();
            }
            text(&fields(message.bytes).unwrap()).trim().replace('\n', " ")
        };
        messages(body).map(one).collect()
    };
    let mut said = Vec::new();
    for exchange in &out {
        let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
        assert!(is_grpc(request.message.header("content-type").unwrap()));
        assert!(request.message.complete && response.message.complete, "{exchange:?}");
        let status = Status::of(&response.message.trailers, &response.message.headers).unwrap();
        let target = String::from_utf8_lossy(&request.target);
        let asked = shown(&request.message.body.bytes);
        let answered = shown(&response.message.body.bytes);
        let message = status.message.clone().unwrap_or_default();
        said.push(format!("{target} {asked:?} {answered:?} {} {message}", status.name().unwrap()));
    }
    let unary = r#"/demo.Echo/Unary ["1: 150"] ["1: \"reply\" 2 {   1: 150 }"] OK "#;
    let expected = [
        unary,
        unary,
        unary,
        r#"/demo.Echo/Stream ["2: \"testing\""] ["1: 0", "1: 1", "1: 2", "1: 3", "1: 4"] OK "#,
        r#"/demo.Echo/Chat ["1: 1", "1: 2", "3 {   1: 150 }"] ["1: 1", "1: 2", "3 {   1: 150 }"] OK "#,
        r#"/demo.Echo/Fail [""] [] NOT_FOUND no such käse"#,
        &format!(
            r#"/demo.Echo/Unary ["compressed"] ["1: \"reply\" 2 {{   1: 150   2: \"{}\" }}"] OK "#,
            "a".repeat(64)
        ),
    ];
    assert_eq!(said, expected);
}

proptest! {
    #[test]
    fn no_bytes_are_too_bad(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let total: usize = messages(&bytes).map(|message| message.bytes.len() + 5).sum();
        prop_assert!(total <= bytes.len());
        if let Some(all) = fields(&bytes) {
            prop_assert!(text(&all).len() < 1 << 20);
            prop_assert!(as_json(&all).is_array());
        }
    }
}
