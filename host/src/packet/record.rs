//! What the kernel side writes into the ring: `ebpf-objects/src/packets.h`. Pure.

use super::{Direction, Owner};

/// Bytes before those of the frame: `struct packet`.
pub const HEADER: usize = 80;

const OUTBOUND: u32 = 1;
const LAST: u32 = 2;
const OWNED: u32 = 1;
/// `PACKET_WANTED` of an owner's flags.
const WANTED: u32 = 2;

/// A whole frame, or one part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// When the frame passed, monotonic ns.
    pub time_ns: u64,
    /// Equal in all parts of a frame.
    pub id: u64,
    /// Number of the interface.
    pub interface: u32,
    /// Bytes of the whole frame.
    pub wire: u32,
    /// Where in it these bytes are.
    pub offset: u32,
    /// Which way.
    pub direction: Direction,
    /// No other part follows.
    pub last: bool,
    /// Whose it is.
    pub owner: Option<Owner>,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads one; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (len, flags) = (word(28)? as usize, word(32)?);
        let comm = bytes.get(56..72)?;
        let owner = Owner {
            process: word(40)?,
            uid: word(44)?,
            cgroup: long(48)?,
            comm: comm.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
        };
        Some(Self {
            time_ns: long(0)?,
            id: long(8)?,
            interface: word(16)?,
            wire: word(20)?,
            offset: word(24)?,
            direction: if flags & OUTBOUND != 0 { Direction::Outbound } else { Direction::Inbound },
            last: flags & LAST != 0,
            owner: (word(72)? & OWNED != 0).then_some(owner),
            data: bytes.get(HEADER..HEADER.checked_add(len)?)?,
        })
    }
}

/// `struct packet_owner`, for a socket that was there before the programs. `wanted`: the filters let its process through.
#[must_use]
pub fn owner_bytes(owner: &Owner, wanted: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    out.extend_from_slice(&owner.process.to_ne_bytes());
    out.extend_from_slice(&owner.uid.to_ne_bytes());
    out.extend_from_slice(&owner.cgroup.to_ne_bytes());
    let mut comm = [0; 16];
    for (to, byte) in comm.iter_mut().take(15).zip(&owner.comm) {
        *to = *byte;
    }
    out.extend_from_slice(&comm);
    out.extend_from_slice(&(OWNED | if wanted { WANTED } else { 0 }).to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record as the kernel side makes it.
    pub fn bytes(id: u64, wire: u32, offset: u32, flags: u32, owner: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = 5u64.to_ne_bytes().to_vec();
        out.extend(id.to_ne_bytes());
        for word in [7, wire, offset, data.len() as u32, flags, 0] {
            out.extend(u32::to_ne_bytes(word));
        }
        out.extend(owner);
        out.extend(data);
        out.extend([0xee; 9]); // room that the class has left
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let owner = Owner { process: 1, uid: 2, cgroup: 3, comm: b"a name of more than".to_vec() };
        let made = bytes(9, 3, 0, OUTBOUND | LAST, &owner_bytes(&owner, true), b"abc");
        let read = Record::parse(&made).unwrap();
        assert_eq!((read.time_ns, read.id, read.interface, read.wire, read.last), (5, 9, 7, 3, true));
        assert_eq!((read.direction, read.data), (Direction::Outbound, &b"abc"[..]));
        assert_eq!(read.owner, Some(Owner { comm: b"a name of more ".to_vec(), ..owner }));
        assert_eq!(Record::parse(&bytes(9, 3, 0, 0, &[0; 40], b"")).unwrap().owner, None);
    }

    #[test]
    fn what_is_too_short_is_none() {
        let mut made = bytes(9, 3, 0, 0, &[0; 40], b"abc");
        made.truncate(HEADER + 3);
        for len in 0..made.len() {
            assert_eq!(Record::parse(&made[..len]), None, "{len}");
        }
        made[28..32].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(Record::parse(&made), None);
    }
}
