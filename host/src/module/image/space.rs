//! Room for the bytes of a file, zero where nothing was written.
//!
//! A new buffer for each file looks free, because the kernel's pages are zero and come when they are touched. It is not:
//! after the first large one has been freed, the allocator keeps such buffers and clears them by hand, and listing a
//! hundred modules of 11 MB spent a third of its time on that. So each thread keeps one buffer, and only what was written is
//! cleared.

use std::cell::Cell;
use std::ops::Range;

thread_local! {
    /// All zero whenever it lies here.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Some bytes, as long as the file. On drop a shared one is cleared and kept for the thread's next file.
#[derive(Debug)]
pub(super) struct Space {
    bytes: Vec<u8>,
    length: usize,
    /// What has to be cleared; `None` for a buffer that is not kept.
    written: Option<Vec<Range<usize>>>,
}

impl Space {
    /// For a file of which little is read.
    pub(super) fn shared(length: usize) -> Self {
        let mut bytes = SPARE.take();
        if bytes.len() < length {
            bytes = vec![0; length];
        }
        Self { bytes, length, written: Some(Vec::new()) }
    }

    /// For a file that is read whole and kept.
    pub(super) fn of_its_own(length: usize) -> Self {
        Self { bytes: vec![0; length], length, written: None }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// A part, to be written to; `None` if it does not lie inside.
    pub(super) fn part(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let part = self.bytes.get_mut(..self.length)?.get_mut(range.clone())?;
        if let Some(written) = &mut self.written {
            written.push(range);
        }
        Some(part)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let Some(written) = self.written.take() else { return };
        for range in written {
            if let Some(part) = self.bytes.get_mut(range) {
                part.fill(0);
            }
        }
        let other = SPARE.take();
        let larger = std::mem::take(&mut self.bytes);
        SPARE.set(if other.len() > larger.len() { other } else { larger });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_file_left_is_not_seen_by_the_next() {
        let mut first = Space::shared(100);
        first.part(10..60).unwrap().fill(7);
        assert_eq!(first.bytes().iter().filter(|byte| **byte == 7).count(), 50);
        drop(first);
        for length in [100, 40, 3000] {
            let space = Space::shared(length);
            assert_eq!(space.bytes(), vec![0; length]);
        }
    }

    #[test]
    fn nothing_is_handed_out_behind_the_end() {
        drop(Space::shared(100));
        let mut space = Space::shared(50);
        assert!(space.part(40..51).is_none());
        assert_eq!(space.bytes().len(), 50);
    }

    #[test]
    fn two_at_once_do_not_share() {
        let mut first = Space::shared(10);
        let second = Space::shared(10);
        first.part(0..10).unwrap().fill(1);
        assert_eq!(second.bytes(), [0; 10]);
    }
}
