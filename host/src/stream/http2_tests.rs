//! Connections made by chance, and recorded ones: whole, in pieces, from the middle, with holes, and damaged.

use proptest::prelude::*;

use super::{
    super::{
        body::BodyLimits,
        exchange::{Direction, Exchange, Header, Message, Protocol, Response},
    },
    Http2, begins, continues, frame,
    script::{Chance, Fields, Script, Truth, frame as coded},
};

const NGHTTP: &[u8] = include_bytes!("http2/recorded/nghttp.bin");
const H2LOAD: &[u8] = include_bytes!("http2/recorded/h2load.bin");
const GRPC: &[u8] = include_bytes!("http2/recorded/grpc.bin");
const CURL: &[u8] = include_bytes!("http2/recorded/curl.bin");

/// How many connections are made by chance: so many, or as many as are asked for.
fn seeds(default: u64) -> u64 {
    std::env::var("ECAPTURE_TEST_SEEDS").map_or(default, |seeds| seeds.parse().unwrap())
}

fn direction(at: usize) -> Direction {
    if at == 0 { Direction::Transmit } else { Direction::Receive }
}

/// Feeds pieces, the first of them from the middle; all that comes out of it.
fn read(late: bool, pieces: &[(usize, &[u8])]) -> Vec<Exchange> {
    let mut parser = Http2::new(BodyLimits::default(), late);
    let mut out = Vec::new();
    for (at, bytes) in pieces {
        parser.data(direction(*at), 1, bytes, &mut out);
    }
    parser.finish(&mut out);
    out.sort_by_key(|exchange| exchange.substream);
    out
}

/// What a recording has: a byte for the direction, four for the length, and the bytes; again and again.
fn recorded(mut bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut pieces = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        pieces.push((usize::from(head[0]), &rest[..len]));
        bytes = &rest[len..];
    }
    pieces
}

fn pieces(script: &Script) -> Vec<(usize, &[u8])> {
    script.frames.iter().map(|(at, bytes)| (*at, &bytes[..])).collect()
}

fn known(headers: &[Header]) -> Fields {
    headers.iter().map(|one| (one.name.clone().unwrap(), one.value.clone().unwrap())).collect()
}

/// The fields that come as headers: pseudo-headers that were taken out of them are not.
fn rest(truth: &Fields, taken: &[(&str, Option<&[u8]>)]) -> Fields {
    let is_taken = |field: &(Vec<u8>, Vec<u8>)| {
        taken.iter().any(|(name, value)| name.as_bytes() == field.0 && *value == Some(&field.1[..]))
    };
    truth.iter().filter(|field| !is_taken(field)).cloned().collect()
}

/// What is reported is true or unknown, field for field.
fn is_true(seen: &[Header], truth: &Fields) -> bool {
    seen.len() == truth.len()
        && seen.iter().zip(truth).all(|(seen, (name, value))| {
            seen.name.as_ref().is_none_or(|seen| seen == name) && seen.value.as_ref().is_none_or(|seen| seen == value)
        })
}

