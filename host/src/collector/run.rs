//! The collector's loop.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::mail::Mail;
use super::merge::Merge;
use super::out::{Out, Waiting, monotonic_ns};
use super::packets::Packets;
use super::source::{Ended, Source};
use super::streams::Streams;
use super::who::Who;
use crate::event::wire::View;
use crate::event::{Clock, PacketTotals, Summary, losses_text, summary_text};
use crate::link::Message;
use crate::packet::reader::Reader;
use crate::protocol::control::Control;
use crate::protocol::{CollectorStart, FromCollector, KernelTotals, TargetName, ToCollector};
use crate::recording::{Header, RecordedModule};
use crate::sandbox::{self, Entry, Limits, Role, Turn, child};
use crate::sink::{Format, OutputSpec, SessionEnd, SessionModule, SessionStart, SinkSet};
use crate::statements::Gate;
use crate::worker::BatchCounts;

/// Events taken from one link before the next one's turn.
const BUDGET: usize = 4096;
/// Bytes taken from one link before anybody else's turn, that of a slow output included.
const BUDGET_BYTES: u64 = 512 << 10;
/// Longest sleep.
const SLEEP: Duration = Duration::from_millis(100);
/// A change of the clock that is a step and no drift, ns.
const STEP: u64 = 100_000_000;
/// For slow readers of the outputs, at the end.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Entry point of the role.
#[must_use]
pub fn main(broker: u32) -> i32 {
    match start(broker).and_then(Collector::run) {
        Ok(()) => 0,
        Err(text) => {
            Control::say(&FromCollector::Log(1, text));
            1
        }
    }
}

fn start(broker: u32) -> Result<Collector, String> {
    let (text, fds) = child::receive_start().map_err(|e| e.to_string())?;
    let start: CollectorStart = serde_json::from_slice(&text).map_err(|e| format!("start message: {e}"))?;
    // An eBPF ring is mapped twice.
    let mapped = start.modules.iter().map(|m| m.link_bytes).sum::<u64>() + 2 * start.packets.unwrap_or(0);
    let boundary = sandbox::enter(&Entry {
        role: Role::Collector,
        broker_pid: broker,
        identity: start.identity,
        limits: Limits::of(Role::Collector, mapped, fds.len()),
        preload: &[],
        readable: None,
    })
    .map_err(|e| e.to_string())?;

    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| "start message: a descriptor is missing".to_string());
    let (mut sources, mut modules, mut recorded, mut mail) = (Vec::new(), Vec::new(), Vec::new(), Mail::default());
    for (index, mut module) in start.modules.into_iter().enumerate() {
        let targets = std::mem::take(&mut module.targets);
        let info =
            SessionModule { name: module.name.clone(), version: module.version.clone(), tainted: module.tainted };
        modules.push(info);
        recorded.push(RecordedModule {
            name: module.name.clone(),
            version: module.version.clone(),
            tainted: module.tainted,
            build_id: module.build_id.clone(),
            manifest: module.manifest.clone(),
            config: serde_json::to_value(&module.config).map_err(|e| e.to_string())?,
            targets: by_number(&targets),
        });
        mail.targets.extend(targets.into_iter().map(|(number, name)| ((index, number), Rc::new(name))));
        sources.push(Source::new(index, module, next()?, next()?)?);
    }
    let packets = match start.packets {
        Some(bytes) => Some(Packets::new(Reader::open(next()?, &next()?, bytes)?, start.packet_filter, start.count)),
        None => None,
    };
    let mut outputs = Vec::new();
    for options in start.outputs {
        outputs.push(OutputSpec { options, fd: Some(next()?), header: Vec::new() });
    }
    let (clock, began) = match start.replay {
        Some(then) => {
            (Clock::with_offset(then.wall_ns.wrapping_sub(then.monotonic_ns).cast_signed()), then.monotonic_ns)
        }
        None => (Clock::sample(), monotonic_ns()),
    };
    let header = Header {
        version: start.session.version.clone(),
        host: start.session.host.clone(),
        kernel: start.session.kernel.clone(),
        monotonic_ns: began,
        wall_ns: clock.wall_ns(began),
        modules: recorded,
    };
    for output in outputs.iter_mut().filter(|o: &&mut OutputSpec| o.options.format == Format::Recording) {
        output.header = serde_json::to_vec(&header).map_err(|e| e.to_string())?;
    }
    let gate = Gate::new(&start.streams.redact, &start.streams.statements)?;
    let streams = Streams::new(start.streams, modules.iter().map(|module| module.name.as_str()))?;
    let mut sinks = SinkSet::new(outputs).map_err(|e| e.to_string())?;
    sinks.set_gate(gate);
    sinks.session_start(&SessionStart {
        wall_ns: clock.wall_ns(began),
        version: start.session.version,
        host: start.session.host,
        arch: std::env::consts::ARCH.into(),
        kernel: start.session.kernel,
        command: start.session.command,
        modules,
        segment: None,
    });
    Control::say(&FromCollector::Boundary(boundary.report().clone()));
    Ok(Collector {
        merge: Merge::new(sources.len(), Instant::now()),
        out: Out {
            sinks,
            clock,
            who: Who::default(),
            streams,
            given_up: Vec::new(),
            waiting: Waiting::default(),
            live: start.replay.is_none(),
            // Of frames, if there are any.
            count: start.count.filter(|_| packets.is_none()),
            written: 0,
            enough: false,
            secrets: Vec::new(),
            without_secrets: 0,
        },
        mail,
        sources,
        packets,
        began,
        look_again: false,
        finish: None,
    })
}

