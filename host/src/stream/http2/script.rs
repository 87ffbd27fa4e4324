//! Connections for tests, made by chance from a seed, and what was said on them.

use std::collections::{BTreeMap, VecDeque};

use super::hpack::tests::{Encoder, How};

pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What was said on one stream.
#[derive(Debug, Default, Clone)]
pub(super) struct Truth {
    pub request: Fields,
    pub request_trailers: Fields,
    pub request_body: Vec<u8>,
    pub response: Fields,
    pub response_trailers: Fields,
    pub response_body: Vec<u8>,
    pub reset: bool,
    /// The first of its frames, and the last.
    pub frames: (usize, usize),
}

/// Frames in their order, each with its direction (0: the client's), and what they mean.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub frames: Vec<(usize, Vec<u8>)>,
    pub truth: BTreeMap<u32, Truth>,
}

#[derive(Debug)]
enum Step {
    Block(usize, Fields, bool),
    Data(usize, Vec<u8>, bool),
    Promise(u32, Fields),
    Reset,
}

/// xorshift64*: enough for tests, and the same everywhere.
pub(super) struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn text(chance: &mut Chance, what: &str, id: u32) -> Vec<u8> {
    // Some values come again, some are new with every stream.
    if chance.one_in(3) {
        format!("{what}-{id}").into_bytes()
    } else {
        format!("{what}/{}", chance.below(4)).into_bytes()
    }
}

fn body(chance: &mut Chance) -> Vec<u8> {
    let len = if chance.one_in(4) { chance.below(2000) } else { chance.below(60) };
    (0..len).map(|_| if chance.one_in(3) { 0 } else { chance.below(256) as u8 }).collect()
}

