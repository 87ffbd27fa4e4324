//! The pump: drains the kernel's ring (or a recording of one), joins chunks, lets the module decode, hands the events to the collector.
//!
//! What makes a restart exact: the ring's consumer position moves only after the events of everything before it are
//! published, and never beyond the first record of a message that is still being joined. After a crash the next worker
//! reads again from there; what the collector has had already (`resume_from`) is decoded for the module's state, but
//! neither published nor counted a second time.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ecapture_plugin_api::abi::{
    self, DecoderBox, HostApiV1_Ref, ModuleError, NO_RECORD, RecordV1,
    abi_stable::std_types::{RResult, RSlice},
    call_error, record_flag,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::join::{Joiner, Message};
use super::load::Module;
use super::publish::Publisher;
use super::source::{Recorded, Source};
use crate::bpf::ring::{Doorbell, Ring};
use crate::event::record::{HEADER_LEN, Header};
use crate::link::Producer;
use crate::protocol::control::Control;
use crate::protocol::{FromWorker, ReplayJob, Replayed, RunJob, ToWorker};
use crate::recording::Reader;
use crate::sandbox::Turn;

/// Records looked at before events are published and the position moves.
const BATCH_RECORDS: usize = 4096;
/// Bytes of records looked at before that: a batch of large records must not keep the ring full.
const BATCH_BYTES: u64 = 1 << 20;
/// Messages in one call of the decoder.
const CALL: usize = 256;
/// Shortest pause between two rounds while records come.
const BUSY: Duration = Duration::from_millis(1);
/// Longest one. Each pause ends in two wake-ups, here and in the collector, that take the processor from the target's threads.
const LONGEST: Duration = Duration::from_millis(10);
/// Bytes a second that may suddenly come: what a pause of this ring's size is made for.
const BURST: u64 = 2 << 30;
/// Of the ring's size: pauses become longer while less comes in one, and shorter again above twice of it.
const LITTLE: u64 = 32;
/// Silence after which the doorbell is armed and the process sleeps.
const QUIET: Duration = Duration::from_millis(30);
/// Longest sleep: the module's own clock and the control channel are served at least so often.
const SLEEP: Duration = Duration::from_millis(100);

/// A program takes the time before it reserves room for its record, and may be held up in between.
const RESERVING_NS: u64 = 5_000_000;

type Failed = (String, String);

/// Runs until the broker says `Finish` and all is drained, or until the broker is gone.
///
/// # Errors
/// Stable code and text: what this process cannot go on without.
pub fn run(module: &Module, host: HostApiV1_Ref, config: &str, job: &RunJob, fds: Vec<OwnedFd>) -> Result<(), Failed> {
    let [ring_fd, doorbell, link, bell]: [OwnedFd; 4] =
        fds.try_into().map_err(|_| failed("start message", &"wrong number of descriptors"))?;
    let ring =
        Ring::open(ring_fd.as_fd(), usize::try_from(job.ring_bytes).unwrap_or(0)).map_err(|e| failed("ring", &e))?;
    let doorbell = Doorbell::open(doorbell.as_fd()).map_err(|e| failed("doorbell", &e))?;
    let producer = Producer::new(link, bell, job.link_bytes).map_err(|e| failed("link", &e))?;
    let position = ring.position();
    let decoding = Decoding {
        module,
        host,
        config,
        decoder: new_decoder(module, host, config)?,
        restarted: job.restarted,
        careful_until: if job.restarted { ring.produced() } else { 0 },
    };
    let mut pump = Pump {
        decoder: decoding,
        publisher: Publisher::new(producer, job.resume_from),
        joiner: Joiner::default(),
        max_message: &job.max_message,
        poisoned: &job.poisoned,
        record: job.record,
        source: ring,
        position,
        seen: 0,
        newest: 0,
    };
    pump.publisher.hello(position);
    Control::say(&FromWorker::Ready);
    pump.run(&ring_fd, job.ring_bytes, &doorbell)
}

