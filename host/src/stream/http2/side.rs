//! One direction of a connection, taken apart into what its frames say.
//!
//! Data is handed on as it comes, and header blocks are decoded as they come: what is held is a field of a header at most, and
//! what is held while frames are searched for.

use super::{
    frame::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEAD, HEADERS, PADDED, PREFACE, PUSH_PROMISE,
        RST_STREAM,
    },
    hpack::{Block, Decoder},
    resync::Resync,
};

/// What a direction says next.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// It began with the preface of a client.
    Preface,
    /// Bytes were read that say nothing: there may be more.
    Again,
    /// These bytes, with their times, are to be read before all others.
    Reread(Vec<(u64, Vec<u8>)>),
    /// What follows makes no sense: frames are searched for.
    Lost(Loss),
    /// A header block is complete; `end`: the stream ends with it.
    Block { stream: u32, block: Block, began_ns: u64, end: bool },
    /// A request is promised.
    Promise { stream: u32, promised: u32, block: Block, began_ns: u64 },
    /// A frame with data of this stream begins.
    Frame { stream: u32 },
    /// Bytes of a body.
    Data { stream: u32, bytes: &'a [u8] },
    /// The stream ends.
    End { stream: u32 },
    /// The stream is reset.
    Reset { stream: u32, code: u32 },
    /// Streams above this one are not taken.
    Away { last: u32, code: u32 },
}

/// What a loss cut.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// A stream, and how many bytes of its body are missing for sure.
    pub data: Option<(u32, u64)>,
    /// A stream, and what there is of its header block; and when that began.
    pub block: Option<(u32, Block, u64)>,
}

#[derive(Debug)]
pub(super) struct Side {
    state: State,
    decoder: Decoder,
    /// The header block that is not complete.
    open: Option<Open>,
    /// Bytes were lost, or not captured: streams may be open that were not seen opening.
    was_lost: bool,
    /// No header block was seen since: what continues one may come.
    headless: bool,
    late: bool,
    touched: bool,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface were seen.
    Preface(usize),
    Head([u8; HEAD], usize),
    Payload(Payload),
    Lost(Box<Resync>),
}

#[derive(Debug)]
struct Payload {
    frame: Frame,
    /// What comes before what it carries.
    prefix: [u8; HEAD],
    prefix_have: usize,
    prefix_need: usize,
    /// Bytes of what it carries, and behind it, that are still to come.
    body: u32,
    padding: u32,
    /// Bytes of it were lost before it was known what it carries.
    damaged: bool,
    began_ns: u64,
}

#[derive(Debug)]
struct Open {
    stream: u32,
    promised: Option<u32>,
    end: bool,
    block: Block,
    /// A field that is not complete.
    partial: Vec<u8>,
    began_ns: u64,
}

impl Side {
    pub fn new(late: bool) -> Self {
        Self {
            state: State::Preface(0),
            decoder: Decoder::new(late),
            open: None,
            was_lost: late,
            headless: late,
            late,
            touched: false,
        }
    }

