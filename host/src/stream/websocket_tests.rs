//! The examples of RFC 6455 and RFC 7692, any pieces, holes and damage.

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::{Deflate, Kind, Message, WebSocket};
use crate::stream::{body::BodyLimits, exchange::Direction};

const LIMITS: BodyLimits = BodyLimits { keep: 1 << 20, decode: 1 << 24 };
const TOGETHER: Option<Deflate> = Some(Deflate { client_alone: false, server_alone: false });

/// What a server sends to this process, in pieces.
fn received(pieces: &[&[u8]], deflate: Option<Deflate>) -> Vec<Message> {
    let (mut socket, mut out) = (WebSocket::new(LIMITS, Some(true), deflate), Vec::new());
    for piece in pieces {
        socket.data(Direction::Receive, 1, piece, &mut out);
    }
    socket.finish(&mut out);
    out
}

fn said(messages: &[Message]) -> Vec<(Kind, String, bool)> {
    messages.iter().map(|one| (one.kind, String::from_utf8_lossy(&one.bytes).into_owned(), one.complete)).collect()
}

fn text(text: &str) -> (Kind, String, bool) {
    (Kind::Text, text.to_owned(), true)
}

fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        len @ ..126 => out.push(len as u8 | bit),
        len @ ..0x1_0000 => {
            out.push(126 | bit);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(127 | bit);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask.map_or(0, |mask| mask[at % 4])));
    out
}

fn compressed(compress: &mut Compress, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 1000);
    compress.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&super::TAIL));
    out.truncate(out.len() - 4);
    out
}

#[test]
fn examples_of_rfc_6455() {
    assert_eq!(said(&received(&[b"\x81\x05Hello"], None)), [text("Hello")]);
    assert_eq!(said(&received(&[b"\x01\x03Hel\x80\x02lo"], None)), [text("Hello")]);
    let mut sent = Vec::new();
    let mut socket = WebSocket::new(LIMITS, Some(true), None);
    socket.data(Direction::Transmit, 1, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &mut sent);
    socket.data(Direction::Receive, 2, b"\x89\x05Hello", &mut sent);
    socket.data(Direction::Transmit, 3, b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &mut sent);
    let ping = |kind| (kind, "Hello".to_owned(), true);
    assert_eq!(said(&sent), [text("Hello"), ping(Kind::Ping), ping(Kind::Pong)]);
    assert_eq!((sent[0].direction, sent[1].direction, sent[2].ended_ns), (Direction::Transmit, Direction::Receive, 3));
    for (len, head) in [(256, &b"\x82\x7e\x01\x00"[..]), (65536, b"\x82\x7f\0\0\0\0\0\x01\0\0")] {
        let all = received(&[head, &vec![7; len]], None);
        assert_eq!((all[0].kind, all[0].bytes.len(), all[0].wire), (Kind::Binary, len, len as u64));
    }
    // A control frame between the frames of a message, and the end
    let all = received(&[b"\x01\x03Hel\x89\x00\x80\x02lo\x88\x05\x03\xe8bye"], None);
    assert_eq!(said(&all)[..2], [(Kind::Ping, String::new(), true), text("Hello")]);
    assert_eq!((all[1].frames, all[2].close()), (2, Some((1000, "bye".to_owned()))));
}

