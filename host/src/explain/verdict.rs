//! From what a process uses, the files' state and the filters to a verdict with its causes and the next step.

use std::path::Path;

use ecapture_plugin_api::manifest::TargetKind;

use super::File;
use super::filter::Filters;
use super::look::{Miss, Process, through};
use crate::broker::Asked;
use crate::module::escape;
use crate::target::process;

/// One reason why a process is not captured.
#[derive(Debug)]
pub struct Cause {
    /// Stable word for scripts: `pid`, `uid`, `comm`, `cgroup`, `container`, `file`, `deleted`, `closed`, `other-file`,
    /// `limit`, `none`.
    pub kind: &'static str,
    /// In words, one line.
    pub why: String,
    /// The next step.
    pub step: Option<String>,
}

/// What is said of one process.
#[derive(Debug)]
pub struct Verdict {
    /// The process.
    pub process: Process,
    /// Positions of the files that it uses.
    pub files: Vec<usize>,
    /// Empty: it would be captured.
    pub causes: Vec<Cause>,
    /// What is worth knowing although it is captured.
    pub notes: Vec<String>,
}

impl Verdict {
    /// A capture would see it.
    pub fn is_captured(&self) -> bool {
        self.causes.is_empty()
    }
}

/// What verdicts are made from.
pub struct Judge<'a> {
    /// Module and options.
    pub asked: &'a Asked,
    /// Of the run.
    pub filters: &'a Filters<'a>,
    /// What was looked at.
    pub files: &'a [File],
    /// Their numbers.
    pub numbers: &'a [usize],
    /// What was looked for.
    pub wanted: &'a str,
}

impl Judge<'_> {
    /// Of one process.
    pub fn verdict(&self, process: Process, mount: Option<&Path>) -> Verdict {
        let files: Vec<usize> =
            process.uses.iter().filter_map(|number| self.numbers.iter().position(|n| n == number)).collect();
        let mut causes: Vec<Cause> = Vec::new();
        let usable = files.iter().any(|at| self.files.get(*at).is_some_and(|f| f.examined.target.is_ok()));
        let mut notes = Vec::new();
        if !usable {
            causes.extend(files.iter().filter_map(|at| self.unusable(self.files.get(*at)?)));
        }
        let missed: Vec<Cause> = process.misses.iter().map(|miss| self.missed(&process, miss)).collect();
        if usable {
            notes.extend(missed.into_iter().map(|cause| cause.why));
        } else {
            causes.extend(missed);
        }
        if causes.is_empty() && !usable {
            causes.push(self.none(&process));
        }
        for out in self.filters.left_out(process.pid, mount).into_iter().filter(|_| process.exe.is_ok()) {
            let why = format!("--{} leaves it out: {}", out.option, out.why);
            causes.push(Cause { kind: out.option, why, step: Some(out.step) });
        }
        if let Ok((exe, true)) = &process.exe
            && usable
        {
            notes.push(format!("{} was replaced or removed since it was started", escape::os(exe.as_os_str())));
        }
        Verdict { process, files, causes, notes }
    }

    fn unusable(&self, file: &File) -> Option<Cause> {
        let failure = file.examined.target.as_ref().err()?;
        let plan = format!(
            "ecapture module plan {} --target {}",
            self.asked.module.manifest.module.command,
            shown(&file.path)
        );
        let why = format!("its file cannot be captured from: {}: {}", failure.code, escape::line(&failure.message));
        Some(Cause { kind: "file", why, step: Some(failure.remedy.clone().unwrap_or(plan)) })
    }

    fn option(&self, kind: TargetKind) -> Option<&str> {
        let targets = &self.asked.module.manifest.targets;
        targets.iter().find(|t| t.kind == kind && t.option.is_some())?.option.as_deref()
    }

    fn missed(&self, process: &Process, miss: &Miss) -> Cause {
        match miss {
            Miss::Deleted(path) => {
                let why = format!("{} was replaced or removed since the process opened it", shown(path));
                let is_exe = process.exe.as_ref().is_ok_and(|(exe, _)| exe == path);
                let option = self.option(TargetKind::Executable).filter(|_| is_exe);
                let or = option.map_or(String::new(), |o| format!(", or --{o} /proc/{}/exe", process.pid));
                Cause { kind: "deleted", why, step: Some(format!("restart process {}{or}", process.pid)) }
            }
            Miss::Closed(path, error) => {
                let foreign = if process::has_own_mounts(process.pid) { " in the process's own mounts" } else { "" };
                let why = format!("{} cannot be opened{foreign}: {error}", shown(path));
                Cause { kind: "closed", why, step: Some("run it as root on the host".into()) }
            }
            Miss::Other(path) => {
                let why = format!("it uses {}, which is another file than {}", shown(path), escape::line(self.wanted));
                let is_exe = process.exe.as_ref().is_ok_and(|(exe, _)| exe == path);
                Cause { kind: "other-file", why, step: self.give(process, path, is_exe) }
            }
            Miss::Beyond(path) => {
                let why = format!("{} is beyond the 64 files that are captured from at a time", shown(path));
                Cause { kind: "limit", why, step: Some(format!("--pid {}", process.pid)) }
            }
        }
    }

    /// The option that names this file.
    fn give(&self, process: &Process, path: &Path, program: bool) -> Option<String> {
        let kind = if program { TargetKind::Executable } else { TargetKind::Library };
        let option = self.option(kind).or_else(|| self.option(TargetKind::Executable))?;
        let path = if process::has_own_mounts(process.pid) { through(process.pid, path) } else { path.into() };
        Some(format!("--{option} {}", shown(&path)))
    }

    fn none(&self, process: &Process) -> Cause {
        let (exe, deleted) = match &process.exe {
            Ok(exe) => exe,
            Err(error) => {
                let why = format!("cannot look at it: {}", escape::line(error));
                let step = process.closed.then(|| "run it as root on the host".to_owned());
                return Cause { kind: if process.closed { "closed" } else { "none" }, why, step };
            }
        };
        let mut why = format!("it uses none of: {}", escape::line(self.wanted));
        if !process.libraries {
            why += "; it maps no library, so what it uses is linked into it";
        }
        if let Some((child, path)) = &process.child {
            let step = format!("its child {child} does: {}", escape::line(path));
            return Cause { kind: "none", why, step: Some(step) };
        }
        let step = match process.similar.first() {
            Some(path) => self.give(process, path, path == exe).map(|s| format!("if that is the one: {s}")),
            None if *deleted => Some(format!("restart process {}: what it runs was replaced", process.pid)),
            None => self.give(process, exe, true).map(|s| format!("if it has the functions linked in: {s}")),
        };
        Cause { kind: "none", why, step }
    }
}

fn shown(path: &Path) -> String {
    escape::os(path.as_os_str())
}
