//! The decoders of content codings: gzip, deflate, br and zstd, several in a row. Each takes bytes as they come and hands on
//! what it makes of them, a few KiB at a time, so that a bomb is noticed before it has gone off.

use std::panic::{AssertUnwindSafe, catch_unwind};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Codings in a row, at most. More than one is rare, more than two has no use.
const MAX_CODINGS: usize = 8;
/// Bytes that a decoder makes at once.
const PIECE: usize = 16 << 10;
/// Largest window of zstd: RFC 9659 allows no larger one for this use.
const ZSTD_WINDOW: u64 = 8 << 20;
/// Largest window of br.
const BROTLI_WINDOW: u64 = 16 << 20;

/// Why decoding ended before its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The receiver wants no more.
    Enough,
    /// The bytes are not what they should be.
    Broken(String),
}

/// Who gets what was decoded; false: no more of it.
pub type Receiver<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// Decoders, the first of which is fed from the wire.
pub struct Chain(Vec<Coding>);

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(Coding::name)).finish()
    }
}

impl Chain {
    /// `names` in the order in which they were applied.
    ///
    /// # Errors
    /// One that is not known.
    pub fn new(names: &[&[u8]]) -> Result<Self, String> {
        if names.len() > MAX_CODINGS {
            return Err(format!("{} encodings in a row", names.len()));
        }
        names.iter().rev().map(|name| Coding::new(name)).collect::<Result<_, _>>().map(Self)
    }

    /// Decodes the next bytes.
    ///
    /// # Errors
    /// Nothing more can or may be decoded. What came before has been handed on.
    pub fn push(&mut self, bytes: &[u8], out: Receiver<'_>) -> Result<(), Stop> {
        // The decoders are other people's code on bytes of strangers: one that fails takes nothing else with it.
        catch_unwind(AssertUnwindSafe(|| through(&mut self.0, bytes, out)))
            .unwrap_or_else(|_| Err(Stop::Broken("the decoder failed on it".into())))
    }

    /// Bytes of memory, about, when so much has been decoded: windows grow with what is in them.
    pub fn held(&self, decoded: u64) -> usize {
        self.0.iter().map(|coding| coding.held(decoded)).sum()
    }

    /// What to say if nothing more comes.
    pub fn unfinished(&self) -> Option<String> {
        let open = self.0.iter().find(|coding| !coding.ended())?;
        Some(format!("it ends before the end of its {} data", open.name()))
    }
}

fn through(codings: &mut [Coding], bytes: &[u8], out: Receiver<'_>) -> Result<(), Stop> {
    let Some((first, rest)) = codings.split_first_mut() else {
        return if bytes.is_empty() || out(bytes) { Ok(()) } else { Err(Stop::Enough) };
    };
    first.push(bytes, &mut |piece| through(rest, piece, out))
}

/// Where a decoder puts what it has made.
type Next<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Stop>;

enum Coding {
    Flate(Box<Flate>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
}

impl Coding {
    fn new(name: &[u8]) -> Result<Self, String> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        Ok(match () {
            () if is("gzip") || is("x-gzip") => Self::Flate(Box::new(Flate::gzip())),
            () if is("deflate") => Self::Flate(Box::new(Flate::deflate())),
            () if is("br") => Self::Brotli(Box::default()),
            () if is("zstd") => Self::Zstd(Box::default()),
            () => {
                let shown: String = String::from_utf8_lossy(name).chars().take(40).collect();
                return Err(format!("encoding {shown:?} is not known"));
            }
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Flate(flate) => flate.name,
            Self::Brotli(_) => "br",
            Self::Zstd(_) => "zstd",
        }
    }

    fn push(&mut self, bytes: &[u8], next: Next<'_>) -> Result<(), Stop> {
        match self {
            Self::Flate(flate) => flate.push(bytes, next),
            Self::Brotli(brotli) => brotli.push(bytes, next),
            Self::Zstd(zstd) => zstd.push(bytes, next),
        }
    }

    fn held(&self, decoded: u64) -> usize {
        let window = |most: u64| usize::try_from(decoded.saturating_mul(2).min(most)).unwrap_or(usize::MAX);
        match self {
            Self::Flate(_) => 48 << 10,
            Self::Brotli(_) => (32 << 10) + window(BROTLI_WINDOW),
            Self::Zstd(zstd) => (160 << 10) + zstd.kept.capacity() + window(ZSTD_WINDOW),
        }
    }

