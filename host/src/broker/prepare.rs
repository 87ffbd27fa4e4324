//! Everything before the first eBPF program is loaded: targets found, the module asked, places proven, the plan checked.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ecapture_plugin_api::plan::{Config, Configured, Detected};

use super::Asked;
use super::attend::{Attended, printable};
use super::plan::{self, AttachPlan, Objects};
use crate::bpf::ObjectSpec;
use crate::failure::{Exit, Failure};
use crate::module::Loaded;
use crate::protocol::{FromScout, FromWorker, ScoutJob, ScoutStart, WorkerJob, WorkerStart};
use crate::sandbox::{self, Identity, Role};
use crate::scout::ScoutAnswer;
use crate::target::{FileId, Found, Later, discover, process};

/// For loading a module, `configure` and all of `detect`; a module that takes longer hangs.
const DETECT_PATIENCE: Duration = Duration::from_secs(20);
/// For analysing one file; the largest programs take about a second.
const SCOUT_PATIENCE: Duration = Duration::from_secs(20);

/// One target file that can be attached to.
pub struct Target {
    /// The file.
    pub found: Found,
    /// Its number: row of `ecap_layouts`, low half of the cookies.
    pub number: u32,
    /// What the module said of it.
    pub detected: Detected,
    /// Where the scout puts the probes, and why.
    pub answer: ScoutAnswer,
    /// What will be attached.
    pub plan: AttachPlan,
}

/// What is needed of a module for as long as the run lasts: for another worker, and for targets that come later.
pub struct Ready {
    /// The sealed copy of the module.
    pub sealed: OwnedFd,
    /// The eBPF objects of the module by id.
    pub objects: Objects,
    /// What `configure` answered.
    pub configured: Configured,
    /// Who the children are.
    pub identity: Identity,
}

impl Ready {
    /// Bytes of a row of `ecap_layouts`, if the objects have any.
    #[must_use]
    pub fn layout_size(&self) -> Option<u32> {
        self.objects.values().find_map(|o| o.maps.get("ecap_layouts")).map(|m| m.value)
    }
}

/// A module that is ready to be loaded into the kernel.
pub struct Prepared {
    /// What stays.
    pub ready: Arc<Ready>,
    /// Files to attach to; none if all that is known of them is that they may come.
    pub targets: Vec<Target>,
    /// Files that cannot be captured from.
    pub unusable: Vec<FileId>,
}

/// What is asked of a module.
pub struct Request<'a> {
    /// Mode and options.
    pub config: &'a Config,
    /// Explicit target files.
    pub targets: &'a [PathBuf],
    /// Processes asked for.
    pub pids: &'a [u32],
    /// What need not be there yet.
    pub later: Later,
}

