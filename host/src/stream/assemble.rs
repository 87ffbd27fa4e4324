//! One direction of a connection: what comes at its offset, put in order. Events come in the order of their calls, so nothing
//! is held back here: an offset beyond the expected one is a gap, one before it has been had already.

use super::exchange::Direction;

/// One call that moved bytes, as an event tells it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Which way.
    pub direction: Direction,
    /// Of the first byte, from the first that the probes saw of this direction.
    pub offset: u64,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// Bytes behind them that were not.
    pub missing: u64,
    /// When it returned, monotonic.
    pub time_ns: u64,
}

/// What is new in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed<'a> {
    /// Bytes that are missing before it.
    pub gap: u64,
    /// Its bytes, but for those that have been had.
    pub bytes: &'a [u8],
    /// Bytes that are missing behind it.
    pub missing: u64,
}

/// How far a direction is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Assembler {
    /// Behind the last byte that came.
    end: u64,
    /// Behind the last byte that is known to be missing.
    told: u64,
}

impl Assembler {
    /// Puts a call in its place.
    pub fn place<'a>(&mut self, call: &Call<'a>) -> Placed<'a> {
        // What a worker says is not believed: no offset is beyond what can be counted.
        let end = call.offset.saturating_add(call.bytes.len() as u64);
        let had = usize::try_from(self.end.saturating_sub(call.offset)).unwrap_or(usize::MAX);
        let bytes = call.bytes.get(had.min(call.bytes.len())..).unwrap_or_default();
        let gap = call.offset.saturating_sub(self.end.max(self.told));
        self.end = self.end.max(end);
        let before = self.told.max(self.end);
        self.told = before.max(end.saturating_add(call.missing));
        Placed { gap, bytes, missing: self.told - before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(assembler: &mut Assembler, offset: u64, bytes: &'static [u8], missing: u64) -> (u64, &'static [u8], u64) {
        let call = Call { direction: Direction::Receive, offset, bytes, missing, time_ns: 0 };
        let placed = assembler.place(&call);
        (placed.gap, placed.bytes, placed.missing)
    }

    #[test]
    fn gaps_stand_at_their_offsets() {
        let mut direction = Assembler::default();
        assert_eq!(place(&mut direction, 0, b"abc", 0), (0, &b"abc"[..], 0));
        assert_eq!(place(&mut direction, 3, b"def", 4), (0, &b"def"[..], 4));
        assert_eq!(place(&mut direction, 10, b"x", 0), (0, &b"x"[..], 0));
        assert_eq!(place(&mut direction, 20, b"y", 0), (9, &b"y"[..], 0));
        let mut late = Assembler::default();
        assert_eq!(place(&mut late, 7, b"z", 0), (7, &b"z"[..], 0));
    }

    #[test]
    fn what_comes_twice_is_taken_once() {
        let mut direction = Assembler::default();
        place(&mut direction, 0, b"abcdef", 0);
        assert_eq!(place(&mut direction, 0, b"abcdef", 0), (0, &b""[..], 0));
        assert_eq!(place(&mut direction, 4, b"efgh", 0), (0, &b"gh"[..], 0));
        // It was said to be missing, and comes all the same.
        assert_eq!(place(&mut direction, 8, b"", 100), (0, &b""[..], 100));
        assert_eq!(place(&mut direction, 8, b"i", 0), (0, &b"i"[..], 0));
        assert_eq!(place(&mut direction, 108, b"j", 0), (0, &b"j"[..], 0));
    }

    #[test]
    fn absurd_numbers_saturate() {
        let mut direction = Assembler::default();
        assert_eq!(place(&mut direction, u64::MAX, b"abc", u64::MAX), (u64::MAX, &b"abc"[..], 0));
        assert_eq!(place(&mut direction, 5, b"abc", 7), (0, &b""[..], 0));
    }
}
