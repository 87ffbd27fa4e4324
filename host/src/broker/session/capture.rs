//! One module of a run: its programs in the kernel, its worker, and the worker's deaths.
//!
//! Knows nothing of the other modules: what happens to one of them stays here, but for the word to the collector.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecapture_plugin_api::manifest::{Target as Wanted, TargetKind};
use tokio::task::JoinHandle;

use super::collector::{max_message, name_of};
use super::discovery::{Looked, Numbers};
use super::files::Files;
use crate::broker::Asked;
use crate::broker::attach::{self, Attached};
use crate::broker::attend::{Attended, printable};
use crate::broker::policy::{Restarts, Suspect, Verdict};
use crate::broker::prepare::{Prepared, Ready, Target, worker_start};
use crate::broker::watch;
use crate::failure::{Exit, Failure};
use crate::link::{self, Link, Observer};
use crate::protocol::{FromWorker, KernelTotals, RunJob, ToCollector, ToWorker, WorkerJob};
use crate::sandbox::Role;
use crate::target::discover::{self, MAX_TARGETS};
use crate::target::{FileId, Found};

/// Room for events between worker and collector. The largest event is a quarter of it.
pub(crate) const LINK_BYTES: u64 = 8 << 20;
/// A child says something at least every second; after this long without a word it hangs.
const HUNG: Duration = Duration::from_secs(10);
/// For the walls, the load of the module and its decoder.
const START: Duration = Duration::from_secs(20);

/// Where the worker is in its life.
pub enum Worker {
    Running(Attended),
    /// Died; the next one starts when the pause is over and the collector has said up to where it has everything.
    Dead {
        due: tokio::time::Instant,
        position: Option<u64>,
    },
    /// Has drained everything, or the module is disabled.
    Over,
}

/// One module that is captured with.
pub struct Capture {
    /// Its place among the modules of the run, as the collector counts them.
    index: usize,
    pub asked: Arc<Asked>,
    pub ready: Arc<Ready>,
    pub targets: Vec<Target>,
    /// What it looks for in processes.
    pub wanted: Vec<Wanted>,
    pub attached: Attached,
    files: Files,
    numbers: Numbers,
    /// Files that found no number.
    refused: u64,
    /// Its records are kept as well.
    record: bool,
    pub worker: Worker,
    pub link: Link,
    observer: Observer,
    restarts: Restarts,
    /// The running worker has said that it decodes.
    decodes: bool,
    heard: Instant,
    hung: bool,
    /// The worker has decoded every record; only its decoder's end is missing.
    drained: bool,
    /// It never came to that end.
    pub unfinished: bool,
    pub disabled: bool,
    warned_lost: u64,
    /// Probes on their way out.
    detaching: Vec<JoinHandle<()>>,
}

impl Capture {
    /// A module that is in the kernel, without a worker yet.
    ///
    /// # Errors
    /// `E-CHILD`: no link to the collector can be made.
    pub fn new(
        index: usize,
        asked: Arc<Asked>,
        prepared: Prepared,
        attached: Attached,
        record: bool,
    ) -> Result<Self, Failure> {
        let link = link::create(LINK_BYTES).and_then(|link| Ok((Observer::new(&link)?, link)));
        let (observer, link) =
            link.map_err(|e| Failure::new("E-CHILD", format!("cannot make the link between the children: {e}")))?;
        let Prepared { ready, targets, unusable } = prepared;
        let mut files = Files::default();
        targets.iter().for_each(|t| files.attached(&t.found, t.number));
        unusable.into_iter().for_each(|id| files.useless(id));
        let wanted = wanted(&asked);
        let used: Vec<u32> = targets.iter().map(|t| t.number).collect();
        Ok(Self {
            index,
            asked,
            ready,
            targets,
            wanted,
            attached,
            files,
            numbers: Numbers::but(&used),
            refused: 0,
            record,
            worker: Worker::Over,
            link,
            observer,
            restarts: Restarts::default(),
            decodes: false,
            heard: Instant::now(),
            hung: false,
            drained: false,
            unfinished: false,
            disabled: false,
            warned_lost: 0,
            detaching: Vec::new(),
        })
    }

    /// Name of the module.
    #[must_use]
    pub fn name(&self) -> &str {
        self.asked.name()
    }

    /// Starts the first worker.
    ///
    /// # Errors
    /// `E-CHILD`.
    pub fn start(&mut self) -> Result<(), Failure> {
        self.worker = Worker::Running(self.start_worker(0, false)?);
        Ok(())
    }