    fn ended(&self) -> bool {
        match self {
            Self::Flate(flate) => flate.at == At::End,
            Self::Brotli(brotli) => brotli.ended,
            Self::Zstd(zstd) => zstd.frame.is_none() && zstd.kept.is_empty() && zstd.frames > 0,
        }
    }
}

fn broken(name: &str, why: impl std::fmt::Display) -> Stop {
    Stop::Broken(format!("broken {name} data: {why}"))
}

/// gzip (RFC 1952) and deflate, which is zlib (RFC 1950) as the standard has it, or raw as some servers have it.
struct Flate {
    name: &'static str,
    at: At,
    /// Bytes of a head or tail that is not complete.
    kept: Vec<u8>,
    inner: Decompress,
    piece: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    GzipHead,
    DeflateHead,
    Data,
    /// Bytes of the check sum and length of gzip that are still to come.
    GzipTail(usize),
    End,
}

/// Longest head of gzip: a file name and a comment can be in it.
const GZIP_HEAD: usize = 64 << 10;

impl Flate {
    fn gzip() -> Self {
        Self::new("gzip", At::GzipHead)
    }

    fn deflate() -> Self {
        Self::new("deflate", At::DeflateHead)
    }

    fn new(name: &'static str, at: At) -> Self {
        Self { name, at, kept: Vec::new(), inner: Decompress::new(false), piece: Vec::new() }
    }

    fn push(&mut self, mut bytes: &[u8], next: Next<'_>) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.at {
                At::GzipHead => {
                    self.kept.extend_from_slice(bytes);
                    bytes = &[];
                    match gzip_head(&self.kept) {
                        Ok(Some(len)) => {
                            self.at = At::Data;
                            let kept = std::mem::take(&mut self.kept);
                            self.push(kept.get(len..).unwrap_or_default(), next)?;
                        }
                        Ok(None) if self.kept.len() <= GZIP_HEAD => {}
                        Ok(None) => return Err(broken(self.name, "a head that is too long")),
                        Err(why) => return Err(broken(self.name, why)),
                    }
                }
                At::DeflateHead => {
                    self.kept.extend_from_slice(bytes);
                    bytes = &[];
                    if let [first, second, ..] = *self.kept {
                        let zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]) % 31 == 0;
                        self.inner = Decompress::new(zlib);
                        self.at = At::Data;
                        let kept = std::mem::take(&mut self.kept);
                        self.push(&kept, next)?;
                    }
                }
                At::Data => bytes = self.inflate(bytes, next)?,
                At::GzipTail(left) => {
                    let taken = left.min(bytes.len());
                    bytes = bytes.get(taken..).unwrap_or_default();
                    self.at = if taken == left { At::End } else { At::GzipTail(left - taken) };
                }
                // Several members one after the other are one body.
                At::End if self.name == "gzip" && bytes.first() == Some(&0x1f) => {
                    self.inner = Decompress::new(false);
                    self.at = At::GzipHead;
                }
                // Padding behind the end, which others ignore as well.
                At::End => bytes = &[],
            }
        }
        Ok(())
    }

    fn inflate<'b>(&mut self, mut bytes: &'b [u8], next: Next<'_>) -> Result<&'b [u8], Stop> {
        self.piece.resize(PIECE, 0);
        loop {
            let (read, written) = (self.inner.total_in(), self.inner.total_out());
            let status = self.inner.decompress(bytes, &mut self.piece, FlushDecompress::None);
            let status = status.map_err(|why| broken(self.name, why))?;
            let made = usize::try_from(self.inner.total_out() - written).unwrap_or(0);
            let taken = usize::try_from(self.inner.total_in() - read).unwrap_or(0);
            bytes = bytes.get(taken..).unwrap_or_default();
            if made > 0 {
                next(self.piece.get(..made).unwrap_or_default())?;
            }
            if status == Status::StreamEnd {
                self.at = if self.name == "gzip" { At::GzipTail(8) } else { At::End };
                return Ok(bytes);
            }
            if made < PIECE && (bytes.is_empty() || (made == 0 && taken == 0)) {
                return if bytes.is_empty() { Ok(bytes) } else { Err(broken(self.name, "it makes no sense")) };
            }
        }
    }
}

/// Length of the head; `None`: more of it is needed.
fn gzip_head(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let begin = bytes.get(..bytes.len().min(3)).unwrap_or_default();
    if !b"\x1f\x8b\x08".starts_with(begin) {
        return Err("it does not begin as such");
    }
    let Some(flags) = bytes.get(3) else { return Ok(None) };
    let mut at = 10;
    if flags & 4 != 0 {
        let Some([low, high]) = bytes.get(at..at + 2) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([*low, *high]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            let Some(len) = bytes.get(at..).and_then(|rest| memchr::memchr(0, rest)) else { return Ok(None) };
            at += len + 1;
        }
    }
    at += if flags & 2 != 0 { 2 } else { 0 };
    Ok((bytes.len() >= at).then_some(at))
}

/// br (RFC 7932). Its larger windows of another standard are not for this use.
struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    piece: Vec<u8>,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: BrotliState::new_strict(alloc(), alloc(), alloc()), piece: Vec::new(), ended: false }
    }
}

