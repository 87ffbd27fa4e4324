//! What a parser makes out of the bytes of a connection: requests with their responses, whatever the protocol.

use std::sync::Arc;

use super::body::Body;

/// Which way bytes go, seen from the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Out of the process.
    Transmit,
    /// Into the process.
    Receive,
}

/// A protocol of requests and responses, fed with the two directions of one connection.
///
/// Within a direction the bytes come in order and without overlap; what is missing comes as a gap at its place. Between the
/// directions the order is that of the calls that moved the bytes.
pub trait Protocol {
    /// The next bytes of a direction. `time_ns`: monotonic, when the call returned.
    fn data(&mut self, direction: Direction, time_ns: u64, bytes: &[u8], out: &mut Vec<Exchange>);

    /// Bytes are missing here; `None`: nobody knows how many.
    fn gap(&mut self, direction: Direction, time_ns: u64, len: Option<u64>, out: &mut Vec<Exchange>);

    /// Nothing more comes: what is unfinished comes out, and says so.
    fn finish(&mut self, out: &mut Vec<Exchange>);

    /// Bytes of memory that the connection holds now, about: for the limit on all of them.
    fn held(&self) -> usize;
}

/// A request and its response, or the half of it that was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exchange {
    /// `1.0`, `1.1`, `2`: OpenTelemetry's `network.protocol.version`.
    pub version: &'static str,
    /// Number of the stream within the connection (HTTP/2), 0 if there is only one.
    pub substream: u64,
    /// The process sent the request (it is the client), or received it (the server); `None` if that is not known.
    pub client: Option<bool>,
    /// What was asked. None: its beginning was before the capture, or lost.
    pub request: Option<Request>,
    /// What was answered. None: nothing was seen of it.
    pub response: Option<Response>,
    /// What else there is to say of it, each a short phrase: `reset by the peer (CANCEL)`, `upgraded to websocket`.
    pub notes: Vec<String>,
}

/// The asking half.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// `GET`.
    pub method: Vec<u8>,
    /// `https` or `http`, where the protocol says it (HTTP/2 `:scheme`).
    pub scheme: Option<Vec<u8>>,
    /// Host and port that were asked: `Host` or `:authority`.
    pub authority: Option<Vec<u8>>,
    /// Path with query, as sent.
    pub target: Vec<u8>,
    /// All else.
    pub message: Message,
}

/// The answering half.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Response {
    /// Status code; `None`: it was not seen (its header was before the capture, or lost).
    pub status: Option<u16>,
    /// Reason phrase, where the protocol has one.
    pub reason: Vec<u8>,
    /// All else.
    pub message: Message,
}

/// What requests and responses have in common.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// Headers in their order, names as sent.
    pub headers: Vec<Header>,
    /// Trailers in their order.
    pub trailers: Vec<Header>,
    /// The body, decoded. Shared: whoever changes something else of the message need not copy it.
    pub body: Arc<Body>,
    /// Monotonic, ns: the call that had the first byte.
    pub began_ns: u64,
    /// Monotonic, ns: the call that had the last byte; 0 while it is not complete.
    pub ended_ns: u64,
    /// Bytes of the message that were never captured: losses inside of it.
    pub missing: u64,
    /// The end was seen, by the protocol's own rules.
    pub complete: bool,
}

/// A header or a trailer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Name as sent; lower-case in HTTP/2. `None`: it was said before the capture began.
    pub name: Option<Vec<u8>>,
    /// Value. `None`: it was said before the capture began (the dynamic table of HPACK).
    pub value: Option<Vec<u8>>,
}

impl Exchange {
    /// When it was over: the last byte of either half.
    #[must_use]
    pub fn ended_ns(&self) -> u64 {
        self.halves().map(|message| message.ended_ns.max(message.began_ns)).max().unwrap_or(0)
    }

    /// From the first byte of the request to the last of the response; `None` if one of them was not seen.
    #[must_use]
    pub fn duration_ns(&self) -> Option<u64> {
        let request = &self.request.as_ref()?.message;
        let response = &self.response.as_ref()?.message;
        (response.ended_ns > 0).then(|| response.ended_ns.max(request.ended_ns).saturating_sub(request.began_ns))
    }

    /// Bytes of it that were never captured.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.halves().fold(0, |sum, message| sum.saturating_add(message.missing))
    }

    /// Both halves came, each up to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.request.is_some() && self.response.is_some() && self.halves().all(|message| message.complete)
    }

    fn halves(&self) -> impl Iterator<Item = &Message> {
        let request = self.request.iter().map(|request| &request.message);
        request.chain(self.response.iter().map(|response| &response.message))
    }
}

impl Message {
    /// The first header of this name, upper or lower case, whose value is known.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.is(name)).and_then(|header| header.value.as_deref())
    }

    /// All known values of the headers of this name, upper or lower case.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |header| header.is(name)).filter_map(|header| header.value.as_deref())
    }
}

impl Header {
    /// Its name is this one, upper or lower case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
    }
}
