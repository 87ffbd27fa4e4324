//! One run from start to end: prepare, load, start the children, attach, watch, stop.
//!
//! Stopping goes in this order, so that nothing is lost on the way: probes off, the worker drains the ring and finishes its
//! decoder, the collector drains the link and closes the outputs, the summary.

mod collector;
pub(super) mod signals;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::attach::{self, Attached};
use super::attend::{Attended, printable};
use super::outputs::{self, Output};
use super::policy::{Restarts, Suspect, Verdict};
use super::prepare::{Prepared, Request, prepare, worker_start};
use super::watch;
use crate::bpf::Kernel;
use crate::cli::RunOptions;
use crate::failure::{Exit, Failure};
use crate::link::{self, Link, Observer};
use crate::module::Loaded;
use crate::protocol::{FromCollector, FromWorker, KernelTotals, RunJob, ToCollector, ToWorker, WorkerJob};
use crate::sandbox::{Role, privileges};
use crate::target::process;
pub(super) use collector::collector_outputs;
pub(crate) use collector::max_message;
use collector::start_collector;
use signals::Signals;

/// Room for events between worker and collector. The largest event is a quarter of it.
pub(crate) const LINK_BYTES: u64 = 8 << 20;
/// A child says something at least every second; after this long without a word it hangs.
const HUNG: Duration = Duration::from_secs(10);
/// For the walls, the load of the module and its decoder.
const START: Duration = Duration::from_secs(20);

/// Runs one module until the user or the options end it.
///
/// # Errors
/// What the user is told; nothing stays attached then.
pub async fn run(module: &Loaded, options: &RunOptions) -> Result<Exit, Failure> {
    watch::init(options.verbose, options.quiet);
    let missing = privileges::missing();
    if !missing.is_empty() {
        let text = format!("capturing needs privileges that this process does not have: {}", missing.join(", "));
        return Err(Failure::new("E-PRIVILEGE", text)
            .remedy("run it as root, for example with sudo")
            .exit(Exit::Privilege));
    }
    // Signals first: from here on Ctrl-C ends an orderly run.
    let mut signals = Signals::new()?;
    let outputs = outputs::open(&options.writes, options.record.as_deref())?;
    let request = Request { config: &options.config, targets: &options.targets, pids: &options.pids };
    let prepared = tokio::select! {
        prepared = prepare(module, &request) => prepared?,
        () = signals.next() => return Err(Failure::new("E-INTERRUPTED", "interrupted before anything was attached")),
    };
    let kernel = Kernel::probe(options.btf.as_deref())
        .and_then(|kernel| {
            // Types that were asked for by name are looked at even if no object needs them.
            if options.btf.is_some() {
                kernel.btf()?;
            }
            Ok(kernel)
        })
        .map_err(|e| Failure::new("E-KERNEL", e.to_string()).exit(Exit::Privilege))?;
    let attached = attach::load(module, &prepared, &kernel, options)?;
    let session = Session::start(module, options, prepared, attached, outputs).await?;
    session.watch(signals).await
}

/// Where the worker is in its life.
enum Worker {
    Running(Attended),
    /// Died; the next one starts when the pause is over and the collector has said up to where it has everything.
    Dead {
        due: tokio::time::Instant,
        position: Option<u64>,
    },
    /// Has drained everything, or the module is disabled.
    Over,
}

/// Where the run is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Capturing,
    /// Probes are off; the worker drains.
    Draining,
    /// The worker is done; the collector writes what is left.
    Closing,
}

struct Session<'a> {
    module: &'a Loaded,
    options: &'a RunOptions,
    prepared: Prepared,
    attached: Attached,
    collector: Attended,
    worker: Worker,
    link: Link,
    observer: Observer,
    restarts: Restarts,
    /// The running worker has said so.
    ready: bool,
    phase: Phase,
    heard: Instant,
    hung: bool,
    /// The worker has decoded every record; only its decoder's end is missing.
    drained: bool,
    /// It never came to that end.
    unfinished: bool,
    warned_lost: u64,
    disabled: bool,
    nobody_listens: bool,
}

enum Happened {
    Signal,
    TimeIsUp,
    Collector(Option<FromCollector>),
    Worker(Option<FromWorker>),
    RestartDue,
    Tick,
}