    /// Frames are searched for, or nothing is known yet.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost(_))
    }

    /// Streams may be open that were not seen opening.
    pub fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// The other direction began with the preface: this one begins, too, if nothing was seen of it.
    pub fn begin(&mut self) {
        if !self.touched {
            *self = Self::new(false);
        }
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        let state = if let State::Lost(resync) = &self.state { resync.held() } else { 0 };
        let open = self.open.as_ref().map_or(0, |open| open.block.held() + open.partial.capacity());
        state + self.decoder.held() + open
    }

    /// Reads on; `None`: all bytes are read.
    pub fn next<'a>(&mut self, time_ns: u64, rest: &mut &'a [u8]) -> Option<Action<'a>> {
        self.touched |= !rest.is_empty();
        match &mut self.state {
            State::Payload(payload) if payload.left() == 0 => self.end_frame(),
            _ if rest.is_empty() => None,
            State::Preface(have) => {
                let matching = PREFACE.iter().skip(*have).zip(rest.iter()).take_while(|(a, b)| a == b).count();
                *have += matching;
                let have = *have;
                *rest = rest.get(matching..).unwrap_or_default();
                if have == PREFACE.len() {
                    *self = Self { state: State::Head([0; HEAD], 0), touched: true, ..Self::new(false) };
                    return Some(Action::Preface);
                }
                if rest.is_empty() {
                    return None;
                }
                // It is none: what looked like it is what it begins with.
                self.state = if self.late { State::Lost(Box::default()) } else { State::Head([0; HEAD], 0) };
                Some(Action::Reread(vec![(time_ns, PREFACE.get(..have).unwrap_or_default().to_vec())]))
            }
            State::Head(head, have) => {
                let take = rest.len().min(HEAD - *have);
                let (now, behind) = rest.split_at_checked(take)?;
                if let Some(place) = head.get_mut(*have..*have + take) {
                    place.copy_from_slice(now);
                }
                *have += take;
                if *have < HEAD {
                    *rest = behind;
                    return None;
                }
                let (head, before) = (*head, *have - take);
                let frame = Frame::new(&head);
                if self.is_out_of_place(&frame) {
                    // The head itself may have the beginning of a frame in it.
                    let read = head.get(..before).unwrap_or_default();
                    let read = read.to_vec();
                    let loss = self.lose();
                    if let State::Lost(resync) = &mut self.state {
                        resync.push(time_ns, &read);
                    }
                    return Some(Action::Lost(loss));
                }
                *rest = behind;
                self.state = State::Payload(Payload {
                    frame,
                    prefix: [0; HEAD],
                    prefix_have: 0,
                    prefix_need: frame.prefix(),
                    body: frame.len.saturating_sub(frame.prefix() as u32),
                    padding: 0,
                    damaged: false,
                    began_ns: time_ns,
                });
                Some(if frame.kind == DATA { Action::Frame { stream: frame.stream } } else { Action::Again })
            }
            State::Payload(payload) if payload.prefix_have < payload.prefix_need => self.prefix(rest),
            State::Payload(_) => Some(self.payload(rest)),
            State::Lost(resync) => {
                let (read, found) = resync.push(time_ns, rest);
                *rest = rest.get(read..).unwrap_or_default();
                found.then(|| Action::Reread(self.found()))
            }
        }
    }

    /// Bytes are missing here.
    pub fn gap(&mut self, len: Option<u64>) -> Loss {
        self.touched = true;
        self.was_lost = true;
        match (&mut self.state, len) {
            (_, Some(0)) => Loss::default(),
            (State::Payload(payload), Some(len)) if len <= payload.left() => {
                let data = payload.skip(len);
                let frame = payload.frame;
                if frame.is_block() && data > 0 {
                    // The block is lost, the frames behind it are not.
                    self.decoder.forget();
                    if frame.kind == HEADERS && self.open.is_none() {
                        self.open = Some(Open::new(&frame, None, payload.began_ns));
                    }
                    if let Some(open) = &mut self.open {
                        open.block.broken = true;
                    }
                }
                Loss { data: (frame.kind == DATA && data > 0).then_some((frame.stream, data)), block: None }
            }
            _ => self.lose(),
        }
    }

    /// No more bytes come: what is to be read of those that are held.
    pub fn end(&mut self) -> Vec<(u64, Vec<u8>)> {
        let found = if let State::Lost(resync) = &mut self.state { resync.end() } else { false };
        if found { self.found() } else { Vec::new() }
    }

    /// What there is of a header block that is not complete.
    pub fn abandon(&mut self) -> Option<(u32, Block, u64)> {
        let mut open = self.open.take()?;
        open.block.broken = true;
        open.promised.is_none().then_some((open.stream, open.block, open.began_ns))
    }

    fn lose(&mut self) -> Loss {
        let data = match &self.state {
            State::Payload(payload) if payload.frame.kind == DATA => Some((payload.frame.stream, payload.left())),
            _ => None,
        };
        self.state = State::Lost(Box::default());
        self.was_lost = true;
        self.headless = true;
        self.decoder.forget();
        Loss { data, block: self.abandon() }
    }

    fn found(&mut self) -> Vec<(u64, Vec<u8>)> {
        match std::mem::replace(&mut self.state, State::Head([0; HEAD], 0)) {
            State::Lost(resync) => resync.into_pieces(),
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// No endpoint would take this frame here.
    fn is_out_of_place(&self, frame: &Frame) -> bool {
        frame.is_wrong()
            || match &self.open {
                Some(open) => frame.kind != CONTINUATION || frame.stream != open.stream,
                None => frame.kind == CONTINUATION && !self.headless,
            }
    }

    /// Reads what comes before what a frame carries.
    fn prefix<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Action<'a>> {
        let State::Payload(payload) = &mut self.state else { return None };
        let take = rest.len().min(payload.prefix_need - payload.prefix_have);
        let (now, behind) = rest.split_at_checked(take)?;
        if let Some(place) = payload.prefix.get_mut(payload.prefix_have..payload.prefix_have + take) {
            place.copy_from_slice(now);
        }
        *rest = behind;
        payload.prefix_have += take;
        if payload.prefix_have < payload.prefix_need {
            return None;
        }
        let frame = payload.frame;
        let padding = frame.padding(payload.prefix[0]);
        if padding > payload.body {
            return Some(Action::Lost(self.lose()));
        }
        payload.body -= padding;
        payload.padding = padding;
        let number = |at: usize| {
            let bytes = payload.prefix.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        Some(match frame.kind {
            RST_STREAM => Action::Reset { stream: frame.stream, code: number(0) },
            GOAWAY => Action::Away { last: number(0) & 0x7fff_ffff, code: number(4) },
            PUSH_PROMISE => {
                let promised = number(usize::from(frame.has(PADDED))) & 0x7fff_ffff;
                self.open = Some(Open::new(&frame, Some(promised), payload.began_ns));
                Action::Again
            }
            _ => Action::Again,
        })
    }

    /// Reads what a frame carries.
    fn payload<'a>(&mut self, rest: &mut &'a [u8]) -> Action<'a> {
        let State::Payload(payload) = &mut self.state else { return Action::Again };
        let padding = payload.body == 0;
        let left = if padding { &mut payload.padding } else { &mut payload.body };
        let (now, behind) = rest.split_at(rest.len().min(*left as usize));
        *rest = behind;
        *left -= now.len() as u32;
        let (frame, began_ns) = (payload.frame, payload.began_ns);
        if padding || payload.damaged {
            return Action::Again;
        }
        if frame.kind == DATA {
            return Action::Data { stream: frame.stream, bytes: now };
        }
        if frame.kind == HEADERS && self.open.is_none() {
            self.open = Some(Open::new(&frame, None, began_ns));
        }
        if frame.is_block()
            && let Some(open) = &mut self.open
        {
            open.fragment(now, &mut self.decoder);
        }
        Action::Again
    }

    /// The frame is complete.
    fn end_frame<'a>(&mut self) -> Option<Action<'a>> {
        let State::Payload(payload) = &self.state else { return None };
        let (frame, began_ns) = (payload.frame, payload.began_ns);
        self.state = State::Head([0; HEAD], 0);
        if frame.kind == DATA && frame.has(END_STREAM) {
            return Some(Action::End { stream: frame.stream });
        }
        if frame.kind == HEADERS && self.open.is_none() {
            self.open = Some(Open::new(&frame, None, began_ns));
        }
        if !frame.is_block() {
            return Some(Action::Again);
        }
        self.headless &= frame.kind == CONTINUATION;
        if !frame.has(END_HEADERS) {
            return Some(Action::Again);
        }
        let Some(Open { stream, promised, end, mut block, partial, began_ns }) = self.open.take() else {
            return Some(Action::Again);
        };
        if !partial.is_empty() {
            block.broken = true;
            self.decoder.forget();
        }
        Some(match promised {
            Some(promised) => Action::Promise { stream, promised, block, began_ns },
            None => Action::Block { stream, block, began_ns, end },
        })
    }
}

