//! HPACK (RFC 7541), decoded by one who may have missed the beginning.
//!
//! A crate for it was looked for: `httlib-hpack`, `loona-hpack` and `hpack` decode for an endpoint that saw every byte, where an
//! index that is not in the table is an error that ends the connection; none lets the table hold what is not known, and the
//! table is all that matters here.
//!
//! Why what is reported is exact though entries are missing: an index counts from the newest entry, entries leave the table
//! only from its old end, and an entry that is larger than the table empties it and does not enter. So what is in the table of
//! the peer is at any time *the newest k of all insertions*, whatever its size is and was. An index of at most the number of
//! insertions that were seen is therefore the insertion that was seen, or the peer breaks the protocol. All others are from
//! before and unknown. The capacity is needed only for what may be forgotten, and to tell what is unknown from what is wrong.
//! When a block is lost, insertions may be: from there on everything before is unknown ([`Decoder::forget`]).

mod table;

use std::collections::VecDeque;

use super::huffman;
use crate::stream::exchange::Header;
use table::STATIC;

/// What is kept of the headers of one block; more is counted.
const BLOCK_BYTES: usize = 256 << 10;
const BLOCK_FIELDS: usize = 1024;
/// The longest name or value that is decoded: a block with a longer one is broken off.
const STRING: usize = 256 << 10;
/// Bytes of a table that are kept, by the count of the RFC, if the peer says a larger size, or if its size is not known.
const TABLE_KNOWN: usize = 256 << 10;
const TABLE_UNKNOWN: usize = 64 << 10;
/// Its size if nobody says another.
const TABLE: usize = 4096;
/// What an entry costs beside its bytes.
const ENTRY: usize = 32;

/// The fields of one block.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// In their order.
    pub fields: Vec<Header>,
    /// Bytes of them.
    size: usize,
    /// Fields that were not kept, for there were too many or too large ones.
    pub dropped: u64,
    /// An index that is in no table.
    pub out_of_range: Option<u64>,
    /// It was broken off here.
    pub broken: bool,
}

impl Block {
    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        self.size + self.fields.capacity() * size_of::<Header>()
    }

    fn has_room(&self) -> bool {
        self.size < BLOCK_BYTES && self.fields.len() < BLOCK_FIELDS
    }

    fn push(&mut self, field: Header) {
        self.size += bytes_of(&field);
        self.fields.push(field);
    }
}

/// Why a block cannot be decoded any further.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// One direction's table.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Newest first; every one was seen being inserted.
    entries: VecDeque<Header>,
    /// Sum of their sizes, as far as they are known.
    size: usize,
    /// What the peer's table may have; `None`: said before the capture.
    capacity: Option<usize>,
    /// Behind the entries there may be others that were not seen.
    below: bool,
}

/// What one field says.
enum Field<'a> {
    Indexed(u64),
    Literal { insert: bool, name: Name<'a>, value: Text<'a> },
    Resize(u64),
}

enum Name<'a> {
    Index(u64),
    Text(Text<'a>),
}

struct Text<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl Decoder {
    /// `late`: the beginning was not seen.
    pub fn new(late: bool) -> Self {
        let capacity = (!late).then_some(TABLE);
        Self { entries: VecDeque::new(), size: 0, capacity, below: late }
    }

    /// A block was lost, or a part of it: what is in the table is not known any more.
    pub fn forget(&mut self) {
        *self = Self::new(true);
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        self.size + self.entries.capacity() * size_of::<Header>()
    }