impl<'a> Session<'a> {
    /// Starts the children and attaches.
    async fn start(
        module: &'a Loaded,
        options: &'a RunOptions,
        prepared: Prepared,
        attached: Attached,
        outputs: Vec<Output>,
    ) -> Result<Self, Failure> {
        let link = link::create(LINK_BYTES)
            .and_then(|link| Ok((Observer::new(&link)?, link)))
            .map_err(|e| Failure::new("E-CHILD", format!("cannot make the link between the children: {e}")));
        let (observer, link) = link?;
        let collector = start_collector(module, options, &prepared, &attached, &link, &outputs)?;
        let mut session = Self {
            worker: Worker::Over,
            collector,
            module,
            options,
            prepared,
            attached,
            link,
            observer,
            restarts: Restarts::default(),
            ready: false,
            phase: Phase::Capturing,
            heard: Instant::now(),
            hung: false,
            drained: false,
            unfinished: false,
            warned_lost: 0,
            disabled: false,
            nobody_listens: false,
        };
        session.worker = Worker::Running(session.start_worker(0, false)?);
        session.until_ready().await?;
        session.attached.attach(&session.prepared)?;
        // Everything that needs more is done: what is left is enough to watch, and to start a worker again.
        privileges::keep_only(privileges::Keep::default())
            .map_err(|e| Failure::new("E-SANDBOX", format!("cannot give up privileges: {e}")))?;
        session.say_hello();
        Ok(session)
    }

    fn start_worker(&self, resume_from: u64, restarted: bool) -> Result<Attended, Failure> {
        let manifest = &self.module.manifest;
        let job = RunJob {
            ring_bytes: self.attached.ring_bytes,
            link_bytes: LINK_BYTES,
            max_message: manifest.streams.iter().map(max_message).collect(),
            resume_from,
            poisoned: self.restarts.poisoned(),
            restarted,
            record: self.options.record.is_some(),
        };
        let start = worker_start(self.module, &self.options.config, self.prepared.identity, WorkerJob::Run(job));
        let [ring, doorbell] = self.attached.worker_fds();
        let fds: [BorrowedFd<'_>; 5] =
            [self.prepared.sealed.as_fd(), ring, doorbell, self.link.ring.as_fd(), self.link.bell.as_fd()];
        Attended::start(Role::Worker, format!("worker of {}", self.name()), &start, &fds)
    }

    /// Waits until both children stand: probes that fire into the void would only cost.
    async fn until_ready(&mut self) -> Result<(), Failure> {
        let name = &self.module.manifest.module.name;
        let Worker::Running(worker) = &mut self.worker else { return Ok(()) };
        let (mut ready, mut listening) = (false, false);
        let deadline = tokio::time::Instant::now() + START;
        while !(ready && listening) {
            tokio::select! {
                message = worker.receive::<FromWorker>(), if !ready => match message {
                    Some(FromWorker::Ready) => ready = true,
                    Some(FromWorker::Boundary(report)) => watch::boundary(name, &report),
                    Some(FromWorker::Log(level, text)) => watch::log(name, level, &text),
                    Some(FromWorker::Failed(code, text)) => {
                        let text = format!("module {name}: {}: {}", printable(&code), printable(&text));
                        return Err(Failure::new("E-MODULE", text).exit(Exit::Refused));
                    }
                    Some(_) => {}
                    None => {
                        let how = worker.ended(Duration::from_secs(1)).await.map_or_else(|e| e.to_string(), |e| e.to_string());
                        let text = format!("module {name} {how} before it could decode anything");
                        return Err(Failure::new("E-MODULE", text).exit(Exit::Refused));
                    }
                },
                message = self.collector.receive::<FromCollector>(), if !listening => match message {
                    Some(FromCollector::Boundary(report)) => {
                        watch::boundary("collector", &report);
                        listening = true;
                    }
                    Some(_) => {}
                    None => return Err(Failure::new("E-CHILD", "the collector ended before the run began")),
                },
                () = sleep_until(deadline) => {
                    let text = format!("module {name} was not ready within {} s", START.as_secs());
                    return Err(Failure::new("E-MODULE", text).exit(Exit::Refused));
                }
            }
        }
        self.heard = Instant::now();
        self.ready = true;
        Ok(())
    }

    fn say_hello(&self) {
        if self.options.quiet {
            return;
        }
        for target in &self.prepared.targets {
            let version = target.detected.version.as_ref();
            let version =
                version.map_or_else(|| "unknown version".into(), |v| format!("{} {} ({})", v.product, v.text, v.how));
            eprintln!(
                "ecapture: {} on {}: {}, {} probes",
                self.name(),
                target.found.path.display(),
                printable(&version),
                target.plan.placements.iter().map(|p| p.offsets.len()).sum::<usize>(),
            );
        }
        eprintln!("ecapture: capturing; Ctrl-C ends it");
    }

    /// The main loop.
    async fn watch(mut self, mut signals: Signals) -> Result<Exit, Failure> {
        let deadline = self.options.duration.map(|d| tokio::time::Instant::now() + d);
        let mut tick = interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let happened = {
                let (worker, restart) = match &mut self.worker {
                    Worker::Running(worker) => (Some(worker), None),
                    Worker::Dead { due, position: Some(_) } => (None, Some(*due)),
                    _ => (None, None),
                };
                tokio::select! {
                    () = signals.next() => Happened::Signal,
                    () = sleep_until(deadline.unwrap_or_else(far)), if deadline.is_some() && self.phase == Phase::Capturing =>
                        Happened::TimeIsUp,
                    message = self.collector.receive() => Happened::Collector(message),
                    message = receive(worker) => Happened::Worker(message),
                    () = sleep_until(restart.unwrap_or_else(far)), if restart.is_some() => Happened::RestartDue,
                    _ = tick.tick() => Happened::Tick,
                }
            };
            match happened {
                Happened::Signal if self.phase == Phase::Capturing => self.stop().await,
                Happened::Signal => {
                    return Err(Failure::new("E-INTERRUPTED", "left at once; what was still on its way is lost"));
                }
                Happened::TimeIsUp => self.stop().await,
                Happened::Worker(message) => self.worker_says(message).await,
                Happened::RestartDue => self.restart().await,
                Happened::Tick => self.look_around(),
                Happened::Collector(Some(FromCollector::Done { text, sink_lost, .. })) => {
                    let _ = self.collector.ended(Duration::from_secs(2)).await;
                    return self.finish(&text, sink_lost);
                }
                Happened::Collector(Some(message)) => self.collector_says(message).await,
                Happened::Collector(None) => {
                    let how = self.collector.ended(Duration::from_secs(1)).await;
                    let how = how.map_or_else(|e| e.to_string(), |e| e.to_string());
                    let totals = self.totals();
                    self.attached.detach().await;
                    let text = format!(
                        "the collector {how}: the {} messages since the start are not all written ({} lost in the ring)",
                        totals.produced, totals.lost
                    );
                    return Err(Failure::new("E-CHILD", text));
                }
            }
        }
    }

