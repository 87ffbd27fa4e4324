//! Finds target files: an explicit path, the processes asked for, else running processes and the usual places.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::{Target, TargetKind};

use super::process;

/// Files handed to one module, at most. Each is one scout and one link per program.
pub const MAX_TARGETS: usize = 64;

/// Largest target file, bytes. Chromium with symbols is about 1 GiB.
const MAX_FILE: u64 = 2 << 30;

/// One target file, opened.
#[derive(Debug)]
pub struct Found {
    /// The file itself; what is probed, whatever happens to its path.
    pub file: File,
    /// Path for people.
    pub path: PathBuf,
    /// Device and inode: two paths to one file are one target.
    pub identity: (u64, u64),
    /// How it was found, for people.
    pub how: String,
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The path given by the user cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is a directory, a device, a pipe, or far too large.
    #[error("{path} is not a regular file of at most 2 GiB")]
    NotRegular {
        /// As given.
        path: PathBuf,
    },
    /// No such process.
    #[error("no process has the id {0}")]
    NoProcess(u32),
    /// The process exists, but its files may not be looked at.
    #[error("cannot look at process {pid}: {source}")]
    Process {
        /// Its id.
        pid: u32,
        /// What the system said.
        source: std::io::Error,
    },
    /// A process was named that uses nothing this module knows.
    #[error("process {pid} ({exe}) uses none of: {wanted}")]
    NotUsed {
        /// Its id.
        pid: u32,
        /// Its executable.
        exe: String,
        /// What the module looks for.
        wanted: String,
    },
    /// Neither a running process nor a usual path.
    #[error("found none of: {wanted} (looked at running processes and {places})")]
    Nothing {
        /// Names that were looked for.
        wanted: String,
        /// Paths that were looked at.
        places: String,
    },
}

/// Finds the files that a module's targets mean. `explicit` are paths from the command line, `pids` the processes asked
/// for (empty: all). Never empty when it is `Ok`.
///
/// # Errors
/// The first thing asked for by the user that cannot be had; or that there is nothing.
pub fn discover(targets: &[Target], explicit: &[PathBuf], pids: &[u32]) -> Result<Vec<Found>, TargetError> {
    let mut found = Vec::new();
    for path in explicit {
        let file = open(path).map_err(|source| TargetError::Open { path: path.clone(), source })?;
        let Some(one) = keep(file, path.clone(), "given") else {
            return Err(TargetError::NotRegular { path: path.clone() });
        };
        add(&mut found, one);
    }
    if !explicit.is_empty() {
        return Ok(found);
    }
    for &pid in pids {
        of_named_process(targets, pid, &mut found)?;
    }
    if !pids.is_empty() {
        return Ok(found);
    }
    for pid in process::all() {
        of_process(targets, pid, &mut found);
    }
    let places: BTreeSet<&str> = targets.iter().flat_map(|t| t.paths.iter().map(String::as_str)).collect();
    for place in &places {
        let path = Path::new(place);
        if let Ok(file) = open(path)
            && let Some(one) = keep(file, path.into(), "usual place")
        {
            add(&mut found, one);
        }
    }
    if found.is_empty() {
        let places = places.into_iter().collect::<Vec<_>>().join(", ");
        return Err(TargetError::Nothing { wanted: wanted(targets), places });
    }
    Ok(found)
}

/// A process that the user named: what does not fit is an error, not a miss.
fn of_named_process(targets: &[Target], pid: u32, found: &mut Vec<Found>) -> Result<(), TargetError> {
    if !process::exists(pid) {
        return Err(TargetError::NoProcess(pid));
    }
    let exe = process::exe_path(pid).map_err(|source| TargetError::Process { pid, source })?;
    // Children count as well (a shell that starts the server), and they may be there already.
    let mut any = false;
    for pid in process::with_children(&[pid]) {
        any |= of_process(targets, pid, found);
    }
    if any {
        return Ok(());
    }
    Err(TargetError::NotUsed { pid, exe: exe.display().to_string(), wanted: wanted(targets) })
}

