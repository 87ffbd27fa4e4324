//! Takes what the module's decoder emits, adds what the module cannot forge, and puts it on the link to the collector.

use std::time::{Duration, Instant};

use ecapture_plugin_api::abi::abi_stable::std_types::RStr;
use ecapture_plugin_api::abi::{EventSink, EventV1, NO_RECORD};

use super::join::Message;
use crate::event::record::Header;
use crate::event::wire::{self, Fixed, RawColumn};
use crate::link::{self, Producer, PushError};
use crate::protocol::FromWorker;
use crate::protocol::control::Control;

/// Most events of one call of the decoder: about as many as a batch has bytes. One that emits more is in an endless loop,
/// and since it keeps the link busy it would never look hung, and fill the disk.
const MOST_EVENTS: u64 = 1 << 20;
/// Reasons for undecodable records that are shown; the rest is only counted.
const SHOWN_REASONS: u64 = 10;
/// Longest silence towards the collector.
const WATERMARK_EVERY: Duration = Duration::from_millis(50);

/// Deltas of one batch, published with it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BatchCounts {
    /// Messages handed to the decoder, whole or partial, and undecodable ones.
    pub seen: u64,
    /// Of these, messages that were not whole.
    pub partial: u64,
    /// Bytes that they lacked.
    pub missing: u64,
    /// Records or messages that could not be decoded.
    pub undecodable: u64,
    /// Events that the link or the wire format could not take.
    pub refused: u64,
}

impl BatchCounts {
    /// Bytes on the link: watermark, then the counts.
    pub const LEN: usize = 48;

    /// For the link. `watermark`: monotonic ns up to which everything has been seen, 0 = not known.
    #[must_use]
    pub fn to_bytes(self, watermark: u64) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let words = [watermark, self.seen, self.partial, self.missing, self.undecodable, self.refused];
        for (slot, word) in out.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Adds another batch's.
    pub fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.partial += other.partial;
        self.missing += other.missing;
        self.undecodable += other.undecodable;
        self.refused += other.refused;
    }

    /// From the link; `None` if it is not what a worker writes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(u64, Self)> {
        if bytes.len() != Self::LEN {
            return None;
        }
        let mut words = bytes.chunks_exact(8).filter_map(|w| Some(u64::from_le_bytes(w.try_into().ok()?)));
        let mut next = || words.next();
        let watermark = next()?;
        let counts = Self { seen: next()?, partial: next()?, missing: next()?, undecodable: next()?, refused: next()? };
        Some((watermark, counts))
    }
}

/// The worker's end of the link, and what is known about the batch being decoded.
pub struct Publisher {
    producer: Producer,
    buffer: Vec<u8>,
    /// What the events of the call in progress come from.
    context: Context,
    counts: BatchCounts,
    /// Up to here the collector has had everything from an earlier worker: neither sent nor counted again.
    resume_from: u64,
    reasons: u64,
    beat: Instant,
    /// End of the last batch that was published, and when.
    published: u64,
    last_batch: Instant,
    /// Something was sent since.
    emitted: bool,
    /// Events of the call in progress.
    in_call: u64,
    /// The collector or the broker is gone, or the run ends: nothing more can be handed over.
    closed: bool,
}

/// Headers and positions of the messages that a call of the decoder works on.
#[derive(Default)]
struct Context {
    records: Vec<Origin>,
    /// Where events without a record stand.
    position: u64,
    time_ns: u64,
}

struct Origin {
    header: Header,
    missing: u64,
    end: u64,
}

impl Publisher {
    /// `resume_from`: end of the last batch that an earlier worker published whole.
    #[must_use]
    pub fn new(producer: Producer, resume_from: u64) -> Self {
        Self {
            producer,
            buffer: Vec::with_capacity(4096),
            context: Context::default(),
            counts: BatchCounts::default(),
            resume_from,
            reasons: 0,
            beat: Instant::now(),
            published: u64::MAX,
            last_batch: Instant::now(),
            emitted: false,
            in_call: 0,
            closed: false,
        }
    }