/// Decodes one module's records of a recording, and says how it ended.
///
/// # Errors
/// As [`run`].
pub fn replay(
    module: &Module,
    host: HostApiV1_Ref,
    config: &str,
    job: &ReplayJob,
    fds: Vec<OwnedFd>,
) -> Result<(), Failed> {
    let [file, link, bell]: [OwnedFd; 3] =
        fds.try_into().map_err(|_| failed("start message", &"wrong number of descriptors"))?;
    let producer = Producer::new(link, bell, job.link_bytes).map_err(|e| failed("link", &e))?;
    let (reader, header) = Reader::new(BufReader::with_capacity(256 << 10, File::from(file)))
        .map_err(|e| ("E-RECORDING".to_string(), e.to_string()))?;
    let mut pump = Pump {
        decoder: Decoding {
            module,
            host,
            config,
            decoder: new_decoder(module, host, config)?,
            restarted: false,
            careful_until: 0,
        },
        publisher: Publisher::new(producer, 0),
        joiner: Joiner::default(),
        max_message: &job.max_message,
        poisoned: &[],
        record: false,
        source: Recorded::new(reader, job.module, header.monotonic_ns),
        position: 0,
        seen: 0,
        newest: 0,
    };
    pump.publisher.hello(0);
    Control::say(&FromWorker::Ready);
    loop {
        let more = pump.source.fill();
        while pump.round(!more)? {}
        if pump.publisher.is_closed() {
            return Err(failed("the link", &"the broker is gone"));
        }
        if !more {
            break;
        }
    }
    pump.finish()?;
    let (ended, damage) = match pump.source.end.take() {
        Some(Ok(ended)) => (Some(ended), None),
        Some(Err(damage)) => (None, Some(damage)),
        None => (None, None),
    };
    let now_ns = pump.source.now_ns();
    let totals = ended.as_ref().and_then(|ended| ended.modules.get(usize::from(job.module)).cloned());
    let monotonic_ns = ended.map_or(now_ns, |ended| ended.monotonic_ns.max(now_ns));
    let (records, seen, lost) = (pump.source.records, pump.seen, pump.source.lost);
    Control::say(&FromWorker::Replayed(Replayed { records, seen, lost, damage, totals, monotonic_ns }));
    Ok(())
}

struct Pump<'a, S> {
    /// Per stream: longest message.
    max_message: &'a [u64],
    /// Where records stand that are not to be decoded.
    poisoned: &'a [u64],
    /// Records go to the collector as well.
    record: bool,
    source: S,
    publisher: Publisher,
    decoder: Decoding<'a>,
    joiner: Joiner,
    /// Position up to which the ring has been looked at; ahead of the ring's own by what is not published yet.
    position: u64,
    /// Messages, and records that are none.
    seen: u64,
    /// Time of the newest record.
    newest: u64,
}

impl Pump<'_, Ring> {
    fn run(&mut self, ring: &OwnedFd, ring_bytes: u64, doorbell: &Doorbell) -> Result<(), Failed> {
        let (mut control, mut finish, mut last_record) = (Control::default(), false, Instant::now());
        let (mut pause, mut turn) = (Pause::new(ring_bytes), Turn::new());
        loop {
            turn.spend();
            // While the ring is busy the channel is looked at between rounds; else the sleep below watches it.
            if !finish
                && let Some(ToWorker::Finish) = control.hear(Duration::ZERO).map_err(|e| failed("the broker", &e))?
            {
                finish = true;
            }
            if self.publisher.is_closed() {
                return Err(failed("the link", &"the broker is gone"));
            }
            let drained = self.round(finish)?;
            if drained {
                last_record = Instant::now();
            }
            let empty = self.source.produced() == self.position;
            if finish && empty && !drained {
                return self.finish();
            }
            if !empty && drained {
                continue;
            }
            // Not empty and nothing drained: a record that its program is still writing.
            if finish || !empty {
                sleep(None, BUSY);
                continue;
            }
            if last_record.elapsed() < QUIET {
                sleep(None, pause.next(self.position));
                continue;
            }
            pause = Pause::new(ring_bytes);
            // Armed first and looked at again then, so that a record between the two is not slept through.
            doorbell.arm();
            if self.source.produced() == self.position {
                sleep(Some(ring), SLEEP);
            }
            doorbell.disarm();
        }
    }
}

