//! One connection: which protocol it speaks, and what is done with each of its calls.
//!
//! A connection is plain until a message begins where a call begins: from then on it is read. So a connection that is joined
//! in the middle, or that becomes HTTP later, is read from its next message on.

use super::assemble::{Assembler, Call};
use super::body::BodyLimits;
use super::exchange::{Direction, Exchange, Protocol};
use super::follow::{self, Follow};
use super::http1::head::{Begins, begins};
use super::http1::{Http1, Switched};
use super::http2::{self, Http2};
use super::said::{Said, What};
use super::websocket::{self, Deflate, WebSocket};

/// Calls that are held back while the first bytes do not tell yet what they are.
const MAX_HELD_CALLS: usize = 32;
/// Bytes of them.
const MAX_HELD_BYTES: usize = 64 << 10;
/// Bytes that are kept of a message where no bodies are wanted: a message is what there is to tell.
const MESSAGE: u64 = 1 << 20;

/// What is to be done with a call, and with those before it.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Calls that were held back and are to be shown as they came, first of all.
    pub released: Vec<Vec<u8>>,
    /// What was said within exchanges that are not complete, or are complete with this call.
    pub within: Vec<Said>,
    /// Requests with their responses.
    pub exchanges: Vec<Exchange>,
    /// What was said behind them.
    pub behind: Vec<Said>,
    /// The call itself is to be shown as it came.
    pub show: bool,
    /// Bytes that were found to be missing.
    pub missing: u64,
    /// Bytes that belonged to no message.
    pub unparsed: u64,
}

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Http1,
    Http2,
    Not,
    Open,
}

#[derive(Debug)]
enum Mode {
    /// No message has begun.
    Plain,
    /// Nothing that could be read will ever come.
    Unread,
    /// It speaks HTTP/1.
    Http1(Box<Http1>),
    /// It speaks HTTP/2.
    Http2(Box<Http2>),
    /// It is a WebSocket, since this exchange.
    WebSocket(Box<(WebSocket, Exchange)>),
    /// It is shown as it is.
    Follow(Follow),
}

/// A call that is held back.
#[derive(Debug)]
struct Held {
    raw: Vec<u8>,
    direction: Direction,
    bytes: Vec<u8>,
    time_ns: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Conversation {
    limits: BodyLimits,
    transmit: Assembler,
    receive: Assembler,
    mode: Mode,
    held: Vec<Held>,
    /// An exchange was made of it.
    pub spoke: bool,
}

impl Conversation {
    /// One of which nothing has been seen.
    #[must_use]
    pub fn new(limits: BodyLimits) -> Self {
        Self {
            limits,
            transmit: Assembler::default(),
            receive: Assembler::default(),
            mode: Mode::Plain,
            held: Vec::new(),
            spoke: false,
        }
    }

    /// One that is shown as it is.
    #[must_use]
    pub fn followed() -> Self {
        Self { mode: Mode::Follow(Follow::default()), ..Self::new(BodyLimits::default()) }
    }

    /// The next call. `raw`: the event that told of it, to be given back if it has to be shown later.
    pub fn call(&mut self, call: &Call<'_>, raw: &[u8], outcome: &mut Outcome) {
        let direction = call.direction;
        let assembler = if direction == Direction::Transmit { &mut self.transmit } else { &mut self.receive };
        let placed = assembler.place(call);
        outcome.missing += placed.gap.saturating_add(placed.missing);
        if let Mode::Follow(follow) = &mut self.mode {
            let first = call.offset.saturating_add((call.bytes.len() - placed.bytes.len()) as u64);
            let mut told = Vec::new();
            follow.call(direction, first, &placed, call.time_ns, &mut told);
            outcome.behind.extend(told.into_iter().map(piece));
            return;
        }
        if placed.gap > 0 {
            self.gap(direction, call.time_ns, placed.gap, outcome);
        }
        match &self.mode {
            Mode::Http1(_) | Mode::Http2(_) | Mode::WebSocket(_) => {
                self.parse(direction, call.time_ns, placed.bytes, outcome);
            }
            Mode::Unread => outcome.show = true,
            Mode::Follow(_) => {}
            Mode::Plain => self.decide(call, placed.bytes, raw, outcome),
        }
        if placed.missing > 0 {
            self.gap(direction, call.time_ns, placed.missing, outcome);
        }
    }