    fn start_worker(&self, resume_from: u64, restarted: bool) -> Result<Attended, Failure> {
        let module = &self.asked.module;
        let job = RunJob {
            ring_bytes: self.attached.ring_bytes,
            link_bytes: LINK_BYTES,
            max_message: module.manifest.streams.iter().map(max_message).collect(),
            resume_from,
            poisoned: self.restarts.poisoned(),
            restarted,
            record: self.record,
        };
        let config = &self.asked.options.config;
        let start = worker_start(module, config, self.ready.identity, WorkerJob::Run(job));
        let [ring, doorbell] = self.attached.worker_fds();
        let fds: [BorrowedFd<'_>; 5] =
            [self.ready.sealed.as_fd(), ring, doorbell, self.link.ring.as_fd(), self.link.bell.as_fd()];
        Attended::start(Role::Worker, format!("worker of {}", self.name()), &start, &fds)
    }

    /// Waits until the first worker decodes: probes that fire into the void would only cost.
    ///
    /// # Errors
    /// `E-MODULE`: it says that it cannot, ends, or takes too long.
    pub async fn until_ready(&mut self) -> Result<(), Failure> {
        let name = self.asked.name();
        let Worker::Running(worker) = &mut self.worker else { return Ok(()) };
        let refused = |text: String| Err(Failure::new("E-MODULE", text).exit(Exit::Refused));
        let deadline = tokio::time::Instant::now() + START;
        loop {
            let Ok(message) = tokio::time::timeout_at(deadline, worker.receive::<FromWorker>()).await else {
                return refused(format!("module {name} was not ready within {} s", START.as_secs()));
            };
            match message {
                Some(FromWorker::Ready) => break,
                Some(FromWorker::Boundary(report)) => watch::boundary(name, &report),
                Some(FromWorker::Log(level, text)) => watch::log(name, level, &text),
                Some(FromWorker::Failed(code, text)) => {
                    return refused(format!("module {name}: {}: {}", printable(&code), printable(&text)));
                }
                Some(_) => {}
                None => {
                    let how =
                        worker.ended(Duration::from_secs(1)).await.map_or_else(|e| e.to_string(), |e| e.to_string());
                    return refused(format!("module {name} {how} before it could decode anything"));
                }
            }
        }
        self.heard = Instant::now();
        self.decodes = true;
        Ok(())
    }

    /// It has waited for the others long enough to look hung; now it counts.
    pub fn begin(&mut self) {
        self.heard = Instant::now();
    }

    /// Nothing more will come from this module.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.worker, Worker::Over)
    }

    /// When the next worker is to be started.
    #[must_use]
    pub fn restart_due(&self) -> Option<tokio::time::Instant> {
        match self.worker {
            Worker::Dead { due, position: Some(_) } => Some(due),
            _ => None,
        }
    }

    /// Its probes are off: the worker is told to drain.
    pub fn finish(&self) {
        // One that is not ready yet is told when it is. Never twice: a message that it leaves unread would make the kernel
        // report a reset instead of its last words.
        if let Worker::Running(worker) = &self.worker
            && self.decodes
        {
            worker.send(&ToWorker::Finish);
        }
    }

    /// The worker will say nothing more: what it has published is all.
    fn over(&mut self, collector: &Attended) {
        self.worker = Worker::Over;
        collector.send(&ToCollector::Over(self.index));
    }

    /// The worker spoke, or (`None`) is gone. `draining`: the probes are off.
    pub async fn worker_says(&mut self, message: Option<FromWorker>, draining: bool, collector: &Attended) {
        // A line of the log is the module's own word: a decoder in an endless loop that writes some hangs all the same.
        if !matches!(message, Some(FromWorker::Log(..))) {
            self.heard = Instant::now();
        }
        let name = self.asked.name();
        match message {
            Some(FromWorker::Drained) if draining => self.drained = true,
            Some(FromWorker::Done) if draining => {
                if let Worker::Running(worker) = &mut self.worker {
                    let _ = worker.ended(Duration::from_secs(2)).await;
                }
                self.over(collector);
            }
            Some(FromWorker::Log(level, text)) => watch::log(name, level, &text),
            Some(FromWorker::Failed(_, text)) => tracing::error!("{name}: {}", printable(&text)),
            Some(FromWorker::DecoderFailed(text)) => {
                watch::log(name, 2, &format!("the decoder failed {text}"));
            }
            Some(FromWorker::Ready) => {
                tracing::debug!("{name}: the worker is ready again");
                self.decodes = true;
                if draining && let Worker::Running(worker) = &self.worker {
                    worker.send(&ToWorker::Finish);
                }
            }
            Some(FromWorker::Boundary(report)) => watch::boundary(name, &report),
            Some(_) => {}
            None => self.worker_died(collector).await,
        }
    }

