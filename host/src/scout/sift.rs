//! Which files have one of some texts in them, anywhere: how a library is found that was built into programs of any name.
//!
//! The file is read and nothing of it understood; what it really is, is for the module to say.

use std::io::{self, Read, Seek, SeekFrom};

use memchr::memmem::Finder;

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// Whether the file has one of the texts in it.
///
/// # Errors
/// Of reading.
pub fn contains(mut file: impl Read + Seek, texts: &[String]) -> io::Result<bool> {
    let finders: Vec<Finder<'_>> = texts.iter().filter(|t| !t.is_empty()).map(|t| Finder::new(t.as_bytes())).collect();
    // A text may lie across two pieces.
    let overlap = texts.iter().map(String::len).max().unwrap_or(0).saturating_sub(1);
    let mut buffer = vec![0; overlap + PIECE];
    let mut kept = 0;
    // Whoever else holds the file has moved its position.
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = match file.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = kept + read;
        let bytes = buffer.get(..end).unwrap_or_default();
        if finders.iter().any(|finder| finder.find(bytes).is_some()) {
            return Ok(true);
        }
        kept = overlap.min(end);
        buffer.copy_within(end - kept..end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_text_is_found_wherever_it_is() {
        let wanted = texts(&["needle in it", "other"]);
        for at in [0, 1, PIECE - 12, PIECE - 6, PIECE, PIECE + 3, 2 * PIECE + 5, 3 * PIECE] {
            let mut bytes = vec![b'n'; at];
            bytes.extend(b"needle in it");
            assert!(contains(Cursor::new(&bytes), &wanted).unwrap(), "at {at}");
            bytes.truncate(bytes.len() - 1);
            assert!(!contains(Cursor::new(&bytes), &wanted).unwrap(), "cut short at {at}");
        }
        assert!(!contains(Cursor::new(b""), &wanted).unwrap());
        assert!(!contains(Cursor::new(b"anything"), &[]).unwrap());
    }

    /// Gives a byte or three at a time, and an interruption now and then.
    struct Slow(Cursor<Vec<u8>>, usize);

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(5) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let most = (1 + self.1 % 3).min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    impl Seek for Slow {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn short_reads_change_nothing() {
        let mut bytes = vec![b'e'; 500];
        bytes.extend(b"needle");
        bytes.extend(vec![b'e'; 50]);
        assert!(contains(Slow(Cursor::new(bytes.clone()), 0), &texts(&["needle"])).unwrap());
        assert!(!contains(Slow(Cursor::new(bytes), 0), &texts(&["needles"])).unwrap());
    }
}
