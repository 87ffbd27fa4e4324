//! Requests and the responses to them.

use std::collections::VecDeque;

use super::super::exchange::{Direction, Exchange, Header, Message, Request, Response};
use super::super::said::{Said, What};
use super::super::sse::Event;

/// Requests without an answer that are remembered; the oldest is told without one then.
const MAX_WAITING: usize = 128;
/// The same if nothing at all has been seen of the answers.
const MAX_UNHEARD: usize = 8;

/// How far one half of a pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Progress {
    /// Nothing of it has come.
    #[default]
    Waiting,
    /// It has begun.
    Open,
    /// Nothing more of it comes.
    Done,
}

#[derive(Debug, Default)]
struct Pair {
    exchange: Exchange,
    asked: Progress,
    answered: Progress,
    /// Its answer may have been among bytes that were lost.
    doubt: bool,
}

/// The requests of a connection that are not told yet, in their order.
#[derive(Debug, Default)]
pub struct Pairs {
    queue: VecDeque<Pair>,
    /// The process is the one who asks.
    pub client: Option<bool>,
    /// Requests that have begun.
    pub begun_requests: u64,
    /// Another protocol takes over: which, and the extensions agreed to.
    pub switched: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// What is told of responses that are not complete.
    pub said: Vec<Said>,
    /// Something was seen of answers.
    heard: bool,
    /// A request was sent before the one before was answered.
    pipelined: bool,
    /// Bytes were lost while requests were pipelined.
    unsure: bool,
}

impl Pairs {
    /// A request has begun.
    pub fn request(&mut self, version: &'static str, request: Request, notes: Vec<String>) {
        self.begun_requests += 1;
        for pair in self.queue.iter_mut().filter(|pair| pair.answered == Progress::Waiting) {
            if !pair.doubt {
                self.pipelined = true;
            } else if self.pipelined {
                self.unsure = true;
            } else {
                // Nobody asks again before the answer has come: it was lost.
                pair.answered = Progress::Done;
                pair.exchange.notes.push("its response was lost".into());
            }
        }
        let waiting = self.queue.iter().filter(|pair| pair.answered == Progress::Waiting).count();
        if waiting >= if self.heard { MAX_WAITING } else { MAX_UNHEARD } {
            self.unsure |= self.heard;
            if let Some(pair) = self.queue.iter_mut().find(|pair| pair.answered == Progress::Waiting) {
                pair.answered = Progress::Done;
                pair.exchange.notes.push("no response was seen".into());
            }
        }
        let exchange = Exchange { version, request: Some(request), notes, ..Exchange::default() };
        self.queue.push_back(Pair { exchange, asked: Progress::Open, ..Pair::default() });
    }

    /// The request that is still being sent.
    pub fn open_request(&mut self) -> Option<&mut Message> {
        let pair = self.queue.iter_mut().find(|pair| pair.asked == Progress::Open)?;
        pair.exchange.request.as_mut().map(|request| &mut request.message)
    }

    /// The request that is still being sent is all there, or as much of it as ever will be.
    pub fn request_done(&mut self, note: Option<String>) {
        if let Some(pair) = self.queue.iter_mut().find(|pair| pair.asked == Progress::Open) {
            pair.asked = Progress::Done;
            pair.exchange.notes.extend(note);
        }
    }

    /// Method of the request that the next response answers; `None`: not known.
    pub fn method(&self) -> Option<&[u8]> {
        let pair = self.queue.iter().find(|pair| pair.answered == Progress::Waiting)?;
        pair.exchange.request.as_ref().map(|request| request.method.as_slice())
    }

