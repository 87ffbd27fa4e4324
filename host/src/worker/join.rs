//! Joins the chunks of long messages. The kernel side sends the chunks of one message in order, from one program run,
//! and stops at the first that finds no room; so what arrives is always a prefix, and what is missing can be counted.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::event::record::{FAULT, Header, LAST};

/// How long a started message may wait for its next chunk once the ring has been found empty. All chunks come from one
/// run of one eBPF program, which takes microseconds; the rest is room for preemption.
const PATIENCE_NS: u64 = 200_000_000;

/// Messages joined at the same time, at most. One per thread of all targets inside its probe at this moment.
const MAX_OPEN: usize = 4096;

/// A whole message, or what there is of one. Short ones borrow from the ring.
#[derive(Debug)]
pub struct Message<'ring> {
    /// Header of its first record.
    pub header: Header,
    /// Its data; a prefix when `missing` is not 0.
    pub data: Cow<'ring, [u8]>,
    /// Bytes of the message that are not in `data`, those beyond the stream's limit included.
    pub missing: u64,
    /// Ring position at which its first record starts: what must be read again after a crash.
    pub start: u64,
    /// Ring position at which it was known to be finished; grows from message to message.
    pub end: u64,
}

/// Numbers that no kernel side of ours writes, or a chunk without its beginning.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid;

/// Messages whose chunks are still arriving.
#[derive(Debug, Default)]
pub struct Joiner {
    // One per stream and thread: a thread runs one program at a time, so a new message ends the one before.
    open: HashMap<(u16, u32), Message<'static>>,
}

impl Joiner {
    /// Takes one record that lies at `start..end` of the ring; what is finished by it goes to `out`. `max` is the longest
    /// message of this stream (fixed part included).
    ///
    /// # Errors
    /// [`Invalid`]: the record is to be counted as undecodable.
    pub fn take<'ring>(
        &mut self,
        header: Header,
        data: &'ring [u8],
        (start, end): (u64, u64),
        max: u64,
        out: &mut Vec<Message<'ring>>,
    ) -> Result<(), Invalid> {
        let key = (header.stream, header.tid);
        if header.offset == 0 {
            if u64::from(header.total) > max || data.len() > header.total as usize {
                return Err(Invalid);
            }
            // The same thread starts another message: the one before will get no more chunks.
            self.close(key, end, out);
            let mut message = Message { header, data: Cow::Borrowed(data), missing: 0, start, end };
            if message.is_complete() {
                message.close(end);
                out.push(message);
                return Ok(());
            }
            if self.open.len() >= MAX_OPEN {
                self.close_oldest(end, out);
            }
            let mut owned = Vec::with_capacity(header.total as usize);
            owned.extend_from_slice(data);
            self.open.insert(key, Message { header, data: Cow::Owned(owned), missing: 0, start, end });
            return Ok(());
        }
        let message = self.open.get_mut(&key).ok_or(Invalid)?;
        let next = message.data.len();
        let fits = header.offset as usize == next && next + data.len() <= message.header.total as usize;
        if message.header.time_ns != header.time_ns || !fits {
            return Err(Invalid);
        }
        message.data.to_mut().extend_from_slice(data);
        message.header.flags |= header.flags;
        if message.is_complete() {
            self.close(key, end, out);
        }
        Ok(())
    }

    /// Closes what has waited too long. `now` is the monotonic time at which the ring was found empty, at `position`.
    pub fn expire(&mut self, now: u64, position: u64, out: &mut Vec<Message<'_>>) {
        let mut old: Vec<_> = self
            .open
            .iter()
            .filter(|(_, m)| now.saturating_sub(m.header.time_ns) > PATIENCE_NS)
            .map(|(key, m)| (m.start, *key))
            .collect();
        old.sort_unstable();
        for (_, key) in old {
            // Records end at multiples of 8, so this is behind the last one and before the next: a position of its own,
            // without which a restart between the two could not tell whether this message was published.
            self.close(key, position + 1, out);
        }
    }

    /// Closes everything: no record will come any more.
    pub fn finish(&mut self, position: u64, out: &mut Vec<Message<'_>>) {
        self.expire(u64::MAX, position, out);
    }

    /// Ring position of the oldest record that an unfinished message needs.
    #[must_use]
    pub fn oldest_start(&self) -> Option<u64> {
        self.open.values().map(|m| m.start).min()
    }

    /// Time of the oldest unfinished message: nothing that is older will come of what was begun.
    #[must_use]
    pub fn oldest_time(&self) -> Option<u64> {
        self.open.values().map(|m| m.header.time_ns).min()
    }

    fn close(&mut self, key: (u16, u32), end: u64, out: &mut Vec<Message<'_>>) {
        if let Some(mut message) = self.open.remove(&key) {
            message.close(end);
            out.push(message);
        }
    }

    fn close_oldest(&mut self, end: u64, out: &mut Vec<Message<'_>>) {
        if let Some(key) = self.open.iter().min_by_key(|(_, m)| m.start).map(|(key, _)| *key) {
            self.close(key, end, out);
        }
    }
}

