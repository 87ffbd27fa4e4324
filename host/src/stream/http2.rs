//! HTTP/2 (RFC 9113): frames of two directions become exchanges.
//!
//! Here is the connection: what its streams are and when one is done. `side` takes a direction apart into frames, `hpack`
//! knows headers, `resync` finds frames where the beginning is missing, `substream` is one stream. The bytes are hostile and
//! partial: whatever comes, memory is bounded, and what is not known is said to be unknown.
//!
//! What endpoints answer with an end of the connection is tolerated as far as it can be read; where it cannot, frames are searched
//! for as behind a gap.

mod frame;
mod hpack;
mod huffman;
mod resync;
#[cfg(test)]
mod script;
mod side;
mod substream;

use std::collections::{BTreeMap, VecDeque};

use super::{
    body::BodyLimits,
    exchange::{Direction, Exchange, Protocol},
    said::{Said, What},
};
use frame::{HEAD, PREFACE, SETTINGS};
use hpack::Block;
use resync::Resync;
use side::{Action, Loss, Side};
use substream::{Substream, is_request};

/// Streams that may be open at once; the oldest gives way.
const OPEN: usize = 2048;
/// Streams that were closed while the peer may still send on them: so many are remembered.
const CLOSED: usize = 256;
/// Bytes in which frames must have been found, if these are frames.
const SNIFFED: usize = 64 << 10;

/// A connection of HTTP/2.
#[derive(Debug)]
pub struct Http2 {
    sides: [Side; 2],
    streams: Streams,
}

#[derive(Debug)]
struct Streams {
    limits: BodyLimits,
    open: BTreeMap<u32, Substream>,
    closed: VecDeque<u32>,
    /// Streams of which one frame of data was seen, and nothing else.
    heard: VecDeque<u32>,
    client: Option<bool>,
    /// Bytes of memory that the streams hold, as far as they were counted: it is asked for at every call.
    held: usize,
    /// What is told of streams that are not complete.
    said: Vec<Said>,
}

/// Whether these bytes, the first of a direction, begin HTTP/2: with the preface of a client, or the settings of a server.
/// `None`: too few bytes to tell.
#[must_use]
pub fn begins(bytes: &[u8]) -> Option<bool> {
    let common = bytes.len().min(PREFACE.len());
    if !bytes.is_empty() && bytes.get(..common) == PREFACE.get(..common) {
        return (common == PREFACE.len()).then_some(true);
    }
    // Settings: their length (at most 42 of them), type 4, no flags, stream 0.
    let shape = |at: usize, byte: u8| match at {
        0 | 1 | 4..=8 => byte == 0,
        2 => byte.is_multiple_of(6),
        _ => byte == SETTINGS,
    };
    if !bytes.iter().take(HEAD).enumerate().all(|(at, byte)| shape(at, *byte)) {
        return Some(false);
    }
    (bytes.len() >= HEAD).then_some(true)
}

/// Whether these bytes, out of the middle of a direction, are HTTP/2: a run of frames is in them. `None`: too few bytes to tell.
#[must_use]
pub fn continues(bytes: &[u8]) -> Option<bool> {
    if Resync::default().push(0, bytes.get(..SNIFFED).unwrap_or(bytes)).1 {
        return Some(true);
    }
    (bytes.len() >= SNIFFED).then_some(false)
}

impl Http2 {
    /// `late`: the beginning of the connection was not seen. If it turns out that it was (there is a preface), all the better.
    #[must_use]
    pub fn new(limits: BodyLimits, late: bool) -> Self {
        let streams = Streams {
            limits,
            open: BTreeMap::new(),
            closed: VecDeque::new(),
            heard: VecDeque::new(),
            client: None,
            held: 0,
            said: Vec::new(),
        };
        Self { sides: [Side::new(late), Side::new(late)], streams }
    }

    /// Whether the process is the client, once that is known.
    #[must_use]
    pub fn client(&self) -> Option<bool> {
        self.streams.client
    }

    /// Events of responses that are not complete; asked for once.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.streams.said)
    }

    fn settle(&mut self, out: &mut Vec<Exchange>) {
        let ids: Vec<u32> = self.streams.open.keys().copied().collect();
        for id in ids {
            self.streams.settle(id, &self.sides, out);
        }
    }
}

/// 0: what the process sends.
fn index(direction: Direction) -> usize {
    usize::from(direction == Direction::Receive)
}

impl Protocol for Http2 {
    fn data(&mut self, direction: Direction, time_ns: u64, bytes: &[u8], out: &mut Vec<Exchange>) {
        self.feed(index(direction), time_ns, bytes, out);
    }