/// Paths of targets, each at the place of its number.
fn by_number(targets: &[(u32, TargetName)]) -> Vec<String> {
    let path = |number: u32| targets.iter().find(|(n, _)| *n == number).map(|(_, name)| name.path.clone());
    let count = targets.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
    (0..count).map(|number| path(number).unwrap_or_default()).collect()
}

struct Collector {
    sources: Vec<Source>,
    merge: Merge,
    out: Out,
    mail: Mail,
    packets: Option<Packets>,
    began: u64,
    /// The broker said something that needs another look at the links.
    look_again: bool,
    /// Kernel counters of each module, once the broker has asked for the end.
    finish: Option<(Vec<KernelTotals>, Option<u64>)>,
}

impl Collector {
    fn run(mut self) -> Result<(), String> {
        let mut told = false;
        let mut turn = Turn::new();
        loop {
            turn.spend();
            // Asked before the links are looked at: what was published until then is in them, and what comes with the word
            // itself needs another look.
            let finishing = self.finish.is_some();
            let congested = self.out.sinks.congested();
            let busy = !congested && (self.drain() | self.drain_packets()?);
            let now = Instant::now();
            if congested {
                self.merge.pause(now);
            }
            while !self.out.sinks.congested()
                && let Some((source, bytes)) = self.merge.pop(now)
            {
                if let Some(source) = self.sources.get_mut(source) {
                    self.out.event(&mut source.intake, &bytes, &mut self.mail);
                }
            }
            self.follow_clock();
            self.out.tell_waiting(&mut self.sources, &mut self.mail);
            self.release_packets();
            let mut notices = Vec::new();
            let due = self.out.sinks.tick(Instant::now(), &mut notices);
            self.say(notices);
            self.ask_for_files();
            if !told && self.out.sinks.all_ended() {
                told = true;
                Control::say(&FromCollector::NobodyListens);
            }
            if !told && (self.out.enough || self.packets.as_ref().is_some_and(Packets::has_enough)) {
                told = true;
                Control::say(&FromCollector::CountReached);
            }
            self.heed_broker(Duration::ZERO)?;
            if busy || std::mem::take(&mut self.look_again) && !congested {
                continue;
            }
            if congested {
                self.wait_for_room();
                continue;
            }
            if finishing && self.packets.as_ref().is_some_and(|p| !p.is_empty()) {
                // A program that was at it when its links were taken off has not finished yet.
                continue;
            }
            if finishing && let Some((totals, ended_ns)) = self.finish.take() {
                self.end(&totals, ended_ns);
                return Ok(());
            }
            if self.finish.is_some() {
                continue;
            }
            self.out.sinks.flush();
            self.sleep(due);
        }
    }

