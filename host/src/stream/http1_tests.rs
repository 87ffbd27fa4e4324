use proptest::prelude::*;

use super::*;
use crate::stream::body::Body;

const OUT: Direction = Direction::Transmit;
const IN: Direction = Direction::Receive;

/// Something that happens on a connection.
#[derive(Debug, Clone)]
enum Step {
    Bytes(Direction, Vec<u8>),
    Gap(Direction, Option<u64>),
}

fn out(text: &str) -> Step {
    Step::Bytes(OUT, text.as_bytes().to_vec())
}

fn back(text: &str) -> Step {
    Step::Bytes(IN, text.as_bytes().to_vec())
}

fn run_with(limits: BodyLimits, steps: &[Step]) -> (Http1, Vec<Exchange>) {
    let (mut http, mut out) = (Http1::new(limits), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        let time = (number as u64 + 1) * 100;
        match step {
            Step::Bytes(direction, bytes) => http.data(*direction, time, bytes, &mut out),
            Step::Gap(direction, len) => http.gap(*direction, time, *len, &mut out),
        }
    }
    http.finish(&mut out);
    (http, out)
}

fn run(steps: &[Step]) -> Vec<Exchange> {
    run_with(BodyLimits::default(), steps).1
}

/// `GET /a > 200 body`, with `!` behind what is not complete, and the notes.
fn short(exchange: &Exchange) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let body = |message: &crate::stream::exchange::Message| {
        let shown =
            if message.body.bytes.is_empty() { String::new() } else { format!(" {}", text(&message.body.bytes)) };
        let missing = if message.missing > 0 { format!(" -{}", message.missing) } else { String::new() };
        format!("{shown}{missing}{}", if message.complete { "" } else { "!" })
    };
    let asked =
        exchange.request.as_ref().map(|r| format!("{} {}{}", text(&r.method), text(&r.target), body(&r.message)));
    let answered = exchange.response.as_ref().map(|r| format!("{}{}", r.status.unwrap_or(0), body(&r.message)));
    let notes: String = exchange.notes.iter().map(|note| format!(" [{note}]")).collect();
    format!("{} > {}{notes}", asked.unwrap_or("?".into()), answered.unwrap_or("?".into()))
}

fn told(steps: &[Step]) -> Vec<String> {
    run(steps).iter().map(short).collect()
}

#[test]
fn a_request_and_its_response() {
    let all = run(&[
        out("POST /form?a=1 HTTP/1.1\r\nHost: example.org\r\nContent-Length: 3\r\n\r\nx=1"),
        back("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhe"),
        back("llo"),
    ]);
    assert_eq!(all.iter().map(short).collect::<Vec<_>>(), ["POST /form?a=1 x=1 > 200 hello"]);
    let exchange = &all[0];
    assert_eq!((exchange.version, exchange.client), ("1.1", Some(true)));
    let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
    assert_eq!(request.authority.as_deref(), Some(&b"example.org"[..]));
    assert_eq!((request.message.began_ns, request.message.ended_ns), (100, 100));
    assert_eq!((response.message.began_ns, response.message.ended_ns), (200, 300));
    assert_eq!((response.reason.as_slice(), response.message.header("x")), (&b"OK"[..], Some(&b"y"[..])));
}