/// Prepares one module.
///
/// # Errors
/// Refusals of the worker (exit code 3), no usable target, plans that are not covered.
pub async fn prepare(module: &Loaded, request: &Request<'_>) -> Result<Prepared, Failure> {
    let manifest = &module.manifest;
    let name = &manifest.module.name;
    let inside = inside(module, request).await;
    let found = discover(&manifest.targets, request.targets, request.pids, inside, request.later)
        .map_err(|e| Failure::new("E-TARGET", format!("{name}: {e}")).remedy(target_remedy(module)))?;
    let (ready, detected) = configure(module, request.config, &found).await?;

    let explicit = !request.targets.is_empty() || !request.pids.is_empty() || found.len() == 1;
    let (mut targets, mut unusable, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for ((found, detected), number) in found.into_iter().zip(detected).zip(0..) {
        let id = found.identity;
        match usable(module, &ready, found, detected, number).await {
            Ok(target) => targets.push(target),
            Err(failure) if explicit => return Err(failure),
            Err(failure) => {
                ids.push(id);
                unusable.push(failure);
            }
        }
    }
    for failure in &unusable {
        tracing::warn!("not captured: {failure}");
    }
    if targets.is_empty() && !unusable.is_empty() {
        let text = format!("{name}: none of the {} files found can be captured from", unusable.len());
        return Err(Failure::new("E-DETECT", text));
    }
    Ok(Prepared { ready, targets, unusable: ids })
}

/// Files that are targets by what is in them, where they have to be known before anything is attached: of processes that were
/// named, or if nothing is looked for later. Else they are looked for while the capture runs.
async fn inside(module: &Loaded, request: &Request<'_>) -> Vec<Found> {
    if !request.targets.is_empty() || (request.pids.is_empty() && request.later.files) {
        return Vec::new();
    }
    let pids = if request.pids.is_empty() { process::all() } else { process::with_children(request.pids) };
    super::sift::of_processes(&module.manifest.targets, &pids).await
}

/// Has the module configured, and asked about each file.
async fn configure(
    module: &Loaded,
    config: &Config,
    found: &[Found],
) -> Result<(Arc<Ready>, Vec<Result<Detected, String>>), Failure> {
    let name = &module.manifest.module.name;
    let identity = Identity::choose();
    let sealed = sandbox::memfd::sealed_copy(name, module.image.bytes())
        .map_err(|e| Failure::new("E-CHILD", format!("cannot keep a copy of {name}: {e}")))?;
    let objects = objects(module)?;
    let (configured, detected) = ask_module(module, config, found, &sealed, identity).await?;
    let plan_failed = |e: plan::PlanError| Failure::new("E-PLAN", format!("module {name}: {e}")).exit(Exit::Refused);
    plan::check_configured(&configured, &module.manifest, &objects).map_err(plan_failed)?;
    Ok((Arc::new(Ready { sealed, objects, configured, identity }), detected))
}

/// What is known of one file, whether or not it can be captured from.
pub struct Examined {
    /// What the module said of it, if it said anything.
    pub detected: Option<Detected>,
    /// Ready to be attached to, or why not.
    pub target: Result<Target, Failure>,
}

/// Looks at files as [`prepare`] does, and goes on after one that cannot be captured from.
///
/// # Errors
/// What is wrong with the module or its options.
pub async fn examine(module: &Loaded, config: &Config, found: Vec<Found>) -> Result<Vec<Examined>, Failure> {
    let (ready, detected) = configure(module, config, &found).await?;
    let mut examined = Vec::new();
    for ((found, detected), number) in found.into_iter().zip(detected).zip(0..) {
        let said = detected.as_ref().ok().cloned();
        let target = usable(module, &ready, found, detected, number).await;
        examined.push(Examined { detected: said, target });
    }
    Ok(examined)
}

/// Prepares one more file, which was found when the module was captured with already.
///
/// # Errors
/// As of [`prepare`], for this one file.
pub async fn prepare_later(asked: Arc<Asked>, ready: Arc<Ready>, found: Found, number: u32) -> Result<Target, Failure> {
    let (module, config) = (&asked.module, &asked.options.config);
    let found = [found];
    let (_, mut detected) = ask_module(module, config, &found, &ready.sealed, ready.identity).await?;
    let [found] = found;
    let detected = detected.pop().unwrap_or_else(|| Err("the module said nothing about it".into()));
    usable(module, &ready, found, detected, number).await
}

/// One file with what the module said of it: placed by the scout, or why it is of no use.
async fn usable(
    module: &Loaded,
    ready: &Ready,
    found: Found,
    detected: Result<Detected, String>,
    number: u32,
) -> Result<Target, Failure> {
    let path = found.path.display().to_string();
    let refused = |why: &str| Failure::new("E-DETECT", format!("{path}: {}", printable(why)));
    let detected = detected.map_err(|why| refused(&why))?;
    if let Some(why) = &detected.unsupported {
        return Err(refused(why));
    }
    look(found, number, detected, ready, &module.manifest.module.name).await
}

/// What to do when nothing is found.
#[must_use]
pub fn target_remedy(module: &Loaded) -> String {
    let option = module.manifest.targets.iter().find_map(|t| t.option.as_deref());
    match option {
        Some(option) => format!("start the program first, or name its file with --{option} PATH"),
        None => "start the program first".into(),
    }
}

/// The eBPF objects of a module, parsed.
///
/// # Errors
/// `E-BPF`.
pub fn objects(module: &Loaded) -> Result<Objects, Failure> {
    let mut objects = BTreeMap::new();
    for listed in &module.manifest.bpf {
        let refused = |e: String| {
            let name = &module.manifest.module.name;
            Failure::new("E-BPF", format!("{name}: object {}: {e}", listed.id)).exit(Exit::Refused)
        };
        let bytes = module.object(&listed.id).ok_or_else(|| refused("it is not in the file".into()))?;
        objects.insert(listed.id.clone(), ObjectSpec::parse(bytes).map_err(|e| refused(e.to_string()))?);
    }
    Ok(objects)
}

type Answers = (Configured, Vec<Result<Detected, String>>);

/// Runs the throw-away worker.
async fn ask_module(
    module: &Loaded,
    config: &Config,
    found: &[Found],
    sealed: &OwnedFd,
    identity: Identity,
) -> Result<Answers, Failure> {
    let name = &module.manifest.module.name;
    let targets: Vec<(u32, String)> = (0..).zip(found).map(|(n, f)| (n, f.path.display().to_string())).collect();
    let start = worker_start(module, config, identity, WorkerJob::Detect { targets });
    let fds: Vec<BorrowedFd<'_>> =
        std::iter::once(sealed.as_fd()).chain(found.iter().map(|f| f.file.as_fd())).collect();
    let mut worker = Attended::start(Role::Worker, format!("worker of {name} (detection)"), &start, &fds)?;
    let (mut configured, mut failed, mut done) = (None, None, false);
    let mut detected: Vec<Result<Detected, String>> =
        found.iter().map(|_| Err("the module said nothing about it".into())).collect();
    let answers = async {
        while let Some(message) = worker.receive::<FromWorker>().await {
            match message {
                FromWorker::Boundary(report) => super::watch::boundary(name, &report),
                FromWorker::Configured(answer) => configured = Some(answer),
                FromWorker::Detected(number, answer) => {
                    if let Some(slot) = detected.get_mut(number as usize) {
                        *slot = Ok(answer);
                    }
                }
                FromWorker::DetectFailed(number, why) => {
                    if let Some(slot) = detected.get_mut(number as usize) {
                        *slot = Err(why);
                    }
                }
                FromWorker::Failed(code, text) => failed = Some((code, text)),
                FromWorker::Log(level, text) => super::watch::log(name, level, &text),
                FromWorker::Done => done = true,
                FromWorker::Ready
                | FromWorker::Beat
                | FromWorker::Drained
                | FromWorker::Replayed(_)
                | FromWorker::DecoderFailed(_) => {}
            }
        }
    };
    let in_time = tokio::time::timeout(DETECT_PATIENCE, answers).await.is_ok();
    let ended = worker.ended(if in_time { Duration::from_secs(1) } else { Duration::ZERO }).await;
    if let Some((code, text)) = failed {
        let text = format!("module {name}: {}", printable(&text));
        return Err(match code.as_str() {
            "E-CONFIG" => Failure::new("E-CONFIG", text).exit(Exit::Usage),
            other => Failure::new(known_code(other), text).exit(Exit::Refused),
        });
    }
    match configured {
        Some(configured) if done => Ok((configured, detected)),
        _ if !in_time => {
            let text = format!("module {name} did not answer within {} s and was stopped", DETECT_PATIENCE.as_secs());
            Err(Failure::new("E-MODULE", text).exit(Exit::Refused))
        }
        _ => {
            let how = ended.map_or_else(|e| e.to_string(), |e| e.to_string());
            Err(Failure::new("E-MODULE", format!("module {name} {how} while it was asked about the target"))
                .exit(Exit::Refused))
        }
    }
}

/// The start message of a worker.
pub fn worker_start(module: &Loaded, config: &Config, identity: Identity, job: WorkerJob) -> WorkerStart {
    WorkerStart {
        module: module.manifest.module.name.clone(),
        manifest: module.manifest_text.clone(),
        needed: module.libraries.clone(),
        identity,
        config: config.clone(),
        job,
    }
}

/// A child says its codes as text; only those that exist are passed on.
fn known_code(code: &str) -> &'static str {
    const CODES: [&str; 8] =
        ["E-LAYOUT", "E-FORGED", "E-API-MAJOR", "E-API-NEWER", "E-LIBC", "E-PANIC", "E-SANDBOX", "E-MODULE"];
    CODES.into_iter().find(|c| *c == code).unwrap_or("E-MODULE")
}