    /// Takes what has come over the links; true if there may be more.
    fn drain(&mut self) -> bool {
        (0..self.sources.len()).fold(false, |busy, index| busy | self.drain_one(index))
    }

    /// The same of one link.
    fn drain_one(&mut self, index: usize) -> bool {
        let Some(source) = self.sources.get_mut(index).filter(|s| !s.closed) else { return false };
        match take(index, source, &mut self.merge, &mut self.out, &mut self.mail) {
            // Nobody writes to it any more, and it is empty.
            Ok(0) if source.ended.is_some() => {
                match source.ended.take() {
                    Some(Ended::Restarted) => Control::say(&FromCollector::Position(index, source.intake.batch_end)),
                    _ => {
                        self.merge.over(index, Instant::now());
                        self.out.streams.told_up_to(index, u64::MAX);
                    }
                }
                false
            }
            Ok(count) => count > 0,
            Err(why) => {
                source.closed = true;
                self.merge.over(index, Instant::now());
                self.out.streams.told_up_to(index, u64::MAX);
                Control::say(&FromCollector::Hostile(index, why));
                false
            }
        }
    }

    /// Takes frames; true if there may be more.
    fn drain_packets(&mut self) -> Result<bool, String> {
        let Some(until) = self.packets.as_ref().map(Packets::written) else { return Ok(false) };
        self.heed_broker(Duration::ZERO)?;
        let Some(packets) = &mut self.packets else { return Ok(false) };
        Ok(packets.drain(until, &self.out))
    }

    /// The clock of the machine drifts against the one that events have their times from, and somebody may set it.
    fn follow_clock(&mut self) {
        if self.out.live
            && let Some(moved) = self.out.clock.refresh()
            && moved.unsigned_abs() > STEP
        {
            let (seconds, way) = (moved.unsigned_abs() as f64 / 1e9, if moved > 0 { "forward" } else { "back" });
            let text = format!("the clock of this machine was set {way} by {seconds:.3} s: times jump there");
            Control::say(&FromCollector::Log(1, text));
        }
    }

    /// Gives frames to the outputs whose secrets are written.
    fn release_packets(&mut self) {
        let secrets = std::mem::take(&mut self.out.secrets);
        if let Some(packets) = &mut self.packets {
            secrets.into_iter().for_each(|time_ns| packets.secret(time_ns));
            packets.release(self.merge.told_ns(), &mut self.out);
        }
    }

    /// A worker is gone; its link is emptied in its turn, since an output may be slow.
    fn ended(&mut self, index: usize, how: Ended) {
        if let Some(source) = self.sources.get_mut(index) {
            source.ended = Some(how);
        }
        self.look_again = true;
    }

    /// Does what the broker has said; waits for its first word so long.
    fn heed_broker(&mut self, patience: Duration) -> Result<(), String> {
        let mut patience = patience;
        while let Some((message, file)) = self.mail.next(std::mem::take(&mut patience))? {
            match message {
                ToCollector::File { output, refused } => {
                    let file = file.ok_or(refused.unwrap_or(libc::EBADF));
                    self.out.sinks.give_file(output, file);
                }
                ToCollector::Restarted(index) => {
                    // The worker is gone, so what its link holds now is all that it published.
                    self.ended(index, Ended::Restarted);
                }
                ToCollector::Over(index) => self.ended(index, Ended::Over),
                ToCollector::Resolved(process) => self.out.who.learn(process, Instant::now()),
                ToCollector::Changed(pid, time_ns) => {
                    self.out.who.changed(pid, time_ns);
                    self.out.streams.process_ended(pid, time_ns);
                }
                ToCollector::Interface(interface, since_ns) => {
                    if let Some(packets) = &mut self.packets {
                        packets.interfaces.begin(interface, since_ns);
                    }
                }
                ToCollector::InterfaceOver(index, received, dropped) => {
                    if let Some(packets) = &mut self.packets {
                        packets.interfaces.end((index, received, dropped));
                    }
                }
                ToCollector::Packets(totals, by_interface) => {
                    if let Some(packets) = &mut self.packets {
                        packets.counted(totals, by_interface);
                    }
                }
                // Taken out where it was read.
                ToCollector::Target(..) => {}
                ToCollector::Finish(totals, ended_ns) => {
                    for index in 0..self.sources.len() {
                        self.merge.over(index, Instant::now());
                    }
                    self.finish = Some((totals, ended_ns));
                }
            }
        }
        self.tell_targets();
        Ok(())
    }

