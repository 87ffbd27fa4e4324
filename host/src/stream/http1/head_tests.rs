use proptest::prelude::*;

use super::*;

#[test]
fn the_beginning_tells_what_it_is() {
    let cases: [(&[u8], Begins); 14] = [
        (b"", Begins::Open),
        (b"HTT", Begins::Open),
        (b"HTTP/1.1 20", Begins::Open),
        (b"HTTP/1.1 200 OK", Begins::With(Kind::Responses)),
        (b"HTTP/1.1 2x0", Begins::Not),
        (b"HTTP/2.0", Begins::Not),
        (b"GE", Begins::Open),
        (b"GET /index.html HT", Begins::Open),
        (b"GET / HTTP/1.1", Begins::With(Kind::Requests)),
        (b"M-SEARCH * HTTP/1.1", Begins::With(Kind::Requests)),
        (b"PRI * HTTP/2.0\r\n", Begins::Not),
        (b"get / HTTP/1.1", Begins::Not),
        (b"GET  HTTP/1.1", Begins::Not),
        (b"\x16\x03\x01", Begins::Not),
    ];
    for (bytes, expected) in cases {
        assert_eq!(begins(bytes), expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_head_ends_with_an_empty_line() {
    assert_eq!(end(b"a: b\r\n\r\nrest", 0), Some(8));
    assert_eq!(end(b"a: b\n\nrest", 0), Some(6));
    assert_eq!(end(b"a: b\r\n\r", 0), None);
    assert_eq!(end(b"a: b\r\n\r\nrest", 7), Some(8));
}

fn header(head: &Head, number: usize) -> (String, String) {
    let header = &head.headers[number];
    let text = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_ref().unwrap()).into_owned();
    (text(&header.name), text(&header.value))
}

#[test]
fn heads_are_read_even_if_they_are_not_well_formed() {
    let head = parse(b"GET /a HTTP/1.1\r\nHost: x\r\nA:b\r\n\r\n").unwrap();
    assert_eq!((&head.first, head.version), (&First::Request(b"GET".to_vec(), b"/a".to_vec()), "1.1"));
    assert_eq!(header(&head, 0), ("Host".into(), "x".into()));
    assert_eq!(head.note, None);
    let head = parse(b"HTTP/1.0 404 Not Found\r\nbad name : x\r\nfolded: a\r\n  b\r\n\r\n").unwrap();
    assert_eq!((&head.first, head.version), (&First::Response(404, b"Not Found".to_vec()), "1.0"));
    assert_eq!(header(&head, 0), ("bad name".into(), "x".into()));
    assert_eq!(header(&head, 1), ("folded".into(), "a b".into()));
    assert!(head.note.is_some());
    assert_eq!(parse(b"nonsense\r\n\r\n"), None);
}

#[test]
fn too_many_lines_are_cut() {
    let many: String = (0..1500).map(|n| format!("h{n}: v\r\n")).collect();
    let head = parse(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).unwrap();
    assert_eq!(head.headers.len(), MAX_HEADERS);
    assert!(head.note.unwrap().contains("1000"));
    let some: String = (0..200).map(|n| format!("h{n}: v\r\n")).collect();
    let head = parse(format!("GET / HTTP/1.1\r\n{some}\r\n").as_bytes()).unwrap();
    assert_eq!((head.headers.len(), head.note), (200, None));
}

#[test]
fn of_a_damaged_head_whole_lines_count() {
    let head = lines(b"GET / HTTP/1.1\r\nHost: x\r\nCook", "cut").unwrap();
    assert_eq!((head.headers.len(), head.note), (1, Some("cut")));
    assert_eq!(lines(b"GET / HT", "cut"), None);
    assert_eq!(trailers(b"A: 1\r\nB: 2\r\n\r\n").len(), 2);
    assert_eq!(trailers(b"\r\n").len(), 0);
}

proptest! {
    #[test]
    fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[A-Z]{1,5} /[ -~]{0,20} HTTP/1.[01]\r\n[ -~\r\n:]{0,200}") {
        for bytes in [&bytes, text.as_bytes()] {
            let _ = (begins(bytes), end(bytes, 0), parse(bytes), lines(bytes, ""), trailers(bytes));
        }
    }
}