impl Brotli {
    fn push(&mut self, bytes: &[u8], next: Next<'_>) -> Result<(), Stop> {
        self.piece.resize(PIECE, 0);
        let (mut left, mut read, mut total) = (bytes.len(), 0, 0);
        while !self.ended {
            let (mut room, mut written) = (PIECE, 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut read,
                bytes,
                &mut room,
                &mut written,
                &mut self.piece,
                &mut total,
                &mut self.state,
            );
            if written > 0 {
                next(self.piece.get(..written).unwrap_or_default())?;
            }
            match result {
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::ResultFailure => {
                    return Err(broken("br", format_args!("{:?}", self.state.error_code)));
                }
            }
        }
        Ok(())
    }
}

/// zstd (RFC 8878). The decoder wants whole blocks: they are gathered here, 128 KiB at most.
struct Zstd {
    decoder: FrameDecoder,
    /// A frame head or a block that is not complete.
    kept: Vec<u8>,
    /// In a frame, which has a check sum or not.
    frame: Option<bool>,
    /// Bytes of a frame to be skipped.
    skip: u64,
    frames: u64,
}

impl Default for Zstd {
    fn default() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self { decoder, kept: Vec::new(), frame: None, skip: 0, frames: 0 }
    }
}

impl Zstd {
    fn push(&mut self, bytes: &[u8], next: Next<'_>) -> Result<(), Stop> {
        let mut gathered = std::mem::take(&mut self.kept);
        gathered.extend_from_slice(bytes);
        let mut rest = gathered.as_slice();
        loop {
            if self.skip > 0 {
                let taken = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
                rest = rest.get(taken..).unwrap_or_default();
                self.skip -= taken as u64;
            }
            let Some(len) = self.part(rest)? else { break };
            let (part, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = after;
            self.take(part, next)?;
        }
        let used = gathered.len() - rest.len();
        gathered.drain(..used);
        self.kept = gathered;
        Ok(())
    }

    /// Bytes of the next frame head or block, if they are all there.
    fn part(&self, bytes: &[u8]) -> Result<Option<usize>, Stop> {
        let len = match self.frame {
            None => match frame_head(bytes).map_err(|why| broken("zstd", why))? {
                Some(len) => len,
                None => return Ok(None),
            },
            Some(check_sum) => {
                let Some([a, b, c]) = bytes.first_chunk::<3>() else { return Ok(None) };
                let head = u32::from_le_bytes([*a, *b, *c, 0]);
                let content = if head >> 1 & 3 == 1 { 1 } else { (head >> 3) as usize };
                if content > 128 << 10 {
                    return Err(broken("zstd", "a block that is too long"));
                }
                3 + content + if check_sum && head & 1 != 0 { 4 } else { 0 }
            }
        };
        Ok((bytes.len() >= len).then_some(len))
    }

    fn take(&mut self, mut part: &[u8], next: Next<'_>) -> Result<(), Stop> {
        let wrong = |why: &dyn std::fmt::Display| broken("zstd", why);
        if self.frame.is_some() {
            let strategy = BlockDecodingStrategy::UptoBlocks(1);
            let last = self.decoder.decode_blocks(&mut part, strategy).map_err(|e| wrong(&e))?;
            let mut stop = Ok(());
            let mut writer = Pieces { next, stop: &mut stop };
            let drained = self.decoder.collect_to_writer(&mut writer);
            stop?;
            drained.map_err(|e| wrong(&e))?;
            if last {
                self.frame = None;
                self.frames += 1;
            }
            return Ok(());
        }
        if let Some(length) = skippable(part) {
            self.skip = length;
            return Ok(());
        }
        self.frame = Some(part.get(4).is_some_and(|descriptor| descriptor & 4 != 0));
        self.decoder.reset(part).map_err(|e| wrong(&e))
    }
}

/// Hands on what the decoder writes.
struct Pieces<'a, 'n> {
    next: Next<'n>,
    stop: &'a mut Result<(), Stop>,
}

impl std::io::Write for Pieces<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.next)(bytes).map_err(|stop| {
            *self.stop = Err(stop);
            std::io::Error::other("no more")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Length of a skippable frame's content, from its head.
fn skippable(head: &[u8]) -> Option<u64> {
    let [low, 0x2a, 0x4d, 0x18, a, b, c, d] = *head.first_chunk::<8>()? else { return None };
    (low & 0xf0 == 0x50).then(|| u32::from_le_bytes([a, b, c, d]).into())
}

/// Length of a frame's head; `None`: more is needed.
fn frame_head(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(magic) = bytes.first_chunk::<4>() else { return Ok(None) };
    if matches!(magic, [low, 0x2a, 0x4d, 0x18] if low & 0xf0 == 0x50) {
        return Ok(Some(8));
    }
    if *magic != [0x28, 0xb5, 0x2f, 0xfd] {
        return Err("it does not begin as such");
    }
    let Some(descriptor) = bytes.get(4).copied() else { return Ok(None) };
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = [usize::from(single), 2, 4, 8][usize::from(descriptor >> 6)];
    Ok(Some(5 + usize::from(!single) + dictionary + content))
}