    /// Decodes the whole fields at the beginning of `bytes`; says how many bytes they were.
    pub fn decode(&mut self, bytes: &[u8], block: &mut Block) -> Result<usize, Broken> {
        let mut rest = bytes;
        while let Some((field, behind)) = parse(rest)? {
            rest = behind;
            match field {
                Field::Indexed(index) => {
                    if !block.has_room() {
                        block.dropped += 1;
                        continue;
                    }
                    let field = self.field(index, block);
                    block.push(field);
                }
                Field::Literal { insert, name, value } => self.literal(insert, &name, &value, block)?,
                Field::Resize(size) => self.resize(usize::try_from(size).unwrap_or(usize::MAX)),
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn literal(&mut self, insert: bool, name: &Name<'_>, value: &Text<'_>, block: &mut Block) -> Result<(), Broken> {
        if !insert && !block.has_room() {
            block.dropped += 1;
            return Ok(());
        }
        let name = match name {
            Name::Text(text) => Some(text.decode()?),
            Name::Index(index) => self.name(*index, block),
        };
        let field = Header { name, value: Some(value.decode()?) };
        if !insert {
            block.push(field);
        } else if block.has_room() {
            self.insert(field.clone());
            block.push(field);
        } else {
            block.dropped += 1;
            self.insert(field);
        }
        Ok(())
    }

    fn field(&self, index: u64, block: &mut Block) -> Header {
        match index_of(index) {
            Place::Static(name, value) => Header { name: Some(name.to_vec()), value: Some(value.to_vec()) },
            Place::Dynamic(at) => self.entry(at, index, block).cloned().unwrap_or_default(),
        }
    }

    fn name(&self, index: u64, block: &mut Block) -> Option<Vec<u8>> {
        match index_of(index) {
            Place::Static(name, _) => Some(name.to_vec()),
            Place::Dynamic(at) => self.entry(at, index, block).and_then(|entry| entry.name.clone()),
        }
    }

    fn entry(&self, at: usize, index: u64, block: &mut Block) -> Option<&Header> {
        let entry = self.entries.get(at);
        if entry.is_none() && !self.below {
            block.out_of_range.get_or_insert(index);
        }
        entry
    }

    fn insert(&mut self, field: Header) {
        self.size += ENTRY + bytes_of(&field);
        self.entries.push_front(field);
        self.evict();
    }

    fn resize(&mut self, size: usize) {
        self.capacity = Some(size);
        self.evict();
    }

    /// An entry whose name is not known counts for less than it is: it leaves later than at the peer, where an index to it would be
    /// a breach of the protocol already.
    fn evict(&mut self) {
        if let Some(capacity) = self.capacity {
            while self.size > capacity && self.pop() {
                // What is older than a known entry that left, has left too.
                self.below = false;
            }
            // Nothing fits into a table that is smaller than an entry.
            self.below &= capacity >= ENTRY;
        }
        let most = if self.capacity.is_some() { TABLE_KNOWN } else { TABLE_UNKNOWN };
        while self.size > most && self.pop() {
            self.below = true;
        }
    }

    fn pop(&mut self) -> bool {
        let Some(entry) = self.entries.pop_back() else { return false };
        self.size = self.size.saturating_sub(ENTRY + bytes_of(&entry));
        true
    }
}

impl Text<'_> {
    fn decode(&self) -> Result<Vec<u8>, Broken> {
        if !self.huffman {
            return Ok(self.bytes.to_vec());
        }
        // The shortest code has five bits.
        let mut out = Vec::with_capacity(self.bytes.len() * 8 / 5);
        if huffman::decode(self.bytes, &mut out, STRING) { Ok(out) } else { Err(Broken) }
    }
}

/// Whether these bytes are a whole block, as far as that can be said without a table; and whether it has a pseudo-header, by
/// which requests and responses begin. For finding frames behind a gap.
pub(super) fn is_block(bytes: &[u8]) -> Option<bool> {
    let (mut rest, mut pseudo, mut fields) = (bytes, false, 0_usize);
    while !rest.is_empty() {
        let (field, behind) = parse(rest).ok()??;
        rest = behind;
        match field {
            Field::Resize(_) if fields > 0 => return None,
            Field::Resize(_) => continue,
            Field::Indexed(index) => {
                pseudo |= matches!(index_of(index), Place::Static(name, _) if name.starts_with(b":"))
            }
            Field::Literal { name, value, .. } => {
                let value = value.decode().ok()?;
                if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
                    return None;
                }
                match name {
                    Name::Text(text) => {
                        let name = text.decode().ok()?;
                        let token = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
                        if name.is_empty() || !name.iter().all(token) {
                            return None;
                        }
                    }
                    Name::Index(index) => {
                        pseudo |= matches!(index_of(index), Place::Static(name, _) if name.starts_with(b":"));
                    }
                }
            }
        }
        fields += 1;
    }
    (fields > 0).then_some(pseudo)
}

enum Place {
    Static(&'static [u8], &'static [u8]),
    Dynamic(usize),
}

/// Index 0 is refused before.
fn index_of(index: u64) -> Place {
    let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_sub(1);
    match STATIC.get(at) {
        Some((name, value)) => Place::Static(name, value),
        None => Place::Dynamic(at - STATIC.len()),
    }
}

fn bytes_of(field: &Header) -> usize {
    field.name.as_ref().map_or(0, Vec::len) + field.value.as_ref().map_or(0, Vec::len)
}

/// The field at the beginning, and what is behind it; `Ok(None)`: more bytes are needed.
fn parse(bytes: &[u8]) -> Result<Option<(Field<'_>, &[u8])>, Broken> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let (bits, insert) = match first {
        0x80.. => {
            let Some((index, rest)) = integer(bytes, 7)? else { return Ok(None) };
            return if index == 0 { Err(Broken) } else { Ok(Some((Field::Indexed(index), rest))) };
        }
        0x20..=0x3f => return Ok(integer(bytes, 5)?.map(|(size, rest)| (Field::Resize(size), rest))),
        0x40..=0x7f => (6, true),
        _ => (4, false),
    };
    let Some((index, rest)) = integer(bytes, bits)? else { return Ok(None) };
    let (name, rest) = if index == 0 {
        let Some((name, rest)) = string(rest)? else { return Ok(None) };
        (Name::Text(name), rest)
    } else {
        (Name::Index(index), rest)
    };
    let Some((value, rest)) = string(rest)? else { return Ok(None) };
    Ok(Some((Field::Literal { insert, name, value }, rest)))
}

fn string(bytes: &[u8]) -> Result<Option<(Text<'_>, &[u8])>, Broken> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let Some((len, rest)) = integer(bytes, 7)? else { return Ok(None) };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > STRING {
        return Err(Broken);
    }
    let Some((bytes, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    Ok(Some((Text { huffman: first & 0x80 != 0, bytes }, rest)))
}

/// An integer with a prefix of so many bits (RFC 7541, section 5.1); larger ones than 2^32 are broken.
fn integer(bytes: &[u8], prefix: u32) -> Result<Option<(u64, &[u8])>, Broken> {
    let Some((first, mut rest)) = bytes.split_first() else { return Ok(None) };
    let most = (1_u64 << prefix) - 1;
    let mut value = u64::from(*first) & most;
    if value < most {
        return Ok(Some((value, rest)));
    }
    for shift in [0, 7, 14, 21, 28] {
        let Some((byte, behind)) = rest.split_first() else { return Ok(None) };
        rest = behind;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((value, rest)));
        }
    }
    Err(Broken)
}

#[cfg(test)]
#[path = "hpack_tests.rs"]
pub(super) mod tests;