#[test]
fn who_asks_is_found_from_the_bytes() {
    let all = run(&[
        Step::Bytes(IN, b"GET / HTTP/1.0\r\n\r\n".to_vec()),
        Step::Bytes(OUT, b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx".to_vec()),
    ]);
    assert_eq!((all[0].client, all[0].version, short(&all[0])), (Some(false), "1.0", "GET / > 200 x".into()));
}

#[test]
fn lengths_are_what_the_standard_says() {
    let steps = [
        out("HEAD /h HTTP/1.1\r\n\r\nGET /n HTTP/1.1\r\n\r\nGET /m HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        back("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
        back(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n",
        ),
        back("T: v\r\n\r\n"),
    ];
    let all = run(&steps);
    let shown: Vec<String> = all.iter().map(short).collect();
    assert_eq!(shown, ["HEAD /h > 200", "GET /n > 204", "GET /m > 304", "GET /c > 200 abc0123456789"]);
    let message = &all[3].response.as_ref().unwrap().message;
    assert_eq!((message.trailers.len(), message.body.wire), (1, 13));
    assert!(message.trailers[0].is("t"));
}

#[test]
fn interim_responses_are_noted() {
    let shown = told(&[
        out("PUT /u HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
        back("HTTP/1.1 100 Continue\r\n\r\n"),
        out("data"),
        back("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
    ]);
    assert_eq!(shown, ["PUT /u data > 201 [answered 100 first]"]);
}

#[test]
fn a_body_may_end_with_the_connection_or_with_the_next_request() {
    let shown = told(&[
        out("GET /a HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\n\r\npart"),
        back(" two"),
        out("GET /b HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\n\r\nrest"),
    ]);
    assert_eq!(shown, ["GET /a > 200 part two", "GET /b > 200 rest! [its body ends with the connection]"]);
}

#[test]
fn after_an_upgrade_it_is_no_longer_http() {
    let (http, all) = run_with(
        BodyLimits::default(),
        &[
            out("GET /chat HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n"),
            back(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n\x01\x02",
            ),
            back("GET / HTTP/1.1\r\n\r\n"),
        ],
    );
    assert_eq!(all.iter().map(short).collect::<Vec<_>>(), ["GET /chat > 101 [upgraded to websocket]"]);
    let switched = http.switched().unwrap();
    assert_eq!((switched.to.as_slice(), switched.rest, switched.requests), (&b"websocket"[..], 2, OUT));
    assert_eq!(switched.extensions.as_deref(), Some(&b"permessage-deflate"[..]));
    let (http, all) = run_with(
        BodyLimits::default(),
        &[out("CONNECT h:443 HTTP/1.1\r\n\r\n"), back("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), out("\x16\x03")],
    );
    assert_eq!(all.iter().map(short).collect::<Vec<_>>(), ["CONNECT h:443 > 200 [a tunnel from here on]"]);
    assert_eq!(http.switched().unwrap().to, b"tunnel");
}

#[test]
fn one_direction_only() {
    let shown = told(&[out("GET /a HTTP/1.1\r\n\r\n"), out("GET /b HTTP/1.1\r\n\r\n")]);
    assert_eq!(shown, ["GET /a > ? [no response was seen]", "GET /b > ? [no response was seen]"]);
    // The first answers a HEAD, of which nobody knows.
    let shown = told(&[
        back("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        back("HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx"),
    ]);
    assert_eq!(shown, ["? > 200", "? > 404 x"]);
    let many: Vec<Step> = (0..1000).map(|n| out(&format!("GET /{n} HTTP/1.1\r\n\r\n"))).collect();
    let (mut http, mut told) = (Http1::new(BodyLimits::default()), Vec::new());
    for step in &many {
        let Step::Bytes(direction, bytes) = step else { continue };
        http.data(*direction, 1, bytes, &mut told);
        assert!(http.held() < 10_000);
    }
    assert!(told.len() > 980, "{}", told.len());
}

#[test]
fn joined_in_the_middle() {
    let shown = told(&[
        back("end of a body that nobody saw the beginning of"),
        out("rest of a request\r\n\r\nGET /next HTTP/1.1\r\n\r\n"),
        back("xxxHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ]);
    assert_eq!(shown, ["GET /next > 200 ok"]);
}

#[test]
fn a_gap_in_a_body_of_known_length_loses_nothing_else() {
    let shown = told(&[
        out("GET /a HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012"),
        Step::Gap(IN, Some(4)),
        back("789"),
        out("GET /b HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        Step::Gap(IN, Some(3)),
        back("\r\n2\r\nfg\r\n0\r\n\r\n"),
        out("GET /c HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 204 OK\r\n\r\n"),
    ]);
    assert_eq!(shown, ["GET /a > 200 012 -4", "GET /b > 200 ab -3", "GET /c > 204"]);
}

#[test]
fn behind_a_gap_the_next_message_is_found() {
    let shown = told(&[
        out("GET /a HTTP/1.1\r\nHost: h\r\nCoo"),
        Step::Gap(OUT, Some(9)),
        out("kie: x\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        Step::Gap(IN, Some(30)),
        back("junk HTTP/1.1 is no message\r\n"),
        out("GET /b HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"),
    ]);
    assert_eq!(
        shown,
        [
            "GET /a -9! > 200 ab -30! [bytes of its header were lost] [its end is among bytes that were lost]",
            "GET /b > 200 yes [9 bytes before it were lost] [bytes before it were lost]",
        ]
    );
}

#[test]
fn a_lost_response_does_not_shift_the_pairs() {
    let shown = told(&[
        out("GET /a HTTP/1.1\r\n\r\n"),
        Step::Gap(IN, Some(200)),
        out("GET /b HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"),
        Step::Gap(OUT, Some(50)),
        back("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n?"),
        out("GET /d HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nd"),
    ]);
    assert_eq!(
        shown,
        [
            "GET /a > ? [its response was lost]",
            "GET /b > 200 b [200 bytes before it were lost]",
            "? > 200 ?",
            "GET /d > 200 d [50 bytes before it were lost]",
        ]
    );
}

#[test]
fn with_pipelining_a_loss_makes_pairs_uncertain_and_says_so() {
    let shown = told(&[
        out("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        Step::Gap(IN, Some(100)),
        back("HTTP/1.1 204 OK\r\n\r\n"),
    ]);
    assert!(shown[0].contains("not certain"), "{shown:?}");
}

#[test]
fn bombs_are_cut_and_marked() {
    let long = format!("GET /long HTTP/1.1\r\nContent-Length: 2\r\nX: {}\r\n\r\nok", "x".repeat(1 << 20));
    let shown = told(&[
        Step::Bytes(OUT, long.into_bytes()),
        out("GET /next HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 204 A\r\n\r\nHTTP/1.1 204 B\r\n\r\n"),
    ]);
    assert_eq!(shown, ["GET /long ok > 204 [the header is too long: the rest was left out]", "GET /next > 204"]);
    let trailers = format!("0\r\n{}", "T: v\r\n".repeat(100_000));
    let shown = told(&[
        out("GET /t HTTP/1.1\r\n\r\n"),
        back("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Step::Bytes(IN, trailers.into_bytes()),
    ]);
    assert_eq!(shown, ["GET /t > 200! [the trailers are too long: the rest was left out]"]);
    let (http, _) = run_with(BodyLimits::default(), &[Step::Bytes(OUT, vec![b'A'; 1 << 20])]);
    assert!(http.held() < 1 << 20);
}

#[test]
fn what_makes_no_sense_is_left_out_and_counted() {
    let (mut http, all) = run_with(
        BodyLimits::default(),
        &[
            out("GET /a HTTP/1.1\r\n\r\n"),
            back("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n"),
            out("\x00\x01\x02 garbage"),
            out("GET /b HTTP/1.1\r\n\r\n"),
            back("HTTP/1.1 204 OK\r\n\r\n"),
        ],
    );
    let shown: Vec<String> = all.iter().map(short).collect();
    assert_eq!(shown, ["GET /a > 200! [the size of a chunk cannot be read]", "GET /b > 204"]);
    assert_eq!(http.take_skipped(), 11 + 9);
}

#[test]
fn a_body_of_any_length_is_held_only_up_to_the_limit() {
    let (mut http, mut told) = (Http1::new(BodyLimits { keep: 1000, decode: 1000 }), Vec::new());
    http.data(OUT, 1, b"GET / HTTP/1.1\r\n\r\n", &mut told);
    http.data(IN, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", &mut told);
    let piece = vec![7; 1 << 20];
    for _ in 0..1024 {
        http.data(IN, 2, &piece, &mut told);
        assert!(http.held() < 10_000);
    }
    assert_eq!(told.len(), 1);
    let message = &told[0].response.as_ref().unwrap().message;
    assert!(message.complete && message.body.is_cut());
    assert_eq!(message.body.decoded, 1 << 30);
}

/// Valid traffic: its steps, and what it is.
fn traffic() -> impl Strategy<Value = (Vec<Step>, Vec<String>)> {
    let one = (0_u8..6, 0_u8..5, prop::collection::vec(any::<u8>(), 0..60), prop::collection::vec(any::<u8>(), 0..200));
    prop::collection::vec(one, 1..6).prop_map(|all| {
        let (mut steps, mut expected) = (Vec::new(), Vec::new());
        let text = |bytes: &[u8]| match bytes {
            [] => String::new(),
            bytes => format!(" {}", String::from_utf8_lossy(bytes)),
        };
        for (number, (asks, answers, up, down)) in all.into_iter().enumerate() {
            let method = ["GET", "POST", "PUT", "HEAD", "DELETE", "PROPFIND"][usize::from(asks)];
            let up = if method == "GET" || method == "HEAD" { Vec::new() } else { up };
            let mut bytes = format!("{method} /{number} HTTP/1.1\r\nHost: h\r\n").into_bytes();
            bytes.extend(framed(&up, asks % 2 == 1, !up.is_empty()));
            steps.push(Step::Bytes(OUT, bytes));
            let status = if answers == 0 { 204 } else { 200 };
            let down = if answers == 0 { Vec::new() } else { down };
            let mut bytes = format!("HTTP/1.1 {status} OK\r\n").into_bytes();
            if method == "HEAD" {
                bytes.extend(b"Content-Length: 77\r\n\r\n");
            } else {
                bytes.extend(framed(&down, answers % 2 == 1, answers != 0));
            }
            steps.push(Step::Bytes(IN, bytes));
            let shown = if method == "HEAD" { String::new() } else { text(&down) };
            expected.push(format!("{method} /{number}{} > {status}{shown}", text(&up)));
        }
        (steps, expected)
    })
}

fn framed(body: &[u8], chunked: bool, any: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if !any {
        out.extend(b"\r\n");
    } else if chunked {
        out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(50) {
            out.extend(format!("{:x}\r\n", chunk.len()).bytes());
            out.extend(chunk);
            out.extend(b"\r\n");
        }
        out.extend(b"0\r\n\r\n");
    } else {
        out.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
        out.extend(body);
    }
    out
}

/// The same steps with their bytes in smaller pieces.
fn cut(steps: &[Step], pieces: &[usize]) -> Vec<Step> {
    let mut sizes = pieces.iter().copied().cycle();
    let mut cut = Vec::new();
    for step in steps {
        let Step::Bytes(direction, mut bytes) = step.clone() else { continue };
        while !bytes.is_empty() {
            let rest = bytes.split_off(sizes.next().unwrap_or(1).clamp(1, bytes.len()));
            cut.push(Step::Bytes(*direction_of(direction), bytes));
            bytes = rest;
        }
    }
    cut
}

fn direction_of(direction: Direction) -> &'static Direction {
    if direction == OUT { &OUT } else { &IN }
}

proptest! {
    #[test]
    fn cuts_change_nothing((steps, expected) in traffic(), pieces in prop::collection::vec(1_usize..40, 1..8)) {
        prop_assert_eq!(&told(&steps), &expected);
        prop_assert_eq!(&told(&cut(&steps, &pieces)), &expected);
    }

    #[test]
    fn after_a_gap_no_pair_is_wrong(
        (steps, expected) in traffic(),
        pieces in prop::collection::vec(5_usize..60, 1..8),
        lost in any::<prop::sample::Index>(),
    ) {
        let mut steps = cut(&steps, &pieces);
        let at = lost.index(steps.len());
        if let Step::Bytes(direction, bytes) = &steps[at] {
            steps[at] = Step::Gap(*direction, Some(bytes.len() as u64));
        }
        for exchange in run(&steps) {
            let (Some(request), Some(response)) = (&exchange.request, &exchange.response) else { continue };
            // What is whole on both sides is one of those that there were.
            let missing = |body: &Body| body.missing > 0;
            if exchange.notes.is_empty() && !missing(&request.message.body) && !missing(&response.message.body) {
                prop_assert!(expected.contains(&short(&exchange)), "{} {:?}", short(&exchange), expected);
            }
        }
    }

    #[test]
    fn mutations_are_no_panic_and_no_flood(
        (steps, _) in traffic(),
        pieces in prop::collection::vec(1_usize..40, 1..8),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..8),
        gaps in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(any::<u64>())), 0..3),
    ) {
        let mut steps = cut(&steps, &pieces);
        for (step, at, value) in edits {
            let step = step.index(steps.len());
            if let Step::Bytes(_, bytes) = &mut steps[step] {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        for (at, len) in gaps {
            let at = at.index(steps.len());
            steps.insert(at, Step::Gap(IN, len));
        }
        let (mut http, mut out) = (Http1::new(BodyLimits { keep: 100, decode: 100 }), Vec::new());
        for step in &steps {
            match step {
                Step::Bytes(direction, bytes) => http.data(*direction, 1, bytes, &mut out),
                Step::Gap(direction, len) => http.gap(*direction, 1, *len, &mut out),
            }
            prop_assert!(http.held() < 1 << 20);
        }
        http.finish(&mut out);
        prop_assert!(out.len() <= steps.len() * 40);
    }
}
