//! One job of a worker, from start to end, with everything that it said.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ecapture_plugin_api::plan::{Config, Configured, Detected};
use tokio::time::timeout;

use crate::broker::checks::{Attended, LINK_BYTES, max_message, printable, worker_start};
use crate::event::ModuleTotals;
use crate::failure::Failure;
use crate::link;
use crate::module::Loaded;
use crate::protocol::{
    CollectorModule, CollectorStart, FromCollector, FromWorker, KernelTotals, ReplayClock, ReplayJob, Session,
    ToCollector, WorkerJob,
};
use crate::sandbox::{self, Identity, Role};
use crate::sink::{Format, OutputOptions};
use crate::stream::options::{Bodies, StreamOptions};

/// A call that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that is needed to run jobs of one module.
pub struct Bench<'a> {
    pub module: &'a Loaded,
    pub identity: Identity,
    pub sealed: OwnedFd,
}

/// What came of a job.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The worker's own word that it cannot go on: code and text.
    pub failed: Option<(String, String)>,
    /// How it died, if it did.
    pub died: Option<String>,
    /// It came to its end.
    pub done: bool,
    /// It said nothing for too long.
    pub hung: bool,
    pub configured: Option<Configured>,
    pub detected: Vec<(u32, Result<Detected, String>)>,
    /// Panics of the decoder, which the SDK caught.
    pub decoder_failures: Vec<String>,
    /// What the collector counted.
    pub totals: Option<ModuleTotals>,
    /// Events that the manifest does not declare.
    pub undeclared: u64,
    /// What is wrong with the recording: nothing behind that place was decoded.
    pub damage: Option<String>,
    /// What a replay wrote, as JSON Lines.
    pub output: Vec<u8>,
}

impl Outcome {
    /// How it went wrong, if it did.
    pub fn trouble(&self) -> Option<Trouble<'_>> {
        match (&self.failed, &self.died) {
            _ if self.hung => Some(Trouble::Hung),
            (Some((code, text)), _) => Some(Trouble::Failed(code, text)),
            (None, Some(how)) => Some(Trouble::Died(how)),
            (None, None) => None,
        }
    }
}

/// Why a job did not come to its end.
pub enum Trouble<'a> {
    Hung,
    Failed(&'a str, &'a str),
    Died(&'a str),
}

impl<'a> Bench<'a> {
    pub fn new(module: &'a Loaded, identity: Identity) -> Result<Self, Failure> {
        let sealed = sandbox::memfd::sealed_copy(&module.manifest.module.name, module.image.bytes())
            .map_err(|e| Failure::new("E-CHILD", format!("cannot keep a copy of the module: {e}")))?;
        Ok(Self { module, identity, sealed })
    }

    /// `configure`, then `detect` for each file.
    pub async fn detect(&self, config: &Config, targets: &[(String, File)]) -> Result<Outcome, Failure> {
        let names = (0..).zip(targets).map(|(n, (name, _))| (n, name.clone())).collect();
        let start = worker_start(self.module, config, self.identity, WorkerJob::Detect { targets: names });
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(self.sealed.as_fd()).chain(targets.iter().map(|(_, file)| file.as_fd())).collect();
        let mut worker = Attended::start(Role::Worker, "worker (check)".into(), &start, &fds)?;
        let mut outcome = Outcome::default();
        while hear(&mut worker, &mut outcome).await {}
        end(&mut worker, &mut outcome).await;
        Ok(outcome)
    }

