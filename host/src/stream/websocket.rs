//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692): the two directions of a connection behind its upgrade become messages.
//!
//! The handshake is HTTP and belongs to others: what was negotiated is handed in. Payloads are unmasked and decompressed as they
//! come, so that a message costs what is kept of it and no more.

use flate2::{Decompress, FlushDecompress, Status};

use super::{body::BodyLimits, exchange::Direction};

/// Bytes of a control frame, at most.
const CONTROL: usize = 125;
/// Bytes of a head, at most: two, eight of the length, four of the mask.
const HEAD: usize = 14;
/// What a sender leaves out at the end of each compressed message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// What was agreed of permessage-deflate.
///
/// The sizes of the windows (`*_max_window_bits`) are not in it: a decoder with the largest window reads all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deflate {
    /// What the client compresses does not refer to the messages before.
    pub client_alone: bool,
    /// What the server compresses does not refer to the messages before.
    pub server_alone: bool,
}

impl Deflate {
    /// What a response agreed to. `extensions`: the values of its `Sec-WebSocket-Extensions`. `None`: no compression.
    #[must_use]
    pub fn agreed<'a>(extensions: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut all = extensions.flat_map(|value| value.split(|byte| *byte == b','));
        let own = all.find_map(|extension| {
            let mut parts = extension.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            parts.next()?.eq_ignore_ascii_case(b"permessage-deflate").then_some(parts)
        })?;
        let mut agreed = Self::default();
        for parameter in own {
            agreed.client_alone |= parameter.eq_ignore_ascii_case(b"client_no_context_takeover");
            agreed.server_alone |= parameter.eq_ignore_ascii_case(b"server_no_context_takeover");
        }
        Some(agreed)
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
    /// The end of the connection: [`Message::close`] says why.
    Close,
    /// A question whether the other end is there.
    Ping,
    /// An answer to it.
    Pong,
    /// Its first frame was lost: text or binary.
    Unknown,
}

/// A message, or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which way it went.
    pub direction: Direction,
    /// What it is.
    pub kind: Kind,
    /// Its bytes, unmasked and decompressed, as far as they are kept.
    pub bytes: Vec<u8>,
    /// Bytes of it when decompressed, those that were not kept included.
    pub decoded: u64,
    /// Bytes of it on the wire, heads left out.
    pub wire: u64,
    /// Bytes of it (on the wire) that were never captured, as far as that is known.
    pub missing: u64,
    /// Frames of which it is made.
    pub frames: u64,
    /// It was compressed.
    pub compressed: bool,
    /// Its end was seen.
    pub complete: bool,
    /// Monotonic, ns: the call that had its first byte.
    pub began_ns: u64,
    /// Monotonic, ns: the call that had its last byte that was seen.
    pub ended_ns: u64,
    /// What is wrong with it. The bytes that are kept are right.
    pub problem: Option<String>,
}

impl Message {
    /// Code and reason of a [`Kind::Close`] that says them.
    #[must_use]
    pub fn close(&self) -> Option<(u16, String)> {
        let (code, reason) = self.bytes.split_first_chunk().filter(|_| self.kind == Kind::Close)?;
        Some((u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned()))
    }
}

/// A connection, from its upgrade on.
#[derive(Debug)]
pub struct WebSocket {
    sides: [Side; 2],
    limits: BodyLimits,
}

#[derive(Debug)]
struct Side {
    direction: Direction,
    /// What it sends must be masked; `None`: not known.
    masks: Option<bool>,
    /// Compression was agreed; true: messages are compressed alone.
    deflate: Option<bool>,
    inflate: Option<Box<Decompress>>,
    /// Compressed bytes were lost to which later messages may refer.
    torn: bool,
    head: [u8; HEAD],
    have: usize,
    frame: Option<Frame>,
    /// The message whose frames come.
    message: Option<Message>,
    /// The control frame that comes, between the frames of a message.
    control: Option<Message>,
    /// It is not known where frames begin.
    lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    fin: bool,
    compressed: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    /// Bytes of the payload that were passed, and those still to come.
    at: u64,
    left: u64,
}

