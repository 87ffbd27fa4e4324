//! A recording decoded again: the same children as in a run, no kernel, and no privilege. The first thing after opening the
//! files is to give up every right, so that nothing of a recording is parsed with any.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecapture_plugin_api::manifest::TargetKind;
use ecapture_plugin_api::plan::Config;

use super::attend::{Attended, printable};
use super::prepare::worker_start;
use super::session::signals::Signals;
use super::session::{LINK_BYTES, collector_outputs, max_message};
use super::{outputs, watch};
use crate::failure::{Exit, Failure};
use crate::link;
use crate::module::Loaded;
use crate::protocol::{
    CollectorModule, CollectorStart, FromCollector, FromWorker, KernelTotals, ReplayClock, ReplayJob, Replayed,
    Session, TargetName, ToCollector, WorkerJob,
};
use crate::recording::{self, Header, Reader};
use crate::sandbox::{self, Role, privileges};
use crate::sink::Format;
use crate::stream::options::{Bodies, StreamOptions};

/// What is to be replayed, and where it goes.
#[derive(Debug)]
pub struct Options {
    /// The recording.
    pub recording: PathBuf,
    /// How events are written.
    pub format: Format,
    /// Where to; empty = stdout.
    pub writes: Vec<PathBuf>,
    /// What is done with connections.
    pub streams: StreamOptions,
    /// Bodies that are shown; `None`: as the format has it.
    pub bodies: Option<Bodies>,
    /// Line breaks of captured text are shown as line breaks.
    pub multiline: bool,
    /// No messages but errors.
    pub quiet: bool,
    /// How much is said.
    pub verbose: u8,
}

/// Decodes a recording with a module.
///
/// # Errors
/// `E-RECORDING`: it cannot be read, is of another module, or is damaged (then what is whole was written before).
pub async fn run(module: &Loaded, options: &Options) -> Result<Exit, Failure> {
    watch::init(options.verbose, options.quiet);
    let path = &options.recording;
    let mut file = File::open(path).map_err(|e| unusable(path, &e))?;
    let outputs = outputs::writes(&options.writes, None)?;
    let name = &module.manifest.module.name;
    let sealed = sandbox::memfd::sealed_copy(name, module.image.bytes())
        .map_err(|e| Failure::new("E-CHILD", format!("cannot keep a copy of {name}: {e}")))?;
    let identity =
        privileges::give_up_all().map_err(|e| Failure::new("E-SANDBOX", format!("cannot give up privileges: {e}")))?;

    let (_, header) = Reader::new(BufReader::new(&file)).map_err(|e| unusable(path, &e))?;
    file.rewind().map_err(|e| unusable(path, &e))?;
    let (number, config) = recorded(module, &header, path)?;
    let late = recording::late_targets(&file, number).map_err(|e| unusable(path, &e))?;
    file.rewind().map_err(|e| unusable(path, &e))?;
    let link = link::create(LINK_BYTES)
        .map_err(|e| Failure::new("E-CHILD", format!("cannot make the link between the children: {e}")))?;
    let start = CollectorStart {
        identity,
        modules: vec![source(module, &config, &header, number, late)],
        outputs: collector_outputs(&outputs, options.format, options.multiline, options.bodies),
        session: Session {
            host: header.host.clone(),
            kernel: header.kernel.clone(),
            version: header.version.clone(),
            command: String::new(),
        },
        count: None,
        streams: options.streams.clone(),
        packets: None,
        packet_filter: None,
        replay: Some(ReplayClock { monotonic_ns: header.monotonic_ns, wall_ns: header.wall_ns }),
    };
    let fds: Vec<BorrowedFd<'_>> =
        [link.ring.as_fd(), link.bell.as_fd()].into_iter().chain(outputs.iter().map(|o| o.fd.as_fd())).collect();
    let collector = Attended::start(Role::Collector, "collector".into(), &start, &fds)?;
    let job = ReplayJob {
        link_bytes: LINK_BYTES,
        max_message: module.manifest.streams.iter().map(max_message).collect(),
        module: number,
    };
    let start = worker_start(module, &config, identity, WorkerJob::Replay(job));
    let fds = [sealed.as_fd(), file.as_fd(), link.ring.as_fd(), link.bell.as_fd()];
    let worker = Attended::start(Role::Worker, format!("worker of {name}"), &start, &fds)?;
    let replayed = watch_over(name, worker, collector, options).await?;
    match replayed.damage {
        Some(damage) => Err(unusable(path, &damage).remedy("what it holds up to there has been decoded")),
        None => Ok(Exit::Done),
    }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new("E-RECORDING", format!("{}: {}", path.display(), printable(&why.to_string())))
}