    fn gap(&mut self, direction: Direction, time_ns: u64, len: u64, outcome: &mut Outcome) {
        match &mut self.mode {
            Mode::Http1(http) => http.gap(direction, time_ns, Some(len), &mut outcome.exchanges),
            Mode::Http2(http) => http.gap(direction, time_ns, Some(len), &mut outcome.exchanges),
            Mode::WebSocket(socket) => {
                let mut messages = Vec::new();
                socket.0.gap(direction, time_ns, Some(len), &mut messages);
                outcome.behind.extend(messages.into_iter().map(|message| said(message, &socket.1)));
            }
            // What was held back waits for bytes that are lost.
            Mode::Plain | Mode::Unread | Mode::Follow(_) => self.release(outcome),
        }
    }

    fn parse(&mut self, direction: Direction, time_ns: u64, bytes: &[u8], outcome: &mut Outcome) {
        let http = match &mut self.mode {
            Mode::Http1(http) => http,
            Mode::Http2(http) => {
                http.data(direction, time_ns, bytes, &mut outcome.exchanges);
                outcome.within.append(&mut http.take_said());
                return;
            }
            Mode::WebSocket(socket) => {
                let mut messages = Vec::new();
                socket.0.data(direction, time_ns, bytes, &mut messages);
                outcome.behind.extend(messages.into_iter().map(|message| said(message, &socket.1)));
                return;
            }
            Mode::Plain | Mode::Unread | Mode::Follow(_) => return,
        };
        http.data(direction, time_ns, bytes, &mut outcome.exchanges);
        outcome.within.append(&mut http.take_said());
        outcome.unparsed += http.take_skipped();
        if let Some(switched) = http.switched().cloned() {
            self.switch(&switched, direction, time_ns, bytes, outcome);
        }
    }

    /// Goes on with what an upgrade led to.
    fn switch(&mut self, switched: &Switched, direction: Direction, time_ns: u64, bytes: &[u8], outcome: &mut Outcome) {
        let rest = bytes.get(bytes.len().saturating_sub(switched.rest)..).unwrap_or_default();
        let upgrade = || {
            let is_upgrade = |exchange: &&Exchange| exchange.response.as_ref().is_some_and(|r| r.status == Some(101));
            outcome.exchanges.iter().rev().find(is_upgrade).map(Exchange::outline).unwrap_or_default()
        };
        self.mode = match switched.to.as_slice() {
            b"h2c" => Mode::Http2(Box::new(Http2::new(self.limits, false))),
            b"websocket" => {
                let client = switched.requests == Direction::Transmit;
                let deflate = Deflate::agreed(switched.extensions.iter().map(Vec::as_slice));
                let keep = if self.limits.keep == 0 { MESSAGE } else { self.limits.keep };
                let limits = BodyLimits { keep, decode: self.limits.decode.max(keep) };
                Mode::WebSocket(Box::new((WebSocket::new(limits, Some(client), deflate), upgrade())))
            }
            // In a tunnel there may be HTTP again.
            b"tunnel" => Mode::Plain,
            _ => Mode::Unread,
        };
        match self.mode {
            Mode::Plain | Mode::Unread => outcome.show |= !rest.is_empty(),
            _ => self.parse(direction, time_ns, rest, outcome),
        }
    }

