//! Finds frames among bytes of which nothing is known: where a capture began in the middle, or behind a gap.
//!
//! Every offset may be the head of a frame; a head says where the next is. Heads that lead from one to the next are a chain, and
//! each adds what it says for itself ([`Frame::evidence`]); header blocks count as much as HPACK restricts them. The first chain
//! with enough of it is taken, whatever the pieces are in which the bytes come. A single request or response is enough.

use super::{
    frame::{CONTINUATION, END_HEADERS, Frame, HEAD, HEADERS, PADDED, RST_STREAM, SETTINGS, WINDOW_UPDATE},
    hpack,
};

/// Evidence that is enough.
const ENOUGH: u32 = 48;
/// Evidence that is enough even if there is another chain.
const BEYOND_DOUBT: u32 = 200;
/// What is enough if a chain ends where the bytes end.
const ENOUGH_AT_END: u32 = 20;
/// A head with less does not begin what is read: it may be there by chance, and lead to one that is right.
const ENOUGH_TO_BEGIN: u32 = 12;
/// Bytes that are held while there is not enough.
const HELD: usize = 128 << 10;
/// Bytes that are taken at once.
const PIECE: usize = 1 << 10;
/// Chains that are followed.
const CHAINS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Resync {
    held: Vec<u8>,
    /// Offset of the first byte that is held.
    base: usize,
    /// Offset up to which all was looked at.
    looked: usize,
    chains: Vec<Chain>,
    /// When bytes came: the offset of the first of them, and the time.
    times: Vec<(usize, u64)>,
}

#[derive(Debug)]
struct Chain {
    /// Where its heads are, those that were dropped left out.
    heads: Vec<usize>,
    /// Its last head.
    last: Frame,
    /// Where the next head is.
    next: usize,
    evidence: u32,
}

impl Resync {
    /// Takes more bytes: so many of them, and whether frames were found; then the others do not belong here any more.
    pub fn push(&mut self, time_ns: u64, bytes: &[u8]) -> (usize, bool) {
        let mut read = 0;
        for piece in bytes.chunks(PIECE) {
            if self.times.last().is_none_or(|(_, time)| *time != time_ns) {
                if self.times.len() > HELD / 64 {
                    self.times.remove(0);
                }
                self.times.push((self.base + self.held.len(), time_ns));
            }
            let before = self.base + self.held.len();
            self.held.extend_from_slice(piece);
            if self.look() {
                self.held.truncate(self.looked - self.base);
                return (read + self.looked - before, true);
            }
            read += piece.len();
            if self.held.len() > HELD {
                self.drop_half();
            }
        }
        (read, false)
    }

    /// No more bytes come; true: what is there ends with frames.
    pub fn end(&mut self) -> bool {
        let end = self.base + self.held.len();
        let last = |chain: &Chain| chain.next == end && chain.evidence >= ENOUGH_AT_END;
        self.chains.retain(last);
        self.take_best(ENOUGH_AT_END)
    }

    /// The bytes from the first frame that was found on, in pieces by their time.
    pub fn into_pieces(self) -> Vec<(u64, Vec<u8>)> {
        let first = self
            .chains
            .first()
            .map_or(self.base + self.held.len(), |chain| chain.heads.first().copied().unwrap_or(chain.next));
        let mut pieces = Vec::new();
        let mut end = self.base + self.held.len();
        for (from, time) in self.times.iter().rev() {
            let from = (*from).max(first);
            if from < end {
                pieces.push((*time, self.held.get(from - self.base..end - self.base).unwrap_or_default().to_vec()));
                end = from;
            }
        }
        pieces.reverse();
        pieces
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        self.held.capacity() + self.chains.len() * 64 + self.times.capacity() * 16
    }

    fn drop_half(&mut self) {
        let drop = self.held.len() / 2;
        self.held.drain(..drop);
        self.base += drop;
        let base = self.base;
        for chain in &mut self.chains {
            chain.heads.retain(|head| *head >= base);
        }
        let covered = self.times.iter().rposition(|(from, _)| *from <= base).unwrap_or(0);
        self.times.drain(..covered);
    }

