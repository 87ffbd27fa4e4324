//! The client's side of the protocol: messages, put together from pieces of the stream. Hostile like everything captured.

use crate::record::{Head, flag};

/// One message of a client, or as much of it as came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Type byte; 0 for a packet of the begin of a connection.
    pub kind: u8,
    /// Its body.
    pub body: Vec<u8>,
    /// Bytes that the body lacks at its end.
    pub missing: u64,
    /// When its first byte was read.
    pub time_ns: u64,
    /// CopyData of the client before it: messages, bytes.
    pub copied: (u64, u64),
}

/// More than the kernel side sends of one message.
const MOST: usize = 2 << 20;

/// Puts messages together.
#[derive(Debug, Default)]
pub struct Reader {
    /// Header and body of the message that has begun.
    partial: Vec<u8>,
    began_ns: u64,
    copied: (u64, u64),
    /// Bytes of it that were thrown away here.
    dropped: u64,
    /// Whether `partial` begins where a message does.
    in_step: bool,
}

impl Reader {
    /// Something was lost: the place in the stream is not known.
    pub fn lose_step(&mut self) {
        *self = Self::default();
    }

    /// Bytes that wait for more.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.partial.len()
    }

    /// Takes the next piece.
    pub fn take(&mut self, head: &Head, time_ns: u64, mut bytes: &[u8], mut each: impl FnMut(Message)) {
        let copied = (head.copy_messages, head.copy_bytes);
        // The rest was over the limit and was not sent.
        if head.has(flag::BOUNDARY | flag::CUT_ENDED) && self.in_step && !self.partial.is_empty() {
            self.finish(&mut each);
        }
        if head.has(flag::BOUNDARY) {
            self.partial.clear();
            self.in_step = true;
            if head.has(flag::STARTUP) {
                bytes = self.startup(time_ns, copied, bytes, &mut each);
            }
        }
        if !self.in_step {
            return;
        }
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                self.began_ns = time_ns;
                self.copied = copied;
                self.dropped = 0;
            }
            let wanted = self.size().map_or(HEADER, |size| usize::try_from(size).unwrap_or(usize::MAX));
            let lacks =
                wanted.saturating_sub(self.partial.len()).saturating_sub(usize::try_from(self.dropped).unwrap_or(0));
            let (now, later) = bytes.split_at(lacks.min(bytes.len()));
            let keep = now.len().min(MOST.saturating_sub(self.partial.len()));
            self.partial.extend_from_slice(now.get(..keep).unwrap_or(now));
            self.dropped += u64::try_from(now.len() - keep).unwrap_or(0);
            bytes = later;
            let have = u64::try_from(self.partial.len()).unwrap_or(u64::MAX).saturating_add(self.dropped);
            match self.size() {
                Some(size) if have >= size => self.finish(&mut each),
                None if self.partial.len() >= HEADER => return self.lose_step(),
                _ => {}
            }
        }
    }

    /// Type, length and body, once the header is there and if it can be one.
    fn size(&self) -> Option<u64> {
        let length = u32::from_be_bytes(self.partial.get(1..HEADER)?.try_into().ok()?);
        (length >= 4).then(|| u64::from(length) + 1)
    }

    fn finish(&mut self, each: &mut impl FnMut(Message)) {
        let partial = std::mem::take(&mut self.partial);
        let size = match partial.get(1..HEADER).and_then(|l| <[u8; 4]>::try_from(l).ok()) {
            Some(length) => u64::from(u32::from_be_bytes(length)) + 1,
            None => return,
        };
        let missing = size.saturating_sub(u64::try_from(partial.len()).unwrap_or(u64::MAX));
        let kind = partial.first().copied().unwrap_or(0);
        let mut body = partial;
        body.drain(..HEADER.min(body.len()));
        each(Message { kind, body, missing, time_ns: self.began_ns, copied: self.copied });
    }

    /// A packet without a type, and what the client sent along with it.
    fn startup<'b>(
        &mut self,
        time_ns: u64,
        copied: (u64, u64),
        bytes: &'b [u8],
        each: &mut impl FnMut(Message),
    ) -> &'b [u8] {
        let size = bytes.first_chunk::<4>().map_or(0, |length| u64::from(u32::from_be_bytes(*length)));
        let missing = size.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let (packet, rest) = bytes.split_at(usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len()));
        let body = packet.get(4..).unwrap_or_default().to_vec();
        each(Message { kind: 0, body, missing, time_ns, copied });
        if missing > 0 {
            self.lose_step();
        }
        rest
    }
}