    fn decide(&mut self, call: &Call<'_>, bytes: &[u8], raw: &[u8], outcome: &mut Outcome) {
        let before = self.held.iter().filter(|held| held.direction == call.direction);
        let choice = match before.map(|held| held.bytes.as_slice()).collect::<Vec<_>>().as_slice() {
            [] => choose(bytes),
            held => choose(&[held.concat().as_slice(), bytes].concat()),
        };
        match choice {
            Choice::Http1 | Choice::Http2 => {
                self.mode = match choice {
                    // Perhaps from the middle: a preface tells that it is not.
                    Choice::Http2 => Mode::Http2(Box::new(Http2::new(self.limits, true))),
                    _ => Mode::Http1(Box::new(Http1::new(self.limits))),
                };
                for held in std::mem::take(&mut self.held) {
                    self.parse(held.direction, held.time_ns, &held.bytes, outcome);
                }
                self.parse(call.direction, call.time_ns, bytes, outcome);
            }
            Choice::Open if self.held.len() < MAX_HELD_CALLS && self.held() + bytes.len() < MAX_HELD_BYTES => {
                let (direction, time_ns) = (call.direction, call.time_ns);
                self.held.push(Held { raw: raw.to_vec(), direction, bytes: bytes.to_vec(), time_ns });
            }
            Choice::Open | Choice::Not => {
                self.release(outcome);
                outcome.show = true;
            }
        }
    }

    /// Gives back what was held back: it will not be decided soon.
    pub fn release(&mut self, outcome: &mut Outcome) {
        outcome.released.extend(self.held.drain(..).map(|held| held.raw));
        if let Mode::Follow(follow) = &mut self.mode {
            outcome.behind.extend(follow.take().map(piece));
        }
    }

    /// Since when something is held back.
    #[must_use]
    pub fn holds_since(&self) -> Option<u64> {
        match &self.mode {
            Mode::Follow(follow) => follow.holds_since(),
            _ => self.held.first().map(|held| held.time_ns),
        }
    }

    /// A body is open that ends with the connection, so that silence is all that tells of its end.
    #[must_use]
    pub fn ends_with_silence(&self) -> bool {
        matches!(&self.mode, Mode::Http1(http) if http.until_close())
    }

    /// The connection has ended, in order.
    pub fn close(&mut self, outcome: &mut Outcome) {
        if let Mode::Http1(http) = &mut self.mode {
            http.closed();
        }
        self.finish(outcome);
    }

