//! The examples of the HTML standard, lines of all kinds, and any pieces.

use proptest::prelude::*;

use super::{Event, KEPT, Sse, is_sse};

fn events(pieces: &[&[u8]]) -> Vec<Event> {
    let (mut reader, mut out) = (Sse::new(), Vec::new());
    for piece in pieces {
        reader.push(piece, &mut out);
    }
    out
}

fn data(body: &str) -> Vec<String> {
    events(&[body.as_bytes()]).into_iter().map(|event| event.data).collect()
}

#[test]
fn content_types() {
    assert!(is_sse(b"text/event-stream") && is_sse(b"Text/Event-Stream ; charset=utf-8"));
    assert!(!is_sse(b"text/event-streams") && !is_sse(b"") && !is_sse(b"text/html"));
}

#[test]
fn examples_of_the_standard() {
    assert_eq!(data("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
    let body = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
    let all = events(&[body.as_bytes()]);
    let event = |data: &str, id: &str| Event { data: data.into(), id: Some(id.into()), ..Event::default() };
    assert_eq!(all, [event("first event", "1"), event("second event", "")]);
    assert_eq!(data("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
    assert_eq!(data("data:test\n\ndata: test\n\n"), ["test", "test"]);
}

#[test]
fn fields_and_ends_of_lines() {
    let body = "\u{feff}event: add\r\ndata: 1\r\nretry: 3000\r\n\r\nevent: remove\rdata: 2\r\rretry: x\nid: a\0b\ndata: 3\nother: 4\n\n";
    let all = events(&[body.as_bytes()]);
    let event = |event: Option<&str>, data: &str, retry| Event {
        event: event.map(str::to_owned),
        data: data.into(),
        retry,
        ..Event::default()
    };
    assert_eq!(all, [event(Some("add"), "1", Some(3000)), event(Some("remove"), "2", None), event(None, "3", None)]);
    assert_eq!(data("event: x\n\ndata: 1\n\n"), ["1"], "no event without data, and its type is gone");
    let mut reader = Sse::new();
    reader.push(b"data: lost", &mut Vec::new());
    assert!(reader.finish());
}

#[test]
fn what_is_too_long_is_cut() {
    let mut out = Vec::new();
    let mut reader = Sse::new();
    reader.push(b"data: ", &mut out);
    for _ in 0..30 {
        reader.push(&[b'a'; 100_000], &mut out);
        assert!(reader.held() < 4 * KEPT);
    }
    reader.push(b"\n", &mut out);
    for _ in 0..30 {
        reader.push(&[&b"data: "[..], &[b'b'; 100_000], b"\n"].concat(), &mut out);
    }
    reader.push(b"\n", &mut out);
    assert_eq!(out.len(), 1);
    assert!(out[0].data.len() <= KEPT + 64);
    assert_eq!(out[0].data.bytes().filter(|byte| *byte != b'\n').count() as u64 + out[0].cut, 6_000_000);
}

#[test]
fn behind_a_gap_the_next_event_is_read() {
    let (mut reader, mut out) = (Sse::new(), Vec::new());
    reader.push(b"id: 7\ndata: 1\n\ndata: lo", &mut out);
    reader.gap();
    reader.push(b"st\ndata: half\n\ndata: 2\n\n", &mut out);
    let said: Vec<_> = out.iter().map(|event| (event.data.as_str(), event.id.as_deref())).collect();
    assert_eq!(said, [("1", Some("7")), ("2", Some("7"))]);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        parts in prop::collection::vec(prop::sample::select(vec!["data", ":", " ", "\r", "\n", "\r\n", "id: 1", "event: x", "ü", "\u{feff}"]), 0..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let body = parts.concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &body[two[0]..two[1]]).collect();
        prop_assert_eq!(events(&pieces), events(&[&body]));
    }

    #[test]
    fn no_bytes_are_too_bad(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = events(&[&bytes]);
    }
}