#[test]
fn examples_of_rfc_7692() {
    let whole = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00";
    assert_eq!(said(&received(&[whole], TOGETHER)), [text("Hello")]);
    assert_eq!(said(&received(&[b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00"], TOGETHER)), [text("Hello")]);
    assert_eq!(said(&received(&[whole, b"\xc1\x05\xf2\x00\x11\x00\x00"], TOGETHER)), [text("Hello"), text("Hello")]);
    assert_eq!(said(&received(&[b"\xc1\x0b\x00\x05\x00\xfa\xffHello\x00"], TOGETHER)), [text("Hello")]);
    assert_eq!(
        said(&received(&[b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00", whole], TOGETHER)),
        [text("Hello"), text("Hello")]
    );
    assert_eq!(
        said(&received(&[b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"], TOGETHER)),
        [text("Hello")]
    );
    // Alone, a message that refers to the one before has nothing to refer to; the decoder gives zeros for it or an error.
    let alone = Some(Deflate { client_alone: false, server_alone: true });
    let all = received(&[whole, b"\xc1\x05\xf2\x00\x11\x00\x00", whole], alone);
    assert!(all[1].problem.is_some() || all[1].bytes == b"H\0\0\0\0", "{:?}", all[1]);
    assert_eq!(said(&all)[2], text("Hello"));
    assert_eq!(received(&[whole], None)[0].problem.as_deref(), Some("compressed, which was not agreed"));
}

#[test]
fn what_was_agreed() {
    let agreed = |value: &str| Deflate::agreed(std::iter::once(value.as_bytes()));
    let both = Deflate { client_alone: true, server_alone: true };
    assert_eq!(agreed("permessage-deflate"), TOGETHER);
    assert_eq!(agreed("x, permessage-deflate; server_no_context_takeover ;client_no_context_takeover"), Some(both));
    let windows = "Permessage-Deflate; client_max_window_bits=10; server_no_context_takeover";
    assert_eq!(agreed(windows), Some(Deflate { client_alone: false, server_alone: true }));
    assert_eq!(agreed("x-webkit-deflate-frame"), None);
    assert_eq!(Deflate::agreed(std::iter::empty()), None);
}

#[test]
fn a_bomb_and_a_long_message_are_bounded() {
    let limits = BodyLimits { keep: 1000, decode: 1 << 20 };
    let mut socket = WebSocket::new(limits, Some(true), TOGETHER);
    let mut out = Vec::new();
    let bomb = compressed(&mut Compress::new(Compression::best(), false), &vec![0; 8 << 20]);
    socket.data(Direction::Receive, 1, &frame(0xc2, None, &bomb), &mut out);
    assert_eq!((out[0].bytes.len(), out[0].complete), (1000, true));
    assert!(
        out[0].decoded < (1 << 20) + 5000 && out[0].problem.as_ref().unwrap().starts_with("more than 1048576 bytes")
    );
    socket.data(Direction::Receive, 1, b"\x82\x7f\x00\x00\x00\x10\x00\x00\x00\x00", &mut out);
    for _ in 0..1000 {
        socket.data(Direction::Receive, 1, &[1; 10_000], &mut out);
        assert!(socket.held() < 200_000);
    }
    socket.finish(&mut out);
    assert_eq!((out[1].complete, out[1].wire, out[1].bytes.len()), (false, 10_000_000, 1000));
}

#[test]
fn holes() {
    let (mut socket, mut out) = (WebSocket::new(LIMITS, Some(false), None), Vec::new());
    let mask = Some([1, 2, 3, 4]);
    let bytes = frame(0x81, mask, b"0123456789");
    socket.data(Direction::Receive, 1, &bytes[..9], &mut out);
    socket.gap(Direction::Receive, 1, Some(2), &mut out);
    socket.data(Direction::Receive, 1, &bytes[11..], &mut out);
    assert_eq!((&out[0].bytes[..], out[0].missing, out[0].decoded, out[0].complete), (&b"012"[..], 2, 8, true));
    // Of no known length: the next call that is whole frames goes on.
    socket.data(Direction::Receive, 1, &bytes[..9], &mut out);
    socket.gap(Direction::Receive, 1, None, &mut out);
    socket.data(Direction::Receive, 1, &bytes[9..], &mut out);
    assert_eq!((out.len(), out[1].complete, out[1].missing), (2, false, 7));
    socket.data(Direction::Receive, 1, &[&bytes[..], &bytes[..]].concat(), &mut out);
    assert_eq!(said(&out[2..]), [text("0123456789"), text("0123456789")]);
    // A compressed message that was lost: those that may refer to it are not guessed at.
    let mut compress = Compress::new(Compression::best(), false);
    let all: Vec<Vec<u8>> = (0..3).map(|_| frame(0xc1, None, &compressed(&mut compress, b"Hello"))).collect();
    let (mut socket, mut out) = (WebSocket::new(LIMITS, Some(true), TOGETHER), Vec::new());
    socket.data(Direction::Receive, 1, &all[0], &mut out);
    socket.gap(Direction::Receive, 1, Some(all[1].len() as u64), &mut out);
    socket.data(Direction::Receive, 1, &all[2], &mut out);
    assert_eq!(said(&out)[0], text("Hello"));
    assert_eq!(
        (&out[1].bytes[..], out[1].problem.as_deref()),
        (&b""[..], Some("compressed with what was lost before"))
    );
}

/// A message: its kind, how it is cut into frames, whether it is compressed.
fn messages() -> impl Strategy<Value = Vec<(bool, Vec<u8>, usize, bool)>> {
    let bytes = prop_oneof![prop::collection::vec(0..4_u8, 0..400), prop::collection::vec(any::<u8>(), 0..200)];
    prop::collection::vec((any::<bool>(), bytes, 1..100_usize, any::<bool>()), 1..8)
}

fn coded(messages: &[(bool, Vec<u8>, usize, bool)], mask: Option<[u8; 4]>, alone: bool) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::new();
    for (text, bytes, size, deflate) in messages {
        let payload = if *deflate {
            if alone {
                compress.reset();
            }
            compressed(&mut compress, bytes)
        } else {
            bytes.clone()
        };
        let mut pieces: Vec<&[u8]> = payload.chunks(*size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let count = pieces.len();
        for (at, piece) in pieces.into_iter().enumerate() {
            let first = u8::from(*text) | if *text { 0 } else { 2 } | if *deflate { 0x40 } else { 0 };
            let opcode = if at > 0 { 0 } else { first };
            out.extend(frame(opcode | if at + 1 == count { 0x80 } else { 0 }, mask, piece));
            if at == 1 {
                out.extend(frame(0x89, mask, b"ping"));
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn messages_come_back_in_any_pieces(
        messages in messages(),
        mask in prop::option::of(any::<[u8; 4]>()),
        alone in any::<bool>(),
        sizes in prop::collection::vec(1..300_usize, 1..20),
    ) {
        let bytes = coded(&messages, mask, alone);
        let deflate = Some(Deflate { client_alone: alone, server_alone: alone });
        let mut socket = WebSocket::new(LIMITS, Some(mask.is_none()), deflate);
        let (mut out, mut rest, mut sizes) = (Vec::new(), &bytes[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (now, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            socket.data(Direction::Receive, 1, now, &mut out);
            rest = behind;
        }
        out.retain(|message| message.kind != Kind::Ping);
        prop_assert_eq!(out.len(), messages.len());
        for (seen, (text, bytes, _, deflate)) in out.iter().zip(&messages) {
            prop_assert_eq!((seen.kind == Kind::Text, &seen.bytes, seen.compressed), (*text, bytes, *deflate));
            prop_assert!(seen.complete && seen.problem.is_none());
        }
    }

    #[test]
    fn damage_is_survived(
        messages in messages(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
        hole in any::<prop::sample::Index>(),
        len in prop::option::of(0..50_u64),
    ) {
        let mut bytes = coded(&messages, None, false);
        for (place, byte) in damage {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        let (mut socket, mut out) = (WebSocket::new(LIMITS, None, TOGETHER), Vec::new());
        let (before, behind) = bytes.split_at(hole.index(bytes.len()));
        socket.data(Direction::Receive, 1, before, &mut out);
        socket.gap(Direction::Receive, 1, len, &mut out);
        socket.data(Direction::Receive, 1, behind, &mut out);
        prop_assert!(socket.held() < 1 << 21);
        socket.finish(&mut out);
    }
}
