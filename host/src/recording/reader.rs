//! Reads a recording, which may be anything: cut, damaged, hostile. Memory is bounded by the longest block.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek};

use super::format::{BLOCK_HEAD, BODY_HEAD, Ended, Header, MAGIC, MAX_BODY, kind};

/// Why a recording, or the rest of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Another kind of file, or a layout of another version.
    #[error("it is no recording, or one of a later version (it does not begin with ECAPREC 1)")]
    Magic,
    /// It ends inside a block, or without the block that ends it.
    #[error("it is cut at byte {at}")]
    Cut {
        /// Where the block that is not whole begins.
        at: u64,
    },
    /// A block is not what was written.
    #[error("it is damaged at byte {at}: {what}")]
    Block {
        /// Where the block begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The first block is no header, or not one that is understood.
    #[error("its header is not understood: {0}")]
    Header(String),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// What comes next.
#[derive(Debug)]
pub enum Block<'a> {
    /// A record.
    Record {
        /// Number of the module in the header.
        module: u8,
        /// Where the record ended in the ring.
        end: u64,
        /// The record: header and data.
        bytes: &'a [u8],
    },
    /// Records that are missing here, because the file could not take them.
    Gap {
        /// How many.
        lost: u64,
    },
    /// Nothing more.
    End(Ended),
}

/// Targets that are kept of a recording; a run has far fewer.
const MOST_TARGETS: usize = 1 << 16;

/// Targets of one module that came while it was recorded, by number; an empty path where several had it. They are wanted before the first record, so all of the
/// file is gone through, from head to head; what is damaged ends it, and is said by who reads the records.
///
/// # Errors
/// The file cannot be read.
pub fn late_targets(file: impl Read + Seek, module: u8) -> io::Result<BTreeMap<u32, String>> {
    let mut from = BufReader::with_capacity(64 << 10, file);
    let mut targets = BTreeMap::new();
    from.seek(io::SeekFrom::Start(MAGIC.len() as u64))?;
    let mut head = [0; BLOCK_HEAD + BODY_HEAD];
    while targets.len() < MOST_TARGETS {
        match from.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
        let [a, b, c, d, e, f, g, h, found, of, ..] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if !(BODY_HEAD..=MAX_BODY).contains(&len) {
            break;
        }
        let rest = len - BODY_HEAD;
        if found != kind::TARGET || of != module {
            from.seek_relative(rest as i64)?;
            continue;
        }
        let mut body = head.get(BLOCK_HEAD..).unwrap_or_default().to_vec();
        if (&mut from).take(rest as u64).read_to_end(&mut body)? < rest
            || crc32fast::hash(&body) != u32::from_le_bytes([e, f, g, h])
        {
            break;
        }
        let number = body.get(8..BODY_HEAD).and_then(|w| w.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes);
        if let Ok(number) = u32::try_from(number) {
            let path = String::from_utf8_lossy(body.get(BODY_HEAD..).unwrap_or_default()).into_owned();
            // Numbers are given out again; one that several files had names none of them.
            let known = targets.entry(number).or_insert_with(|| path.clone());
            if *known != path {
                known.clear();
            }
        }
    }
    Ok(targets)
}