impl WebSocket {
    /// `client`: the process is the client, if that is known.
    #[must_use]
    pub fn new(limits: BodyLimits, client: Option<bool>, deflate: Option<Deflate>) -> Self {
        let side = |direction, by_client: Option<bool>| Side {
            direction,
            masks: by_client,
            deflate: deflate.map(|agreed| match by_client {
                Some(true) => agreed.client_alone,
                Some(false) => agreed.server_alone,
                None => false,
            }),
            inflate: None,
            torn: false,
            head: [0; HEAD],
            have: 0,
            frame: None,
            message: None,
            control: None,
            lost: false,
        };
        let sides = [side(Direction::Transmit, client), side(Direction::Receive, client.map(|client| !client))];
        Self { sides, limits }
    }

    /// The next bytes of a direction. `time_ns`: monotonic, when the call returned.
    pub fn data(&mut self, direction: Direction, time_ns: u64, bytes: &[u8], out: &mut Vec<Message>) {
        let limits = self.limits;
        self.side(direction).data(time_ns, bytes, limits, out);
    }

    /// Bytes are missing here; `None`: nobody knows how many.
    pub fn gap(&mut self, direction: Direction, _time_ns: u64, len: Option<u64>, out: &mut Vec<Message>) {
        self.side(direction).gap(len, out);
    }

    /// Nothing more comes: what is not complete comes out, and says so.
    pub fn finish(&mut self, out: &mut Vec<Message>) {
        for side in &mut self.sides {
            out.extend(side.control.take());
            out.extend(side.message.take());
        }
    }

    /// Bytes of memory that it holds, about.
    #[must_use]
    pub fn held(&self) -> usize {
        let side = |side: &Side| {
            let messages =
                side.message.iter().chain(&side.control).map(|message| message.bytes.capacity()).sum::<usize>();
            // A decompressor has a window of 32 KiB, and tables.
            messages + side.inflate.as_ref().map_or(0, |_| 48 << 10)
        };
        size_of::<Self>() + self.sides.iter().map(side).sum::<usize>()
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        &mut self.sides[usize::from(direction == Direction::Receive)]
    }
}