/// Number and configuration of the module in the recording.
fn recorded(module: &Loaded, header: &Header, path: &Path) -> Result<(u8, Config), Failure> {
    let info = &module.manifest.module;
    let (number, then) = recording::number(header, &info.name)
        .map_err(|e| unusable(path, &e).remedy("give the module that it was made with"))?;
    let (config, dropped) = recording::config(&module.manifest, then).map_err(|e| unusable(path, &e))?;
    let (version, build) = (info.version.to_string(), module.image.build_id());
    if then.version != version {
        tracing::warn!("made with {} {}, decoded with {version}", info.name, printable(&then.version));
    } else if then.build_id != build {
        tracing::info!("made with another build of {} {version}", info.name);
    }
    for line in dropped {
        tracing::warn!("{}", printable(&line));
    }
    Ok((number, config))
}

fn source(
    module: &Loaded,
    config: &Config,
    header: &Header,
    number: u8,
    late: BTreeMap<u32, String>,
) -> CollectorModule {
    let then = header.modules.get(usize::from(number));
    let first = (0..).zip(then.map(|m| m.targets.clone()).unwrap_or_default()).filter(|(_, path)| !path.is_empty());
    let mut targets: BTreeMap<u32, String> = first.collect();
    for (number, path) in late {
        // A number that several files had names none of them: a record says no more than the number.
        let known = targets.entry(number).or_insert_with(|| path.clone());
        if *known != path {
            known.clear();
        }
    }
    targets.retain(|_, path| !path.is_empty());
    // Nobody is asked about processes of another time. Where every target is a program, the process ran it.
    let program = module.manifest.targets.iter().all(|t| t.kind == TargetKind::Executable);
    let named = |path| TargetName { path, program };
    CollectorModule {
        name: module.manifest.module.name.clone(),
        version: module.manifest.module.version.to_string(),
        // As it was then: where the file lies today says nothing of the run.
        tainted: then.is_some_and(|m| m.tainted),
        manifest: module.manifest_text.clone(),
        link_bytes: LINK_BYTES,
        targets: targets.into_iter().map(|(number, path)| (number, named(path))).collect(),
        build_id: module.image.build_id(),
        config: config.clone(),
    }
}

/// Waits for both children. A worker that dies is not started again: it would die at the same record.
async fn watch_over(
    name: &str,
    mut worker: Attended,
    mut collector: Attended,
    options: &Options,
) -> Result<Replayed, Failure> {
    let mut signals = Signals::new()?;
    let mut replayed: Option<Replayed> = None;
    let (mut failed, mut working) = (None, true);
    loop {
        tokio::select! {
            () = signals.next() => return Err(Failure::new("E-INTERRUPTED", "left before the end of the recording")),
            message = worker.receive::<FromWorker>(), if working => match message {
                // Who they are is no news: this process gave everything up itself.
                Some(FromWorker::Boundary(_)) => {}
                Some(FromWorker::Log(level, text)) => watch::log(name, level, &text),
                Some(FromWorker::Failed(code, text)) => failed = Some(format!("{}: {}", printable(&code), printable(&text))),
                Some(FromWorker::DecoderFailed(text)) => {
                    watch::log(name, 1, &format!("the decoder failed {text}"));
                }
                Some(FromWorker::Replayed(what)) => replayed = Some(what),
                Some(_) => {}
                None => {
                    working = false;
                    let how = worker.ended(Duration::from_secs(2)).await.map_or_else(|e| e.to_string(), |e| e.to_string());
                    let Some(replayed) = &replayed else {
                        let why = failed.unwrap_or(how);
                        return Err(Failure::new("E-MODULE", format!("module {name} did not come to the end: {why}")));
                    };
                    if replayed.lost > 0 {
                        tracing::warn!("{} records could not be written when the recording was made", replayed.lost);
                    }
                    // Without an end nobody knows what there was beside what there is.
                    let known = replayed.totals.clone();
                    let totals = known.unwrap_or(KernelTotals { produced: replayed.seen, ..KernelTotals::default() });
                    collector.send(&ToCollector::Finish(vec![totals], Some(replayed.monotonic_ns)));
                }
            },
            message = collector.receive::<FromCollector>() => match message {
                Some(FromCollector::Log(level, text)) => watch::log("collector", level, &text),
                Some(FromCollector::OutputFailed(what)) => tracing::error!("{}", printable(&what)),
                Some(FromCollector::Hostile(_, why)) => {
                    return Err(Failure::new("E-MODULE", format!("module {name}: {}", printable(&why))));
                }
                Some(FromCollector::NobodyListens) => return Ok(replayed.unwrap_or_default()),
                Some(FromCollector::Done { text, sink_lost, .. }) => {
                    if !options.quiet {
                        text.lines().for_each(|line| eprintln!("ecapture: {}", printable(line)));
                    }
                    if sink_lost > 0 {
                        return Err(Failure::new("E-OUTPUT", format!("{sink_lost} events could not be written")));
                    }
                    return Ok(replayed.unwrap_or_default());
                }
                Some(_) => {}
                None => return Err(Failure::new("E-CHILD", "the collector ended before everything was written")),
            },
        }
    }
}