/// Has the scout place the probes of one target.
async fn look(found: Found, number: u32, detected: Detected, ready: &Ready, name: &str) -> Result<Target, Failure> {
    let path = found.path.display().to_string();
    let failed =
        |e: plan::PlanError| Failure::new("E-PLAN", format!("module {name} in {path}: {e}")).exit(Exit::Refused);
    let request = plan::request(&detected, &ready.configured, &ready.objects).map_err(failed)?;
    let start = ScoutStart { identity: ready.identity, job: ScoutJob::Place(request) };
    let mut scout = Attended::start(Role::Scout, format!("scout of {path}"), &start, &[found.file.as_fd()])?;
    let (mut answer, mut refused) = (None, None);
    let talk = async {
        while let Some(message) = scout.receive::<FromScout>().await {
            match message {
                FromScout::Boundary(report) => super::watch::boundary("scout", &report),
                FromScout::Answer(places) => answer = Some(places),
                FromScout::Failed(why) => refused = Some(why),
                FromScout::Sifted(_) | FromScout::Filter(_) => {}
            }
        }
    };
    let in_time = tokio::time::timeout(SCOUT_PATIENCE, talk).await.is_ok();
    let ended = scout.ended(if in_time { Duration::from_secs(1) } else { Duration::ZERO }).await;
    if let Some(why) = refused {
        return Err(Failure::new("E-TARGET", format!("{path}: {}", printable(&why))));
    }
    let Some(answer) = answer else {
        let how =
            if in_time { ended.map_or_else(|e| e.to_string(), |e| e.to_string()) } else { "took too long".into() };
        return Err(Failure::new("E-TARGET", format!("{path} cannot be analysed: the scout {how}")));
    };
    let size = found.file.metadata().map_or(0, |m| m.len());
    let plan = plan::place(&detected, &answer, size, ready.layout_size()).map_err(failed)?;
    for note in &plan.notes {
        tracing::warn!("{name} in {path}: {}", printable(note));
    }
    Ok(Target { found, number, detected, answer, plan })
}
