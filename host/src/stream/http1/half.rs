//! One direction: from bytes to messages. What is done where bytes are missing or make no sense is in `loss`.

mod loss;

use super::super::body::{Body, BodyLimits, BodyReader};
use super::super::exchange::{Header, Message, Request, Response};
use super::framing::{Framing, chunk_length, framing, without_chunked};
use super::head::{self, Begins, First, Head, Kind, MAX_HEAD};
use super::pairs::Pairs;

/// Longest line that gives the size of a chunk.
const MAX_CHUNK_LINE: usize = 4 << 10;
/// Longest trailers.
const MAX_TRAILERS: usize = 64 << 10;
/// Longest head of a message that was found behind a loss: what looks like one may be none.
const MAX_FOUND_HEAD: usize = 64 << 10;

/// Where the direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two messages, or in a head. `found`: behind a loss.
    Head { found: bool },
    /// In a head that was too long, of which the rest is left out; then this.
    HeadRest(Framing),
    /// So many bytes of the body are still to come.
    Length(u64),
    /// In the line that gives the size of a chunk.
    ChunkSize,
    /// So many bytes of the chunk are still to come.
    Chunk(u64),
    /// In the line end behind a chunk.
    ChunkEnd,
    /// In the trailers, or the empty line that stands for them.
    Trailers,
    /// The body ends with the connection.
    UntilClose,
    /// The next message is looked for.
    Search,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Half {
    /// What goes in it, as soon as that is known.
    pub kind: Option<Kind>,
    /// Bytes that belonged to no message, since they were asked for.
    pub skipped: u64,
    limits: BodyLimits,
    state: State,
    /// What has come of a head, a line, or what is searched.
    kept: Vec<u8>,
    /// Of `kept`, what has been searched for an end.
    scanned: usize,
    /// When the first byte of `kept` came.
    began_ns: u64,
    /// When the last bytes came, or were lost.
    last_ns: u64,
    body: Option<BodyReader>,
    /// The body's first byte is still to come, and the request was not seen: there may be none.
    maybe_none: bool,
    /// What was lost before the message that comes next.
    lost: u64,
    /// An unknown number of bytes was lost.
    lost_unknown: bool,
}

impl Half {
    /// At its beginning, or wherever it is joined.
    pub fn new(limits: BodyLimits) -> Self {
        Self {
            kind: None,
            skipped: 0,
            limits,
            state: State::Head { found: false },
            kept: Vec::new(),
            scanned: 0,
            began_ns: 0,
            last_ns: 0,
            body: None,
            maybe_none: false,
            lost: 0,
            lost_unknown: false,
        }
    }

