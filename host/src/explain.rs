//! `ecapture NAME --explain`: would a capture with these options see a process, and why not. Attaches nothing; files are
//! looked at by the module and the scout in their children, as for a capture, and not here.

mod filter;
mod look;
mod show;
mod verdict;

use crate::broker::Asked;
use crate::broker::explained::{Examined, examine, group_paths, init_log, inside, target_remedy};
use crate::cli::RunOptions;
use crate::failure::{Exit, Failure};
use crate::sandbox::privileges;
use crate::target::{TargetError, cgroup, discover::wanted, process};

use filter::Filters;
use look::{Files, Process};
pub use show::{brief, json, text};
use verdict::Verdict;

/// Everything that is said.
pub struct Told {
    /// The word of the command.
    command: String,
    /// Names that are looked for, or the files that were given.
    wanted: String,
    /// Processes were named.
    named: bool,
    /// The files that matter.
    files: Vec<File>,
    /// Processes that were named, else those that use one of the files.
    verdicts: Vec<Verdict>,
    /// How many others there are, and of how many of those it cannot be said what they use.
    others: (usize, usize),
    /// What this process lacks to capture.
    lacks: Vec<&'static str>,
}

/// A file with what was found about it.
struct File {
    path: std::path::PathBuf,
    how: String,
    program: bool,
    examined: Examined,
}

/// Looks at these processes; none: at all.
///
/// # Errors
/// What a capture with these options would refuse; a process that does not exist.
pub async fn look(asked: &Asked, options: &RunOptions, pids: &[u32]) -> Result<Told, Failure> {
    init_log(options.verbose, options.quiet);
    match pids.iter().chain(&options.pids).find(|pid| !process::exists(**pid)) {
        Some(gone) => Err(failed(asked, &TargetError::NoProcess(*gone))),
        None => told(asked, options, pids).await,
    }
}

fn failed(asked: &Asked, why: &TargetError) -> Failure {
    Failure::new("E-TARGET", format!("{}: {why}", asked.name())).remedy(target_remedy(&asked.module))
}

/// The same, of processes some of which may have ended.
///
/// # Errors
/// What a capture with these options would refuse.
pub async fn told(asked: &Asked, options: &RunOptions, pids: &[u32]) -> Result<Told, Failure> {
    let manifest = &asked.module.manifest;
    let failed = |e: TargetError| failed(asked, &e);
    let filters = Filters::new(options, group_paths(options)?);
    let me = std::process::id();
    let looked_at =
        if pids.is_empty() { process::all().into_iter().filter(|pid| *pid != me).collect() } else { pids.to_vec() };
    let inside =
        if asked.options.targets.is_empty() { inside(&manifest.targets, &looked_at).await } else { Vec::new() };
    let mut files = Files::new(&manifest.targets, &asked.options.targets, inside).map_err(failed)?;
    let mut processes: Vec<Process> = Vec::new();
    for pid in looked_at {
        // One that ends meanwhile uses nothing.
        if !processes.iter().any(|p| p.pid == pid) {
            processes.push(files.process(pid, !pids.is_empty()));
        }
    }
    let (shown, others): (Vec<_>, Vec<_>) =
        processes.into_iter().partition(|p| !pids.is_empty() || !p.uses.is_empty() || !p.misses.is_empty());
    // What runs no file is a thread of the kernel, or has just ended.
    let others: Vec<_> = others.into_iter().filter(|p| p.exe.is_ok() || p.closed).collect();
    let unseen = others.iter().filter(|p| p.closed).count();
    let given = !asked.options.targets.is_empty();
    let kept = files.kept(&shown, pids.is_empty());
    let about: Vec<_> = kept.iter().map(|(_, f)| (f.path.clone(), f.how.clone(), f.program)).collect();
    let (numbers, found): (Vec<usize>, Vec<_>) = kept.into_iter().unzip();
    let examined =
        if found.is_empty() { Vec::new() } else { examine(&asked.module, &asked.options.config, found).await? };
    let files: Vec<File> = about
        .into_iter()
        .zip(examined)
        .map(|((path, how, program), examined)| File { path, how, program, examined })
        .collect();
    let wanted = if given {
        asked.options.targets.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    } else {
        wanted(&manifest.targets)
    };
    let judge = verdict::Judge { asked, filters: &filters, files: &files, numbers: &numbers, wanted: &wanted };
    let mount = cgroup::mount();
    let verdicts = shown.into_iter().map(|p| judge.verdict(p, mount.as_deref())).collect();
    Ok(Told {
        command: manifest.module.command.clone(),
        wanted,
        named: !pids.is_empty(),
        files,
        verdicts,
        others: (others.len(), unseen),
        lacks: privileges::missing(),
    })
}

/// Whether every process that was named would be captured from by this process.
#[must_use]
pub fn exit(told: &Told) -> Exit {
    let all = told.verdicts.iter().all(Verdict::is_captured);
    if told.lacks.is_empty() && (all || !told.named) { Exit::Done } else { Exit::Failed }
}