    /// The decoder is about to see these messages.
    pub fn begin(&mut self, messages: &[Message<'_>]) {
        self.in_call = 0;
        self.context.records.clear();
        self.context.records.extend(messages.iter().map(|m| Origin {
            header: m.header,
            missing: m.missing,
            end: m.end,
        }));
        for message in messages.iter().filter(|m| m.end > self.resume_from) {
            self.counts.seen += 1;
            self.counts.partial += u64::from(message.missing > 0);
            self.counts.missing += message.missing;
        }
    }

    /// The decoder is about to be called without records.
    pub fn begin_tick(&mut self, position: u64, time_ns: u64) {
        self.in_call = 0;
        self.context.records.clear();
        self.context.position = position;
        self.context.time_ns = time_ns;
    }

    /// Says which record is being decoded, for the case that this process dies of it: the one at `position`, or (not
    /// `exact`) it or one of those behind it. Positions are multiples of 8, which leaves a bit for that.
    pub fn now_at(&self, position: u64, exact: bool) {
        self.producer.now_at(Some(position | u64::from(!exact)));
    }

    /// No record is being decoded.
    pub fn now_at_rest(&self) {
        self.producer.now_at(None);
    }

    /// A record as it came, for a recording.
    pub fn record(&mut self, end: u64, bytes: &[u8]) {
        self.send(|producer, on_full| producer.push_record(end, bytes, on_full));
    }

    /// A record that is none: counted as seen, so that the sum stays exact.
    pub fn undecodable_record(&mut self, end: u64) {
        if end > self.resume_from {
            self.counts.seen += 1;
            self.counts.undecodable += 1;
        }
    }

    /// A message that the decoder failed on as a whole.
    pub fn failed_on(&mut self, record: usize) {
        if self.context.records.get(record).is_some_and(|o| o.end > self.resume_from) {
            self.counts.undecodable += 1;
        }
    }

    /// The decoder gave up before these messages; they come again with the next one.
    pub fn not_reached(&mut self, from: usize) {
        for origin in self.context.records.iter().skip(from).filter(|o| o.end > self.resume_from) {
            self.counts.seen -= 1;
            self.counts.partial -= u64::from(origin.missing > 0);
            self.counts.missing -= origin.missing;
        }
    }

    /// Makes everything up to `position` visible to the collector, with what was counted. `watermark`: see
    /// [`BatchCounts::to_bytes`].
    pub fn end_of_batch(&mut self, position: u64, watermark: u64) {
        self.beat();
        // With nothing to say the collector is left asleep, but for a watermark now and then: others wait for it.
        let silent = position == self.published && self.counts == BatchCounts::default() && !self.emitted;
        if silent && self.last_batch.elapsed() < WATERMARK_EVERY {
            return;
        }
        (self.published, self.emitted, self.last_batch) = (position, false, Instant::now());
        let payload = std::mem::take(&mut self.counts).to_bytes(watermark);
        self.send(|producer, on_full| producer.batch_end(position, &payload, on_full));
        self.producer.publish();
    }

    /// True when nothing that is emitted will be seen any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Tells the broker once a second that this process is alive.
    pub fn beat(&mut self) {
        beat(&mut self.beat);
    }

    /// The first word on the link: from here on a new worker speaks, which reads the ring from `position`.
    pub fn hello(&mut self, position: u64) {
        self.send(|producer, on_full| producer.hello(position, on_full));
        self.producer.publish();
    }

    fn send(&mut self, push: impl FnOnce(&mut Producer, &mut dyn FnMut() -> bool) -> Result<(), PushError>) {
        if self.closed {
            return;
        }
        self.emitted = true;
        let (said, mut looked) = (&mut self.beat, Instant::now());
        // Full: the collector is slow. The kernel's ring holds what comes meanwhile, and counts what it can't.
        let pushed = push(&mut self.producer, &mut || {
            beat(said);
            // Looking at the channel is a system call, and the link is looked at every 2 ms or more often.
            if looked.elapsed() < Duration::from_millis(100) {
                return true;
            }
            looked = Instant::now();
            Control::is_open()
        });
        match pushed {
            Ok(()) => {}
            Err(PushError::TooLong { .. }) => self.counts.refused += 1,
            Err(PushError::GaveUp | PushError::Broken(_)) => self.closed = true,
        }
    }
}

fn beat(last: &mut Instant) {
    if last.elapsed() >= Duration::from_secs(1) {
        *last = Instant::now();
        Control::say(&FromWorker::Beat);
    }
}

/// Ends this process: back in the decoder nothing would stop it. The broker knows which record it was at.
fn runaway() -> ! {
    let text = format!("more than {MOST_EVENTS} events of one call: the decoder does not come to an end");
    Control::say(&FromWorker::Failed("E-MODULE".to_string(), text));
    std::process::abort()
}

impl EventSink for Publisher {
    fn emit(&mut self, event: &EventV1<'_>) -> bool {
        if self.closed {
            return false;
        }
        self.in_call += 1;
        if self.in_call > MOST_EVENTS {
            runaway();
        }
        let nobody = Header { time_ns: self.context.time_ns, ..Header::default() };
        let (header, end) = match self.context.records.get(event.record as usize) {
            Some(origin) if event.record != NO_RECORD => (origin.header, origin.end),
            _ => (nobody, self.context.position),
        };
        // Events that an earlier worker sent already are sent again: the collector knows them by their position.
        let flags = if event.record == NO_RECORD { link::flags::FREE } else { 0 };
        let fixed = Fixed {
            event: event.event,
            role: event.role,
            flags: event.flags,
            time_ns: header.time_ns,
            pid: header.pid,
            tid: header.tid,
            uid: header.uid,
            target: header.target,
            cgroup: header.cgroup,
            comm: header.comm,
            stream_id: event.stream_id,
            stream_offset: event.stream_offset,
            missing: event.missing,
            lost_before: header.lost_before.into(),
        };
        let columns = event.columns.iter().map(|c| RawColumn {
            column: c.column,
            kind: c.kind,
            bits: c.bits,
            bytes: c.bytes.as_slice(),
        });
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        match wire::encode(&fixed, columns, event.payload.as_slice(), &mut buffer) {
            Ok(()) => self.send(|producer, on_full| producer.push_event(flags, end, &buffer, on_full)),
            Err(_) => self.counts.refused += 1,
        }
        self.buffer = buffer;
        !self.closed
    }

    fn undecodable(&mut self, record: u32, reason: RStr<'_>) {
        self.failed_on(record as usize);
        self.reasons += 1;
        if self.reasons <= SHOWN_REASONS {
            let more = if self.reasons == SHOWN_REASONS { " (further ones are only counted)" } else { "" };
            let text: String = reason.chars().take(200).collect();
            Control::say(&FromWorker::Log(2, format!("a record cannot be decoded: {text}{more}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_the_link() {
        let counts = BatchCounts { seen: 1, partial: 2, missing: 3, undecodable: 4, refused: 5 };
        assert_eq!(BatchCounts::parse(&counts.to_bytes(99)), Some((99, counts)));
        assert_eq!(BatchCounts::parse(&[0; 47]), None);
    }
}
