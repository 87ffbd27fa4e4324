//! HTTP/1.x: the messages of each direction ([`half`]), put together to requests with their responses (`pairs`).
//!
//! Which direction asks is found from the bytes. A response belongs to the oldest request that has none yet; where bytes were
//! lost that could have held whole messages, that is no longer certain, and then it is said.

pub mod find;
mod framing;
pub mod half;
pub mod head;
mod pairs;

use super::body::BodyLimits;
use super::exchange::{Direction, Exchange, Protocol};
use super::said::Said;
use half::Half;
use head::Kind;
use pairs::Pairs;

/// The parser of one connection.
#[derive(Debug)]
pub struct Http1 {
    transmit: Half,
    receive: Half,
    pairs: Pairs,
    switched: Option<Switched>,
}

/// The connection goes on with another protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// What the server agreed to, in lower case: `websocket`, `h2c`; `tunnel` after CONNECT; empty: the bytes are no longer HTTP.
    pub to: Vec<u8>,
    /// Of the bytes of the call that said so, the last ones are of the other protocol already.
    pub rest: usize,
    /// Value of `Sec-WebSocket-Extensions` of the answer.
    pub extensions: Option<Vec<u8>>,
    /// In which direction requests went.
    pub requests: Direction,
}

impl Http1 {
    /// For a connection of which nothing has been seen.
    #[must_use]
    pub fn new(limits: BodyLimits) -> Self {
        Self { transmit: Half::new(limits), receive: Half::new(limits), pairs: Pairs::default(), switched: None }
    }

    /// Set once nothing more on the connection is HTTP/1; what comes then is not looked at.
    #[must_use]
    pub fn switched(&self) -> Option<&Switched> {
        self.switched.as_ref()
    }

    /// Bytes that belonged to no message that could be read; asked for once.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.transmit.skipped) + std::mem::take(&mut self.receive.skipped)
    }

    /// Events of responses that are not complete; asked for once.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.pairs.said)
    }

    /// The connection has ended: so has a body that has no other end. To be followed by [`Protocol::finish`].
    pub fn closed(&mut self) {
        self.transmit.closed(&mut self.pairs);
        self.receive.closed(&mut self.pairs);
    }

    /// A body is open that ends with the connection.
    #[must_use]
    pub fn until_close(&self) -> bool {
        self.transmit.until_close() || self.receive.until_close()
    }

    fn halves(&mut self, direction: Direction) -> (&mut Half, &mut Half) {
        match direction {
            Direction::Transmit => (&mut self.transmit, &mut self.receive),
            Direction::Receive => (&mut self.receive, &mut self.transmit),
        }
    }

    /// Both directions have their part once one of them has.
    fn settle_kinds(&mut self, direction: Direction) {
        let (half, other) = self.halves(direction);
        let Some(kind) = half.kind else { return };
        other.kind.get_or_insert(if kind == Kind::Requests { Kind::Responses } else { Kind::Requests });
        self.pairs.client = Some((kind == Kind::Requests) == (direction == Direction::Transmit));
    }

    fn step(&mut self, direction: Direction, time_ns: u64, bytes: &[u8], begins_call: bool) -> usize {
        let (transmit, receive, pairs) = (&mut self.transmit, &mut self.receive, &mut self.pairs);
        let (half, other) = match direction {
            Direction::Transmit => (transmit, receive),
            Direction::Receive => (receive, transmit),
        };
        let begun = pairs.begun_requests;
        let taken = half.step(time_ns, bytes, begins_call, pairs);
        if pairs.begun_requests != begun {
            // Who asks again has had the answer: a body without a length has ended.
            other.ended_by_request(pairs);
        }
        taken
    }
}

impl Protocol for Http1 {
    fn data(&mut self, direction: Direction, time_ns: u64, bytes: &[u8], out: &mut Vec<Exchange>) {
        let mut rest = bytes;
        let mut begins_call = true;
        // Each step takes a byte or changes the state, and no state comes again before a byte is taken.
        let mut idle = 0;
        while !rest.is_empty() && self.switched.is_none() {
            let taken = self.step(direction, time_ns, rest, begins_call);
            begins_call &= taken == 0;
            idle = if taken == 0 { idle + 1 } else { 0 };
            debug_assert!(idle < 8, "no progress");
            if idle >= 8 {
                self.halves(direction).0.skipped += rest.len() as u64;
                break;
            }
            rest = rest.get(taken..).unwrap_or_default();
            self.settle_kinds(direction);
            if let Some((to, extensions)) = self.pairs.switched.take() {
                let requests = if self.pairs.client == Some(false) { Direction::Receive } else { Direction::Transmit };
                self.switched = Some(Switched { to, rest: rest.len(), extensions, requests });
                let (transmit, receive, pairs) = (&mut self.transmit, &mut self.receive, &mut self.pairs);
                transmit.finish(pairs);
                receive.finish(pairs);
                pairs.finish("");
            }
        }
        self.pairs.emit(out);
    }

    fn gap(&mut self, direction: Direction, time_ns: u64, len: Option<u64>, out: &mut Vec<Exchange>) {
        if len == Some(0) || self.switched.is_some() {
            return;
        }
        let (transmit, receive, pairs) = (&mut self.transmit, &mut self.receive, &mut self.pairs);
        let half = if direction == Direction::Transmit { transmit } else { receive };
        half.gap(time_ns, len, pairs);
        pairs.emit(out);
    }

    fn finish(&mut self, out: &mut Vec<Exchange>) {
        self.transmit.finish(&mut self.pairs);
        self.receive.finish(&mut self.pairs);
        self.pairs.finish("no response was seen");
        self.pairs.emit(out);
    }

    fn held(&self) -> usize {
        self.transmit.held() + self.receive.held() + self.pairs.held()
    }
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