impl<S: Source> Pump<'_, S> {
    /// One batch; true if there was any record in it.
    fn round(&mut self, finish: bool) -> Result<bool, Failed> {
        let (before, now) = (self.position, self.source.now_ns());
        let mut messages = Vec::new();
        // The messages borrow from the ring, so its position cannot be moved before they are let go.
        let limit = self.position + BATCH_BYTES;
        for _ in 0..BATCH_RECORDS {
            let Some(record) = self.source.next() else { break };
            let (start, end) = (record.start, record.end);
            self.position = end;
            let parsed = Header::parse(record.data);
            if self.record {
                // Without what pads it to its class of sizes.
                let whole = parsed.map_or(record.data.len(), |(_, data)| HEADER_LEN + data.len());
                self.publisher.record(end, record.data.get(..whole).unwrap_or(record.data));
            }
            let taken = match parsed {
                _ if self.poisoned.contains(&start) => None,
                Some((header, data)) => {
                    self.newest = self.newest.max(header.time_ns);
                    let max = self.max_message.get(usize::from(header.stream)).copied();
                    max.and_then(|max| self.joiner.take(header, data, (start, end), max, &mut messages).ok())
                }
                None => None,
            };
            if taken.is_none() {
                self.publisher.undecodable_record(end);
                self.seen += 1;
            }
            if end >= limit {
                break;
            }
        }
        let drained = self.position != before;
        // Records that are reserved but not submitted hide those behind them, so only an empty ring proves that nothing
        // older than `now` is to come.
        let empty = self.source.produced() == self.position;
        if empty {
            self.joiner.expire(now, self.position, &mut messages);
        }
        if finish && empty && !drained {
            self.joiner.finish(self.position, &mut messages);
        }
        // A message that was closed for its age has a position of its own behind the last record.
        let end = messages.last().map_or(self.position, |m| m.end.max(self.position));
        self.seen += messages.len() as u64;
        self.decoder.decode(&messages, &mut self.publisher)?;
        drop(messages);
        if !drained {
            self.publisher.begin_tick(self.position, now);
            self.decoder.tick(now, &mut self.publisher)?;
        }
        self.publisher.end_of_batch(end, self.watermark(empty.then_some(now)));
        let done = self.joiner.oldest_start().map_or(self.position, |start| start.min(self.position));
        self.source.commit(done).map_err(|e| failed("ring", &e))?;
        Ok(drained)
    }

    /// The time up to which everything has been seen; what other modules have from before can be written. `emptied`: when
    /// the ring was looked at that was found empty. One that is never empty shows its time by its newest record.
    fn watermark(&self, emptied: Option<u64>) -> u64 {
        let seen = emptied.unwrap_or(self.newest).saturating_sub(RESERVING_NS);
        self.joiner.oldest_time().map_or(seen, |open| seen.min(open))
    }

    /// Nothing will come any more: what the decoder still holds goes out.
    fn finish(&mut self) -> Result<(), Failed> {
        Control::say(&FromWorker::Drained);
        let now = self.source.now_ns();
        self.publisher.begin_tick(self.position, now);
        let result = self.decoder.decoder.finish(&mut abi::sink_mut(&mut self.publisher));
        // Every record has been decoded: starting again would lose what was emitted here and mend nothing.
        if let RResult::RErr(error) = result {
            Control::say(&FromWorker::DecoderFailed(format!("at its end: {}", short(&error))));
        }
        self.publisher.end_of_batch(self.position, now);
        Ok(())
    }
}

/// The module's decoder, made again when it fails.
struct Decoding<'a> {
    module: &'a Module,
    host: HostApiV1_Ref,
    config: &'a str,
    decoder: DecoderBox,
    /// The next record is the first that this decoder sees, in a run that had another one before.
    restarted: bool,
    /// Ring position up to which records are decoded one by one.
    careful_until: u64,
}