impl Message<'_> {
    fn is_complete(&self) -> bool {
        self.data.len() == self.header.total as usize || self.header.flags & (FAULT | LAST) != 0
    }

    fn close(&mut self, end: u64) {
        let unsent = u64::from(self.header.total).saturating_sub(self.data.len() as u64);
        self.missing = unsent + u64::from(self.header.cut);
        self.end = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(tid: u32, time_ns: u64, offset: u32, total: u32) -> Header {
        Header { tid, time_ns, offset, total, ..Header::default() }
    }

    fn take<'a>(
        joiner: &mut Joiner,
        header: Header,
        data: &'a [u8],
        at: u64,
        out: &mut Vec<Message<'a>>,
    ) -> Result<(), Invalid> {
        joiner.take(header, data, (at, at + 8), 100, out)
    }

    #[test]
    fn a_short_message_is_borrowed_and_finished_at_once() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        take(&mut joiner, header(1, 5, 0, 3), b"abc", 0, &mut out).unwrap();
        assert!(matches!(out[0].data, Cow::Borrowed(b"abc")));
        assert_eq!((out[0].missing, out[0].end), (0, 8));
        assert_eq!(joiner.oldest_start(), None);
    }

    #[test]
    fn chunks_of_two_threads_are_kept_apart() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        take(&mut joiner, header(1, 5, 0, 6), b"abc", 0, &mut out).unwrap();
        take(&mut joiner, header(2, 6, 0, 4), b"12", 8, &mut out).unwrap();
        assert_eq!(joiner.oldest_start(), Some(0));
        take(&mut joiner, header(1, 5, 3, 6), b"def", 16, &mut out).unwrap();
        take(&mut joiner, header(2, 6, 2, 4), b"34", 24, &mut out).unwrap();
        let texts: Vec<&[u8]> = out.iter().map(|m| &m.data[..]).collect();
        assert_eq!(texts, [&b"abcdef"[..], b"1234"]);
        assert!(out[0].end < out[1].end);
    }

    #[test]
    fn a_new_message_of_the_thread_ends_the_one_before_with_what_is_missing() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        take(&mut joiner, Header { cut: 40, ..header(1, 5, 0, 90) }, b"abc", 0, &mut out).unwrap();
        take(&mut joiner, header(1, 9, 0, 2), b"xy", 8, &mut out).unwrap();
        assert_eq!((&out[0].data[..], out[0].missing), (&b"abc"[..], 127));
        assert_eq!((&out[1].data[..], out[1].missing), (&b"xy"[..], 0));
    }

    #[test]
    fn a_fault_ends_a_message() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        take(&mut joiner, Header { flags: FAULT, ..header(1, 5, 0, 10) }, b"abc", 0, &mut out).unwrap();
        assert_eq!(out[0].missing, 7);
    }

    #[test]
    fn what_waits_too_long_is_partial_at_a_position_of_its_own() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        take(&mut joiner, header(1, 1_000, 0, 6), b"abc", 0, &mut out).unwrap();
        joiner.expire(2_000, 8, &mut out);
        assert!(out.is_empty());
        joiner.expire(1_001 + PATIENCE_NS, 8, &mut out);
        assert_eq!((out[0].missing, out[0].end), (3, 9));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        assert!(take(&mut joiner, header(1, 5, 3, 6), b"def", 0, &mut out).is_err(), "no beginning");
        assert!(take(&mut joiner, header(1, 5, 0, 101), b"x", 0, &mut out).is_err(), "beyond the stream's limit");
        assert!(take(&mut joiner, header(1, 5, 0, 2), b"xyz", 0, &mut out).is_err(), "more data than announced");
        take(&mut joiner, header(1, 5, 0, 6), b"abc", 0, &mut out).unwrap();
        assert!(take(&mut joiner, header(1, 5, 2, 6), b"c", 8, &mut out).is_err(), "a hole");
        assert!(take(&mut joiner, header(1, 6, 3, 6), b"c", 8, &mut out).is_err(), "of another message");
        assert!(take(&mut joiner, header(1, 5, 3, 6), b"defg", 8, &mut out).is_err(), "longer than announced");
        assert!(out.is_empty());
    }
}
