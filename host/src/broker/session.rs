//! One run from start to end: prepare, load, start the children, attach, watch, stop.
//!
//! Stopping goes in this order, so that nothing is lost on the way: probes off, the workers drain their rings and finish
//! their decoders, the collector drains the links and closes the outputs, the summary.

mod capture;
mod collector;
mod discovery;
mod files;
pub(super) mod signals;

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::Asked;
use super::attach;
use super::attend::{Attended, printable};
use super::expression;
use super::filters::{Filters, Notice};
use super::outputs;
use super::packets::{self, Packets};
use super::prepare::{Request, Target, prepare};
use super::rotation::Rotation;
use super::watch;
use crate::bpf::{Kernel, Method};
use crate::cli::RunOptions;
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::protocol::{FromCollector, FromWorker, KernelTotals, Process, ToCollector};
use crate::sandbox::privileges::{self, Keep};
use crate::sandbox::turn;
use crate::target::discover::wanted as wanted_names;
use crate::target::{Later, cgroup, fits, process};
pub(crate) use capture::LINK_BYTES;
use capture::{Capture, Worker};
pub(super) use collector::collector_outputs;
pub(crate) use collector::max_message;
use collector::start_collector;
use discovery::{Discovery, Looked, wanted};
use signals::Signals;

/// For the word on why nothing was seen.
const EXPLANATION: Duration = Duration::from_secs(5);
/// For the collector's walls.
const START: Duration = Duration::from_secs(20);

/// Runs modules until the user or the options end it.
///
/// # Errors
/// What the user is told; nothing stays attached then.
pub async fn run(asked: Vec<Asked>, options: RunOptions) -> Result<Exit, Failure> {
    watch::init(options.verbose, options.quiet);
    let missing = privileges::missing();
    if !missing.is_empty() {
        let text = format!("capturing needs privileges that this process does not have: {}", missing.join(", "));
        return Err(Failure::new("E-PRIVILEGE", text)
            .remedy("run it as root, for example with sudo")
            .exit(Exit::Privilege));
    }
    if let Some(packets) = &options.packets {
        packets::check(packets)?;
    }
    // Signals first: from here on Ctrl-C ends an orderly run.
    let mut signals = Signals::new()?;
    let packet_filter = match options.packets.as_ref().and_then(|packets| packets.filter.as_deref()) {
        Some(text) => Some(expression::compile(text).await?),
        None => None,
    };
    let mut outputs = outputs::open(&options)?;
    let asked: Vec<Arc<Asked>> = asked.into_iter().map(Arc::new).collect();
    let several = asked.len() > 1;
    let later = Later { files: options.follow, children: options.children };
    if several && !(later.files && later.children) {
        for_somebody(&asked, &options.pids)?;
    }
    let began_ns = process::monotonic_ns();
    let mut prepared = Vec::new();
    for asked in &asked {
        let pids = if several && !(later.files && later.children) {
            fitting(asked, &options.pids)?
        } else {
            options.pids.clone()
        };
        let request = Request { config: &asked.options.config, targets: &asked.options.targets, pids: &pids, later };
        let one = tokio::select! {
            one = prepare(&asked.module, &request) => one.map_err(|e| if several { of(asked.name(), e) } else { e })?,
            () = signals.next() => return Err(Failure::new("E-INTERRUPTED", "interrupted before anything was attached")),
        };
        prepared.push((asked.clone(), one));
    }
    let kernel = Kernel::probe(options.btf.as_deref())
        .and_then(|kernel| {
            // Types that were asked for by name are looked at even if no object needs them.
            if options.btf.is_some() {
                kernel.btf()?;
            }
            Ok(kernel)
        })
        .map_err(|e| Failure::new("E-KERNEL", e.to_string()).exit(Exit::Privilege))?;
    let (names, every) = if options.follow { wanted(&asked) } else { Default::default() };
    let filters = Filters::load(&kernel, &options, &names, every)?;
    let mut captures = Vec::new();
    for (index, (asked, prepared)) in prepared.into_iter().enumerate() {
        let attached = attach::load(&asked.module, &prepared.ready, &kernel, &filters, options.ring_bytes)?;
        captures.push(Capture::new(index, asked, prepared, attached, options.record.is_some())?);
    }
    let packets = match &options.packets {
        Some(wanted) => Some(Packets::load(&kernel, &filters, wanted)?),
        None => None,
    };
    let collector = start_collector(&captures, packets.as_ref(), &options, &kernel.release, &outputs, packet_filter)?;
    let session = Session {
        captures,
        collector,
        options,
        filters,
        packets,
        discovery: Discovery::new(began_ns),
        cgroups: cgroup::mount(),
        phase: Phase::Capturing,
        nobody_listens: false,
        rotation: Rotation::of(&mut outputs),
        turn: 0,
    };
    // Probes by perf events need more than the rest of a run does.
    let perf_uprobes = session.options.follow && kernel.method == Method::Perf;
    let net_admin = session.packets.is_some();
    let keep = Keep { perf_uprobes, net_admin, dac_override: session.rotation.needs_override() };
    session.start(keep).await?.watch(signals).await
}