fn filled(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

fn check_message(seen: &Message, head: &Fields, trailers: &Fields, body: &[u8]) -> Result<(), String> {
    // The header was not seen, or all of it; cut blocks say so, and are checked by their beginning.
    let head = if seen.headers.len() < head.len() { &head[..seen.headers.len()].to_vec() } else { head };
    // The last block of a message of which nothing else was seen, and whose first name is unknown, may be either.
    let unsure = seen.headers.first().is_some_and(|first| first.name.is_none()) && seen.trailers.is_empty();
    let as_trailers = unsure && is_true(&seen.headers, trailers);
    if !is_true(&seen.headers, head) && !as_trailers {
        return Err(format!("headers {:?} are not {head:?}", seen.headers));
    }
    if !seen.trailers.is_empty() && !is_true(&seen.trailers, trailers) {
        return Err(format!("trailers {:?} are not {trailers:?}", seen.trailers));
    }
    if !body.starts_with(&seen.body.bytes) {
        return Err(format!("a body of {} bytes is no beginning of the one of {}", seen.body.bytes.len(), body.len()));
    }
    Ok(())
}

/// An informational response whose status is not known cannot always be told from the final one: its status is reported as unknown.
fn informational(response: &Response) -> bool {
    let [status, link] = &response.message.headers[..] else { return false };
    *status == Header::default() && link.value.as_ref().is_none_or(|value| value == b"</x>")
}

/// Nothing in it is wrong. Where it is not known who is the client, the two halves may have been taken for each other.
fn check(seen: &Exchange, truth: &Truth) -> Result<(), String> {
    let swapped = || Truth {
        request: truth.response.clone(),
        request_trailers: truth.response_trailers.clone(),
        request_body: truth.response_body.clone(),
        response: truth.request.clone(),
        response_trailers: truth.request_trailers.clone(),
        response_body: truth.request_body.clone(),
        ..truth.clone()
    };
    check_as(seen, truth).or_else(|why| if seen.client.is_none() { check_as(seen, &swapped()) } else { Err(why) })
}

fn check_as(seen: &Exchange, truth: &Truth) -> Result<(), String> {
    let cut = |notes: &[String]| notes.iter().any(|note| note.contains("broken off"));
    if let Some(request) = &seen.request
        && !cut(&seen.notes)
    {
        let taken = [
            (":method", filled(&request.method)),
            (":scheme", request.scheme.as_deref()),
            (":path", filled(&request.target)),
            (":authority", request.authority.as_deref()),
        ];
        for (name, value) in taken {
            let said = truth.request.iter().find(|field| field.0 == name.as_bytes()).map(|field| &field.1[..]);
            if value.is_some() && value != said {
                return Err(format!("{name} {value:?} is not {said:?}"));
            }
        }
        check_message(&request.message, &rest(&truth.request, &taken), &truth.request_trailers, &truth.request_body)?;
    }
    if let Some(response) = &seen.response
        && !cut(&seen.notes)
        && !informational(response)
    {
        let status = response.status.map(|status| status.to_string());
        let taken = [(":status", status.as_ref().map(String::as_bytes))];
        if status.as_ref().is_some_and(|status| status.as_bytes() != truth.response[0].1) {
            return Err(format!("status {status:?}"));
        }
        check_message(
            &response.message,
            &rest(&truth.response, &taken),
            &truth.response_trailers,
            &truth.response_body,
        )?;
    }
    Ok(())
}

/// All of it was reported, and right.
fn is_whole(seen: &Exchange, truth: &Truth) -> Result<(), String> {
    check(seen, truth)?;
    if truth.reset {
        return seen
            .notes
            .iter()
            .any(|note| note == "reset by the process (CANCEL)")
            .then_some(())
            .ok_or("no reset".into());
    }
    let request = seen.request.as_ref().ok_or("no request")?;
    let response = seen.response.as_ref().ok_or("no response")?;
    if informational(response) {
        return Ok(());
    }
    let bodies = request.message.body.bytes == truth.request_body && response.message.body.bytes == truth.response_body;
    let trailers = request.message.trailers.len() == truth.request_trailers.len()
        && response.message.trailers.len() == truth.response_trailers.len();
    (request.message.complete && response.message.complete && bodies && trailers)
        .then_some(())
        .ok_or_else(|| format!("{seen:?} is not {truth:?}"))
}

impl Script {
    /// The truth of streams that were pushed is not written before: it is what their frames say.
    fn checked(&self) -> impl Iterator<Item = (&u32, &Truth)> {
        self.truth.iter().filter(|(id, _)| *id % 2 == 1)
    }
}

fn one(exchanges: &[Exchange], id: u32) -> Result<&Exchange, String> {
    let mut of = exchanges.iter().filter(|exchange| exchange.substream == u64::from(id));
    match (of.next(), of.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("stream {id} is not reported")),
        (Some(one), Some(more)) => Err(format!("stream {id} is reported more than once: {one:?} {more:?}")),
    }
}