    async fn worker_died(&mut self, collector: &Attended) {
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
        self.after_death(&how, suspect, collector);
    }

    /// There is no worker: another one, or the end of the module.
    fn after_death(&mut self, how: &str, suspect: Option<Suspect>, collector: &Attended) {
        let name = self.asked.name();
        if self.drained {
            // Another worker would find no record, and fail as this one did.
            tracing::error!("{name}: the worker {how} at the end of its decoder, after the last record");
            self.unfinished = true;
            self.over(collector);
            return;
        }
        match self.restarts.died(Instant::now(), suspect) {
            Verdict::Restart(pause) => {
                tracing::warn!("{name}: the worker {how}; starting it again (probes stay attached)");
                self.worker = Worker::Dead { due: tokio::time::Instant::now() + pause, position: None };
                collector.send(&ToCollector::Restarted(self.index));
            }
            Verdict::Disable => self.disable(&format!("the worker {how}, too often"), collector),
        }
    }

    /// Gives the module up; the others go on. Its probes go while they do.
    pub fn disable(&mut self, why: &str, collector: &Attended) {
        tracing::error!("{}: {why}; the module is disabled", self.name());
        self.disabled = true;
        let links = self.attached.take_links();
        let worker = std::mem::replace(&mut self.worker, Worker::Over);
        self.detaching.push(tokio::spawn(async move {
            if let Worker::Running(mut worker) = worker {
                worker.kill();
                let _ = worker.ended(Duration::from_secs(1)).await;
            }
            attach::detach(links).await;
        }));
        self.over(collector);
    }

    /// Starts another worker after the pause.
    pub fn restart(&mut self, collector: &Attended) {
        let Worker::Dead { position: Some(position), .. } = self.worker else { return };
        self.heard = Instant::now();
        match self.start_worker(position, true) {
            Ok(worker) => (self.worker, self.decodes) = (Worker::Running(worker), false),
            // It may die before it has heard its first word; that is a death like any other.
            Err(failure) => self.after_death(&format!("did not start ({})", failure.message), None, collector),
        }
    }

    /// The collector has had everything of a dead worker up to there.
    pub fn reached(&mut self, at: u64) {
        if let Worker::Dead { position, .. } = &mut self.worker {
            *position = Some(at);
        }
    }