/// A failure of one module among several says whose it is.
fn of(name: &str, mut failure: Failure) -> Failure {
    if !failure.message.contains(name) {
        failure.message = format!("module {name}: {}", failure.message);
    }
    failure
}

/// With several modules, a process that was asked for must mean something to one of them.
fn for_somebody(asked: &[Arc<Asked>], pids: &[u32]) -> Result<(), Failure> {
    for pid in pids {
        if !process::exists(*pid) {
            return Err(Failure::new("E-TARGET", format!("no process has the id {pid}")));
        }
        if !asked.iter().any(|a| !a.options.targets.is_empty() || fits(&a.module.manifest.targets, *pid)) {
            let names: Vec<&str> = asked.iter().map(|a| a.name()).collect();
            let text =
                format!("process {pid} uses nothing that any of these modules captures from: {}", names.join(", "));
            return Err(Failure::new("E-TARGET", text));
        }
    }
    Ok(())
}

/// Of the processes that were asked for, those that this module captures from.
fn fitting(asked: &Asked, pids: &[u32]) -> Result<Vec<u32>, Failure> {
    let targets = &asked.module.manifest.targets;
    let fitting: Vec<u32> = pids.iter().copied().filter(|pid| fits(targets, *pid)).collect();
    if fitting.is_empty() && !pids.is_empty() && asked.options.targets.is_empty() {
        let text = format!("module {}: none of the processes asked for uses what it captures from", asked.name());
        return Err(Failure::new("E-TARGET", text).remedy("add a process that does, or leave the module out"));
    }
    Ok(fitting)
}

/// Where the run is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Capturing,
    /// Probes are off; the workers drain.
    Draining,
    /// The workers are done; the collector writes what is left.
    Closing,
}

struct Session {
    captures: Vec<Capture>,
    collector: Attended,
    options: RunOptions,
    filters: Filters,
    packets: Option<Packets>,
    discovery: Discovery,
    /// Where the control groups of version 2 are.
    cgroups: Option<PathBuf>,
    phase: Phase,
    nobody_listens: bool,
    rotation: Rotation,
    /// Whose worker is listened to first.
    turn: usize,
}

enum Happened {
    Signal,
    TimeIsUp,
    Collector(Option<FromCollector>),
    Worker(usize, Option<FromWorker>),
    Notices(Vec<Notice>),
    Looked(Option<Box<Looked>>),
    Interfaces,
    RestartDue(usize),
    Turns,
    Tick,
}

impl Session {
    /// Starts the workers and attaches.
    async fn start(mut self, keep: Keep) -> Result<Self, Failure> {
        for capture in &mut self.captures {
            capture.start()?;
        }
        self.until_listening().await?;
        for capture in &mut self.captures {
            capture.until_ready().await?;
        }
        for capture in &mut self.captures {
            capture.attach()?;
        }
        // After the probes: a frame whose secret was not seen is of less use than a secret without frames.
        if let Some(packets) = &mut self.packets {
            packets.attach(&self.collector)?;
        }
        // Everything that needs more is done: what is left is enough to watch, to start a worker again, and to attach to what
        // comes later.
        privileges::keep_only(keep)
            .map_err(|e| Failure::new("E-SANDBOX", format!("cannot give up privileges: {e}")))?;
        self.captures.iter_mut().for_each(Capture::begin);
        self.say_hello();
        Ok(self)
    }