/// The head at the beginning of these bytes, and its length. `Ok(None)`: too few bytes; an error: it is none.
fn head(bytes: &[u8], masks: Option<bool>) -> Result<Option<(Frame, usize)>, ()> {
    let Some(([first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let (opcode, masked) = (first & 0xf, second & 0x80 != 0);
    let fin = first & 0x80 != 0;
    let control = opcode >= 8;
    let known = matches!(opcode, 0..=2 | 8..=10) && first & 0x30 == 0 && masks.is_none_or(|masks| masks == masked);
    if !known || (control && (!fin || second & 0x7f > CONTROL as u8 || first & 0x40 != 0)) {
        return Err(());
    }
    let (left, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        len => (u64::from(len), rest),
    };
    if left >> 63 == 1 {
        return Err(());
    }
    let (mask, rest) = match rest.split_first_chunk() {
        _ if !masked => (None, rest),
        Some((mask, rest)) => (Some(*mask), rest),
        None => return Ok(None),
    };
    let frame = Frame { fin, compressed: first & 0x40 != 0, opcode, mask, at: 0, left };
    Ok(Some((frame, bytes.len() - rest.len())))
}

/// These bytes are whole frames and nothing else: senders mostly write them so.
fn are_frames(bytes: &[u8], masks: Option<bool>) -> bool {
    let mut rest = bytes;
    while let Ok(Some((frame, len))) = head(rest, masks) {
        let behind = usize::try_from(frame.left).ok().and_then(|left| rest.get(len + left..));
        let Some(behind) = behind else { return false };
        if behind.is_empty() {
            return true;
        }
        rest = behind;
    }
    false
}

impl Side {
    fn data(&mut self, time_ns: u64, bytes: &[u8], limits: BodyLimits, out: &mut Vec<Message>) {
        if self.lost {
            if !are_frames(bytes, self.masks) {
                return;
            }
            self.lost = false;
        }
        let mut rest = bytes;
        loop {
            if let Some(frame) = &self.frame
                && frame.left == 0
            {
                self.end_frame(time_ns, limits, out);
                continue;
            }
            if rest.is_empty() {
                return;
            }
            if self.frame.is_some() {
                let read = self.payload(time_ns, rest, limits);
                rest = rest.get(read..).unwrap_or_default();
                continue;
            }
            // What was left over of a head comes before the new bytes.
            let room = (HEAD - self.have).min(rest.len());
            let before = self.have;
            for (to, from) in self.head.iter_mut().skip(before).zip(rest.iter().take(room)) {
                *to = *from;
            }
            match head(self.head.get(..before + room).unwrap_or_default(), self.masks) {
                Ok(Some((frame, len))) => {
                    rest = rest.get(len.saturating_sub(before)..).unwrap_or_default();
                    self.have = 0;
                    self.begin_frame(frame, time_ns, out);
                }
                Ok(None) => {
                    self.have += room;
                    return;
                }
                Err(()) => {
                    self.lose("what follows is no frame", out);
                    return;
                }
            }
        }
    }

    fn begin_frame(&mut self, frame: Frame, time_ns: u64, out: &mut Vec<Message>) {
        self.frame = Some(frame);
        let kind = match frame.opcode {
            0 => Kind::Unknown,
            1 => Kind::Text,
            2 => Kind::Binary,
            8 => Kind::Close,
            9 => Kind::Ping,
            _ => Kind::Pong,
        };
        let mut new = Message {
            direction: self.direction,
            kind,
            bytes: Vec::new(),
            decoded: 0,
            wire: 0,
            missing: 0,
            frames: 1,
            compressed: frame.compressed,
            complete: false,
            began_ns: time_ns,
            ended_ns: time_ns,
            problem: None,
        };
        if frame.opcode >= 8 {
            self.control = Some(new);
            return;
        }
        if frame.opcode == 0
            && let Some(message) = &mut self.message
        {
            message.frames += 1;
            return;
        }
        if let Some(mut cut) = self.message.take() {
            cut.problem.get_or_insert_with(|| "its end was not seen: another message begins".to_owned());
            out.push(cut);
        }
        if frame.opcode == 0 {
            new.problem = Some("its beginning was lost".to_owned());
            // Whether it was compressed was said there.
            self.torn |= self.deflate.is_some();
        } else if new.compressed {
            match self.deflate {
                None => new.problem = Some("compressed, which was not agreed".to_owned()),
                Some(alone) => {
                    if alone || self.inflate.is_none() {
                        self.inflate = Some(Box::new(Decompress::new(false)));
                        self.torn &= !alone;
                    }
                    if self.torn {
                        new.problem = Some("compressed with what was lost before".to_owned());
                    }
                }
            }
        }
        self.message = Some(new);
    }

    fn payload(&mut self, time_ns: u64, rest: &[u8], limits: BodyLimits) -> usize {
        let Some(frame) = &mut self.frame else { return 0 };
        let mut piece = [0_u8; 4096];
        let len = rest.len().min(piece.len()).min(usize::try_from(frame.left).unwrap_or(usize::MAX));
        let (Some(piece), Some(from)) = (piece.get_mut(..len), rest.get(..len)) else { return 0 };
        piece.copy_from_slice(from);
        if let Some(mut mask) = frame.mask {
            mask.rotate_left((frame.at % 4) as usize);
            for four in piece.chunks_mut(4) {
                four.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
            }
        }
        frame.at += len as u64;
        frame.left -= len as u64;
        let control = frame.opcode >= 8;
        let Some(message) = (if control { &mut self.control } else { &mut self.message }) else { return len };
        message.wire += len as u64;
        message.ended_ns = time_ns;
        if message.compressed && !control {
            inflate(self.inflate.as_deref_mut(), message, piece, limits);
        } else {
            keep(message, piece, limits);
        }
        len
    }

    fn end_frame(&mut self, time_ns: u64, limits: BodyLimits, out: &mut Vec<Message>) {
        let Some(frame) = self.frame.take() else { return };
        if frame.opcode >= 8 {
            out.extend(self.control.take().map(|message| Message { complete: true, ended_ns: time_ns, ..message }));
            return;
        }
        if !frame.fin {
            return;
        }
        let Some(mut message) = self.message.take() else { return };
        if message.compressed && message.problem.is_none() {
            inflate(self.inflate.as_deref_mut(), &mut message, &TAIL, limits);
        }
        if message.compressed && message.problem.is_some() {
            // The window lacks what was not read.
            self.torn = true;
        }
        message.complete = true;
        message.ended_ns = time_ns;
        out.push(message);
    }

    fn gap(&mut self, len: Option<u64>, out: &mut Vec<Message>) {
        let Some(frame) = &mut self.frame else { return self.lose("bytes were lost behind this", out) };
        match len {
            Some(len) if len <= frame.left => {
                frame.at += len;
                frame.left -= len;
                let message = if frame.opcode >= 8 { &mut self.control } else { &mut self.message };
                if let Some(message) = message
                    && len > 0
                {
                    message.missing += len;
                    message.problem.get_or_insert_with(|| format!("{len} bytes of it were lost"));
                    self.torn |= message.compressed;
                }
            }
            _ => self.lose("bytes were lost behind this", out),
        }
    }

    fn lose(&mut self, why: &str, out: &mut Vec<Message>) {
        if let Some(frame) = self.frame.take()
            && let Some(message) = if frame.opcode >= 8 { &mut self.control } else { &mut self.message }
        {
            message.missing += frame.left;
        }
        for mut message in self.control.take().into_iter().chain(self.message.take()) {
            message.problem.get_or_insert_with(|| why.to_owned());
            out.push(message);
        }
        self.have = 0;
        self.lost = true;
        self.torn |= self.deflate.is_some();
    }
}

fn keep(message: &mut Message, bytes: &[u8], limits: BodyLimits) {
    message.decoded = message.decoded.saturating_add(bytes.len() as u64);
    // Behind a problem the place of a byte is not known.
    if message.problem.is_some() && message.missing > 0 {
        return;
    }
    let room = usize::try_from(limits.keep).unwrap_or(usize::MAX).saturating_sub(message.bytes.len());
    message.bytes.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
}

/// Decompresses on, unless something is wrong already.
fn inflate(decoder: Option<&mut Decompress>, message: &mut Message, bytes: &[u8], limits: BodyLimits) {
    let Some(decoder) = decoder else { return };
    let (mut rest, mut piece) = (bytes, [0_u8; 4096]);
    while message.problem.is_none() {
        let (read, written) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(rest, &mut piece, FlushDecompress::Sync);
        let read = usize::try_from(decoder.total_in() - read).unwrap_or(usize::MAX);
        let written = usize::try_from(decoder.total_out() - written).unwrap_or(usize::MAX);
        rest = rest.get(read..).unwrap_or_default();
        keep(message, piece.get(..written).unwrap_or_default(), limits);
        if message.decoded > limits.decode {
            message.problem =
                Some(format!("more than {} bytes when decompressed: the rest was left out", limits.decode));
            return;
        }
        match status {
            Err(_) => message.problem = Some("its compression is broken".to_owned()),
            // A last block may be marked as such: the next message begins anew behind it.
            Ok(Status::StreamEnd) => {
                decoder.reset(false);
                if rest.is_empty() || read == 0 {
                    return;
                }
            }
            Ok(_) if rest.is_empty() && written < piece.len() => return,
            Ok(_) if read == 0 && written == 0 => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
