//! Bodies: what came over the wire, decoded as its `Content-Encoding` says, kept up to a limit.
//!
//! Here is what a body is and what may be kept of it; the decoders are in `coding`.

mod coding;

use coding::{Chain, Stop};

use super::sse::{Event, Sse};

/// Bytes that are decoded of a run of events: it never ends, and what is held of it is bounded anyway.
const EVENTS: u64 = 1 << 32;

/// What bodies may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes that are kept of a decoded body; the rest is counted. 0: bodies are not decoded at all.
    pub keep: u64,
    /// Bytes that are decoded of a body; what goes beyond is marked and counted no further (a bomb).
    pub decode: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { keep: 1 << 20, decode: 1 << 32 }
    }
}

/// A body, as far as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// The decoded bytes that were kept: the first of the body, without a hole.
    pub bytes: Vec<u8>,
    /// Bytes of the decoded body, those that were not kept included. 0 if it was not to be decoded.
    pub decoded: u64,
    /// Bytes on the wire, without the framing of the protocol (chunk sizes, padding).
    pub wire: u64,
    /// Bytes of it (on the wire) that were never captured.
    pub missing: u64,
    /// What is wrong with it: an encoding that is not known or broken, a bomb, a gap behind which nothing can be decoded. The
    /// bytes up to there are right.
    pub problem: Option<String>,
}

impl Body {
    /// There is more of it than what was kept, and nothing is wrong but that.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.decoded > self.bytes.len() as u64
    }
}

/// Reads a body piece by piece.
#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    limits: BodyLimits,
    /// Set while there is something to decode.
    chain: Option<Chain>,
    /// It has an encoding: its bytes are not those of the wire.
    encoded: bool,
    /// It is a run of events: those that are complete and were not asked for.
    events: Option<Box<(Sse, Vec<Event>)>>,
}

impl BodyReader {
    /// `encodings`: the values of `Content-Encoding`, in their order, as they were sent (each may be a list).
    #[must_use]
    pub fn new<'a>(limits: BodyLimits, encodings: impl Iterator<Item = &'a [u8]>) -> Self {
        Self::with(limits, encodings, false)
    }

    /// Of this content type: a run of events is taken apart as it comes, whatever is kept of bodies.
    #[must_use]
    pub fn of<'a>(limits: BodyLimits, kind: Option<&[u8]>, encodings: impl Iterator<Item = &'a [u8]>) -> Self {
        Self::with(limits, encodings, kind.is_some_and(super::sse::is_sse))
    }

    fn with<'a>(limits: BodyLimits, encodings: impl Iterator<Item = &'a [u8]>, events: bool) -> Self {
        let events = events.then(Box::default);
        let limits = BodyLimits { decode: if events.is_some() { EVENTS } else { limits.decode }, ..limits };
        let mut reader = Self { body: Body::default(), limits, chain: None, encoded: false, events };
        if limits.keep == 0 && reader.events.is_none() {
            return reader;
        }
        let named = encodings.flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        let named: Vec<&[u8]> =
            named.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity")).collect();
        if !named.is_empty() {
            reader.encoded = true;
            match Chain::new(&named) {
                Ok(chain) => reader.chain = Some(chain),
                Err(why) => reader.body.problem = Some(why),
            }
        }
        reader
    }

    /// The next bytes of the wire.
    pub fn push(&mut self, bytes: &[u8]) {
        self.body.wire += bytes.len() as u64;
        if self.limits.keep == 0 && self.events.is_none() {
            return;
        }
        let tell = |piece: &[u8], events: &mut Option<Box<(Sse, Vec<Event>)>>| {
            if let Some((reader, told)) = events.as_deref_mut() {
                reader.push(piece, told);
            }
        };
        if !self.encoded {
            let first = self.body.decoded;
            self.body.decoded += bytes.len() as u64;
            tell(bytes, &mut self.events);
            // Behind a gap nothing is kept: the place of every byte that is kept is certain.
            if self.body.problem.is_none() {
                keep(&mut self.body.bytes, first, bytes, self.limits.keep);
            }
            return;
        }
        let Some(chain) = &mut self.chain else { return };
        let (body, limits, events) = (&mut self.body, self.limits, &mut self.events);
        let stop = chain.push(bytes, &mut |piece| {
            tell(piece, events);
            keep(&mut body.bytes, body.decoded, piece, limits.keep);
            body.decoded = body.decoded.saturating_add(piece.len() as u64);
            body.decoded <= limits.decode
        });
        if let Err(stop) = stop {
            self.body.problem = Some(match stop {
                Stop::Enough => format!("more than {} bytes when decoded: the rest was left out", limits.decode),
                Stop::Broken(why) => why,
            });
            self.chain = None;
        }
    }

    /// Bytes of the wire are missing here.
    pub fn gap(&mut self, len: u64) {
        self.body.missing = self.body.missing.saturating_add(len);
        if len > 0 {
            self.body.problem.get_or_insert_with(|| format!("{len} bytes of it were lost"));
            self.chain = None;
            if let Some((events, _)) = self.events.as_deref_mut() {
                events.gap();
            }
        }
    }

    /// Events that have become complete since this was asked for.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.as_deref_mut().map(|(_, told)| std::mem::take(told)).unwrap_or_default()
    }

    /// Bytes of memory that it holds, about.
    #[must_use]
    pub fn held(&self) -> usize {
        let events = self.events.as_ref().map_or(0, |events| events.0.held());
        self.body.bytes.capacity() + events + self.chain.as_ref().map_or(0, |chain| chain.held(self.body.decoded))
    }

    /// The body; nothing more of it comes.
    #[must_use]
    pub fn finish(mut self) -> Body {
        if let Some(chain) = self.chain.take()
            && self.body.wire > 0
            && let Some(why) = chain.unfinished()
        {
            self.body.problem = Some(why);
        }
        self.body
    }
}

/// Appends what may be kept of `piece`, the first byte of which is at `at` of the body.
fn keep(kept: &mut Vec<u8>, at: u64, piece: &[u8], limit: u64) {
    let room = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
    kept.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
