//! One stream of a connection: its two halves, until they are an exchange.
//!
//! Where the beginning is missing, what a header block is has to be told by what is known of it. No value is ever made up; but the
//! last block of a half of which nothing else was seen, and whose first name is not known, may be trailers and is taken for headers
//! without a status, and an informational response whose status is not known may be taken for the final one.

use super::hpack::Block;
use crate::stream::{
    body::{Body, BodyLimits, BodyReader},
    exchange::{Exchange, Header, Message, Request, Response},
    sse::Event,
};

/// Notes of one exchange that are kept.
const NOTES: usize = 16;

/// A stream, by the direction of its halves: which of them asks is a matter of the connection.
#[derive(Debug, Default)]
pub(super) struct Substream {
    pub halves: [Half; 2],
    /// What the server said was asked (PUSH_PROMISE), and when.
    pub promised: Option<(Vec<Header>, u64)>,
    pub notes: Vec<String>,
    /// It was reset, or refused: nothing more comes.
    pub closed: bool,
    /// Bytes of memory for which it was counted.
    pub counted: usize,
}

/// What goes in one direction of a stream.
#[derive(Debug, Default)]
pub(super) struct Half {
    pub seen: bool,
    headers: Option<Vec<Header>>,
    trailers: Vec<Header>,
    body: Option<BodyReader>,
    data: bool,
    began_ns: u64,
    ended_ns: u64,
    pub ended: bool,
    /// Bytes of the connection were lost while it was open, and nobody knows whose they were.
    pub uncertain: bool,
    /// Bytes of the body that came since then: where they belong is not known.
    behind: u64,
    missing: u64,
}

/// What a header block says of who sent it.
pub(super) fn is_request(fields: &[Header]) -> Option<bool> {
    fields.iter().filter_map(|field| field.name.as_deref()).find_map(|name| match name {
        b":method" | b":path" | b":scheme" | b":authority" => Some(true),
        b":status" => Some(false),
        _ => None,
    })
}

fn status(fields: &[Header]) -> Option<u16> {
    let field = fields.iter().find(|field| field.is(":status"))?;
    std::str::from_utf8(field.value.as_deref()?).ok()?.parse().ok()
}

/// What headers of which no name is known look like. A response has one pseudo-header, and one that is unknown as a whole is more
/// often it than all of a request's at once: of those, `:scheme` is in the static table with all values that there are.
fn looks_like_request(fields: &[Header]) -> bool {
    is_request(fields).unwrap_or_else(|| {
        let unnamed = fields.iter().take_while(|field| field.name.is_none());
        unnamed.filter_map(|field| field.value.as_deref()).any(|value| matches!(value, b"http" | b"https" | [b'/', ..]))
    })
}

/// It may be the status: its name is not known, and its value is either not known or a status.
fn may_be_status(field: &Header) -> bool {
    let is_status = |value: &Vec<u8>| value.len() == 3 && value.iter().all(u8::is_ascii_digit);
    field.name.is_none() && field.value.as_ref().is_none_or(is_status)
}