    /// Outputs hear of target files that came late.
    fn tell_targets(&mut self) {
        for (module, number) in self.mail.fresh.drain(..) {
            if let (Ok(index), Some(name)) = (u8::try_from(module), self.mail.targets.get(&(module, number))) {
                self.out.sinks.target(index, number, &name.path);
            }
        }
    }

    /// A moment, or until a slow reader reads.
    fn wait_for_room(&self) {
        let blocked: Vec<_> = self.out.sinks.blocked().collect();
        let mut fds: Vec<_> = blocked.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)).collect();
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 }));
    }

    fn sleep(&mut self, due: Option<Instant>) {
        let mut until = due.map_or(SLEEP, |due| due.saturating_duration_since(Instant::now()).min(SLEEP));
        let open: Vec<&Source> = self.sources.iter().filter(|s| !s.closed).collect();
        // Each is armed first and then looked at: the first one that is not empty ends the thought of sleeping.
        if let Some(most) = self.packets.as_mut().and_then(Packets::prepare_sleep) {
            until = until.min(most);
        }
        if !until.is_zero() && open.iter().all(|source| source.consumer.arm()) {
            let control = Control::fd();
            let mut fds = vec![PollFd::new(&control, PollFlags::IN)];
            let bells: Vec<_> = open.iter().map(|s| s.consumer.bell()).collect();
            fds.extend(bells.iter().map(|bell| PollFd::new(bell, PollFlags::IN)));
            if let Some(packets) = self.packets.as_ref().filter(|p| p.is_empty()) {
                fds.push(PollFd::from_borrowed_fd(packets.bell(), PollFlags::IN));
            }
            let blocked: Vec<_> = self.out.sinks.blocked().collect();
            fds.extend(blocked.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
            let timeout = Timespec { tv_sec: 0, tv_nsec: until.as_nanos().min(999_999_999) as _ };
            // Interrupted or not: the next round looks at everything.
            let _ = poll(&mut fds, Some(&timeout));
        }
        for source in open {
            source.consumer.disarm();
        }
        if let Some(packets) = &mut self.packets {
            packets.awake();
        }
    }

    /// Files are the broker's to open.
    fn ask_for_files(&mut self) {
        for output in self.out.sinks.wanted_files() {
            Control::say(&FromCollector::NextFile(output));
        }
    }

    /// At the end: what was asked for and has not come, or is wanted for the last lines.
    fn wait_for_files(&mut self) -> Result<(), String> {
        let until = Instant::now() + LAST_WRITE;
        loop {
            self.out.sinks.flush();
            self.ask_for_files();
            if !self.out.sinks.waits_for_files() || Instant::now() > until {
                return Ok(());
            }
            self.heed_broker(SLEEP)?;
        }
    }

    fn say(&self, notices: Vec<crate::sink::Notice>) {
        for notice in notices {
            Control::say(&FromCollector::OutputFailed(format!("{}: {}", notice.output, notice.text)));
        }
    }

    /// Nothing more will come that a frame could wait for.
    fn write_last_packets(&mut self) {
        let Some(packets) = &mut self.packets else { return };
        let until = Instant::now() + LAST_WRITE;
        loop {
            // An output that does not get on in this time loses the rest, and counts it.
            if !self.out.sinks.congested() || Instant::now() > until {
                if !packets.release_last(&mut self.out) {
                    return;
                }
                continue;
            }
            self.out.sinks.flush();
            if !self.out.sinks.congested() {
                continue;
            }
            let blocked: Vec<_> = self.out.sinks.blocked().collect();
            let mut fds: Vec<_> = blocked.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)).collect();
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 }));
        }
    }

    fn end(mut self, kernel: &[KernelTotals], ended_ns: Option<u64>) {
        let mut left = std::mem::take(&mut self.out.given_up);
        left.append(&mut self.out.streams.finish());
        self.out.tell(left, &mut self.sources, &mut self.mail);
        while self.out.go_on(&mut self.sources, &mut self.mail) {
            self.out.sinks.flush();
            self.wait_for_room();
        }
        self.write_last_packets();
        self.out.sinks.tell_numbers(Instant::now(), true);
        let mut summary = Summary::default();
        for (source, kernel) in self.sources.iter().zip(kernel) {
            source.intake.add_to(&mut summary);
            let totals = summary.module(source.intake.name());
            kernel.add_to(totals);
            // Nobody will ever read what its last worker left behind.
            totals.abandoned = if totals.disabled { totals.unaccounted() } else { 0 };
        }
        if let Some(packets) = &self.packets {
            summary.packets = Some(PacketTotals { without_secrets: self.out.without_secrets, ..packets.totals() });
            self.out.sinks.interfaces(&packets.interfaces.totals());
        }
        self.out.streams.add_to(&mut summary);
        self.out.sinks.add_left_out(&mut summary);
        self.tell_targets();
        self.out.sinks.flush();
        self.out.sinks.add_losses(&mut summary);
        let now = ended_ns.unwrap_or_else(monotonic_ns);
        self.out.sinks.totals(now, kernel);
        self.out.sinks.session_end(&SessionEnd {
            wall_ns: self.out.clock.wall_ns(now),
            duration_ns: now.saturating_sub(self.began),
            summary: &summary,
            segment: None,
        });
        // Without the broker there is no file, and nobody to tell.
        let _ = self.wait_for_files();
        let (notices, reports) = self.out.sinks.finish(LAST_WRITE);
        self.say(notices);
        self.out.sinks.add_losses(&mut summary);
        let sink_lost = reports.iter().map(|r| r.lost).sum();
        let undeclared = self.sources.iter().map(|s| s.intake.undeclared).sum();
        let (text, losses) = (summary_text(&summary), losses_text(&summary));
        Control::say(&FromCollector::Done { text, losses, sink_lost, undeclared, totals: summary.modules });
    }
}