    /// A response has begun.
    pub fn response(&mut self, version: &'static str, response: Response, mut notes: Vec<String>) {
        self.heard = true;
        if self.unsure {
            notes.push("which request it answers is not certain: bytes were lost".into());
        }
        let waiting = self.queue.iter_mut().find(|pair| pair.answered == Progress::Waiting);
        let pair = match waiting {
            Some(pair) => pair,
            None => {
                self.queue.push_back(Pair { asked: Progress::Done, ..Pair::default() });
                match self.queue.back_mut() {
                    Some(pair) => pair,
                    None => return,
                }
            }
        };
        pair.answered = Progress::Open;
        if pair.exchange.version.is_empty() {
            pair.exchange.version = version;
        }
        pair.exchange.response = Some(response);
        pair.exchange.notes.append(&mut notes);
    }

    /// An answer that another one follows (100 Continue).
    pub fn interim(&mut self, status: u16) {
        self.heard = true;
        if let Some(pair) = self.queue.iter_mut().find(|pair| pair.answered == Progress::Waiting) {
            pair.exchange.notes.push(format!("answered {status} first"));
        }
    }

    /// The response that is still being sent.
    pub fn open_response(&mut self) -> Option<&mut Message> {
        let pair = self.queue.iter_mut().find(|pair| pair.answered == Progress::Open)?;
        pair.exchange.response.as_mut().map(|response| &mut response.message)
    }

    /// These events were in the response that is still being sent.
    pub fn events(&mut self, events: Vec<Event>, time_ns: u64) {
        let pair = self.queue.iter().find(|pair| pair.answered == Progress::Open);
        let Some(pair) = pair.filter(|_| !events.is_empty()) else { return };
        let direction = if self.client == Some(false) { Direction::Transmit } else { Direction::Receive };
        let of = Exchange { client: self.client, ..pair.exchange.outline() };
        let said = |event| Said { of: of.clone(), direction, time_ns, what: What::Event(event) };
        self.said.extend(events.into_iter().map(said));
    }

    /// The response that is still being sent is all there, or as much of it as ever will be.
    pub fn response_done(&mut self, note: Option<String>) {
        if let Some(pair) = self.queue.iter_mut().find(|pair| pair.answered == Progress::Open) {
            pair.answered = Progress::Done;
            pair.exchange.notes.extend(note);
        }
    }

    /// Bytes were lost in which whole requests may have been.
    pub fn requests_lost(&mut self) {
        self.unsure |= self.pipelined;
    }

    /// Bytes were lost in which whole responses may have been.
    pub fn responses_lost(&mut self) {
        let waiting = self.queue.iter_mut().filter(|pair| pair.answered == Progress::Waiting);
        let count = waiting.map(|pair| pair.doubt = true).count();
        self.unsure |= count > 1;
    }

    /// Nothing more comes. `unanswered` is said of requests without a response, if it is not empty.
    pub fn finish(&mut self, unanswered: &str) {
        for pair in &mut self.queue {
            if pair.answered == Progress::Waiting && !unanswered.is_empty() {
                pair.exchange.notes.push(unanswered.into());
            }
            (pair.asked, pair.answered) = (Progress::Done, Progress::Done);
        }
    }

    /// Hands over what is done, in order.
    pub fn emit(&mut self, out: &mut Vec<Exchange>) {
        while self.queue.front().is_some_and(|p| p.asked == Progress::Done && p.answered == Progress::Done) {
            let Some(pair) = self.queue.pop_front() else { return };
            out.push(Exchange { client: self.client, ..pair.exchange });
        }
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        let of_header = |header: &Header| {
            let len = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::capacity);
            size_of::<Header>() + len(&header.name) + len(&header.value)
        };
        let of_message = |message: &Message| {
            let headers = message.headers.iter().chain(&message.trailers).map(of_header).sum::<usize>();
            headers + message.body.bytes.capacity()
        };
        let of_pair = |pair: &Pair| {
            let asked = pair.exchange.request.as_ref().map_or(0, |r| r.target.capacity() + of_message(&r.message));
            let answered = pair.exchange.response.as_ref().map_or(0, |r| of_message(&r.message));
            size_of::<Pair>() + asked + answered
        };
        self.queue.iter().map(of_pair).sum()
    }
}