#[test]
fn what_begins_a_connection() {
    assert_eq!(begins(b""), None);
    assert_eq!(begins(b"PRI * HT"), None);
    assert_eq!(begins(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Some(true));
    assert_eq!(begins(b"PRI * HTTP/2.0\r\n\r\nXX"), Some(false));
    assert_eq!(begins(b"GET / HTTP/1.1\r\n"), Some(false));
    assert_eq!(begins(b"HTTP/1.1 200 OK\r\n"), Some(false));
    assert_eq!(begins(&coded(4, 0, 0, &[0, 3, 0, 0, 0, 100])), Some(true));
    assert_eq!(begins(&coded(4, 0, 0, &[])), Some(true));
    assert_eq!(begins(&coded(4, 1, 0, &[])), Some(false));
    assert_eq!(begins(&[0, 0, 6, 4]), None);
    assert_eq!(begins(&[0, 0, 6, 1]), Some(false));
    for recording in [NGHTTP, H2LOAD, CURL, GRPC] {
        for at in 0..2 {
            let bytes: Vec<u8> =
                recorded(recording).iter().filter(|one| one.0 == at).flat_map(|one| one.1).copied().collect();
            assert_eq!(begins(&bytes), Some(true));
            for cut in 1..24 {
                assert_ne!(begins(&bytes[..cut]), Some(false), "{cut}");
            }
        }
    }
}

#[test]
fn what_continues_a_connection() {
    let bytes: Vec<u8> = recorded(H2LOAD).iter().filter(|one| one.0 == 0).flat_map(|one| one.1).copied().collect();
    for from in 0..bytes.len() - 200 {
        assert_eq!(continues(&bytes[from..]), Some(true), "{from}");
    }
    assert_eq!(continues(b"\0\0"), None);
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".repeat(2000);
    assert_eq!(continues(&text[..1000]), None);
    assert_eq!(continues(&text), Some(false));
    let mut chance = Chance::new(7);
    let noise: Vec<u8> = (0..70_000).map(|_| chance.below(256) as u8).collect();
    assert_eq!(continues(&noise), Some(false));
    assert_eq!(continues(&vec![0; 70_000]), Some(false));
    let numbers: Vec<u8> = (0..20_000_u64).flat_map(u64::to_be_bytes).collect();
    assert_eq!(continues(&numbers), Some(false));
    let numbers: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
    assert_eq!(continues(&numbers), Some(false));
}

#[test]
fn recorded_connections() {
    let exchanges: Vec<_> = [NGHTTP, CURL].iter().flat_map(|recording| read(false, &recorded(recording))).collect();
    let said: Vec<String> = exchanges
        .iter()
        .map(|one| {
            let (request, response) = (one.request.as_ref().unwrap(), one.response.as_ref().unwrap());
            let target = String::from_utf8_lossy(&request.target);
            let (status, body) = (response.status.unwrap(), response.message.body.bytes.len());
            assert!(request.message.complete && response.message.complete, "{one:?}");
            assert_eq!((one.client, one.version), (Some(true), "2"));
            let sum: Vec<_> = response.message.trailers.iter().map(|one| one.value.as_deref()).collect();
            assert!(sum.is_empty() || sum == [Some(&b"42"[..])]);
            format!("{} {target} {status} {body} {}", one.substream, one.notes.join(", "))
        })
        .collect();
    let expected = [
        "2 /style.css 200 4 pushed by the server with stream 13",
        "13 /index.html 200 37 ",
        "15 /missing 404 148 ",
        "17 /style.css 200 4 ",
        "19 /text.txt 200 1501 ",
        "1 /index.html 200 37 ",
    ];
    assert_eq!(said, expected);
    assert_eq!(read(false, &recorded(H2LOAD)).len(), 24);
}

#[test]
fn connections_made_by_chance_are_read() {
    for seed in 0..seeds(100) {
        let script = Script::new(seed, 12, true);
        let exchanges = read(false, &pieces(&script));
        assert_eq!(exchanges.len(), script.truth.len(), "seed {seed}: {exchanges:?}");
        for (id, truth) in script.checked() {
            if let Err(why) = one(&exchanges, *id).and_then(|seen| is_whole(seen, truth)) {
                panic!("seed {seed}, stream {id}: {why}");
            }
        }
        for (id, truth) in script.truth.iter().filter(|(id, _)| *id % 2 == 0) {
            let seen = one(&exchanges, *id).unwrap();
            let (request, response) = (seen.request.as_ref().unwrap(), seen.response.as_ref().unwrap());
            assert_eq!((&request.target, response.status), (&truth.request[2].1, Some(200)));
            assert!(response.message.complete && seen.notes[0].starts_with("pushed by the server with stream "));
        }
    }
}

/// From every byte on: nothing is wrong, and whatever began behind it is whole. Of the truth, only what is given.
fn from_every_byte(all: &[(usize, &[u8])], truth: &dyn Fn(u64) -> Option<Truth>, behind: &dyn Fn(usize) -> Vec<u32>) {
    let len: usize = all.iter().map(|one| one.1.len()).sum();
    for from in 0..len {
        let (mut left, mut rest, mut frames) = (from, Vec::new(), 0);
        for (at, bytes) in all {
            let cut = left.min(bytes.len());
            left -= cut;
            frames += usize::from(cut > 0);
            if cut < bytes.len() {
                rest.push((*at, &bytes[cut..]));
            }
        }
        let exchanges = read(true, &rest);
        for seen in &exchanges {
            let truth = truth(seen.substream).unwrap_or_else(|| panic!("from {from}: no such stream: {seen:?}"));
            if let Err(why) = check(seen, &truth) {
                panic!("from {from}, stream {}: {why}", seen.substream);
            }
        }
        for id in behind(frames) {
            let truth = truth(u64::from(id)).unwrap();
            if let Err(why) = one(&exchanges, id).and_then(|seen| is_whole(seen, &truth)) {
                panic!("from {from}, stream {id}: {why}");
            }
        }
    }
}

#[test]
fn attached_at_every_byte_nothing_is_wrong() {
    for seed in 0..seeds(3) {
        let script = Script::new(seed, 8, false);
        let whole = read(false, &pieces(&script));
        let pushed = |id: u64| whole.iter().find(|one| one.substream == id).map(of);
        let truth = |id: u64| if id % 2 == 1 { script.truth.get(&(id as u32)).cloned() } else { pushed(id) };
        let behind =
            |frames: usize| script.checked().filter(|(_, truth)| truth.frames.0 >= frames).map(|(id, _)| *id).collect();
        from_every_byte(&pieces(&script), &truth, &behind);
    }
}

/// What an exchange says, as truth.
fn of(seen: &Exchange) -> Truth {
    let (request, response) = (seen.request.as_ref().unwrap(), seen.response.as_ref().unwrap());
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let mut truth = Truth {
        request: vec![field(":method", &request.method)],
        request_body: request.message.body.bytes.clone(),
        response: vec![field(":status", response.status.unwrap().to_string().as_bytes())],
        response_body: response.message.body.bytes.clone(),
        response_trailers: known(&response.message.trailers),
        request_trailers: known(&request.message.trailers),
        ..Truth::default()
    };
    truth.request.push(field(":path", &request.target));
    truth.request.push(field(":scheme", request.scheme.as_deref().unwrap()));
    truth.request.push(field(":authority", request.authority.as_deref().unwrap()));
    truth.request.extend(known(&request.message.headers));
    truth.response.extend(known(&response.message.headers));
    truth
}

#[test]
fn recorded_connections_from_every_byte_on() {
    for recording in [NGHTTP, H2LOAD, CURL, GRPC] {
        let all = recorded(recording);
        let whole = read(false, &all);
        // The order of pseudo-headers is not in an exchange: only fields that are no pseudo-headers are compared by their place.
        let truth = |id: u64| whole.iter().find(|one| one.substream == id).map(of);
        from_every_byte(&all, &truth, &|_| Vec::new());
    }
}

/// A hole, of known length or not, at every byte.
#[test]
fn holes_at_every_byte_make_nothing_wrong() {
    for seed in 0..seeds(2) {
        let script = Script::new(seed, 7, false);
        for at in 0..2 {
            let len: usize = script.frames.iter().filter(|one| one.0 == at).map(|one| one.1.len()).sum();
            for from in 0..len {
                let hole = [1, 3, 17, 200, 1500][from % 5];
                for told in [Some(hole as u64), None] {
                    with_hole(&script, at, from, hole, told)
                        .unwrap_or_else(|why| panic!("seed {seed}, {at} {from} {hole} {told:?}: {why}"));
                }
            }
        }
    }
}

fn with_hole(script: &Script, side: usize, from: usize, hole: usize, told: Option<u64>) -> Result<(), String> {
    let mut parser = Http2::new(BodyLimits::default(), false);
    let (mut out, mut place, mut last) = (Vec::new(), 0, 0);
    for (frame, (at, bytes)) in script.frames.iter().enumerate() {
        if *at != side {
            parser.data(direction(*at), 1, bytes, &mut out);
            continue;
        }
        let (first, end) = (place, place + bytes.len());
        place = end;
        let before = from.clamp(first, end) - first;
        let after = (from + hole).clamp(first, end) - first;
        parser.data(direction(side), 1, &bytes[..before], &mut out);
        if (first..end).contains(&from) {
            parser.gap(direction(side), 1, told, &mut out);
        }
        parser.data(direction(side), 1, &bytes[after..], &mut out);
        if first < from + hole {
            last = frame;
        }
    }
    parser.finish(&mut out);
    for seen in &out {
        let Some(truth) = script.truth.get(&(seen.substream as u32)) else {
            return Err(format!("no such stream: {seen:?}"));
        };
        if seen.substream % 2 == 1 {
            check(seen, truth)?;
        }
    }
    for (id, truth) in script.checked().filter(|(_, truth)| truth.frames.0 > last || truth.frames.1 < last) {
        // Streams that ended before the hole, and those that began behind it.
        let first = script
            .frames
            .iter()
            .scan(0, |sum, one| {
                if one.0 == side {
                    *sum += one.1.len();
                }
                Some(*sum)
            })
            .position(|end| end > from);
        if truth.frames.0 > last || first.is_some_and(|first| truth.frames.1 < first) {
            one(&out, *id).and_then(|seen| is_whole(seen, truth))?;
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(seed in any::<u64>(), sizes in prop::collection::vec(1..400_usize, 1..40)) {
        let script = Script::new(seed, 10, true);
        let whole = read(false, &pieces(&script));
        let mut sizes = sizes.iter().cycle();
        let mut cut = Vec::new();
        for (at, mut bytes) in pieces(&script) {
            while !bytes.is_empty() {
                let (now, behind) = bytes.split_at(bytes.len().min(*sizes.next().unwrap()));
                cut.push((at, now));
                bytes = behind;
            }
        }
        prop_assert_eq!(&read(false, &cut), &whole);
        // From the middle on, too.
        let from = cut.len() / 3;
        let late = read(true, &cut[from..]);
        let joined: Vec<(usize, Vec<u8>)> = cut[from..].chunk_by(|a, b| a.0 == b.0)
            .map(|run| (run[0].0, run.iter().flat_map(|one| one.1).copied().collect())).collect();
        let joined: Vec<(usize, &[u8])> = joined.iter().map(|one| (one.0, &one.1[..])).collect();
        prop_assert_eq!(read(true, &joined), late);
    }

    #[test]
    fn one_direction_only(seed in any::<u64>(), side in 0..2_usize) {
        let script = Script::new(seed, 10, true);
        let half: Vec<_> = pieces(&script).into_iter().filter(|one| one.0 == side).collect();
        let exchanges = read(false, &half);
        for (id, truth) in script.checked().filter(|(_, truth)| !truth.reset) {
            let seen = one(&exchanges, *id).map_err(TestCaseError::fail)?;
            check(seen, truth).map_err(TestCaseError::fail)?;
            prop_assert_eq!((seen.request.is_some(), seen.response.is_some()), (side == 0, side == 1));
        }
    }

    #[test]
    fn damage_is_survived_in_bounded_memory(
        seed in any::<u64>(),
        late in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..5_u8), 0..30),
    ) {
        let script = Script::new(seed, 10, true);
        let mut frames = script.frames.clone();
        for (place, byte, how) in damage {
            let at = place.index(frames.len());
            let bytes = &mut frames[at].1;
            let place = place.index(bytes.len().max(1));
            match how {
                0 => bytes.truncate(place),
                1 => bytes.insert(place.min(bytes.len()), byte),
                2 => drop(frames.remove(at)),
                _ => if let Some(one) = bytes.get_mut(place) { *one = byte },
            }
            if frames.is_empty() {
                break;
            }
        }
        let mut parser = Http2::new(BodyLimits { keep: 10_000, decode: 100_000 }, late);
        let mut out = Vec::new();
        for (at, bytes) in &frames {
            parser.data(direction(*at), 1, bytes, &mut out);
            prop_assert!(parser.held() < 4 << 20);
            let counted = parser.streams.open.values().map(|stream| stream.counted).sum::<usize>();
            prop_assert_eq!(parser.streams.held, counted);
        }
        parser.finish(&mut out);
    }
}

#[test]
fn too_many_streams_and_what_they_hold_are_bounded() {
    let mut parser = Http2::new(BodyLimits { keep: 100, decode: 1000 }, false);
    let mut out = Vec::new();
    parser.data(Direction::Transmit, 0, super::PREFACE, &mut out);
    for stream in 0..5000_u32 {
        parser.data(Direction::Transmit, 1, &coded(1, 4, stream * 2 + 1, b"\x82\x86\x84\x41\x01a"), &mut out);
        parser.data(Direction::Transmit, 1, &coded(0, 0, stream * 2 + 1, &[0; 1000]), &mut out);
    }
    assert_eq!(out.len(), 5000 - super::OPEN);
    assert_eq!(out[0].notes, ["given up: too many streams are open"]);
    assert_eq!(out[0].substream, 1);
    assert!(parser.held() < 4 << 20, "{}", parser.held());
    assert_eq!(parser.streams.held, parser.streams.open.values().map(|stream| stream.held()).sum::<usize>());
    out.clear();
    parser.finish(&mut out);
    assert_eq!((out.len(), parser.streams.held), (super::OPEN, 0));
    // A block that never ends
    let mut parser = Http2::new(BodyLimits::default(), false);
    parser.data(Direction::Transmit, 0, super::PREFACE, &mut out);
    parser.data(Direction::Transmit, 0, &coded(1, 0, 1, &[0, 1, b'a', 0x7f]), &mut out);
    for _ in 0..2000 {
        parser.data(Direction::Transmit, 0, &coded(9, 0, 1, &[b'a'; 1000]), &mut out);
        assert!(parser.held() < 2 << 20);
    }
    out.clear();
    parser.finish(&mut out);
    assert_eq!(out[0].notes, ["19176 headers were left out: there are too many", "its headers are broken off"]);
    // A gap that is larger than anything, and frames of 16 MiB
    let mut parser = Http2::new(BodyLimits { keep: 10, decode: 10 }, false);
    parser.data(Direction::Transmit, 0, super::PREFACE, &mut out);
    parser.data(Direction::Transmit, 0, &coded(1, 4, 1, b"\x82\x86\x84\x41\x01a"), &mut out);
    parser.data(Direction::Transmit, 0, &[0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 1], &mut out);
    parser.gap(Direction::Transmit, 0, Some(0xff_ff00), &mut out);
    parser.data(Direction::Transmit, 0, &[7; 0xff], &mut out);
    parser.gap(Direction::Transmit, 0, Some(u64::MAX), &mut out);
    out.clear();
    parser.finish(&mut out);
    let message = &out[0].request.as_ref().unwrap().message;
    assert_eq!((message.complete, message.missing, message.body.wire), (true, 0xff_ff00, 0xff));
}

#[test]
fn ends_of_connections_are_noted() {
    let head = |id| coded(1, 5, id, b"\x82\x86\x84\x41\x01a");
    let mut parser = Http2::new(BodyLimits::default(), false);
    let mut out = Vec::new();
    parser.data(Direction::Transmit, 0, super::PREFACE, &mut out);
    for id in [1, 3, 5] {
        parser.data(Direction::Transmit, 5, &head(id), &mut out);
    }
    parser.data(Direction::Receive, 6, &coded(3, 0, 3, &[0, 0, 0, 7]), &mut out);
    parser.data(Direction::Receive, 7, &coded(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 11]), &mut out);
    let notes: Vec<_> = out.iter().map(|one| (one.substream, one.notes.join(", "))).collect();
    let refused = "not taken: the connection ends (ENHANCE_YOUR_CALM)";
    assert_eq!(notes, [(3, "reset by the peer (REFUSED_STREAM)".to_owned()), (5, refused.to_owned())]);
    // What comes for it afterwards opens nothing.
    parser.data(Direction::Receive, 8, &coded(1, 5, 3, b"\x88"), &mut out);
    parser.data(Direction::Receive, 8, &coded(1, 5, 1, b"\x88"), &mut out);
    parser.finish(&mut out);
    assert_eq!(out.len(), 3);
    let times = (&out[2].request.as_ref().unwrap().message, &out[2].response.as_ref().unwrap().message);
    assert_eq!((times.0.began_ns, times.1.ended_ns, out[2].response.as_ref().unwrap().status), (5, 8, Some(200)));
    assert_eq!(frame::error(14), "error 14");
}
