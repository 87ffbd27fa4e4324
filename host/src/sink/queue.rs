//! Bytes on their way to an output, and which event each of them belongs to: so that what can't be delivered is counted
//! in events, and a line is never left half written while the rest of it is still known.

use std::collections::VecDeque;

/// An entry that is no event (session lines, gaps).
pub const NO_MODULE: u16 = u16::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    len: usize,
    module: u16,
}

/// A queue of rendered events.
#[derive(Debug, Default)]
pub struct Queue {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are gone.
    start: usize,
    entries: VecDeque<Entry>,
    /// Bytes of the first entry that are gone.
    begun: usize,
}

impl Queue {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that wait, oldest first.
    pub fn front(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Appends what `render` writes as one entry, and gives its length. It must only append.
    pub fn push(&mut self, module: u16, render: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.bytes.len();
        render(&mut self.bytes);
        let len = self.bytes.len().saturating_sub(before);
        if len > 0 {
            self.entries.push_back(Entry { len, module });
        }
        len
    }

    /// Takes the last entry out again, which must have been pushed since the last call of [`Queue::consume`].
    pub fn take_back(&mut self) {
        if let Some(entry) = self.entries.pop_back() {
            self.bytes.truncate(self.bytes.len().saturating_sub(entry.len).max(self.start));
        }
    }

    /// `count` bytes are delivered; calls `whole` with the module of each entry that is now complete.
    pub fn consume(&mut self, count: usize, mut whole: impl FnMut(u16)) {
        let count = count.min(self.len());
        self.start += count;
        self.begun += count;
        while let Some(entry) = self.entries.front().filter(|entry| entry.len <= self.begun) {
            self.begun -= entry.len;
            whole(entry.module);
            self.entries.pop_front();
        }
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            // Each byte moves at most once for each byte that was written before it.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Bytes of an entry that were delivered without its end.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// Forgets everything; calls `lost` with the module of each entry that was not delivered whole.
    pub fn discard(&mut self, mut lost: impl FnMut(u16)) {
        self.entries.drain(..).for_each(|entry| lost(entry.module));
        self.bytes = Vec::new();
        (self.start, self.begun) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_complete_with_their_last_byte() {
        let mut queue = Queue::default();
        queue.push(1, |out| out.extend_from_slice(b"aaaa"));
        queue.push(2, |out| out.extend_from_slice(b"bb"));
        queue.push(3, |_| {});
        let mut done = Vec::new();
        queue.consume(3, |module| done.push(module));
        assert_eq!((queue.front(), queue.begun(), done.as_slice()), (&b"abb"[..], 3, &[][..]));
        queue.consume(2, |module| done.push(module));
        assert_eq!((queue.front(), queue.begun(), done.as_slice()), (&b"b"[..], 1, &[1][..]));
        queue.push(4, |out| out.extend_from_slice(b"c"));
        let mut lost = Vec::new();
        queue.discard(|module| lost.push(module));
        assert_eq!((lost.as_slice(), queue.len(), queue.begun()), (&[2, 4][..], 0, 0));
    }

    #[test]
    fn the_last_entry_can_be_taken_back() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(1, |out| out.extend_from_slice(b"aaaa")), 4);
        queue.consume(3, |_| panic!("not whole"));
        queue.push(2, |out| out.extend_from_slice(b"bb"));
        queue.take_back();
        assert_eq!((queue.front(), queue.begun()), (&b"a"[..], 3));
        queue.push(3, |out| out.extend_from_slice(b"c"));
        let mut done = Vec::new();
        queue.consume(2, |module| done.push(module));
        assert_eq!((done.as_slice(), queue.is_empty()), (&[1, 3][..], true));
        queue.take_back();
    }

    #[test]
    fn the_queue_is_what_was_pushed_less_what_was_consumed() {
        let (mut queue, mut all, mut read) = (Queue::default(), Vec::new(), 0);
        let mut done = 0;
        for round in 0..2000_usize {
            let line = vec![round as u8; round % 37 + 1];
            all.extend_from_slice(&line);
            queue.push(0, |out| out.extend_from_slice(&line));
            let count = (round * 7 % 41).min(queue.len());
            queue.consume(count, |_| done += 1);
            read += count;
            assert_eq!(queue.front(), &all[read..]);
        }
        queue.consume(queue.len(), |_| done += 1);
        assert_eq!(done, 2000);
    }
}
