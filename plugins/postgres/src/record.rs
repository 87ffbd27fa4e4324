//! The kernel side's messages, read from bytes: the layouts of `postgres.h`. Every byte may be hostile.

use ecapture_plugin_api::sdk::Fields;
use std::net::{Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// Why a message makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The manifest has one stream.
    #[error("stream {0} does not exist")]
    Stream(u16),
    /// Shorter than its fixed part.
    #[error("{0} bytes are too short for a message of kind {1}")]
    Short(usize, u32),
    /// None that the kernel side sends.
    #[error("kind {0} does not exist")]
    Kind(u32),
}

/// `enum pg_flags`.
pub mod flag {
    /// A message of the client begins here.
    pub const BOUNDARY: u32 = 1;
    /// A packet of the begin of a connection.
    pub const STARTUP: u32 = 2;
    /// What follows begins anew.
    pub const LOST: u32 = 8;
    /// A message that is cut was read to its end.
    pub const CUT_ENDED: u32 = 16;
}

/// `struct pg_head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// `flag`.
    pub flags: u32,
    /// CopyData messages of the client so far.
    pub copy_messages: u64,
    /// Bytes in these.
    pub copy_bytes: u64,
    /// Number on the connection.
    pub sequence: u64,
}

impl Head {
    /// Whether a flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The client's end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// As text.
    pub address: String,
    /// Its port.
    pub port: u16,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// A piece of what the client said, and where from if it is the first.
    Asked(&'a [u8], Option<Peer>),
    /// Entries of what it was told.
    Told(&'a [u8]),
    /// The connection is gone.
    Ended,
    /// Text of a statement inside another.
    Nested(&'a [u8]),
}

const HEAD: usize = 32;
const ASKED: usize = 72;

/// Reads one message.
///
/// # Errors
/// It is none.
pub fn parse(data: &[u8]) -> Result<(Head, Body<'_>), RecordError> {
    let kind = Fields::<4>::split(data).map_or(0, |(fields, _)| fields.u32::<0>());
    let short = RecordError::Short(data.len(), kind);
    let (fields, rest) = Fields::<HEAD>::split(data).ok_or(short)?;
    let head = Head {
        flags: fields.u32::<4>(),
        copy_messages: fields.u64::<8>(),
        copy_bytes: fields.u64::<16>(),
        sequence: fields.u64::<24>(),
    };
    let body = match kind {
        1 => {
            let (fields, bytes) = Fields::<ASKED>::split(data).ok_or(short)?;
            Body::Asked(bytes, head.has(flag::STARTUP).then(|| peer(&fields)).flatten())
        }
        2 => Body::Told(rest),
        3 => Body::Ended,
        4 => Body::Nested(rest),
        other => return Err(RecordError::Kind(other)),
    };
    Ok((head, body))
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The client's address, if what lies where the server keeps it is one: both ends of a connection have the same family, and
/// the length is the family's.
fn peer(asked: &Fields<'_, ASKED>) -> Option<Peer> {
    let family = asked.u16::<40>();
    if family != asked.u16::<32>() {
        return None;
    }
    let address = match (family, asked.u32::<36>()) {
        (AF_INET, 16) => Ipv4Addr::from(*asked.bytes::<44, 4>()).to_string(),
        (AF_INET6, 28) => Ipv6Addr::from(*asked.bytes::<48, 16>()).to_string(),
        _ => return None,
    };
    Some(Peer { address, port: u16::from_be_bytes(*asked.bytes::<42, 2>()) })
}

/// One entry of what a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Type of the message; `D` and `d`: counts.
    pub kind: u8,
    /// Goes on with the entry before.
    pub more: bool,
    /// Bytes that the body has.
    pub length: u32,
    /// Those that came.
    pub body: &'a [u8],
}

impl Entry<'_> {
    /// Messages and bytes that a `D` or `d` stands for.
    pub fn counts(&self) -> (u64, u64) {
        Fields::<16>::split(self.body).map_or((0, 0), |(fields, _)| (fields.u64::<0>(), fields.u64::<8>()))
    }
}

/// The entries; the first that is cut ends them.
pub fn entries(mut data: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        let (fields, rest) = Fields::<8>::split(data)?;
        let captured = usize::from(fields.u16::<2>());
        let entry = Entry {
            kind: fields.u8::<0>(),
            more: fields.u8::<1>() != 0,
            length: fields.u32::<4>(),
            body: rest.get(..captured)?,
        };
        data = rest.get(captured.next_multiple_of(8)..).unwrap_or_default();
        Some(entry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_or_refused() {
        assert_eq!(parse(&[]), Err(RecordError::Short(0, 0)));
        assert_eq!(parse(&[9; 40]), Err(RecordError::Kind(0x0909_0909)));
        let mut asked = vec![0; 72];
        asked[0] = 1;
        asked[4] = 3;
        asked[24] = 7;
        asked.extend(b"xyz");
        let (head, body) = parse(&asked).unwrap();
        assert_eq!((head.flags, head.sequence, body), (3, 7, Body::Asked(b"xyz", None)));
        assert_eq!(parse(&asked[..71]), Err(RecordError::Short(71, 1)));
    }

    #[test]
    fn an_address_is_believed_only_if_all_agrees() {
        let mut asked = vec![0; 72];
        (asked[0], asked[4], asked[32], asked[36], asked[40]) = (1, 2, 2, 16, 2);
        asked[42..48].copy_from_slice(&[0x15, 0x38, 127, 0, 0, 1]);
        let of = |data: &[u8]| match parse(data).unwrap().1 {
            Body::Asked(_, peer) => peer,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&asked), Some(Peer { address: "127.0.0.1".into(), port: 5432 }));
        for (at, value) in [(32, 10), (36, 28), (40, 1), (4, 1)] {
            let mut wrong = asked.clone();
            wrong[at] = value;
            assert_eq!(of(&wrong), None, "{at}");
        }
    }

    #[test]
    fn entries_end_where_they_are_cut() {
        let mut data = vec![b'C', 0, 3, 0, 3, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0];
        data.extend([b'Z', 0, 1, 0, 1, 0, 0, 0, b'I']);
        let all: Vec<_> = entries(&data).map(|e| (e.kind, e.body.to_vec())).collect();
        assert_eq!(all, [(b'C', b"ab\0".to_vec()), (b'Z', b"I".to_vec())]);
        assert_eq!(entries(&data[..24]).count(), 1);
    }
}