/// A recording being read.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    at: u64,
    body: Vec<u8>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads up to the header.
    ///
    /// # Errors
    /// It is no recording, or its header is damaged.
    pub fn new(from: R) -> Result<(Self, Header), Damage> {
        let mut reader = Self { from, at: 0, body: Vec::new(), ended: false };
        let mut magic = [0; MAGIC.len()];
        if reader.fill(&mut magic)? < magic.len() || magic != MAGIC {
            return Err(Damage::Magic);
        }
        reader.at = magic.len() as u64;
        let (found, ..) = reader.read()?.ok_or(Damage::Cut { at: reader.at })?;
        if found != kind::HEADER {
            return Err(Damage::Header("the first block is another".into()));
        }
        let header = serde_json::from_slice(reader.rest()).map_err(|e| Damage::Header(e.to_string()))?;
        Ok((reader, header))
    }

    /// The next block that is of a known kind.
    ///
    /// # Errors
    /// From the first error on nothing more is given: what follows cannot be trusted.
    pub fn block(&mut self) -> Result<Block<'_>, Damage> {
        loop {
            if self.ended {
                return Ok(Block::End(Ended::default()));
            }
            let at = self.at;
            let read = self.read();
            if read.is_err() {
                self.ended = true;
            }
            let Some((found, module, position)) = read? else {
                self.ended = true;
                return Err(Damage::Cut { at });
            };
            match found {
                kind::RECORD => return Ok(Block::Record { module, end: position, bytes: self.rest() }),
                kind::GAP => return Ok(Block::Gap { lost: position }),
                kind::END => {
                    self.ended = true;
                    let ended = serde_json::from_slice(self.rest());
                    return ended.map(Block::End).map_err(|_| Damage::Block { at, what: "its end is not understood" });
                }
                _ => {}
            }
        }
    }

    fn rest(&self) -> &[u8] {
        self.body.get(BODY_HEAD..).unwrap_or_default()
    }

    /// Kind, module and position of the next block; its body is in `self.body`. `None` at the end of the file.
    fn read(&mut self) -> Result<Option<(u8, u8, u64)>, Damage> {
        let at = self.at;
        let mut head = [0; BLOCK_HEAD];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            n if n < head.len() => return Err(Damage::Cut { at }),
            _ => {}
        }
        let [a, b, c, d, crc @ ..] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if !(BODY_HEAD..=MAX_BODY).contains(&len) {
            return Err(Damage::Block { at, what: "an impossible length" });
        }
        let mut body = std::mem::take(&mut self.body);
        body.resize(len, 0);
        let filled = self.fill(&mut body)?;
        self.body = body;
        if filled < len {
            return Err(Damage::Cut { at });
        }
        if crc32fast::hash(&self.body) != u32::from_le_bytes(crc) {
            return Err(Damage::Block { at, what: "its checksum is another" });
        }
        self.at += (BLOCK_HEAD + len) as u64;
        let word = self.body.get(8..16).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
        Ok(Some((self.body.first().copied().unwrap_or(0), self.body.get(1).copied().unwrap_or(0), word)))
    }

    /// As many bytes as there are.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, Damage> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::push;
    use super::*;

    fn recording(records: &[&[u8]]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        push(&mut out, kind::HEADER, 0, 0, &serde_json::to_vec(&Header::default()).unwrap());
        for (position, record) in (1..).zip(records) {
            push(&mut out, kind::RECORD, 0, position * 8, record);
            push(&mut out, 77, 0, 0, b"of a later version");
        }
        push(&mut out, kind::END, 0, 0, &serde_json::to_vec(&Ended::default()).unwrap());
        out
    }

    /// Records up to the end, or up to the damage.
    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
        let mut records = Vec::new();
        let mut reader = match Reader::new(bytes) {
            Ok((reader, _)) => reader,
            Err(e) => return (records, Some(e.to_string())),
        };
        loop {
            match reader.block() {
                Ok(Block::Record { bytes, .. }) => records.push(bytes.to_vec()),
                Ok(Block::Gap { .. }) => {}
                Ok(Block::End(_)) => return (records, None),
                Err(e) => {
                    assert!(matches!(reader.block(), Ok(Block::End(_))), "nothing more after damage");
                    return (records, Some(e.to_string()));
                }
            }
        }
    }

    #[test]
    fn what_was_written_is_read_and_unknown_blocks_are_skipped() {
        assert_eq!(read(&recording(&[b"one", b"", b"three"])), (vec![b"one".into(), vec![], b"three".into()], None));
    }

    #[test]
    fn every_cut_is_noticed_and_what_is_whole_is_given() {
        let whole = recording(&[b"one", b"two"]);
        for cut in 0..whole.len() {
            let (records, damage) = read(&whole[..cut]);
            assert!(damage.is_some(), "cut at {cut}");
            assert!(records.len() <= 2);
        }
        let (records, damage) = read(&whole[..whole.len() - 1]);
        assert_eq!(records.len(), 2);
        assert!(damage.unwrap().contains("cut at byte"));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = recording(&[b"one"]);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).1.is_some(), "bit {bit}");
        }
    }

    #[test]
    fn targets_that_came_late_are_found_between_records() {
        let mut bytes = recording(&[b"one", b"two"]);
        let end = bytes.len();
        push(&mut bytes, kind::TARGET, 0, 3, b"/usr/bin/three");
        push(&mut bytes, kind::TARGET, 1, 4, b"/of/another/module");
        push(&mut bytes, kind::TARGET, 0, 3, b"/again");
        push(&mut bytes, kind::TARGET, 0, u64::MAX, b"/no/such/number");
        push(&mut bytes, kind::TARGET, 0, 5, b"/usr/bin/five");
        let read = |bytes: &[u8]| late_targets(io::Cursor::new(bytes), 0).unwrap();
        let three = (3, String::new());
        assert_eq!(read(&bytes), [three.clone(), (5, "/usr/bin/five".to_owned())].into());
        // Up to what is damaged, and no further.
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).len() <= 2, "cut at {cut}");
        }
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(read(&bytes), [three].into());
        bytes[end + 3] = 0xff;
        assert!(read(&bytes).is_empty());
    }

    proptest! {
        #[test]
        fn noise_is_survived(noise in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(&noise);
            prop_assert!(read(&bytes).1.is_some());
            prop_assert!(read(&noise).1.is_some());
            prop_assert!(late_targets(io::Cursor::new(&bytes), 0).is_ok());
        }
    }
}
