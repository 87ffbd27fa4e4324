//! What is not there: bytes that were lost, and the search for the next message behind them or behind what makes no sense.

use super::super::find::{Found, KEPT, next_message};
use super::super::head;
use super::super::pairs::Pairs;
use super::{Half, State};

impl Half {
    /// Looks for the next message. Found: it begins with the bytes that are kept and not taken.
    pub(super) fn search(&mut self, bytes: &[u8]) -> usize {
        if self.kept.is_empty() {
            return match next_message(bytes, self.kind) {
                Found::At(at) => {
                    self.skip(at);
                    self.state = State::Head { found: true };
                    // The state has changed, which is progress even without a byte taken.
                    at
                }
                Found::Nothing(from) => {
                    self.skip(from);
                    self.kept = bytes.get(from..).unwrap_or_default().to_vec();
                    bytes.len()
                }
            };
        }
        let before = self.kept.len();
        let room = bytes.len().min(4 * KEPT);
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
        match next_message(&self.kept, self.kind) {
            Found::At(at) => {
                self.skip(at.min(before));
                self.state = State::Head { found: true };
                self.scanned = 0;
                if at >= before {
                    self.kept = Vec::new();
                    self.skip(at - before);
                    return at - before;
                }
                self.kept.truncate(before);
                self.kept.drain(..at);
                0
            }
            Found::Nothing(from) => {
                self.skip(from);
                self.kept.drain(..from);
                room
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.skipped += bytes as u64;
    }

    /// Bytes are missing; `None`: nobody knows how many.
    pub fn gap(&mut self, time_ns: u64, len: Option<u64>, pairs: &mut Pairs) {
        self.last_ns = time_ns;
        let most = len.unwrap_or(u64::MAX);
        match self.state {
            State::Length(left) | State::Chunk(left) if most <= left => {
                self.body_gap(most);
                let left = left - most;
                self.state = match self.state {
                    State::Chunk(_) if left == 0 => State::ChunkEnd,
                    State::Chunk(_) => State::Chunk(left),
                    _ => State::Length(left),
                };
                if self.state == State::Length(0) {
                    self.end(true, None, pairs);
                }
            }
            State::Length(left) => {
                // Its end is known all the same; what was lost behind it is not.
                self.body_gap(left);
                self.end(true, None, pairs);
                self.lost_between(len.map(|len| len - left), pairs);
            }
            State::UntilClose => self.body_gap(len.unwrap_or(1)),
            State::Head { .. } => {
                if let Some(head) = head::lines(&self.kept, "bytes of its header were lost") {
                    self.begin(head, pairs);
                    self.lost_inside(len, None, pairs);
                } else {
                    self.skipped += self.kept.len() as u64;
                }
                self.lost_between(len, pairs);
            }
            State::HeadRest(_) => {
                self.lost_inside(len, Some("bytes of its header were lost"), pairs);
                self.lost_between(len, pairs);
            }
            State::ChunkSize | State::Chunk(_) | State::ChunkEnd | State::Trailers => {
                self.body_gap(len.unwrap_or(1));
                self.end(false, Some("its end is among bytes that were lost".into()), pairs);
                self.lost_between(None, pairs);
            }
            State::Search => {
                self.skipped += self.kept.len() as u64;
                self.lost_between(len, pairs);
            }
        }
    }

    fn body_gap(&mut self, len: u64) {
        self.maybe_none = false;
        if let Some(body) = &mut self.body {
            body.gap(len);
        }
    }

    /// The message that was being read has lost bytes, and its end with them.
    fn lost_inside(&mut self, len: Option<u64>, note: Option<&str>, pairs: &mut Pairs) {
        if let Some(message) = self.open(pairs) {
            message.missing = message.missing.saturating_add(len.unwrap_or(1));
        }
        self.end(false, note.map(str::to_owned), pairs);
    }

    /// Bytes between messages were lost, and messages among them perhaps.
    fn lost_between(&mut self, len: Option<u64>, pairs: &mut Pairs) {
        self.kept.clear();
        self.scanned = 0;
        if len == Some(0) {
            return;
        }
        match len {
            Some(len) => self.lost = self.lost.saturating_add(len),
            None => self.lost_unknown = true,
        }
        self.may_have_lost_messages(pairs);
        self.state = State::Search;
    }
}