    /// In a body that ends with the connection.
    pub fn until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        self.kept.capacity() + self.body.as_ref().map_or(0, BodyReader::held)
    }

    /// Takes some of the bytes; how many. With 0 the state has changed, and the same bytes are to come again.
    pub fn step(&mut self, time_ns: u64, bytes: &[u8], begins_call: bool, pairs: &mut Pairs) -> usize {
        self.last_ns = time_ns;
        match self.state {
            State::Head { found } => self.head(bytes, found, pairs),
            State::HeadRest(framing) => self.head_rest(bytes, framing, pairs),
            State::Length(left) => {
                if std::mem::take(&mut self.maybe_none)
                    && begins_call
                    && head::begins(bytes) == Begins::With(Kind::Responses)
                {
                    // The answer to a HEAD that was not seen.
                    self.end(true, None, pairs);
                    return 0;
                }
                let (taken, left) = self.body_bytes(bytes, left, pairs);
                self.state = State::Length(left);
                if left == 0 {
                    self.end(true, None, pairs);
                }
                taken
            }
            State::ChunkSize => self.chunk_size(bytes, pairs),
            State::Chunk(left) => {
                let (taken, left) = self.body_bytes(bytes, left, pairs);
                self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                taken
            }
            State::ChunkEnd => match bytes {
                [b'\r', ..] => 1,
                [b'\n', ..] => {
                    self.state = State::ChunkSize;
                    1
                }
                _ => {
                    self.broken("a chunk does not end where it should", pairs);
                    0
                }
            },
            State::Trailers => self.trailers(bytes, pairs),
            State::UntilClose => {
                self.body_bytes(bytes, u64::MAX, pairs);
                bytes.len()
            }
            State::Search => self.search(bytes),
        }
    }

    fn body_bytes(&mut self, bytes: &[u8], left: u64, pairs: &mut Pairs) -> (usize, u64) {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        if let Some(body) = &mut self.body {
            body.push(bytes.get(..taken).unwrap_or_default());
            if self.kind == Some(Kind::Responses) {
                pairs.events(body.take_events(), self.last_ns);
            }
        }
        (taken, left - taken as u64)
    }

    fn head(&mut self, bytes: &[u8], found: bool, pairs: &mut Pairs) -> usize {
        let limit = if found { MAX_FOUND_HEAD } else { MAX_HEAD };
        if self.kept.is_empty() {
            // Some senders put an empty line between messages.
            let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if blank > 0 {
                return blank;
            }
            self.began_ns = self.last_ns;
            if !self.may_begin(bytes) {
                self.garbage(pairs);
                return 0;
            }
            // The usual case: all of it is there.
            if let Some(end) = head::end(bytes.get(..bytes.len().min(limit)).unwrap_or_default(), 0) {
                self.message(bytes.get(..end).unwrap_or_default(), pairs);
                return end;
            }
            (self.kept, self.scanned) = (Vec::new(), 0);
        }
        let (before, room) = (self.kept.len(), limit.saturating_sub(self.kept.len()));
        self.kept.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        let taken = self.kept.len() - before;
        if let Some(end) = head::end(&self.kept, self.scanned) {
            let mut head = std::mem::take(&mut self.kept);
            head.truncate(end);
            self.message(&head, pairs);
            return end.saturating_sub(before);
        }
        self.scanned = self.kept.len();
        if !self.may_begin(&self.kept) {
            self.skipped += before as u64;
            self.kept = Vec::new();
            self.garbage(pairs);
            return 0;
        }
        if self.kept.len() >= limit {
            let head = std::mem::take(&mut self.kept);
            let parsed = if found { None } else { head::lines(&head, "the header is too long: the rest was left out") };
            match parsed {
                Some(parsed) => {
                    let framing = self.begin(parsed, pairs);
                    self.kept = head.get(head.len().saturating_sub(3)..).unwrap_or_default().to_vec();
                    self.state = State::HeadRest(framing);
                }
                None => {
                    self.skipped += head.len() as u64;
                    self.garbage(pairs);
                }
            }
        }
        taken
    }

    /// A message that may go in this direction may begin with these bytes.
    fn may_begin(&self, bytes: &[u8]) -> bool {
        match head::begins(bytes) {
            Begins::With(kind) => self.kind.is_none_or(|own| own == kind),
            Begins::Open => true,
            Begins::Not => false,
        }
    }

    /// What comes is no message.
    fn garbage(&mut self, pairs: &mut Pairs) {
        self.may_have_lost_messages(pairs);
        self.state = State::Search;
    }

    /// Whole messages may have been among what was lost.
    fn may_have_lost_messages(&self, pairs: &mut Pairs) {
        if self.kind != Some(Kind::Requests) {
            pairs.responses_lost();
        }
        if self.kind != Some(Kind::Responses) {
            pairs.requests_lost();
        }
    }

    /// A head has come whole.
    fn message(&mut self, bytes: &[u8], pairs: &mut Pairs) {
        let Some(head) = head::parse(bytes) else {
            self.skipped += bytes.len() as u64;
            self.garbage(pairs);
            return;
        };
        if let First::Response(status @ 100..=199, _) = head.first
            && status != 101
        {
            self.kind = Some(Kind::Responses);
            pairs.interim(status);
            self.state = State::Head { found: false };
            return;
        }
        let framing = self.begin(head, pairs);
        self.body_follows(framing, pairs);
    }

    /// Tells of the message that begins with this head. How long its body is.
    fn begin(&mut self, head: Head, pairs: &mut Pairs) -> Framing {
        let mut notes: Vec<String> = head.note.map(String::from).into_iter().collect();
        if std::mem::take(&mut self.lost_unknown) {
            notes.push("bytes before it were lost".into());
        } else if self.lost > 0 {
            notes.push(format!("{} bytes before it were lost", self.lost));
        }
        self.lost = 0;
        let message = Message { headers: head.headers, began_ns: self.began_ns, ..Message::default() };
        let codings: Vec<&[u8]> = {
            let transfer = message.headers_named("transfer-encoding").filter(|v| !v.eq_ignore_ascii_case(b"chunked"));
            message.headers_named("content-encoding").chain(transfer.map(without_chunked)).collect()
        };
        let kind = if matches!(head.first, First::Response(..)) { message.header("content-type") } else { None };
        let body = BodyReader::of(self.limits, kind, codings.into_iter());
        let framing = match head.first {
            First::Request(method, target) => {
                self.kind = Some(Kind::Requests);
                let framing = if method == b"CONNECT" { Framing::None } else { framing(&message, false) };
                let authority = message.header("host").map(<[u8]>::to_vec);
                let request = Request { method, scheme: None, authority, target, message };
                pairs.request(head.version, request, notes);
                framing
            }
            First::Response(status, reason) => {
                self.kind = Some(Kind::Responses);
                let method = pairs.method();
                self.maybe_none = method.is_none();
                let framing = match (status, method) {
                    (101, _) => {
                        let to = message.header("upgrade").unwrap_or_default().to_ascii_lowercase();
                        notes.push(format!("upgraded to {}", String::from_utf8_lossy(&to)));
                        let extensions = message.header("sec-websocket-extensions").map(<[u8]>::to_vec);
                        pairs.switched = Some((to, extensions));
                        Framing::None
                    }
                    (200..=299, Some(b"CONNECT")) => {
                        notes.push("a tunnel from here on".into());
                        pairs.switched = Some((b"tunnel".to_vec(), None));
                        Framing::None
                    }
                    (204 | 304, _) | (_, Some(b"HEAD")) => Framing::None,
                    _ => framing(&message, true),
                };
                pairs.response(head.version, Response { status: Some(status), reason, message }, notes);
                framing
            }
        };
        self.body = Some(body);
        framing
    }

    fn body_follows(&mut self, framing: Framing, pairs: &mut Pairs) {
        self.state = match framing {
            Framing::None | Framing::Length(0) => return self.end(true, None, pairs),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
    }

    /// The message that was being read, of either kind.
    fn open<'p>(&self, pairs: &'p mut Pairs) -> Option<&'p mut Message> {
        match self.kind {
            Some(Kind::Requests) => pairs.open_request(),
            Some(Kind::Responses) => pairs.open_response(),
            None => None,
        }
    }

    /// The message ends here. `complete`: as it should.
    fn end(&mut self, complete: bool, note: Option<String>, pairs: &mut Pairs) {
        self.state = State::Head { found: false };
        self.kept.clear();
        self.scanned = 0;
        let body = self.body.take().map(BodyReader::finish).unwrap_or_default();
        self.close(body, complete, pairs);
        match self.kind {
            Some(Kind::Requests) => pairs.request_done(note),
            Some(Kind::Responses) => pairs.response_done(note),
            None => {}
        }
    }

    fn close(&self, mut body: Body, complete: bool, pairs: &mut Pairs) {
        let Some(message) = self.open(pairs) else { return };
        message.missing = message.missing.saturating_add(body.missing);
        if !complete {
            // What has ended too early is no fault of the encoding.
            body.problem = body.problem.filter(|why| !why.starts_with("it ends before"));
        }
        message.body = body.into();
        message.complete = complete;
        message.ended_ns = self.last_ns;
    }

    /// The message makes no sense from here on.
    fn broken(&mut self, why: &str, pairs: &mut Pairs) {
        self.end(false, Some(why.into()), pairs);
        self.garbage(pairs);
    }

    fn head_rest(&mut self, bytes: &[u8], framing: Framing, pairs: &mut Pairs) -> usize {
        let before = self.kept.len();
        self.kept.extend_from_slice(bytes);
        match head::end(&self.kept, 0) {
            Some(end) => {
                self.kept = Vec::new();
                self.body_follows(framing, pairs);
                end.saturating_sub(before)
            }
            None => {
                let tail = self.kept.len().saturating_sub(3);
                self.kept = self.kept.get(tail..).unwrap_or_default().to_vec();
                bytes.len()
            }
        }
    }

    fn chunk_size(&mut self, bytes: &[u8], pairs: &mut Pairs) -> usize {
        let end = memchr::memchr(b'\n', bytes.get(..bytes.len().min(MAX_CHUNK_LINE)).unwrap_or_default());
        let Some(end) = end else {
            if self.kept.len() + bytes.len() > MAX_CHUNK_LINE {
                self.broken("the size of a chunk cannot be read", pairs);
                return 0;
            }
            self.kept.extend_from_slice(bytes);
            return bytes.len();
        };
        let line = bytes.get(..end).unwrap_or_default();
        let size = if self.kept.is_empty() {
            chunk_length(line)
        } else {
            self.kept.extend_from_slice(line);
            chunk_length(&std::mem::take(&mut self.kept))
        };
        self.state = match size {
            Some(0) => State::Trailers,
            Some(size) => State::Chunk(size),
            None => {
                self.broken("the size of a chunk cannot be read", pairs);
                return 0;
            }
        };
        end + 1
    }

    fn trailers(&mut self, bytes: &[u8], pairs: &mut Pairs) -> usize {
        if self.kept.is_empty() {
            // The usual case: there are none.
            let none = if bytes.starts_with(b"\r\n") { 2 } else { usize::from(bytes.starts_with(b"\n")) };
            if none > 0 {
                self.end(true, None, pairs);
                return none;
            }
        }
        let before = self.kept.len();
        let room = MAX_TRAILERS.saturating_sub(before).min(bytes.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
        let end = if self.kept.starts_with(b"\r\n") { Some(2) } else { head::end(&self.kept, self.scanned) };
        self.scanned = self.kept.len();
        match end {
            Some(end) => {
                let mut lines = std::mem::take(&mut self.kept);
                lines.truncate(end);
                let trailers: Vec<Header> = head::trailers(&lines);
                if let Some(message) = self.open(pairs) {
                    message.trailers = trailers;
                }
                self.end(true, None, pairs);
                end.saturating_sub(before)
            }
            None if self.kept.len() >= MAX_TRAILERS => {
                let lines = std::mem::take(&mut self.kept);
                if let Some(message) = self.open(pairs) {
                    message.trailers = head::trailers(&lines);
                }
                self.broken("the trailers are too long: the rest was left out", pairs);
                room
            }
            None => room,
        }
    }

    /// The other side asks again: a body that would end with the connection has ended.
    pub fn ended_by_request(&mut self, pairs: &mut Pairs) {
        if self.state == State::UntilClose && self.kind == Some(Kind::Responses) {
            self.end(true, None, pairs);
        }
    }

    /// The connection has ended, and with it a body that has no other end.
    pub fn closed(&mut self, pairs: &mut Pairs) {
        if self.state == State::UntilClose {
            self.end(true, Some("its body ended with the connection".into()), pairs);
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self, pairs: &mut Pairs) {
        match self.state {
            State::Head { .. } => {
                if let Some(head) = head::lines(&self.kept, "its header is not complete") {
                    self.begin(head, pairs);
                    self.end(false, None, pairs);
                } else {
                    self.skipped += self.kept.len() as u64;
                }
            }
            State::Search => self.skipped += self.kept.len() as u64,
            State::UntilClose => {
                self.end(false, Some("its body ends with the connection".into()), pairs);
            }
            _ => self.end(false, Some("its end was not seen".into()), pairs),
        }
        self.kept = Vec::new();
        self.state = State::Search;
    }
}