    fn look(&mut self) -> bool {
        let end = self.base + self.held.len();
        for at in self.looked + 1..=end {
            self.looked = at;
            let mut changed = self.finish_payloads(at);
            if let Some(head) = at.checked_sub(HEAD).filter(|head| *head >= self.base) {
                changed |= self.take_head(head);
            }
            if changed && self.take_best(ENOUGH) {
                return true;
            }
        }
        false
    }

    /// Looks at what frames carry that end here.
    fn finish_payloads(&mut self, at: usize) -> bool {
        if !self.chains.iter().any(|chain| chain.next == at) {
            return false;
        }
        let (held, base) = (&self.held, self.base);
        self.chains.retain_mut(|chain| {
            if chain.next != at {
                return true;
            }
            let from = chain.next - chain.last.len as usize;
            let Some(payload) = from.checked_sub(base).and_then(|from| held.get(from..at - base)) else { return true };
            let more = evidence_of(&chain.last, payload);
            chain.evidence += more.unwrap_or(0);
            more.is_some()
        });
        true
    }

    /// Looks whether there is a head here, and to which chain it belongs.
    fn take_head(&mut self, at: usize) -> bool {
        let bytes = self.held.get(at - self.base..).and_then(|rest| rest.first_chunk::<HEAD>());
        let Some(frame) = bytes.map(Frame::new) else { return false };
        let evidence = frame.evidence();
        let mut joined = false;
        self.chains.retain_mut(|chain| {
            if chain.next != at {
                return true;
            }
            let open = chain.last.is_block() && !chain.last.has(END_HEADERS);
            let continues = frame.kind == CONTINUATION && frame.stream == chain.last.stream;
            if evidence == 0 || open != continues {
                return false;
            }
            joined = true;
            chain.heads.push(at);
            chain.next = at + HEAD + frame.len as usize;
            chain.last = frame;
            chain.evidence += evidence;
            true
        });
        if evidence >= ENOUGH_TO_BEGIN && !joined && frame.kind != CONTINUATION {
            if self.chains.len() >= CHAINS {
                self.chains.remove(0);
            }
            let next = at + HEAD + frame.len as usize;
            self.chains.push(Chain { heads: vec![at], last: frame, next, evidence });
        }
        joined
    }

    /// Keeps only the chain for which there is most evidence, if that is enough, and if no other one is nearly as good: what is in
    /// frames of the same shape one after the other (small messages of gRPC) may look like frames, too.
    fn take_best(&mut self, enough: u32) -> bool {
        // `max_by_key` gives the last of those that are equal; the first one is the longer one.
        let best = self.chains.iter().enumerate().rev().max_by_key(|(_, chain)| chain.evidence);
        let Some((at, best)) = best.filter(|(_, chain)| chain.evidence >= enough) else { return false };
        let (evidence, next) = (best.evidence, best.next);
        let rival = |chain: &Chain| chain.next != next && chain.evidence * 2 > evidence;
        if evidence < BEYOND_DOUBT && self.chains.iter().any(rival) {
            return false;
        }
        self.chains.swap(0, at);
        self.chains.truncate(1);
        true
    }
}

/// What the payload of a frame adds; `None`: it is none.
fn evidence_of(frame: &Frame, payload: &[u8]) -> Option<u32> {
    let first = |len: usize| payload.get(..len).unwrap_or_default();
    match frame.kind {
        HEADERS if frame.has(END_HEADERS) => {
            let padding = frame.padding(payload.first().copied().unwrap_or(0)) as usize;
            let padded = payload.len().checked_sub(padding)?;
            let (rest, zeros) = payload.split_at_checked(padded)?;
            let block = rest.get(frame.prefix()..)?;
            if zeros.iter().any(|byte| *byte != 0) {
                return None;
            }
            Some(if hpack::is_block(block)? { 34 } else { 14 })
        }
        SETTINGS => {
            let known = payload.chunks(6).all(|one| matches!(one, [0, 1..=16, ..] | [_, 0x0a | 0x1a | 0x2a, ..]));
            Some(if known { payload.len() as u32 / 6 * 6 } else { 0 })
        }
        WINDOW_UPDATE => (first(4) != [0; 4] && payload.first()? & 0x80 == 0).then_some(0),
        RST_STREAM => (first(3) == [0; 3]).then_some(4),
        _ if frame.has(PADDED) && matches!(frame.kind, super::frame::DATA) => {
            (u32::from(*payload.first()?) < frame.len).then_some(0)
        }
        _ => Some(0),
    }
}
