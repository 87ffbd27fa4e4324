//! Heads of HTTP/2 frames (RFC 9113, sections 4 and 6): what they say, and whether they can be one.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITIZED: u8 = 0x20;

/// Bytes of a head.
pub(super) const HEAD: usize = 9;

/// What a client sends first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub len: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// The bit that is reserved was set: endpoints ignore it, and none sets it.
    pub reserved: bool,
}

impl Frame {
    pub fn new(head: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = *head;
        let stream = u32::from_be_bytes([d, e, f, g]);
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: stream & 0x7fff_ffff,
            reserved: stream >> 31 == 1,
        }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// It carries a part of a header block.
    pub fn is_block(&self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE | CONTINUATION)
    }

    /// Bytes before what it carries.
    pub fn prefix(&self) -> usize {
        let padded = usize::from(self.has(PADDED));
        match self.kind {
            DATA => padded,
            HEADERS => padded + if self.has(PRIORITIZED) { 5 } else { 0 },
            PUSH_PROMISE => padded + 4,
            RST_STREAM => 4,
            GOAWAY => 8,
            _ => 0,
        }
    }

    /// Bytes behind what it carries, if its first byte is this.
    pub fn padding(&self, first: u8) -> u32 {
        if matches!(self.kind, DATA | HEADERS | PUSH_PROMISE) && self.has(PADDED) { u32::from(first) } else { 0 }
    }

    /// No endpoint would take it for a frame: the connection would end here.
    pub fn is_wrong(&self) -> bool {
        let of_stream = self.stream != 0;
        let fits = match self.kind {
            DATA | HEADERS | PUSH_PROMISE | CONTINUATION => of_stream,
            PRIORITY => of_stream && self.len == 5,
            RST_STREAM => of_stream && self.len == 4,
            SETTINGS => !of_stream && self.len.is_multiple_of(6) && (!self.has(ACK) || self.len == 0),
            PING => !of_stream && self.len == 8,
            GOAWAY => !of_stream && self.len >= 8,
            WINDOW_UPDATE => self.len == 4,
            _ => true,
        };
        !fits || (self.len as usize) < self.prefix()
    }

    /// How much a head like this says for it being one, among bytes of which nothing is known: about the bits that bytes at random
    /// would have to hit, and less where what is not random (zeros, tables of small numbers) hits them. 0: it is none.
    pub fn evidence(&self) -> u32 {
        let flags = match self.kind {
            DATA => END_STREAM | PADDED,
            HEADERS => END_STREAM | END_HEADERS | PADDED | PRIORITIZED,
            SETTINGS | PING => ACK,
            PUSH_PROMISE => END_HEADERS | PADDED,
            CONTINUATION => END_HEADERS,
            _ => 0,
        };
        if self.kind > CONTINUATION || self.is_wrong() || self.reserved || self.flags & !flags != 0 {
            return 0;
        }
        let evidence = match (self.kind, self.len) {
            (DATA, 0) => 6,
            // Only what is pushed has even numbers.
            (DATA, ..=0x4000) if self.stream.is_multiple_of(2) => 6,
            (DATA, ..=0x4000) => 12,
            (DATA, ..=0x10_0000) => 8,
            (HEADERS | CONTINUATION, 1..=0x1_0000) => 14,
            (PUSH_PROMISE, 5..=0x1_0000) if !self.stream.is_multiple_of(2) => 12,
            (SETTINGS, ..=240) | (GOAWAY, ..=0x1000) => 16,
            (PRIORITY | RST_STREAM | PING | WINDOW_UPDATE, _) => 20,
            _ => 0,
        };
        // Numbers of streams begin at 1 and go up one by one.
        if self.stream >= 1 << 16 { evidence / 2 } else { evidence }
    }
}

/// RFC 9113, section 7.
pub(super) fn error(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("error {code}"), |name| (*name).to_owned())
}
