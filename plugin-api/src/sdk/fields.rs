//! The fixed part of a message.

/// The first `N` bytes of a message: the module's own struct, as its kernel side wrote it. Numbers are little-endian. That
/// a field lies within the `N` bytes is checked when the module is compiled.
///
/// ```
/// use ecapture_plugin_api::sdk::Fields;
///
/// // struct { __u32 kind; __u32 flags; __u64 statement; }, then a text.
/// let message = b"\x02\0\0\0\x01\0\0\0\x10\0\0\0\0\0\0\0select";
/// let (head, text) = Fields::<16>::split(message).unwrap();
/// assert_eq!((head.u32::<0>(), head.u64::<8>(), text), (2, 16, &b"select"[..]));
/// assert!(Fields::<16>::split(b"too short").is_none());
/// ```
///
/// ```compile_fail
/// use ecapture_plugin_api::sdk::Fields;
///
/// let (head, _) = Fields::<16>::split(&[0; 16]).unwrap();
/// head.u64::<12>();
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a, const N: usize>(&'a [u8; N]);

impl<'a, const N: usize> Fields<'a, N> {
    /// The fixed part of a message, and what follows it; `None` if the message is shorter.
    pub fn split(message: &'a [u8]) -> Option<(Self, &'a [u8])> {
        message.split_first_chunk().map(|(fixed, rest)| (Self(fixed), rest))
    }

    /// `LEN` bytes, from the byte `AT` on.
    pub fn bytes<const AT: usize, const LEN: usize>(&self) -> &'a [u8; LEN] {
        const { assert!(AT <= N && LEN <= N - AT, "the field does not lie within the fixed part") };
        self.0.get(AT..).and_then(<[u8]>::first_chunk).unwrap_or(const { &[0; LEN] })
    }

    /// The number of one byte.
    pub fn u8<const AT: usize>(&self) -> u8 {
        u8::from_le_bytes(*self.bytes::<AT, 1>())
    }

    /// The number of two bytes that begins with the byte `AT`.
    pub fn u16<const AT: usize>(&self) -> u16 {
        u16::from_le_bytes(*self.bytes::<AT, 2>())
    }

    /// The number of four bytes that begins with the byte `AT`.
    pub fn u32<const AT: usize>(&self) -> u32 {
        u32::from_le_bytes(*self.bytes::<AT, 4>())
    }

    /// The number of eight bytes that begins with the byte `AT`.
    pub fn u64<const AT: usize>(&self) -> u64 {
        u64::from_le_bytes(*self.bytes::<AT, 8>())
    }
}