    /// Probes off; the worker is told to drain.
    async fn stop(&mut self) {
        if self.phase != Phase::Capturing {
            return;
        }
        self.phase = Phase::Draining;
        tracing::debug!("detaching {} links", self.attached.links());
        self.attached.detach().await;
        match &self.worker {
            // One that is not ready yet is told when it is. Never twice: a message that it leaves unread would make the kernel
            // report a reset instead of its last words.
            Worker::Running(worker) if self.ready => worker.send(&ToWorker::Finish),
            Worker::Running(_) | Worker::Dead { .. } => {}
            Worker::Over => self.close(),
        }
    }

    /// The worker will say nothing more: the collector is to end.
    fn close(&mut self) {
        self.worker = Worker::Over;
        if self.phase != Phase::Closing {
            self.phase = Phase::Closing;
            let totals = self.totals();
            self.collector.send(&ToCollector::Finish(vec![totals], None));
        }
    }

    async fn worker_says(&mut self, message: Option<FromWorker>) {
        // A line of the log is the module's own word: a decoder in an endless loop that writes some hangs all the same.
        if !matches!(message, Some(FromWorker::Log(..))) {
            self.heard = Instant::now();
        }
        let name = &self.module.manifest.module.name;
        match message {
            Some(FromWorker::Drained) if self.phase == Phase::Draining => self.drained = true,
            Some(FromWorker::Done) if self.phase == Phase::Draining => {
                if let Worker::Running(worker) = &mut self.worker {
                    let _ = worker.ended(Duration::from_secs(2)).await;
                }
                self.close();
            }
            Some(FromWorker::Log(level, text)) => watch::log(name, level, &text),
            Some(FromWorker::Failed(_, text)) => tracing::error!("{name}: {}", printable(&text)),
            Some(FromWorker::DecoderFailed(text)) => {
                tracing::warn!("{name}: the decoder failed {}", printable(&text));
            }
            Some(FromWorker::Ready) => {
                tracing::debug!("{name}: the worker is ready again");
                self.ready = true;
                if self.phase == Phase::Draining
                    && let Worker::Running(worker) = &self.worker
                {
                    worker.send(&ToWorker::Finish);
                }
            }
            Some(FromWorker::Boundary(report)) => watch::boundary(name, &report),
            Some(_) => {}
            None => self.worker_died().await,
        }
    }

    async fn worker_died(&mut self) {
        let Worker::Running(worker) = &mut self.worker else { return };
        let ended = worker.ended(Duration::from_secs(1)).await;
        let (how, killed) = match &ended {
            Ok(_) if self.hung => ("hung and was killed".to_string(), false),
            Ok(ended) => (ended.to_string(), ended.was_killed()),
            Err(e) => (e.to_string(), false),
        };
        self.hung = false;
        // One that was killed from outside says nothing about the record it was at.
        let suspect = if killed { None } else { self.observer.now_at().map(Suspect::from_word) };
        self.after_death(&how, suspect).await;
    }