    /// Decodes a recording, in which the module has this number.
    pub async fn replay(&self, config: &Config, recording: &File, module: u8) -> Result<Outcome, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new("E-CHILD", format!("cannot set up a replay: {e}"));
        let link = link::create(LINK_BYTES).map_err(|e| failed(&e))?;
        let mut output = sandbox::memfd::scratch("check-output").map_err(|e| failed(&e))?;
        let manifest = &self.module.manifest;
        let start = CollectorStart {
            identity: self.identity,
            modules: vec![CollectorModule {
                name: manifest.module.name.clone(),
                version: manifest.module.version.to_string(),
                tainted: false,
                manifest: self.module.manifest_text.clone(),
                link_bytes: LINK_BYTES,
                targets: Vec::new(),
                build_id: None,
                config: config.clone(),
            }],
            outputs: vec![OutputOptions {
                name: "check".into(),
                format: Format::Json,
                utc_offset_s: 0,
                multiline: false,
                color: false,
                columns: 0,
                shared: false,
                quiet_end: true,
                rotate: None,
                bodies: Bodies::None,
            }],
            session: Session {
                host: String::new(),
                kernel: String::new(),
                version: String::new(),
                command: String::new(),
            },
            count: None,
            streams: StreamOptions::default(),
            packets: None,
            packet_filter: None,
            replay: Some(ReplayClock { monotonic_ns: 0, wall_ns: 0 }),
        };
        let fds = [link.ring.as_fd(), link.bell.as_fd(), output.as_fd()];
        let mut collector = Attended::start(Role::Collector, "collector (check)".into(), &start, &fds)?;
        let job = ReplayJob {
            link_bytes: LINK_BYTES,
            max_message: manifest.streams.iter().map(max_message).collect(),
            module,
        };
        let mut recording = recording.try_clone().map_err(|e| failed(&e))?;
        recording.rewind().map_err(|e| failed(&e))?;
        let start = worker_start(self.module, config, self.identity, WorkerJob::Replay(job));
        let fds = [self.sealed.as_fd(), recording.as_fd(), link.ring.as_fd(), link.bell.as_fd()];
        let mut worker = Attended::start(Role::Worker, "worker (check)".into(), &start, &fds)?;
        let mut outcome = Outcome::default();
        loop {
            tokio::select! {
                more = hear(&mut worker, &mut outcome) => if !more { break },
                message = collector.receive::<FromCollector>() => match message {
                    Some(FromCollector::Hostile(_, why)) => {
                        outcome.failed = Some(("C-LINK".into(), why));
                        worker.kill();
                    }
                    Some(_) => {}
                    None => return Err(Failure::new("E-CHILD", "the collector ended early")),
                }
            }
        }
        end(&mut worker, &mut outcome).await;
        collector.send(&ToCollector::Finish(vec![KernelTotals::default()], Some(0)));
        while let Ok(Some(message)) = timeout(PATIENCE, collector.receive::<FromCollector>()).await {
            if let FromCollector::Done { mut totals, undeclared, .. } = message {
                outcome.totals = totals.pop();
                outcome.undeclared = undeclared;
                break;
            }
        }
        output.rewind().and_then(|()| output.read_to_end(&mut outcome.output)).map_err(|e| failed(&e))?;
        Ok(outcome)
    }
}

/// How it ended. Not in [`hear`]: that one may be given up at any point, for another child's word.
async fn end(worker: &mut Attended, outcome: &mut Outcome) {
    let how = worker.ended(Duration::from_secs(2)).await;
    if !outcome.done && !outcome.hung {
        outcome.died = Some(how.map_or_else(|e| e.to_string(), |e| e.to_string()));
    }
}

/// Waits for the worker's next word; false when there will be none. A worker that is alive says so each second, but one that
/// hangs in the module's code can't.
async fn hear(worker: &mut Attended, outcome: &mut Outcome) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(message) = timeout(left, worker.receive::<FromWorker>()).await else {
            outcome.hung = true;
            worker.kill();
            return false;
        };
        match message {
            // A line of the log is no sign of life: it is the module's own.
            Some(FromWorker::Log(..)) => continue,
            Some(FromWorker::Configured(answer)) => outcome.configured = Some(answer),
            Some(FromWorker::Detected(number, answer)) => outcome.detected.push((number, Ok(answer))),
            Some(FromWorker::DetectFailed(number, why)) => outcome.detected.push((number, Err(printable(&why)))),
            Some(FromWorker::Failed(code, text)) => outcome.failed = Some((printable(&code), printable(&text))),
            Some(FromWorker::DecoderFailed(text)) => outcome.decoder_failures.push(printable(&text)),
            Some(FromWorker::Replayed(what)) => outcome.damage = what.damage.map(|d| printable(&d)),
            Some(FromWorker::Done) => {
                outcome.done = true;
                return false;
            }
            Some(_) => {}
            None => return false,
        }
        return true;
    }
}