impl Decoding<'_> {
    fn decode(&mut self, messages: &[Message<'_>], publisher: &mut Publisher) -> Result<(), Failed> {
        // After a crash the records that were in the ring are decoded one by one, so that the next crash names its culprit.
        let careful = messages.first().is_some_and(|m| m.start < self.careful_until);
        for mut call in messages.chunks(if careful { 1 } else { CALL }) {
            publisher.now_at(call[0].start, careful);
            // Each turn either ends the chunk or leaves at least one record behind.
            while !call.is_empty() {
                let records: Vec<RecordV1<'_>> = call.iter().map(|m| self.record(m)).collect();
                publisher.begin(call);
                let result = self.decoder.decode_batch(RSlice::from_slice(&records), &mut abi::sink_mut(publisher));
                let done = match result {
                    RResult::ROk(n) if n as usize >= call.len() || publisher.is_closed() => call.len(),
                    RResult::ROk(_) => {
                        return Err(failed("decode_batch", &"it left records although the sink is open"));
                    }
                    RResult::RErr(error) => self.again(&error, call.len(), publisher)?,
                };
                call = &call[done..];
            }
        }
        publisher.now_at_rest();
        Ok(())
    }

    /// The decoder cannot go on; the next one starts behind the record that was too much for it.
    fn again(&mut self, error: &ModuleError, given: usize, publisher: &mut Publisher) -> Result<usize, Failed> {
        let culprit = if error.record == NO_RECORD { given - 1 } else { (error.record as usize).min(given - 1) };
        publisher.failed_on(culprit);
        publisher.not_reached(culprit + 1);
        Control::say(&FromWorker::DecoderFailed(format!("and is made anew, without its state: {}", short(error))));
        self.decoder = new_decoder(self.module, self.host, self.config)?;
        self.restarted = true;
        Ok(culprit + 1)
    }

    fn tick(&mut self, now: u64, publisher: &mut Publisher) -> Result<(), Failed> {
        let result = self.decoder.tick(now, &mut abi::sink_mut(publisher));
        match result {
            RResult::ROk(()) => Ok(()),
            RResult::RErr(error) if matches!(error.code, call_error::PANIC | call_error::POISONED) => {
                self.again(&error, 1, publisher).map(drop)
            }
            // Its own word that something went wrong: the decoder goes on.
            RResult::RErr(error) => {
                complain("the decoder's clock", &error);
                Ok(())
            }
        }
    }

    fn record<'m>(&mut self, message: &'m Message<'_>) -> RecordV1<'m> {
        let header = &message.header;
        let mut flags = 0;
        if message.missing > u64::from(header.cut) {
            flags |= record_flag::PARTIAL;
        }
        if header.cut > 0 {
            flags |= record_flag::CUT;
        }
        if std::mem::take(&mut self.restarted) {
            flags |= record_flag::RESTARTED;
        }
        RecordV1 {
            stream: header.stream,
            flags,
            target: header.target,
            process: header.pid,
            thread: header.tid,
            time_ns: header.time_ns,
            lost_before: header.lost_before.into(),
            missing: message.missing,
            data: RSlice::from_slice(&message.data),
            reserved: [0; 2],
        }
    }
}

fn new_decoder(module: &Module, host: HostApiV1_Ref, config: &str) -> Result<DecoderBox, Failed> {
    module.api.new_decoder()(host, config.into()).into_result().map_err(|e| failed("new_decoder", &e.message))
}

/// How long to wait for more while records come: longer, the less there is to lose by it.
#[derive(Debug)]
struct Pause {
    ring: u64,
    time: Duration,
    /// Ring position when the last pause began.
    position: Option<u64>,
}

impl Pause {
    fn new(ring: u64) -> Self {
        Self { ring, time: BUSY, position: None }
    }

    /// The next one, when all up to this position has been handed over.
    fn next(&mut self, position: u64) -> Duration {
        let came = self.position.replace(position).map_or(u64::MAX, |before| position.saturating_sub(before));
        let little = self.ring / LITTLE;
        // What comes in a sudden burst must find room.
        let longest = Duration::from_millis(self.ring.saturating_mul(1000) / BURST).clamp(BUSY, LONGEST);
        if came <= little {
            self.time = (self.time * 2).min(longest);
        } else if came > little.saturating_mul(2) {
            self.time = BUSY;
        }
        self.time
    }
}

/// Until the broker speaks, the doorbell rings (if watched), or the time is up.
fn sleep(ring: Option<&OwnedFd>, time: Duration) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    let control = Control::fd();
    let mut fds = vec![PollFd::new(&control, PollFlags::IN)];
    if let Some(ring) = ring {
        fds.push(PollFd::new(ring, PollFlags::IN));
    }
    // An interrupted sleep is a short one.
    let _ = poll(&mut fds, Some(&timeout));
}

/// What goes wrong without ending anything: said, and no more of it than a line.
fn complain(what: &str, error: &ModuleError) {
    Control::say(&FromWorker::Log(1, format!("{what}: {}", short(error))));
}

fn short(error: &ModuleError) -> String {
    error.message.chars().take(300).collect()
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failed {
    ("E-MODULE".to_string(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_little_comes_and_never_beyond_what_the_ring_holds() {
        let ring = 8 << 20;
        let mut pause = Pause::new(ring);
        let (mut at, mut times) = (0, Vec::new());
        for came in [0, 1000, 1000, 1000, ring / 4, 1000, 1000] {
            at += came;
            times.push(pause.next(at).as_millis());
        }
        // 8 MiB at 2 GiB/s fill in 3.9 ms.
        assert_eq!(times, [1, 2, 3, 3, 1, 2, 3]);
        let mut small = Pause::new(1 << 20);
        assert_eq!([small.next(0), small.next(0)], [BUSY, BUSY]);
        let mut large = Pause::new(1 << 30);
        let last = (0..9).map(|_| large.next(0)).last();
        assert_eq!(last, Some(LONGEST));
    }
}