    fn gap(&mut self, direction: Direction, _time_ns: u64, len: Option<u64>, out: &mut Vec<Exchange>) {
        let at = index(direction);
        self.reread(at, out);
        let loss = self.sides[at].gap(len);
        self.streams.lose(at, loss, self.sides[at].is_lost());
    }

    fn finish(&mut self, out: &mut Vec<Exchange>) {
        for at in 0..2 {
            self.reread(at, out);
            let block = self.sides[at].abandon();
            self.streams.lose(at, Loss { data: None, block }, false);
        }
        self.streams.held = 0;
        for (id, stream) in std::mem::take(&mut self.streams.open) {
            let exchange = self.streams.exchange(id, stream);
            out.extend(exchange);
        }
    }

    fn held(&self) -> usize {
        size_of::<Self>() + self.sides.iter().map(Side::held).sum::<usize>() + self.streams.held
    }
}

impl Http2 {
    fn feed(&mut self, at: usize, time_ns: u64, bytes: &[u8], out: &mut Vec<Exchange>) {
        let was_lost = self.sides[at].is_lost();
        // What is to be read again comes before the rest, and may itself be lost and found.
        let mut again: Vec<(u64, Vec<u8>, usize)> = Vec::new();
        let mut rest = bytes;
        loop {
            let found = match again.pop() {
                None => {
                    let Some(found) = self.read(at, time_ns, &mut rest, out) else { break };
                    found
                }
                Some((time_ns, bytes, from)) => {
                    let mut rest = bytes.get(from..).unwrap_or_default();
                    let Some(found) = self.read(at, time_ns, &mut rest, out) else { continue };
                    let from = bytes.len() - rest.len();
                    again.push((time_ns, bytes, from));
                    found
                }
            };
            again.extend(found.into_iter().rev().map(|(time_ns, bytes)| (time_ns, bytes, 0)));
        }
        if was_lost && !self.sides[at].is_lost() {
            self.settle(out);
        }
    }

    /// Reads to the end, or to where something is to be read again first.
    fn read(
        &mut self,
        at: usize,
        time_ns: u64,
        rest: &mut &[u8],
        out: &mut Vec<Exchange>,
    ) -> Option<Vec<(u64, Vec<u8>)>> {
        while let Some(action) = self.sides[at].next(time_ns, rest) {
            if let Action::Reread(pieces) = action {
                return Some(pieces);
            }
            self.act(at, action, time_ns, out);
        }
        None
    }

    /// Reads what is held while frames are searched for: no more is to come behind it.
    fn reread(&mut self, at: usize, out: &mut Vec<Exchange>) {
        for (time_ns, bytes) in self.sides[at].end() {
            self.feed(at, time_ns, &bytes, out);
        }
    }

    fn act(&mut self, at: usize, action: Action<'_>, time_ns: u64, out: &mut Vec<Exchange>) {
        let streams = &mut self.streams;
        match action {
            Action::Preface => {
                streams.client = Some(at == 0);
                self.sides[1 - at].begin();
            }
            Action::Again | Action::Reread(_) => {}
            Action::Lost(loss) => streams.lose(at, loss, true),
            Action::Block { stream, block, began_ns, end } => {
                streams.block(stream, at, block, began_ns, end);
                if end && let Some(open) = streams.open.get_mut(&stream) {
                    open.end(at, time_ns);
                }
                streams.count(stream);
                streams.settle(stream, &self.sides, out);
                streams.limit(out);
            }
            Action::Promise { stream, promised, block, began_ns } => {
                streams.client = Some(at == 1);
                if let Some(new) = streams.entry(promised) {
                    new.note(format!("pushed by the server with stream {stream}"));
                    new.promised = Some((block.fields, began_ns));
                }
                streams.count(promised);
                streams.limit(out);
            }
            Action::Frame { stream } => {
                if self.sides[at].was_lost() {
                    streams.hear_of(stream);
                    streams.limit(out);
                }
            }
            Action::Data { stream, bytes } => {
                if let Some(open) = streams.open.get_mut(&stream) {
                    let events = open.data(at, bytes, time_ns);
                    if !events.is_empty() {
                        let direction = if at == 0 { Direction::Transmit } else { Direction::Receive };
                        // The half that has events answers.
                        let of = Exchange { client: streams.client, ..open.outline(stream, 1 - at) };
                        let said = |event| Said { of: of.clone(), direction, time_ns, what: What::Event(event) };
                        streams.said.extend(events.into_iter().map(said));
                    }
                    streams.count(stream);
                }
            }
            Action::End { stream } => {
                if let Some(open) = streams.open.get_mut(&stream) {
                    open.end(at, time_ns);
                    streams.settle(stream, &self.sides, out);
                }
            }
            Action::Reset { stream, code } => {
                let who = if at == 0 { "process" } else { "peer" };
                streams.close(stream, &format!("reset by the {who} ({})", frame::error(code)));
                streams.settle(stream, &self.sides, out);
            }
            Action::Away { last, code } => {
                // Streams of the other end above `last` are not taken.
                let ours = |id: &u32| (id % 2 == 1) == (streams.client == Some(at == 1));
                let refused: Vec<u32> = match streams.client {
                    Some(_) => streams.open.range(last.saturating_add(1)..).map(|(id, _)| *id).filter(ours).collect(),
                    None => Vec::new(),
                };
                for id in refused {
                    streams.close(id, &format!("not taken: the connection ends ({})", frame::error(code)));
                    streams.settle(id, &self.sides, out);
                }
            }
        }
    }
}

