//! What is said on a connection beside whole exchanges, and told as soon as it is complete: an event within a response, a message
//! behind an upgrade, a piece of a stream that is shown as it is.

use super::exchange::{Direction, Exchange, Request, Response};
use super::follow::Piece;
use super::sse::Event;
use super::websocket::Message;

/// One thing that was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The exchange to which it belongs, without headers and bodies; nothing is in it if there is none.
    pub of: Exchange,
    /// Which way it went.
    pub direction: Direction,
    /// Monotonic, ns: the call that had its last byte.
    pub time_ns: u64,
    /// It.
    pub what: What,
}

/// What was said.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A message of a WebSocket.
    Message(Message),
    /// A Server-Sent Event.
    Event(Event),
    /// A piece of a stream.
    Piece(Piece),
}

impl Said {
    /// Bytes of memory, about.
    #[must_use]
    pub fn held(&self) -> usize {
        size_of::<Self>()
            + match &self.what {
                What::Message(message) => message.bytes.capacity(),
                What::Event(event) => event.data.capacity(),
                What::Piece(piece) => piece.bytes.capacity(),
            }
    }
}

impl Exchange {
    /// Which exchange it is: address, method and status, not what was transferred.
    #[must_use]
    pub fn outline(&self) -> Self {
        let request = self.request.as_ref().map(|request| Request {
            method: request.method.clone(),
            scheme: request.scheme.clone(),
            authority: request.authority.clone(),
            target: request.target.clone(),
            ..Request::default()
        });
        let response =
            self.response.as_ref().map(|response| Response { status: response.status, ..Response::default() });
        Self {
            version: self.version,
            substream: self.substream,
            client: self.client,
            request,
            response,
            notes: Vec::new(),
        }
    }
}