impl Script {
    /// A connection of so many streams. `odd`: with frames of kinds that no one knows, too.
    pub fn new(seed: u64, streams: u32, odd: bool) -> Self {
        let chance = &mut Chance::new(seed);
        let mut script = Self::default();
        let mut encoders = [Encoder::new(), Encoder::new()];
        script.frames.push((0, super::PREFACE.to_vec()));
        script.frames.push((0, frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0])));
        script.frames.push((1, frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])));
        script.frames.push((1, frame(4, 1, 0, &[])));
        script.frames.push((0, frame(4, 1, 0, &[])));
        let mut active: Vec<(u32, VecDeque<Step>)> = Vec::new();
        let (mut next, mut pushed) = (1, 2);
        while next < streams * 2 || !active.is_empty() {
            if next < streams * 2 && (active.is_empty() || chance.one_in(6)) {
                let steps = script.plan(chance, next, &mut pushed, &mut active);
                active.push((next, steps));
                next += 2;
            }
            let at = chance.below(active.len());
            let (id, steps) = &mut active[at];
            let id = *id;
            let Some(step) = steps.pop_front() else {
                active.swap_remove(at);
                continue;
            };
            // A promised stream waits for its promise.
            if id % 2 == 0 && !script.truth.contains_key(&id) {
                steps.push_front(step);
                continue;
            }
            let first = script.frames.len();
            match step {
                Step::Block(dir, fields, end) => script.block(chance, &mut encoders, dir, id, &fields, end, None),
                Step::Promise(promised, fields) => {
                    script.truth.entry(promised).or_default().request = fields.clone();
                    script.block(chance, &mut encoders, 1, id, &fields, false, Some(promised));
                    script.touch(promised, first);
                }
                Step::Data(dir, bytes, end) => {
                    let pad = chance.one_in(3).then(|| chance.below(20));
                    let mut payload: Vec<u8> = pad.map(|pad| pad as u8).into_iter().collect();
                    payload.extend(&bytes);
                    payload.extend(vec![0; pad.unwrap_or(0)]);
                    let flags = u8::from(end) | if pad.is_some() { 8 } else { 0 };
                    script.frames.push((dir, frame(0, flags, id, &payload)));
                }
                Step::Reset => script.frames.push((0, frame(3, 0, id, &[0, 0, 0, 8]))),
            }
            script.touch(id, first);
            script.noise(chance, odd);
        }
        script
    }

    fn touch(&mut self, id: u32, first: usize) {
        let last = self.frames.len() - 1;
        let frames = &mut self.truth.entry(id).or_default().frames;
        *frames = if *frames == (0, 0) { (first, last) } else { (frames.0, last) };
    }

    fn plan(
        &mut self,
        chance: &mut Chance,
        id: u32,
        pushed: &mut u32,
        active: &mut Vec<(u32, VecDeque<Step>)>,
    ) -> VecDeque<Step> {
        let mut truth = Truth { reset: chance.one_in(8), ..Truth::default() };
        let mut steps = VecDeque::new();
        let field = |name: &str, value: Vec<u8>| (name.as_bytes().to_vec(), value);
        truth.request = vec![
            field(":method", if chance.one_in(3) { b"PUT".to_vec() } else { b"POST".to_vec() }),
            field(":scheme", b"https".to_vec()),
            field(":path", text(chance, "/path", id)),
            field(":authority", text(chance, "host", id)),
        ];
        for name in ["cookie", "x-one", "user-agent"] {
            truth.request.push(field(name, text(chance, name, id)));
        }
        let mut half =
            |dir: usize, head: &Fields, trailers: &mut Fields, whole: &mut Vec<u8>, steps: &mut VecDeque<Step>| {
                if chance.one_in(4) {
                    *trailers = vec![field("x-trailer", text(chance, "sum", id))];
                }
                let pieces: Vec<Vec<u8>> = (0..chance.below(4)).map(|_| body(chance)).collect();
                *whole = pieces.concat();
                steps.push_back(Step::Block(dir, head.clone(), pieces.is_empty() && trailers.is_empty()));
                let count = pieces.len();
                for (at, piece) in pieces.into_iter().enumerate() {
                    steps.push_back(Step::Data(dir, piece, at + 1 == count && trailers.is_empty()));
                }
                if !trailers.is_empty() {
                    steps.push_back(Step::Block(dir, trailers.clone(), true));
                }
            };
        let request = truth.request.clone();
        half(0, &request, &mut truth.request_trailers, &mut truth.request_body, &mut steps);
        let mut answer = VecDeque::new();
        truth.response = vec![field(":status", b"201".to_vec()), field("server", b"some/1".to_vec())];
        let response = truth.response.clone();
        half(1, &response, &mut truth.response_trailers, &mut truth.response_body, &mut answer);
        for name in ["etag", "x-two"] {
            let more = field(name, text(chance, name, id));
            truth.response.push(more.clone());
            if let Some(Step::Block(_, fields, _)) = answer.front_mut() {
                fields.push(more);
            }
        }
        if chance.one_in(5) {
            answer.push_front(Step::Block(
                1,
                vec![field(":status", b"103".to_vec()), field("link", b"</x>".to_vec())],
                false,
            ));
        }
        if !truth.reset && chance.one_in(5) {
            let promised = *pushed;
            *pushed += 2;
            let mut fields = truth.request.clone();
            fields[2].1 = format!("/pushed/{promised}").into_bytes();
            steps.push_back(Step::Promise(promised, fields));
            let head = vec![field(":status", b"200".to_vec()), field("x-two", text(chance, "x-two", promised))];
            let whole = body(chance);
            // The truth of it is written when it is promised.
            active.push((promised, VecDeque::from([Step::Block(1, head, false), Step::Data(1, whole, true)])));
        }
        if truth.reset {
            steps.truncate(1);
            answer.truncate(1);
            answer.retain(|step| !matches!(step, Step::Block(_, _, true)));
            answer.push_back(Step::Reset);
        }
        steps.extend(answer);
        self.truth.insert(id, truth);
        steps
    }

    #[expect(clippy::too_many_arguments, reason = "what a header block is made of")]
    fn block(
        &mut self,
        chance: &mut Chance,
        encoders: &mut [Encoder; 2],
        dir: usize,
        id: u32,
        fields: &Fields,
        end: bool,
        promised: Option<u32>,
    ) {
        let mut block = Vec::new();
        if chance.one_in(12) {
            encoders[dir].resize(chance.below(600), &mut block);
        }
        for (name, value) in fields {
            let how = match chance.below(8) {
                0..5 => How::Indexed,
                5 => How::Inserted,
                6 => How::Plain,
                _ => How::Never,
            };
            encoders[dir].field(name, value, how, chance.one_in(2), &mut block);
        }
        let mut pieces: Vec<Vec<u8>> = if chance.one_in(4) {
            let size = 1 + chance.below(20);
            block.chunks(size).map(<[u8]>::to_vec).collect()
        } else {
            vec![block]
        };
        let first = pieces.remove(0);
        let mut payload = promised.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
        let mut flags = if pieces.is_empty() { 4 } else { 0 };
        if promised.is_none() {
            flags |= u8::from(end);
            if chance.one_in(4) {
                flags |= 0x20;
                payload.extend([0, 0, 0, 0, 15]);
            }
        }
        payload.extend(first);
        if chance.one_in(4) {
            let pad = chance.below(10);
            flags |= 8;
            payload.insert(0, pad as u8);
            payload.extend(vec![0; pad]);
        }
        self.frames.push((dir, frame(if promised.is_some() { 5 } else { 1 }, flags, id, &payload)));
        let count = pieces.len();
        for (at, piece) in pieces.into_iter().enumerate() {
            self.frames.push((dir, frame(9, if at + 1 == count { 4 } else { 0 }, id, &piece)));
        }
    }

    fn noise(&mut self, chance: &mut Chance, odd: bool) {
        let dir = chance.below(2);
        match chance.below(12) {
            0 => self.frames.push((dir, frame(8, 0, 0, &[0, 0, 1, 0]))),
            1 => self.frames.push((dir, frame(6, 0, 0, &[7; 8]))),
            2 => self.frames.push((dir, frame(2, 0, 1, &[0, 0, 0, 0, 3]))),
            3 if odd => self.frames.push((dir, frame(0xf0, 0xff, 3, &[1; 30]))),
            _ => {}
        }
    }
}