impl Streams {
    /// The stream of this number, opened if it is not; `None`: it was closed.
    fn entry(&mut self, id: u32) -> Option<&mut Substream> {
        if !self.open.contains_key(&id) && self.closed.contains(&id) {
            return None;
        }
        Some(self.open.entry(id).or_default())
    }

    /// Data comes for a stream that is perhaps not open, where streams may have been opened unseen. One frame is no proof of it: the
    /// first one that is found in the middle may be none.
    fn hear_of(&mut self, id: u32) {
        if self.open.contains_key(&id) {
            return;
        }
        if self.heard.contains(&id) {
            self.entry(id);
            self.count(id);
            return;
        }
        if self.heard.len() >= CLOSED {
            self.heard.pop_front();
        }
        self.heard.push_back(id);
    }

    /// `open_ended`: what follows is not known to belong to the same frame.
    fn lose(&mut self, at: usize, loss: Loss, open_ended: bool) {
        if let Some((id, len)) = loss.data
            && let Some(stream) = self.open.get_mut(&id)
        {
            stream.gap(at, len);
        }
        if let Some((id, block, began_ns)) = loss.block {
            self.block(id, at, block, began_ns, false);
        }
        if open_ended {
            for stream in self.open.values_mut() {
                stream.uncertain(at);
            }
        }
    }

    fn block(&mut self, id: u32, at: usize, block: Block, began_ns: u64, end: bool) {
        if let Some(request) = is_request(&block.fields) {
            self.client = Some((at == 0) == request);
        }
        let limits = self.limits;
        if let Some(stream) = self.entry(id) {
            stream.block(at, block, began_ns, end, limits);
        }
    }

    fn close(&mut self, id: u32, note: &str) {
        if let Some(stream) = self.open.get_mut(&id) {
            stream.note(note);
            stream.closed = true;
        }
    }

    /// Hands the stream out if nothing more is to come of it.
    fn settle(&mut self, id: u32, sides: &[Side; 2], out: &mut Vec<Exchange>) {
        let Some(stream) = self.open.get(&id) else { return };
        let searching = sides.iter().any(Side::is_lost);
        let done = if stream.closed {
            !searching
        } else if stream.promised.is_some() {
            stream.halves.iter().any(|half| half.ended)
        } else if let Some(asks) = self.asks() {
            let (request, response) = (&stream.halves[asks], &stream.halves[1 - asks]);
            // A request comes before its response: one that was not seen by then was not captured.
            let no_more = request.ended || request.uncertain || (!request.seen && !sides[asks].is_lost());
            response.ended && no_more
        } else {
            stream.halves.iter().all(|half| half.ended)
        };
        if done && let Some(stream) = self.open.remove(&id) {
            self.held = self.held.saturating_sub(stream.counted);
            if stream.closed {
                self.remember(id);
            }
            let exchange = self.exchange(id, stream);
            out.extend(exchange);
        }
    }

    /// Counts anew what the stream holds.
    fn count(&mut self, id: u32) {
        if let Some(stream) = self.open.get_mut(&id) {
            let now = stream.held();
            self.held = (self.held + now).saturating_sub(std::mem::replace(&mut stream.counted, now));
        }
    }

    fn limit(&mut self, out: &mut Vec<Exchange>) {
        while self.open.len() > OPEN
            && let Some((id, mut stream)) = self.open.pop_first()
        {
            self.held = self.held.saturating_sub(stream.counted);
            stream.note("given up: too many streams are open");
            self.remember(id);
            let exchange = self.exchange(id, stream);
            out.extend(exchange);
        }
    }

    fn remember(&mut self, id: u32) {
        if self.closed.len() >= CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(id);
    }

    /// The half that asks.
    fn asks(&self) -> Option<usize> {
        self.client.map(|client| usize::from(!client))
    }

    /// `None`: nothing was seen of it.
    fn exchange(&self, id: u32, stream: Substream) -> Option<Exchange> {
        let seen = stream.promised.is_some() || stream.halves.iter().any(|half| half.seen);
        seen.then(|| stream.into_exchange(id, self.asks(), self.client))
    }
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
