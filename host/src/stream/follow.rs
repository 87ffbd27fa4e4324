//! A connection shown as it is: the bytes of both directions in the order in which they were moved, whatever protocol they are.
//!
//! Calls of one direction that follow one another are put together, until the other end speaks, bytes are missing, there is
//! enough, or nothing more comes for a moment. What is held is one piece.

use super::assemble::Placed;
use super::exchange::Direction;

/// Bytes of a piece, at most.
const PIECE: usize = 64 << 10;

/// Bytes of one direction that follow one another; or those that are missing between two such pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Of its first byte.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// So many bytes are missing at `offset`, and there are no others.
    pub missing: u64,
    /// Calls that moved them.
    pub calls: u64,
}

/// A connection.
#[derive(Debug, Default)]
pub struct Follow {
    open: Option<(Direction, Piece, u64, u64)>,
}

/// A piece, with its direction and the time of its last call.
pub type Told = (Direction, Piece, u64);

impl Follow {
    /// What a call moved, whose first byte is at `offset`.
    pub fn call(&mut self, direction: Direction, offset: u64, placed: &Placed<'_>, time_ns: u64, out: &mut Vec<Told>) {
        let first = offset.saturating_sub(placed.gap);
        if placed.gap > 0 || self.open.as_ref().is_some_and(|open| open.0 != direction) {
            out.extend(self.take());
        }
        if placed.gap > 0 {
            out.push((direction, Piece { offset: first, missing: placed.gap, ..Piece::default() }, time_ns));
        }
        let mut rest = placed.bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (_, piece, _, last_ns) = self.open.get_or_insert_with(|| {
                let piece = Piece { offset: at, ..Piece::default() };
                (direction, piece, time_ns, time_ns)
            });
            let (now, later) = rest.split_at(rest.len().min(PIECE.saturating_sub(piece.bytes.len())));
            piece.bytes.extend_from_slice(now);
            piece.calls += 1;
            *last_ns = time_ns;
            at = at.saturating_add(now.len() as u64);
            rest = later;
            if piece.bytes.len() >= PIECE {
                let begun = character(&piece.bytes);
                let tail = piece.bytes.split_off(piece.bytes.len() - begun);
                out.extend(self.take());
                if !tail.is_empty() {
                    let offset = at.saturating_sub(tail.len() as u64);
                    let piece = Piece { offset, bytes: tail, missing: 0, calls: 0 };
                    self.open = Some((direction, piece, time_ns, time_ns));
                }
            }
        }
        if placed.missing > 0 {
            out.extend(self.take());
            out.push((direction, Piece { offset: at, missing: placed.missing, ..Piece::default() }, time_ns));
        }
    }

    /// What is held: nothing more is waited for.
    pub fn take(&mut self) -> Option<Told> {
        self.open.take().map(|(direction, piece, _, last_ns)| (direction, piece, last_ns))
    }

    /// Since when something is held.
    #[must_use]
    pub fn holds_since(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.2)
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn held(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.1.bytes.capacity())
    }
}

/// Bytes at the end that begin a character of UTF-8 which is not complete: text stays text when it is cut.
fn character(bytes: &[u8]) -> usize {
    let last = bytes.get(bytes.len().saturating_sub(3)..).unwrap_or_default();
    let Some(begin) = last.iter().rposition(|byte| *byte >= 0xc0) else { return 0 };
    let (lead, have) = (last.get(begin).copied().unwrap_or_default(), last.len() - begin);
    let need = if lead >= 0xf0 { 4 } else { 2 + usize::from(lead >= 0xe0) };
    if have < need { have } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::assemble::{Assembler, Call};

    const OUT: Direction = Direction::Transmit;
    const IN: Direction = Direction::Receive;

    /// Calls with their offsets and what is missing behind them.
    fn follow(calls: &[(Direction, u64, &[u8], u64)]) -> Vec<(Direction, u64, Vec<u8>, u64)> {
        let (mut follow, mut out) = (Follow::default(), Vec::new());
        let mut assemblers = [Assembler::default(), Assembler::default()];
        for (direction, offset, bytes, missing) in calls {
            let call = Call { direction: *direction, offset: *offset, bytes, missing: *missing, time_ns: 1 };
            let placed = assemblers[usize::from(*direction == IN)].place(&call);
            let first = offset + (bytes.len() - placed.bytes.len()) as u64;
            follow.call(*direction, first, &placed, 1, &mut out);
        }
        out.extend(follow.take());
        out.into_iter().map(|(way, piece, _)| (way, piece.offset, piece.bytes, piece.missing)).collect()
    }

    #[test]
    fn calls_are_put_together_until_the_other_end_speaks() {
        let told = follow(&[(OUT, 0, b"GET ", 0), (OUT, 4, b"/", 0), (IN, 0, b"200", 0), (OUT, 5, b"x", 0)]);
        let expected: [(Direction, u64, &[u8], u64); 3] =
            [(OUT, 0, b"GET /", 0), (IN, 0, b"200", 0), (OUT, 5, b"x", 0)];
        assert_eq!(told, expected.map(|(way, at, bytes, missing)| (way, at, bytes.to_vec(), missing)));
    }

    #[test]
    fn what_is_missing_has_its_place() {
        let told = follow(&[(OUT, 3, b"abc", 2), (OUT, 8, b"d", 0), (OUT, 19, b"e", 0), (OUT, 19, b"ef", 0)]);
        let expected: [(u64, &[u8], u64); 6] =
            [(0, b"", 3), (3, b"abc", 0), (6, b"", 2), (8, b"d", 0), (9, b"", 10), (19, b"ef", 0)];
        assert_eq!(told, expected.map(|(at, bytes, missing)| (OUT, at, bytes.to_vec(), missing)));
    }

    #[test]
    fn a_piece_is_bounded_and_keeps_characters_whole() {
        let text = "x".to_owned() + &"ä".repeat(PIECE);
        let told = follow(&[(OUT, 0, text.as_bytes(), 0)]);
        assert!(told.len() == 3 && told.iter().all(|piece| piece.2.len() <= PIECE));
        assert!(told.iter().all(|piece| std::str::from_utf8(&piece.2).is_ok()));
        assert_eq!(told.iter().flat_map(|piece| piece.2.clone()).collect::<Vec<u8>>(), text.as_bytes());
        let mut at = 0;
        for piece in &told {
            assert_eq!(piece.1, at);
            at += piece.2.len() as u64;
        }
        // Bytes that are no text are cut anywhere, and none is lost.
        let told = follow(&[(OUT, 0, &vec![0xf1; 3 * PIECE], 0)]);
        assert_eq!(told.iter().map(|piece| piece.2.len()).sum::<usize>(), 3 * PIECE);
    }
}