/// Takes one turn's worth from one link.
fn take(index: usize, source: &mut Source, merge: &mut Merge, out: &mut Out, mail: &mut Mail) -> Result<usize, String> {
    let mut malformed_batch = false;
    let (intake, now) = (&mut source.intake, Instant::now());
    let taken = source.consumer.drain(BUDGET, BUDGET_BYTES, |message| {
        if !intake.positions.admit(&message) {
            return;
        }
        match message {
            Message::Event { payload, .. } if merge.is_trivial() => out.event(intake, payload, mail),
            Message::Event { payload, .. } => {
                let time = View::decode(payload).map_or(0, |view| view.fixed.time_ns);
                intake.late += u64::from(!merge.push(index, time, payload));
            }
            Message::BatchEnd { end, payload } => match BatchCounts::parse(payload) {
                Some((watermark, counts)) => {
                    intake.batch_end = intake.batch_end.max(end);
                    intake.counts.add(counts);
                    merge.watermark(index, watermark, now);
                    out.streams.told_up_to(index, watermark);
                }
                None => malformed_batch = true,
            },
            Message::Record { end, bytes } => {
                let number = u8::try_from(index).unwrap_or(u8::MAX);
                out.sinks.record(intake.schema.module(), number, end, bytes);
            }
            Message::Hello { .. } | Message::Log { .. } => {}
        }
    });
    match taken {
        Ok(_) if malformed_batch => Err("hostile link: a batch that is none".into()),
        Ok(count) => Ok(count),
        Err(e) => Err(e.to_string()),
    }
}
