//! The secrets of a capture file: those that are still to be written, and those that its next file needs again.
//!
//! A secret belongs to a connection, and which of the connections are still alive is not known from the secrets. So the last ones
//! are kept, up to a number of bytes: what is given up is of connections that began long ago.

use std::collections::VecDeque;

use super::super::keylog::Written;

/// Most bytes of secrets that are kept: those of some thousand connections.
pub const KEPT: usize = 1 << 20;

/// Secrets, each once.
pub struct Secrets {
    known: Written,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Number of the first one that is kept; they are counted from 0 on.
    first: u64,
    most: usize,
}

impl Secrets {
    /// For as many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { known: Written::default(), lines: VecDeque::new(), bytes: 0, first: 0, most }
    }

    /// Takes a line of a key log without its end; false if it is there already, or is no secret.
    pub fn add(&mut self, line: &[u8]) -> bool {
        if line.starts_with(b"#") || !self.known.is_new(line) {
            return false;
        }
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_vec());
        while self.bytes > self.most
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len() + 1;
            self.first += 1;
        }
        true
    }

    /// Number of the oldest one that is kept.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Number of the next one.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Those from this number on that are kept.
    pub fn from(&self, number: u64) -> impl Iterator<Item = &[u8]> {
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.lines.iter().skip(skipped).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let mut secrets = Secrets::new(12);
        assert!(secrets.add(b"A 00 11") && !secrets.add(b"A 00 11") && !secrets.add(b"# a comment"));
        assert_eq!(secrets.from(0).collect::<Vec<_>>(), [b"A 00 11"]);
        assert_eq!(secrets.next(), 1);
        assert!(secrets.add(b"B 00"));
        assert_eq!(secrets.from(0).collect::<Vec<_>>(), [b"B 00"], "the other one had to go");
        assert_eq!((secrets.from(1).count(), secrets.from(2).count(), secrets.next()), (1, 0, 2));
        assert!(secrets.add(&[b'X'; 100]), "one that is too long is taken, and gone");
        assert_eq!((secrets.from(0).count(), secrets.next()), (0, 3));
    }
}