const HEADER: usize = 5;

/// Reads the fields of a message's body.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// Text up to a NUL; without one, as much as there is.
    pub fn text(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        text
    }

    /// So many bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    /// 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// 32 bits with a sign.
    pub fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// 64 bits with a sign.
    pub fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.bytes(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(flags: u32) -> Head {
        Head { flags, copy_messages: 0, copy_bytes: 0, sequence: 1 }
    }

    fn query(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len() + 4).unwrap();
        [&b"Q"[..], &length.to_be_bytes(), text].concat()
    }

    #[test]
    fn however_it_is_cut_the_messages_are_the_same() {
        let stream = [query(b"select 1\0"), query(b""), query(&[b'x'; 5000])].concat();
        for size in [1, 2, 3, 5, 7, 100, 8192] {
            let mut reader = Reader::default();
            let mut all = Vec::new();
            for (number, piece) in stream.chunks(size).enumerate() {
                let flags = if number == 0 { flag::BOUNDARY } else { 0 };
                reader.take(&head(flags), 1, piece, |message| all.push(message.body));
            }
            assert_eq!(all, [b"select 1\0".to_vec(), vec![], vec![b'x'; 5000]], "{size}");
            assert_eq!(reader.waiting(), 0);
        }
    }

    #[test]
    fn a_boundary_ends_what_was_cut() {
        let mut reader = Reader::default();
        let mut all = Vec::new();
        let long = query(&[b'x'; 1000]);
        reader.take(&head(flag::BOUNDARY), 1, &long[..105], |m| all.push(m));
        reader.take(&head(flag::BOUNDARY), 2, &query(b"next\0"), |m| all.push(m));
        assert_eq!((all[0].body.len(), all[0].missing, all[0].time_ns), (100, 900, 1));
        assert_eq!((all[1].body.as_slice(), all[1].missing, all[1].time_ns), (&b"next\0"[..], 0, 2));
    }

    #[test]
    fn the_end_of_what_was_cut_is_told_before_the_next() {
        let mut reader = Reader::default();
        let mut all = Vec::new();
        reader.take(&head(flag::BOUNDARY), 1, &query(&[b'x'; 1000])[..105], |m| all.push(m.missing));
        reader.take(&head(flag::CUT_ENDED), 2, b"", |m| all.push(m.missing));
        assert_eq!(all, [900]);
        reader.take(&head(flag::BOUNDARY | flag::CUT_ENDED), 3, &query(b"next\0"), |m| all.push(m.missing));
        assert_eq!(all, [900, 0]);
    }

    #[test]
    fn what_comes_along_with_the_first_packet_is_taken_as_well() {
        let packet = [&16_u32.to_be_bytes()[..], &[0, 3, 0, 0], b"user\0u\0\0"].concat();
        let packet = [&u32::try_from(packet.len()).unwrap().to_be_bytes(), &packet[4..]].concat();
        let both = [packet.clone(), query(b"select 1\0"), query(b"select 2\0")].concat();
        for end in [packet.len(), packet.len() + 3, packet.len() + 14, both.len()] {
            let (mut reader, mut all) = (Reader::default(), Vec::new());
            reader.take(&head(flag::BOUNDARY | flag::STARTUP), 1, &both[..end], |m| all.push((m.kind, m.body)));
            reader.take(&head(0), 2, &both[end..], |m| all.push((m.kind, m.body)));
            let queries = [b"select 1\0", b"select 2\0"].map(|text| (b'Q', text.to_vec()));
            assert_eq!(all[0], (0, packet[4..].to_vec()), "{end}");
            assert_eq!(all[1..], queries, "{end}");
        }
        // A length that is none.
        for hostile in [&[0, 0, 0, 3, 1][..], &[0; 9], b"", &[0xff; 20]] {
            Reader::default().take(&head(flag::BOUNDARY | flag::STARTUP), 1, hostile, |m| assert_eq!(m.kind, 0));
        }
    }

    #[test]
    fn nothing_is_made_of_the_middle_of_something() {
        let mut reader = Reader::default();
        reader.take(&head(0), 1, &query(b"x\0"), |m| panic!("{m:?}"));
        reader.take(&head(flag::BOUNDARY), 1, b"Q\0\0\0\x03zzzzzz", |m| panic!("{m:?}"));
        reader.take(&head(0), 1, &query(b"x\0"), |m| panic!("{m:?}"));
        assert_eq!(reader.waiting(), 0);
    }
}