impl Substream {
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.notes.len() < NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// A block of headers came in this direction.
    pub fn block(&mut self, half: usize, block: Block, time_ns: u64, end: bool, limits: BodyLimits) {
        if block.dropped > 0 {
            self.note(format!("{} headers were left out: there are too many", block.dropped));
        }
        if let Some(index) = block.out_of_range {
            self.note(format!("its headers refer to an entry that does not exist (HPACK index {index})"));
        }
        if block.broken {
            self.note("its headers are broken off");
        }
        let late = block.fields.iter().any(|field| field.value.is_none());
        if late {
            self.note("headers that are not known were said before the capture");
        }
        let mut fields = block.fields;
        // What does not end the stream is no trailer, and what begins without a pseudo-header that is known begins with the status.
        if !end
            && is_request(&fields).is_none()
            && let Some(first) = fields.first_mut().filter(|first| first.value.is_some() && may_be_status(first))
        {
            first.name = Some(b":status".to_vec());
        }
        if let Some(status) = status(&fields).filter(|status| (100..200).contains(status) && !end) {
            self.note(format!("informational response {status}"));
            self.half(half).touch(time_ns);
            return;
        }
        let half = self.half(half);
        half.touch(time_ns);
        // Only what leads has pseudo-headers, and only trailers end the stream behind something else.
        let behind = half.headers.is_some() || half.data;
        let leads = is_request(&fields).is_some()
            || !end
            || (!behind && (fields.first().is_some_and(may_be_status) || looks_like_request(&fields)));
        let before = half.headers.as_deref().map(status);
        // A status behind one that is not known: that was an informational one.
        let leads = leads
            || (before == Some(None)
                && fields.first().is_some_and(|field| field.value.is_some() && may_be_status(field)));
        if !leads || half.data || before.is_some_and(|status| status.is_some()) {
            half.trailers.extend(fields);
        } else {
            let unknown = fields.iter().any(|field| field.is("content-encoding") && field.value.is_none());
            let named = fields.iter().filter(|field| field.is("content-encoding"));
            let named = named.filter_map(|field| field.value.as_deref());
            let unknown = unknown.then_some(&b"said before the capture"[..]);
            // What asks has no events.
            let kind =
                if is_request(&fields) == Some(true) { None } else { fields.iter().find(|f| f.is("content-type")) };
            let kind = kind.and_then(|field| field.value.as_deref());
            half.body = Some(BodyReader::of(limits, kind, named.chain(unknown)));
            half.headers = Some(fields);
            if before.is_some() {
                self.note("informational response of unknown status");
            }
        }
    }

    /// Bytes of the body; the events that are complete with them.
    pub fn data(&mut self, half: usize, bytes: &[u8], time_ns: u64) -> Vec<Event> {
        let half = self.half(half);
        half.touch(time_ns);
        half.data = true;
        match &mut half.body {
            // Behind what is missing nobody knows the place of a byte.
            Some(body) if !half.uncertain && half.missing == 0 => {
                body.push(bytes);
                body.take_events()
            }
            _ => {
                half.behind += bytes.len() as u64;
                Vec::new()
            }
        }
    }

    /// Which exchange it will be. `asks`: the half that asks.
    pub fn outline(&self, id: u32, asks: usize) -> Exchange {
        let [first, second] = &self.halves;
        let (asking, answering) = if asks == 0 { (first, second) } else { (second, first) };
        let promised = self.promised.as_ref().map(|(fields, _)| fields.as_slice());
        let request = promised.or(asking.headers.as_deref()).map(|fields| {
            let value = |name: &str| fields.iter().find(|field| field.is(name)).and_then(|field| field.value.clone());
            Request {
                method: value(":method").unwrap_or_default(),
                scheme: value(":scheme"),
                authority: value(":authority").or_else(|| value("host")),
                target: value(":path").unwrap_or_default(),
                ..Request::default()
            }
        });
        let response =
            answering.headers.as_deref().map(|fields| Response { status: status(fields), ..Response::default() });
        Exchange { version: "2", substream: u64::from(id), request, response, ..Exchange::default() }
    }

    /// Bytes of the body are missing.
    pub fn gap(&mut self, half: usize, len: u64) {
        let half = self.half(half);
        half.missing += len;
        half.data = true;
        if let Some(body) = &mut half.body {
            body.gap(len);
        }
    }

    /// Bytes of the connection are missing, perhaps some of this half.
    pub fn uncertain(&mut self, half: usize) {
        let half = self.half(half);
        if half.seen && !half.ended {
            half.uncertain = true;
            self.note("bytes of the connection were lost while it was open");
        }
    }

