//! The kernel side's messages, read from bytes. Offsets: `ebpf-objects/src/openssl.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ecapture_plugin_api::sdk::Fields;

/// Bytes of `struct openssl_data`.
pub const FIXED: usize = 88;

/// Which function was called (`enum openssl_call`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call(pub u32);

impl Call {
    /// `SSL_read` and so on; by number, from 1. Of the functions behind several the shortest of their names.
    pub const NAMES: [&str; 14] = [
        "SSL_read",
        "SSL_read_ex",
        "SSL_peek",
        "SSL_peek_ex",
        "SSL_read_early_data",
        "SSL_write",
        "SSL_write_ex",
        "SSL_write_early_data",
        "SSL_sendfile",
        "SSL_do_handshake",
        "SSL_write_ex2",
        "SSL_read",
        "SSL_peek",
        "SSL_write",
    ];
    /// Bytes that go from a file to the socket within the kernel.
    pub const SENDFILE: Self = Self(9);
    /// Never in a message.
    pub const HANDSHAKE: Self = Self(10);

    /// It sends.
    pub fn writes(self) -> bool {
        matches!(self.0, 6..=9 | 11 | 14)
    }

    /// It only looks: the bytes will be read again.
    pub fn peeks(self) -> bool {
        matches!(self.0, 3 | 4 | 13)
    }

    /// The name of the function.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.get((self.0 as usize).checked_sub(1)?).copied()
    }
}

/// The TCP socket below a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// This end.
    pub local: (IpAddr, u16),
    /// The other end.
    pub peer: (IpAddr, u16),
    /// It was not used during a call, but around calls on the connection in both directions.
    pub inferred: bool,
}

/// One call that moved bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// Address of the SSL object.
    pub ssl: u64,
    /// When the connection was first seen.
    pub birth_ns: u64,
    /// Of the first byte in its direction.
    pub offset: u64,
    /// Bytes that the call moved.
    pub length: u64,
    /// When it began.
    pub began_ns: u64,
    /// The function.
    pub call: Call,
    /// If it is known.
    pub socket: Option<Socket>,
    /// The bytes, as many as arrived.
    pub bytes: &'a [u8],
}

/// Why a message is not one of ours.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Less than the fixed structure.
    Short(usize),
    /// No such function.
    Call(u32),
    /// No such address family.
    Family(u16),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short(len) => write!(f, "{len} bytes, less than a message has"),
            Self::Call(number) => write!(f, "a call of no known kind: {number}"),
            Self::Family(number) => write!(f, "an address of no known family: {number}"),
        }
    }
}

impl<'a> Data<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, bytes) = Fields::<FIXED>::split(message).ok_or(Malformed::Short(message.len()))?;
        let call = Call(fixed.u32::<40>());
        if call.name().is_none() || call == Call::HANDSHAKE {
            return Err(Malformed::Call(call.0));
        }
        Ok(Self {
            ssl: fixed.u64::<0>(),
            birth_ns: fixed.u64::<8>(),
            offset: fixed.u64::<16>(),
            length: fixed.u64::<24>(),
            began_ns: fixed.u64::<32>(),
            call,
            socket: socket(&fixed)?,
            bytes,
        })
    }

    /// Names the connection within all of the machine and all of the run: different objects of different processes at
    /// different times get different numbers (but for one chance in 2^64), never 0.
    pub fn connection(&self, process: u32) -> u64 {
        connection(process, self.ssl, self.birth_ns)
    }
}

/// Bytes of `struct openssl_end`.
pub const END: usize = 16;

/// A connection is over.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    /// Address of the SSL object.
    pub ssl: u64,
    /// When the connection was first seen.
    pub birth_ns: u64,
}

impl End {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let (fixed, _) = Fields::<END>::split(message).ok_or(Malformed::Short(message.len()))?;
        Ok(Self { ssl: fixed.u64::<0>(), birth_ns: fixed.u64::<8>() })
    }
}

/// Names a connection: process, object, and when it was first seen.
pub fn connection(process: u32, ssl: u64, birth_ns: u64) -> u64 {
    mix(mix(mix(u64::from(process)) ^ ssl) ^ birth_ns).max(1)
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of the argument, and no two arguments share
/// a result.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn socket(fixed: &Fields<'_, FIXED>) -> Result<Option<Socket>, Malformed> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let family = fixed.u16::<48>();
    let address = |bytes: &[u8; 16]| {
        let [a, b, c, d, ..] = *bytes;
        if family == AF_INET { Ipv4Addr::new(a, b, c, d).into() } else { shortest(Ipv6Addr::from(*bytes)) }
    };
    match family {
        0 => Ok(None),
        AF_INET | AF_INET6 => {
            let (local, peer) = (
                (address(fixed.bytes::<56, 16>()), fixed.u16::<50>()),
                (address(fixed.bytes::<72, 16>()), fixed.u16::<52>()),
            );
            Ok(Some(Socket { local, peer, inferred: fixed.u16::<54>() != 0 }))
        }
        other => Err(Malformed::Family(other)),
    }
}

/// An IPv4 connection of an IPv6 socket is an IPv4 connection.
fn shortest(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(address.into(), IpAddr::from)
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(crate) mod tests;