    /// Waits until the collector stands behind its walls.
    async fn until_listening(&mut self) -> Result<(), Failure> {
        let gone = |how: &str| Err(Failure::new("E-CHILD", format!("the collector {how} before the run began")));
        let deadline = tokio::time::Instant::now() + START;
        loop {
            match tokio::time::timeout_at(deadline, self.collector.receive::<FromCollector>()).await {
                Ok(Some(FromCollector::Boundary(report))) => {
                    watch::boundary("collector", &report);
                    return Ok(());
                }
                Ok(Some(FromCollector::Log(level, text))) => watch::log("collector", level, &text),
                Ok(Some(_)) => {}
                Ok(None) => return gone("ended"),
                Err(_) => return gone("was not ready"),
            }
        }
    }

    fn say_hello(&self) {
        if self.options.quiet {
            return;
        }
        for capture in &self.captures {
            for target in &capture.targets {
                eprintln!("ecapture: {}", found(capture.name(), target));
            }
            if capture.targets.is_empty() {
                let wanted = wanted_names(&capture.asked.module.manifest.targets);
                eprintln!("ecapture: {}: nothing there yet; waiting for {}", capture.name(), printable(&wanted));
            }
        }
        if let Some(packets) = &self.packets {
            eprintln!("ecapture: packets of {}", packets.names());
        }
        eprintln!("ecapture: capturing; Ctrl-C ends it");
    }

