//! What the server said of one statement, added up over its results.

use crate::told::Tag;

/// Where copied data went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Out,
    /// Both ways: replication.
    Both,
}

impl Direction {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }
}

/// COPY, to or from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Which way.
    pub direction: Direction,
    /// Rows, as the server counted them.
    pub rows: Option<u64>,
    /// Bytes of data.
    pub bytes: u64,
}

/// The sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The last command tag.
    pub tag: Option<Vec<u8>>,
    /// Rows sent to the client.
    pub rows: Option<u64>,
    /// Rows changed.
    pub affected: Option<u64>,
    /// Results.
    pub results: u64,
    /// COPY.
    pub copied: Option<Copied>,
    /// Rows since the last result.
    fresh: u64,
}

impl Answer {
    /// Rows went out.
    pub fn sent(&mut self, rows: u64) {
        self.fresh = self.fresh.saturating_add(rows);
        self.rows = Some(self.rows.unwrap_or(0).saturating_add(rows));
    }

    /// Data went out.
    pub fn copied_out(&mut self, bytes: u64) {
        if let Some(copied) = &mut self.copied {
            copied.bytes = copied.bytes.saturating_add(bytes);
        }
    }

    /// COPY begins.
    pub fn copies(&mut self, direction: Direction) {
        self.copied = Some(Copied { direction, rows: None, bytes: 0 });
    }

    /// A result is complete.
    pub fn complete(&mut self, tag: &Tag<'_>) {
        self.results = self.results.saturating_add(1);
        self.tag = Some(tag.text.to_vec());
        let fresh = std::mem::take(&mut self.fresh);
        let select = tag.text.starts_with(b"SELECT ") || tag.text.starts_with(b"FETCH ");
        let copy = tag.text.starts_with(b"COPY ");
        if let (true, Some(copied)) = (copy, &mut self.copied) {
            copied.rows = Some(copied.rows.unwrap_or(0).saturating_add(tag.rows.unwrap_or(0)));
        }
        let to_client = copy && self.copied.is_some_and(|copied| copied.direction == Direction::Out);
        // CREATE TABLE AS says SELECT as well, and sends nothing.
        let made = select && fresh == 0 && tag.rows.is_some_and(|rows| rows > 0);
        if (tag.changes && !to_client) || made {
            self.affected = Some(self.affected.unwrap_or(0).saturating_add(tag.rows.unwrap_or(0)));
        } else if select && self.rows.is_none() {
            self.rows = Some(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sent: u64, tag: &[u8]) -> (Option<u64>, Option<u64>) {
        let mut answer = Answer::default();
        if sent > 0 {
            answer.sent(sent);
        }
        answer.complete(&Tag::parse(tag));
        (answer.rows, answer.affected)
    }

    #[test]
    fn rows_that_were_sent_and_rows_that_were_changed() {
        assert_eq!(of(0, b"SELECT 0\0"), (Some(0), None));
        assert_eq!(of(3, b"SELECT 3\0"), (Some(3), None));
        assert_eq!(of(0, b"SELECT 3\0"), (None, Some(3)), "create table as");
        assert_eq!(of(2, b"INSERT 0 2\0"), (Some(2), Some(2)), "returning");
        assert_eq!(of(1, b"SHOW\0"), (Some(1), None));
        assert_eq!(of(0, b"BEGIN\0"), (None, None));
    }

    #[test]
    fn copies_to_the_client_change_nothing() {
        for (direction, affected) in [(Direction::In, Some(7)), (Direction::Out, None)] {
            let mut answer = Answer::default();
            answer.copies(direction);
            answer.complete(&Tag::parse(b"COPY 7\0"));
            assert_eq!((answer.affected, answer.copied.unwrap().rows), (affected, Some(7)));
        }
    }
}