/// Adds what this process runs or maps of the targets; true if there was anything.
fn of_process(targets: &[Target], pid: u32, found: &mut Vec<Found>) -> bool {
    let Ok(exe) = process::exe_path(pid) else { return false };
    let how = format!("process {pid}");
    let mut any = false;
    for target in targets {
        match target.kind {
            TargetKind::Executable => {
                if names(&target.names, &exe)
                    && let Ok(file) = process::open_exe(pid)
                    && let Some(one) = keep(file, exe.clone(), &how)
                {
                    add(found, one);
                    any = true;
                }
            }
            TargetKind::Library => {
                for path in process::mapped_files(pid).into_iter().filter(|p| names(&target.sonames, p)) {
                    // As the process sees it: its own root, which may be a container's.
                    let through = PathBuf::from(format!("/proc/{pid}/root{}", path.display()));
                    if let Ok(file) = open(&through)
                        && let Some(one) = keep(file, path, &how)
                    {
                        add(found, one);
                        any = true;
                    }
                }
            }
        }
    }
    any
}

fn names(wanted: &[String], path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|name| wanted.iter().any(|w| w == name))
}

fn wanted(targets: &[Target]) -> String {
    let names: BTreeSet<&str> =
        targets.iter().flat_map(|t| t.names.iter().chain(&t.sonames)).map(String::as_str).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Opens without ever waiting: a pipe or a device in place of a file must not hold us up.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn keep(file: File, path: PathBuf, how: &str) -> Option<Found> {
    let meta: fs::Metadata = file.metadata().ok()?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return None;
    }
    Some(Found { identity: (meta.dev(), meta.ino()), file, path, how: how.into() })
}

fn add(found: &mut Vec<Found>, one: Found) {
    if found.len() < MAX_TARGETS && found.iter().all(|f| f.identity != one.identity) {
        found.push(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executables(names: &[&str], paths: &[&str]) -> Vec<Target> {
        vec![Target {
            kind: TargetKind::Executable,
            names: names.iter().map(ToString::to_string).collect(),
            sonames: Vec::new(),
            paths: paths.iter().map(ToString::to_string).collect(),
            option: None,
        }]
    }

    #[test]
    fn an_explicit_path_wins_over_everything() {
        let found = discover(&executables(&["nothing"], &[]), &["/bin/true".into()], &[]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].how, "given");
    }

    #[test]
    fn says_what_is_wrong_with_an_explicit_path() {
        let missing = discover(&[], &["/nowhere/at/all".into()], &[]).unwrap_err();
        assert!(matches!(missing, TargetError::Open { .. }), "{missing}");
        let directory = discover(&[], &["/".into()], &[]).unwrap_err();
        assert!(matches!(directory, TargetError::NotRegular { .. }), "{directory}");
    }

    #[test]
    fn two_paths_to_one_file_are_one_target() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "x").unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(discover(&[], &[a, b], &[]).unwrap().len(), 1);
    }

    #[test]
    fn finds_the_executable_of_a_running_process() {
        let me = std::env::current_exe().unwrap();
        let name = me.file_name().unwrap().to_str().unwrap();
        let found = discover(&executables(&[name], &[]), &[], &[std::process::id()]).unwrap();
        assert_eq!(found[0].path, me);
    }

    #[test]
    fn a_process_that_does_not_fit_is_an_error_that_names_it() {
        let error = discover(&executables(&["mariadbd"], &[]), &[], &[std::process::id()]).unwrap_err();
        assert!(error.to_string().contains("mariadbd"), "{error}");
        assert!(matches!(discover(&[], &[], &[u32::MAX]).unwrap_err(), TargetError::NoProcess(_)));
    }

    #[test]
    fn nothing_found_says_what_was_looked_for_and_where() {
        let text = discover(&executables(&["no-such-program"], &["/no/such/path"]), &[], &[]).unwrap_err().to_string();
        assert!(text.contains("no-such-program") && text.contains("/no/such/path"), "{text}");
    }
}