impl Payload {
    fn left(&self) -> u64 {
        u64::from(self.body) + u64::from(self.padding) + (self.prefix_need - self.prefix_have) as u64
    }

    /// Leaves out bytes that are missing; says how many bytes of what it carries are lost with them.
    fn skip(&mut self, len: u64) -> u64 {
        if self.prefix_have < self.prefix_need {
            // Where it begins and ends is not known then: all of it is lost.
            let left = self.left();
            self.prefix_have = self.prefix_need;
            self.damaged = true;
            self.body = u32::try_from(left - len).unwrap_or(0);
            return left;
        }
        let body = len.min(u64::from(self.body));
        self.body -= body as u32;
        self.padding = self.padding.saturating_sub((len - body) as u32);
        body
    }
}

impl Open {
    fn new(frame: &Frame, promised: Option<u32>, began_ns: u64) -> Self {
        let end = promised.is_none() && frame.has(END_STREAM);
        Self { stream: frame.stream, promised, end, block: Block::default(), partial: Vec::new(), began_ns }
    }

    /// Decodes the fields that are complete with these bytes.
    fn fragment(&mut self, bytes: &[u8], decoder: &mut Decoder) {
        if self.block.broken {
            return;
        }
        let all = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            &self.partial
        };
        match decoder.decode(all, &mut self.block) {
            Ok(read) if self.partial.is_empty() => {
                self.partial.extend_from_slice(bytes.get(read..).unwrap_or_default())
            }
            Ok(read) => drop(self.partial.drain(..read)),
            Err(_) => {
                // What is behind it in the block may have been put into the table.
                decoder.forget();
                self.block.broken = true;
                self.partial = Vec::new();
            }
        }
    }
}