    /// Twice a second: what has been lost, and whether the worker still lives.
    pub fn look_around(&mut self) {
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

    /// The worker gets its turn.
    pub fn grant_turn(&self) {
        if let Worker::Running(worker) = &self.worker {
            worker.grant_turn();
        }
    }

    /// Puts the probes into everything that was found at the start.
    ///
    /// # Errors
    /// `E-ATTACH`.
    pub fn attach(&mut self) -> Result<(), Failure> {
        self.attached.attach(&self.ready, &self.targets)
    }

    /// Whether it captures from libraries.
    #[must_use]
    pub fn wants_libraries(&self) -> bool {
        self.asked.module.manifest.targets.iter().any(|t| t.kind == TargetKind::Library)
    }

    /// What lies now where its files lie: the paths that the user named, else (`usual`) the usual places.
    #[must_use]
    pub fn places(&self, usual: bool) -> Vec<Found> {
        let targets = &self.asked.module.manifest.targets;
        let named = &self.asked.options.targets;
        if named.is_empty() {
            return if usual { discover::in_usual_places(targets) } else { Vec::new() };
        }
        named.iter().filter_map(|path| discover::explicit_file(targets, path).ok()).collect()
    }

    /// Whether a file has been seen before; if so, it is in use now.
    pub fn knows(&mut self, id: &FileId) -> bool {
        self.files.knows(id)
    }

    /// The file is going to be looked at.
    pub fn note_pending(&mut self, found: &Found) {
        self.files.pending(found);
    }

    /// A number for a new target.
    pub fn take_number(&mut self) -> Option<u32> {
        self.numbers.take()
    }

    /// There is no number for this file: it is not captured from, until others are let go.
    pub fn table_full(&mut self, found: &Found) {
        self.files.forget(&found.identity);
        self.refused += 1;
        if self.refused.is_power_of_two() {
            tracing::warn!(
                "{}: not captured: {} ({}): {MAX_TARGETS} files are captured from already; {} were left out so far",
                self.name(),
                found.path.display(),
                found.how,
                self.refused
            );
        }
    }

    /// A file that came later has been looked at: the collector is told its name, and its probes go in.
    pub fn looked(&mut self, looked: Looked, collector: &Attended) -> Option<&Target> {
        let Looked { number, id, result, .. } = looked;
        let target = match result {
            Ok(target) => target,
            Err(failure) => {
                self.numbers.give_back(number);
                tracing::warn!("{}: not captured: {failure}", self.name());
                self.files.useless(id);
                return None;
            }
        };
        // Before the first probe: an event must find its target's name.
        collector.send(&ToCollector::Target(self.index, number, name_of(&target)));
        if let Err(failure) = self.attached.attach_target(&target) {
            self.numbers.give_back(number);
            self.files.useless(target.found.identity);
            tracing::warn!("{}: not captured: {failure}", self.name());
            return None;
        }
        self.files.attached(&target.found, number);
        self.targets.push(target);
        self.targets.last()
    }

    /// Lets go of files that no process uses any more since `began` and that nobody can start again: those that were removed,
    /// and those in another root, since an open file keeps a container's file system from being unmounted.
    pub fn let_go(&mut self, began: Instant) {
        for (number, foreign) in self.files.unused_since(began) {
            let Some(target) = self.targets.iter().find(|t| t.number == number) else { continue };
            let removed = target.found.file.metadata().is_ok_and(|m| m.nlink() == 0);
            if foreign || removed {
                tracing::debug!("{}: {} is used no more", self.name(), target.found.path.display());
                self.drop_target(number);
            }
        }
    }

    /// A file whose bytes were changed under its probes is let go at once: they may sit in the middle of instructions now.
    pub fn look_at_files(&mut self) {
        let changed = |t: &Target| FileId::of(&t.found.file).is_ok_and(|id| !id.has_bytes_of(&t.found.identity));
        let numbers: Vec<u32> = self.targets.iter().filter(|t| changed(t)).map(|t| t.number).collect();
        for number in numbers {
            if let Some(target) = self.targets.iter().find(|t| t.number == number) {
                tracing::warn!(
                    "{}: {} was written to while it was probed; its probes are taken off, and it is looked at anew",
                    self.name(),
                    target.found.path.display()
                );
            }
            self.drop_target(number);
        }
    }

    fn drop_target(&mut self, number: u32) {
        let links = self.attached.take_target(number);
        self.detaching.retain(|d| !d.is_finished());
        self.detaching.push(tokio::spawn(attach::detach(links)));
        self.targets.retain(|t| t.number != number);
        self.files.detached(number);
        self.numbers.give_back(number);
    }

    /// Waits until no probe that was let go counts any more.
    pub async fn settle(&mut self) {
        for detaching in std::mem::take(&mut self.detaching) {
            let _ = detaching.await;
        }
    }

    /// For a run that has seen nothing: how far it got, and what tells more.
    #[must_use]
    pub fn why_nothing(&self) -> String {
        let files = match self.targets.len() {
            0 => "there was no file to capture from".to_owned(),
            1 => "its probes were in 1 file, and no call of those that were asked for came by".to_owned(),
            n => format!("its probes were in {n} files, and no call of those that were asked for came by"),
        };
        let (name, command) = (self.name(), &self.asked.module.manifest.module.command);
        format!("{name}: {files}; `ecapture {command} --explain [PID]` says of each process whether it would be seen")
    }

    /// What the kernel side and this side have counted.
    #[must_use]
    pub fn totals(&self) -> KernelTotals {
        KernelTotals { restarts: self.restarts.count, disabled: self.disabled, ..self.attached.totals() }
    }
}

/// What is looked for in processes: the targets of the manifest, also under the names of files that the user named.
fn wanted(asked: &Asked) -> Vec<Wanted> {
    let named = asked.options.targets.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()));
    let named: Vec<String> = named.collect();
    let mut wanted = asked.module.manifest.targets.clone();
    for target in &mut wanted {
        match target.kind {
            TargetKind::Executable => target.names.extend(named.iter().cloned()),
            TargetKind::Library => target.sonames.extend(named.iter().cloned()),
        }
    }
    wanted
}