    /// The main loop.
    async fn watch(mut self, mut signals: Signals) -> Result<Exit, Failure> {
        let deadline = self.options.duration.map(|d| tokio::time::Instant::now() + d);
        let mut tick = interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turns = interval(turn::WINDOW);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let restart = self.next_restart();
            if self.phase == Phase::Capturing {
                self.discovery.begin(&mut self.captures);
            }
            self.turn = self.turn.wrapping_add(1);
            let happened = tokio::select! {
                () = signals.next() => Happened::Signal,
                () = sleep_until(deadline.unwrap_or_else(far)), if deadline.is_some() && self.phase == Phase::Capturing =>
                    Happened::TimeIsUp,
                message = self.collector.receive() => Happened::Collector(message),
                (index, message) = next_word(&mut self.captures, self.turn) => Happened::Worker(index, message),
                notices = self.filters.notices() => Happened::Notices(notices),
                () = Packets::changed(&mut self.packets) => Happened::Interfaces,
                looked = self.discovery.looked() => Happened::Looked(looked.map(Box::new)),
                index = at(restart), if restart.is_some() => Happened::RestartDue(index),
                _ = turns.tick(), if self.options.real_time => Happened::Turns,
                _ = tick.tick() => Happened::Tick,
            };
            match happened {
                Happened::Signal if self.phase == Phase::Capturing => self.stop().await,
                Happened::Signal => {
                    return Err(Failure::new("E-INTERRUPTED", "left at once; what was still on its way is lost"));
                }
                Happened::TimeIsUp => self.stop().await,
                Happened::Worker(index, message) => {
                    let draining = self.phase == Phase::Draining;
                    if let Some(capture) = self.captures.get_mut(index) {
                        capture.worker_says(message, draining, &self.collector).await;
                    }
                }
                Happened::RestartDue(index) => {
                    if let Some(capture) = self.captures.get_mut(index) {
                        capture.restart(&self.collector);
                    }
                }
                Happened::Notices(notices) => self.heard(&notices),
                Happened::Looked(looked) => looked.into_iter().for_each(|looked| self.looked(*looked)),
                Happened::Interfaces => {
                    if let Some(packets) = &mut self.packets {
                        packets.look_again(&self.collector);
                    }
                }
                Happened::Turns => {
                    self.collector.grant_turn();
                    self.captures.iter().for_each(Capture::grant_turn);
                }
                Happened::Tick => self.look_around(),
                Happened::Collector(Some(FromCollector::Done { text, losses, sink_lost, .. })) => {
                    let _ = self.collector.ended(Duration::from_secs(2)).await;
                    return self.finish(if self.options.losses { &losses } else { &text }, sink_lost).await;
                }
                Happened::Collector(Some(message)) => self.collector_says(message).await,
                Happened::Collector(None) => return Err(self.collector_gone().await),
            }
            self.close_when_over().await;
        }
    }

    /// Twice a second.
    fn look_around(&mut self) {
        self.collector.flush();
        self.captures.iter_mut().for_each(Capture::look_around);
        self.filters.refresh();
        if let Some(packets) = &mut self.packets {
            packets.look_around(&self.filters);
        }
        if self.phase == Phase::Capturing && self.options.follow {
            self.captures.iter_mut().for_each(Capture::look_at_files);
            self.discovery.look_around(&mut self.captures, &mut self.filters);
        }
    }

    /// The kernel told of processes.
    fn heard(&mut self, notices: &[Notice]) {
        for notice in notices {
            if notice.asked {
                self.collector.send(&ToCollector::Changed(notice.pid, notice.time_ns));
            }
            if notice.exec && self.phase == Phase::Capturing && self.options.follow {
                self.discovery.started(*notice, &mut self.captures, &self.filters);
            }
        }
    }

    /// A file that came later has been looked at.
    fn looked(&mut self, looked: Looked) {
        let since = looked.since_ns;
        let Some(capture) = self.captures.get_mut(looked.index) else { return };
        if self.phase != Phase::Capturing || capture.is_over() {
            return;
        }
        let name = capture.name().to_owned();
        let Some(target) = capture.looked(looked, &self.collector) else { return };
        let gap = since.map_or_else(String::new, |since| {
            let gap = Duration::from_nanos(process::monotonic_ns().saturating_sub(since));
            format!("; captured from {} ms after its start on", gap.as_millis())
        });
        if !self.options.quiet {
            eprintln!("ecapture: {} ({}){gap}", found(&name, target), target.found.how);
        }
    }

    /// What `/proc` says of a process that the collector asks about.
    fn resolve(&self, pid: u32, group: u64) -> Process {
        // First: what changes from here on is told.
        self.filters.tell_of(pid);
        let place = cgroup::place(pid, self.cgroups.as_deref());
        let container = match self.cgroups.as_deref() {
            Some(mount) if group != 0 && place.group != Some(group) => cgroup::container_of_group(mount, group),
            _ => place.container,
        };
        Process {
            pid,
            exe: process::exe_path(pid).ok().map(|p| p.display().to_string()),
            container,
            group: (group != 0).then_some(group),
            started_ns: process::started_ns(pid).unwrap_or(0),
        }
    }

    /// The first worker to be started again, and when.
    fn next_restart(&self) -> Option<(usize, tokio::time::Instant)> {
        let due = self.captures.iter().enumerate().filter_map(|(index, c)| Some((index, c.restart_due()?)));
        due.min_by_key(|(_, due)| *due)
    }

    /// Probes off, all at once; the workers are told to drain.
    async fn stop(&mut self) {
        if self.phase != Phase::Capturing {
            return;
        }
        self.phase = Phase::Draining;
        self.discovery.stop();
        // Frames first: one without its secret is of no use.
        if let Some(packets) = &mut self.packets {
            packets.stop().await;
        }
        let links = self.captures.iter_mut().flat_map(|c| c.attached.take_links()).collect();
        attach::detach(links).await;
        for capture in &mut self.captures {
            capture.settle().await;
        }
        self.captures.iter().for_each(Capture::finish);
    }

    /// When no worker will say anything more, the collector is to end.
    async fn close_when_over(&mut self) {
        if self.phase == Phase::Closing || !self.captures.iter().all(Capture::is_over) {
            return;
        }
        self.phase = Phase::Closing;
        for capture in &mut self.captures {
            capture.settle().await;
        }
        if let Some(packets) = &mut self.packets {
            // Disabled modules end a run without a stop.
            packets.stop().await;
            self.collector.send(&ToCollector::Packets(packets.totals(), packets.by_interface()));
        }
        let totals: Vec<KernelTotals> = self.captures.iter().map(Capture::totals).collect();
        self.collector.send(&ToCollector::Finish(totals, None));
    }

    async fn collector_gone(&mut self) -> Failure {
        let how = self.collector.ended(Duration::from_secs(1)).await;
        let how = how.map_or_else(|e| e.to_string(), |e| e.to_string());
        let totals: Vec<KernelTotals> = self.captures.iter().map(Capture::totals).collect();
        let (produced, lost) = totals.iter().fold((0, 0), |sum, t| (sum.0 + t.produced, sum.1 + t.lost));
        self.phase = Phase::Closing;
        let links = self.captures.iter_mut().flat_map(|c| c.attached.take_links()).collect();
        attach::detach(links).await;
        Failure::new(
            "E-CHILD",
            format!(
                "the collector {how}: the {produced} messages since the start are not all written ({lost} lost in the ring)"
            ),
        )
    }

    async fn collector_says(&mut self, message: FromCollector) {
        match message {
            FromCollector::Resolve(pid, group) => {
                self.collector.send(&ToCollector::Resolved(self.resolve(pid, group)));
            }
            FromCollector::Position(index, reached) => {
                if let Some(capture) = self.captures.get_mut(index) {
                    capture.reached(reached);
                }
            }
            FromCollector::CountReached => self.stop().await,
            FromCollector::Hostile(index, why) => {
                if let Some(capture) = self.captures.get_mut(index) {
                    capture.disable(&printable(&why), &self.collector);
                }
            }
            FromCollector::NextFile(output) => self.rotation.answer(output, &self.collector),
            FromCollector::OutputFailed(what) => tracing::error!("{}", printable(&what)),
            FromCollector::NobodyListens => {
                self.nobody_listens = true;
                self.stop().await;
            }
            FromCollector::Log(level, text) => watch::log("collector", level, &text),
            FromCollector::Boundary(_) | FromCollector::Done { .. } => {}
        }
    }

    /// Why this module saw nothing, process by process.
    async fn explain(&self, silent: &Capture) {
        eprintln!("ecapture: {}", silent.why_nothing());
        let pids = &self.options.pids;
        // What was asked for may have ended meanwhile.
        let pids: Vec<u32> = pids.iter().copied().filter(|pid| process::exists(*pid)).collect();
        if pids.is_empty() && !self.options.pids.is_empty() {
            eprintln!("ecapture:   the processes that were asked for have ended");
            return;
        }
        match timeout(EXPLANATION, explain::told(&silent.asked, &self.options, &pids)).await {
            Ok(Ok(told)) => explain::brief(&told).iter().for_each(|line| eprintln!("ecapture:   {line}")),
            Ok(Err(failure)) => tracing::debug!("{}: no explanation: {failure}", silent.name()),
            Err(_) => tracing::debug!("{}: the explanation took too long", silent.name()),
        }
    }

    async fn finish(&self, summary: &str, sink_lost: u64) -> Result<Exit, Failure> {
        if !self.options.quiet || self.options.losses {
            for line in summary.lines() {
                eprintln!("ecapture: {}", printable(line));
            }
        }
        if !self.options.quiet {
            for silent in self.captures.iter().filter(|c| c.totals().produced == 0) {
                self.explain(silent).await;
            }
        }
        let named = |which: fn(&Capture) -> bool| {
            self.captures.iter().filter(|c| which(c)).map(Capture::name).collect::<Vec<_>>().join(", ")
        };
        let disabled = named(|c| c.disabled);
        if !disabled.is_empty() {
            return Err(Failure::new("E-MODULE", format!("disabled before the end: the module {disabled}")));
        }
        let unfinished = named(|c| c.unfinished);
        if !unfinished.is_empty() {
            let text = format!("the decoder of {unfinished} did not come to its end: what it still held back is lost");
            return Err(Failure::new("E-MODULE", text));
        }
        if sink_lost > 0 {
            return Err(Failure::new("E-OUTPUT", format!("{sink_lost} events could not be written")));
        }
        Ok(Exit::Done)
    }
}