    /// The half is complete.
    pub fn end(&mut self, half: usize, time_ns: u64) {
        let half = self.half(half);
        half.touch(time_ns);
        half.ended = true;
        half.ended_ns = time_ns;
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        let fields = |fields: &[Header]| -> usize {
            let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::capacity);
            fields.iter().map(|field| size_of::<Header>() + bytes(&field.name) + bytes(&field.value)).sum()
        };
        let half = |half: &Half| {
            half.headers.as_deref().map_or(0, fields)
                + fields(&half.trailers)
                + half.body.as_ref().map_or(0, BodyReader::held)
        };
        size_of::<Self>()
            + self.halves.iter().map(half).sum::<usize>()
            + self.promised.as_ref().map_or(0, |(promised, _)| fields(promised))
            + self.notes.iter().map(String::capacity).sum::<usize>()
    }

    /// What was seen of it. `asks`: the half that asks, if that is known.
    pub fn into_exchange(mut self, id: u32, asks: Option<usize>, client: Option<bool>) -> Exchange {
        // A half says by its headers what it is, even where the connection does not.
        let by_headers = || {
            let of = |half: &Half| half.headers.as_deref().map(looks_like_request);
            let [first, second] = &self.halves;
            match (of(first), of(second)) {
                (Some(true), _) | (None, Some(false)) => 0,
                (_, Some(true)) | (Some(false), _) => 1,
                // Nothing says it: what there is may as well be the answer.
                (None, None) => usize::from(first.seen),
            }
        };
        let asks = asks.unwrap_or_else(by_headers).min(1);
        if let Some((promised, began_ns)) = self.promised.take() {
            let half = Half {
                seen: true,
                headers: Some(promised),
                began_ns,
                ended_ns: began_ns,
                ended: true,
                ..Half::default()
            };
            let answer = if self.halves[0].seen { 0 } else { 1 };
            self.halves.swap(answer, 1 - asks);
            self.halves[asks] = half;
        }
        let [first, second] = self.halves;
        let (request, response) = if asks == 0 { (first, second) } else { (second, first) };
        Exchange {
            version: "2",
            substream: u64::from(id),
            client,
            request: request.seen.then(|| request.into_request()),
            response: response.seen.then(|| response.into_response()),
            notes: self.notes,
        }
    }

    fn half(&mut self, half: usize) -> &mut Half {
        &mut self.halves[usize::from(half != 0)]
    }
}

impl Half {
    fn touch(&mut self, time_ns: u64) {
        if !self.seen {
            self.seen = true;
            self.began_ns = time_ns;
        }
    }

    /// Takes the value of a pseudo-header out of the headers; it stays there if its value is not known.
    fn take(headers: &mut Vec<Header>, name: &str) -> Option<Vec<u8>> {
        let at = headers.iter().position(|field| field.is(name) && field.value.is_some())?;
        headers.remove(at).value
    }

    fn into_request(mut self) -> Request {
        let mut headers = self.headers.take().unwrap_or_default();
        let method = Self::take(&mut headers, ":method").unwrap_or_default();
        let scheme = Self::take(&mut headers, ":scheme");
        let target = Self::take(&mut headers, ":path").unwrap_or_default();
        let authority = Self::take(&mut headers, ":authority");
        let message = self.into_message(headers);
        let authority = authority.or_else(|| message.header("host").map(<[u8]>::to_vec));
        Request { method, scheme, authority, target, message }
    }

    fn into_response(mut self) -> Response {
        let mut headers = self.headers.take().unwrap_or_default();
        let status = status(&headers);
        if status.is_some() {
            Self::take(&mut headers, ":status");
        }
        Response { status, reason: Vec::new(), message: self.into_message(headers) }
    }

    fn into_message(self, headers: Vec<Header>) -> Message {
        let mut body = self.body.map_or_else(Body::default, BodyReader::finish);
        body.wire += self.behind;
        if self.behind > 0 {
            body.problem.get_or_insert_with(|| "bytes before this were lost or not captured".to_owned());
        }
        Message {
            headers,
            trailers: self.trailers,
            body: body.into(),
            began_ns: self.began_ns,
            ended_ns: self.ended_ns,
            missing: self.missing,
            complete: self.ended,
        }
    }
}