    /// There is no worker: another one, or the end of the module.
    async fn after_death(&mut self, how: &str, suspect: Option<Suspect>) {
        let name = &self.module.manifest.module.name;
        if self.drained {
            // Another worker would find no record, and fail as this one did.
            tracing::error!("{name}: the worker {how} at the end of its decoder, after the last record");
            self.unfinished = true;
            self.close();
            return;
        }
        match self.restarts.died(Instant::now(), suspect) {
            Verdict::Restart(pause) => {
                tracing::warn!("{name}: the worker {how}; starting it again (probes stay attached)");
                self.worker = Worker::Dead { due: tokio::time::Instant::now() + pause, position: None };
                self.collector.send(&ToCollector::Restarted(0));
            }
            Verdict::Disable => {
                tracing::error!("{name}: the worker {how}, too often; the module is disabled");
                self.disabled = true;
                self.attached.detach().await;
                self.phase = Phase::Draining;
                self.close();
            }
        }
    }

    async fn restart(&mut self) {
        let Worker::Dead { position: Some(position), .. } = self.worker else { return };
        self.heard = Instant::now();
        match self.start_worker(position, true) {
            Ok(worker) => (self.worker, self.ready) = (Worker::Running(worker), false),
            // It may die before it has heard its first word; that is a death like any other.
            Err(failure) => self.after_death(&format!("did not start ({})", failure.message), None).await,
        }
    }

    async fn collector_says(&mut self, message: FromCollector) {
        match message {
            FromCollector::Resolve(pid) => {
                let exe = process::exe_path(pid).ok().map(|p| p.display().to_string());
                self.collector.send(&ToCollector::Resolved(pid, exe));
            }
            FromCollector::Position(_, reached) => {
                if let Worker::Dead { position, .. } = &mut self.worker {
                    *position = Some(reached);
                }
            }
            FromCollector::CountReached => self.stop().await,
            FromCollector::Hostile(_, why) => {
                tracing::error!("{}: {}; the module is disabled", self.name(), printable(&why));
                self.disabled = true;
                if let Worker::Running(worker) = &mut self.worker {
                    worker.kill();
                    let _ = worker.ended(Duration::from_secs(1)).await;
                }
                self.attached.detach().await;
                self.phase = Phase::Draining;
                self.close();
            }
            FromCollector::OutputFailed(what) => tracing::error!("{}", printable(&what)),
            FromCollector::NobodyListens => {
                self.nobody_listens = true;
                self.stop().await;
            }
            FromCollector::Log(level, text) => watch::log("collector", level, &text),
            FromCollector::Boundary(_) | FromCollector::Done { .. } => {}
        }
    }

    /// Twice a second: what has been lost, and whether the worker still lives.
    fn look_around(&mut self) {
        let totals = self.totals();
        if totals.lost + totals.partial > self.warned_lost {
            let new = totals.lost + totals.partial - self.warned_lost;
            tracing::warn!(
                "{}: {new} messages lost or cut short because the ring is full ({} of {} so far); a larger --ring-size helps",
                self.name(),
                totals.lost + totals.partial,
                totals.produced,
            );
            self.warned_lost = totals.lost + totals.partial;
        }
        if let Worker::Running(worker) = &mut self.worker
            && self.heard.elapsed() > HUNG
        {
            self.hung = true;
            self.heard = Instant::now();
            worker.kill();
        }
    }

    fn totals(&self) -> KernelTotals {
        KernelTotals { restarts: self.restarts.count, disabled: self.disabled, ..self.attached.totals() }
    }

    fn finish(&self, summary: &str, sink_lost: u64) -> Result<Exit, Failure> {
        if !self.options.quiet {
            for line in summary.lines() {
                eprintln!("ecapture: {}", printable(line));
            }
        }
        if self.disabled {
            return Err(Failure::new("E-MODULE", format!("the module {} was disabled before the end", self.name())));
        }
        if self.unfinished {
            let text =
                format!("the decoder of {} did not come to its end: what it still held back is lost", self.name());
            return Err(Failure::new("E-MODULE", text));
        }
        if sink_lost > 0 {
            return Err(Failure::new("E-OUTPUT", format!("{sink_lost} events could not be written")));
        }
        Ok(Exit::Done)
    }

    fn name(&self) -> &str {
        &self.module.manifest.module.name
    }
}

/// The worker's next word; for ever if there is no worker.
async fn receive(worker: Option<&mut Attended>) -> Option<FromWorker> {
    match worker {
        Some(worker) => worker.receive().await,
        None => std::future::pending().await,
    }
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}