    /// Nothing more comes.
    pub fn finish(&mut self, outcome: &mut Outcome) {
        self.release(outcome);
        match &mut self.mode {
            Mode::Http1(http) => {
                http.finish(&mut outcome.exchanges);
                outcome.unparsed += http.take_skipped();
            }
            Mode::Http2(http) => http.finish(&mut outcome.exchanges),
            Mode::WebSocket(socket) => {
                let mut messages = Vec::new();
                socket.0.finish(&mut messages);
                outcome.behind.extend(messages.into_iter().map(|message| said(message, &socket.1)));
            }
            Mode::Plain | Mode::Unread | Mode::Follow(_) => {}
        }
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn held(&self) -> usize {
        let held = self.held.iter().map(|held| held.raw.capacity() + held.bytes.capacity()).sum::<usize>();
        held + match &self.mode {
            Mode::Plain | Mode::Unread => 0,
            Mode::Http1(http) => size_of::<Http1>() + http.held(),
            Mode::Http2(http) => http.held(),
            Mode::WebSocket(socket) => size_of::<Exchange>() + socket.0.held(),
            Mode::Follow(follow) => follow.held(),
        }
    }
}

fn said(message: websocket::Message, of: &Exchange) -> Said {
    let (direction, time_ns) = (message.direction, message.ended_ns);
    Said { of: of.clone(), direction, time_ns, what: What::Message(message) }
}

fn piece((direction, piece, time_ns): follow::Told) -> Said {
    Said { of: Exchange::default(), direction, time_ns, what: What::Piece(piece) }
}

fn choose(bytes: &[u8]) -> Choice {
    if bytes.is_empty() {
        return Choice::Not;
    }
    match http2::begins(bytes) {
        Some(true) => return Choice::Http2,
        None => return Choice::Open,
        Some(false) => {}
    }
    match begins(bytes) {
        Begins::With(_) => return Choice::Http1,
        Begins::Open => return Choice::Open,
        Begins::Not => {}
    }
    if !is_frame(bytes) {
        return Choice::Not;
    }
    match http2::continues(bytes) {
        Some(true) => Choice::Http2,
        Some(false) => Choice::Not,
        None => Choice::Open,
    }
}

/// The head of an HTTP/2 frame that endpoints send in the middle of a connection (RFC 9113, 6): of what is held back, everything
/// but this can be let go at once. Programs write frame by frame, so a call begins with one.
fn is_frame(bytes: &[u8]) -> bool {
    let Some(([a, b, c, kind, _, d, e, f, g], _)) = bytes.split_first_chunk::<9>() else { return false };
    let (length, stream) = (u32::from_be_bytes([0, *a, *b, *c]), u32::from_be_bytes([*d, *e, *f, *g]));
    let one = stream > 0 && stream < 1 << 31;
    match kind {
        // DATA, HEADERS, CONTINUATION
        0 | 1 | 9 => one && length <= 1 << 20,
        // RST_STREAM
        3 => one && length == 4,
        // SETTINGS
        4 => stream == 0 && length.is_multiple_of(6) && length < 256,
        // PING
        6 => stream == 0 && length == 8,
        // WINDOW_UPDATE
        8 => stream < 1 << 31 && length == 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls at their offsets, `>` out of the process and `<` into it.
    struct Line(Conversation, [u64; 2]);

    impl Line {
        fn new() -> Self {
            Self(Conversation::new(BodyLimits::default()), [0, 0])
        }

        fn say(&mut self, way: char, bytes: &[u8]) -> Outcome {
            let (direction, index) = if way == '>' { (Direction::Transmit, 0) } else { (Direction::Receive, 1) };
            let mut outcome = Outcome::default();
            let call = Call { direction, offset: self.1[index], bytes, missing: 0, time_ns: 1 };
            self.0.call(&call, bytes, &mut outcome);
            self.1[index] += bytes.len() as u64;
            outcome
        }
    }

    #[test]
    fn other_protocols_are_shown_as_they_come() {
        let mut line = Line::new();
        for bytes in [&b"\x00\x01\x02"[..], b"EHLO example.org\r\n", b"250 ok\r\n"] {
            let outcome = line.say('>', bytes);
            assert!(outcome.show && outcome.released.is_empty(), "{bytes:?}");
        }
        // And what is HTTP at last is read.
        assert!(!line.say('>', b"GET / HTTP/1.1\r\n\r\n").show);
        assert_eq!(line.say('<', b"HTTP/1.1 204 No\r\n\r\n").exchanges.len(), 1);
    }

    #[test]
    fn what_may_become_a_message_is_held_back() {
        let mut line = Line::new();
        assert_eq!(line.say('>', b"GE"), Outcome::default());
        assert_eq!(line.say('>', b"T / HTTP/1.1\r\n\r\n"), Outcome::default());
        assert_eq!(line.say('<', b"HTTP/1.1 204 No\r\n\r\n").exchanges.len(), 1);
        let mut line = Line::new();
        line.say('>', b"GE");
        let outcome = line.say('>', b"NERAL");
        assert!(outcome.released.is_empty() && !outcome.show);
        let outcome = line.say('>', b"?");
        assert_eq!((outcome.released, outcome.show), (vec![b"GE".to_vec(), b"NERAL".to_vec()], true));
    }

    #[test]
    fn a_gap_ends_the_waiting() {
        let mut line = Line::new();
        line.say('>', b"GET ");
        line.1[0] += 10;
        let outcome = line.say('>', b" HTTP/1.1\r\n\r\n");
        assert_eq!((outcome.released.len(), outcome.show, outcome.missing), (1, true, 10));
    }

    /// HEADERS of stream 1 with END_STREAM and END_HEADERS: `GET`, `https`, `/`, authority `a.b`, all of the static table or literal.
    const REQUEST: &[u8] = b"\x00\x00\x08\x01\x05\x00\x00\x00\x01\x82\x87\x84\x41\x03a.b";
    /// HEADERS of stream 1: `:status: 200`.
    const ANSWER: &[u8] = b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88";
    const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

    #[test]
    fn http2_is_read_from_its_preface_on() {
        let mut line = Line::new();
        assert_eq!(line.say('>', b"PRI * HTTP"), Outcome::default());
        assert_eq!(line.say('>', b"/2.0\r\n\r\nSM\r\n\r\n"), Outcome::default());
        assert_eq!(line.say('>', SETTINGS), Outcome::default());
        assert_eq!(line.say('<', SETTINGS), Outcome::default());
        assert_eq!(line.say('>', REQUEST), Outcome::default());
        let outcome = line.say('<', ANSWER);
        let [exchange] = outcome.exchanges.as_slice() else { panic!("{outcome:?}") };
        assert_eq!((exchange.version, exchange.substream, exchange.client), ("2", 1, Some(true)));
        let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
        assert_eq!((request.method.as_slice(), request.authority.as_deref()), (&b"GET"[..], Some(&b"a.b"[..])));
        assert_eq!(response.status, Some(200));
    }

    #[test]
    fn http2_is_read_from_the_middle_once_frames_follow_one_another() {
        let mut line = Line::new();
        let mut seen = Vec::new();
        for stream in (1_u8..60).step_by(2) {
            for (way, bytes) in [('>', REQUEST), ('<', ANSWER)] {
                let mut bytes = bytes.to_vec();
                bytes[8] = stream;
                let outcome = line.say(way, &bytes);
                assert!(!outcome.show && outcome.released.is_empty(), "stream {stream}");
                seen.extend(outcome.exchanges);
            }
        }
        assert!(seen.len() > 20, "{} of 30", seen.len());
        assert!(seen.iter().all(|e| e.request.as_ref().is_none_or(|r| r.target == b"/")));
    }

    #[test]
    fn what_is_no_frame_is_not_held_back() {
        for bytes in [
            &b"\x00\x00\x09\x02\x00\x00\x00\x00\x01......"[..],
            b"\x01binary\x00\x00",
            b"\x00\x00\x08\x06\x00\x00\x00\x00\x01",
        ] {
            let mut line = Line::new();
            assert!(line.say('>', bytes).show, "{bytes:?}");
        }
    }

    fn messages(outcome: &Outcome) -> Vec<(char, String, String)> {
        let one = |said: &Said| {
            let What::Message(message) = &said.what else { panic!("{said:?}") };
            let target = said.of.request.as_ref().map(|request| String::from_utf8_lossy(&request.target).into_owned());
            let mark = if said.direction == Direction::Transmit { '>' } else { '<' };
            (mark, target.unwrap_or_default(), String::from_utf8(message.bytes.clone()).unwrap())
        };
        outcome.behind.iter().map(one).collect()
    }

    #[test]
    fn behind_an_upgrade_to_websocket_are_messages() {
        let mut line = Line::new();
        line.say('>', b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
        // The first one comes with the answer.
        let outcome = line.say('<', b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n\x81\x02hi\x81");
        assert_eq!((outcome.exchanges.len(), outcome.show), (1, false));
        assert_eq!(messages(&outcome), [('<', "/chat".into(), "hi".into())]);
        let outcome = line.say('>', b"\x81\x83\x01\x02\x03\x04`bc");
        assert_eq!((messages(&outcome), outcome.show), (vec![('>', "/chat".into(), "a``".into())], false));
        assert_eq!(messages(&line.say('<', b"\x03abc")), [('<', "/chat".into(), "abc".into())]);
        // What was begun is told at the end.
        line.say('<', b"\x81\x05abc");
        let mut outcome = Outcome::default();
        line.0.finish(&mut outcome);
        assert_eq!(messages(&outcome), [('<', "/chat".into(), "abc".into())]);
    }

    #[test]
    fn a_gap_between_messages_is_said_by_the_one_that_it_cuts() {
        let mut line = Line::new();
        line.say('>', b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
        line.say('<', b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n\x81\x05he");
        line.1[1] += 2;
        let outcome = line.say('<', b"o\x81\x02hi");
        let [Said { what: What::Message(cut), .. }, Said { what: What::Message(next), .. }] = outcome.behind.as_slice()
        else {
            panic!("{outcome:?}")
        };
        assert_eq!((cut.bytes.as_slice(), cut.missing, cut.problem.is_some()), (&b"he"[..], 2, true));
        assert_eq!((next.bytes.as_slice(), next.complete, outcome.missing), (&b"hi"[..], true, 2));
    }

    #[test]
    fn events_are_told_before_the_response_ends() {
        for keep in [0, 1 << 20] {
            let mut line = Line(Conversation::new(BodyLimits { keep, decode: keep }), [0, 0]);
            line.say('>', b"GET /news HTTP/1.1\r\n\r\n");
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            assert_eq!(line.say('<', head), Outcome::default());
            let outcome = line.say('<', b"9\r\ndata: a\n\n\r\n6\r\ndata: ");
            let [Said { what: What::Event(event), of, direction, .. }] = outcome.within.as_slice() else {
                panic!("{outcome:?}")
            };
            assert_eq!((event.data.as_str(), *direction, outcome.exchanges.len()), ("a", Direction::Receive, 0));
            assert_eq!(of.request.as_ref().unwrap().target, b"/news");
            let outcome = line.say('<', b"\r\n3\r\nb\n\n\r\n0\r\n\r\n");
            assert_eq!((outcome.within.len(), outcome.exchanges.len()), (1, 1), "{outcome:?}");
        }
    }

    #[test]
    fn other_upgrades_are_shown_call_by_call() {
        let mut line = Line::new();
        line.say('>', b"GET /x HTTP/1.1\r\nUpgrade: other/1\r\n\r\n");
        let outcome = line.say('<', b"HTTP/1.1 101 Switching\r\nUpgrade: other/1\r\n\r\n");
        assert_eq!((outcome.exchanges.len(), outcome.show), (1, false));
        assert!(line.say('<', b"\x81\x02hi").show);
        // In a tunnel there may be HTTP again.
        let mut line = Line::new();
        line.say('>', b"CONNECT h:80 HTTP/1.1\r\n\r\n");
        assert_eq!(line.say('<', b"HTTP/1.1 200 OK\r\n\r\n").exchanges.len(), 1);
        assert!(line.say('>', b"\x16\x03\x01").show);
        assert!(!line.say('>', b"GET / HTTP/1.1\r\n\r\n").show);
    }

    #[test]
    fn the_end_gives_back_everything() {
        let mut line = Line::new();
        line.say('>', b"GET");
        assert!(line.0.holds_since().is_some() && line.0.held() > 0);
        let mut outcome = Outcome::default();
        line.0.finish(&mut outcome);
        assert_eq!(outcome.released, [b"GET"]);
        let mut line = Line::new();
        line.say('>', b"GET / HTTP/1.1\r\n\r\n");
        line.say('<', b"HTTP/1.1 200 OK\r\n\r\n");
        assert!(line.0.ends_with_silence());
        line.0.finish(&mut outcome);
        assert_eq!((outcome.exchanges.len(), outcome.exchanges[0].is_complete()), (1, false));
        // Where the end of the connection was seen, so was that of the body.
        let (mut line, mut outcome) = (Line::new(), Outcome::default());
        line.say('>', b"GET / HTTP/1.1\r\n\r\n");
        line.say('<', b"HTTP/1.1 200 OK\r\n\r\nbody");
        line.0.close(&mut outcome);
        assert_eq!((outcome.exchanges.len(), outcome.exchanges[0].is_complete()), (1, true));
    }
}