/// A target, for people.
fn found(module: &str, target: &Target) -> String {
    let version = target.detected.version.as_ref();
    let version = version.map_or_else(|| "unknown version".into(), |v| format!("{} {} ({})", v.product, v.text, v.how));
    let probes = target.plan.placements.iter().map(|p| p.offsets.len()).sum::<usize>();
    format!("{module} on {}: {}, {probes} probes", target.found.path.display(), printable(&version))
}

/// The next word of any worker, with the module's place; for ever if there is none. `turn` is whose worker is asked first:
/// one that talks without end must not be heard before all others each time.
async fn next_word(captures: &mut [Capture], turn: usize) -> (usize, Option<FromWorker>) {
    type Word<'a> = Pin<Box<dyn Future<Output = Option<FromWorker>> + 'a>>;
    let mut words: Vec<(usize, Word<'_>)> = Vec::new();
    for (index, capture) in captures.iter_mut().enumerate() {
        if let Worker::Running(worker) = &mut capture.worker {
            words.push((index, Box::pin(worker.receive())));
        }
    }
    let count = words.len().max(1);
    words.rotate_left(turn % count);
    poll_fn(|context| {
        for (index, word) in &mut words {
            if let Poll::Ready(message) = word.as_mut().poll(context) {
                return Poll::Ready((*index, message));
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits for the time of a restart, and says whose.
async fn at(restart: Option<(usize, tokio::time::Instant)>) -> usize {
    let (index, due) = restart.unwrap_or_else(|| (usize::MAX, far()));
    sleep_until(due).await;
    index
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}
