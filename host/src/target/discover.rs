//! Finds target files: an explicit path, the processes asked for, else running processes and the usual places.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::{Target, TargetKind};

use super::process::{self, Mapped};

/// Files handed to one module, at most. Each is one scout and one link per program.
pub const MAX_TARGETS: usize = 64;

/// Largest target file, bytes. Chromium with symbols is about 1 GiB.
const MAX_FILE: u64 = 2 << 30;

/// `statfs` of an overlay file system.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// One target file, opened.
#[derive(Debug)]
pub struct Found {
    /// The file itself; what is probed, whatever happens to its path.
    pub file: File,
    /// Path for people; of a process in another root, as that process sees it.
    pub path: PathBuf,
    /// Two paths to one file are one target.
    pub identity: FileId,
    /// How it was found, for people.
    pub how: String,
    /// It is what processes run, not a library that they map.
    pub program: bool,
    /// The process that it was found through, if it was.
    pub pid: Option<u32>,
}

impl Found {
    /// It was found through a process with mounts of its own, such as a container's.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.pid.is_some_and(process::has_own_mounts)
    }
}

/// What tells one file from another, and a file from what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    overlay: bool,
}

impl FileId {
    /// Of an open file.
    ///
    /// # Errors
    /// Of `fstat`.
    pub fn of(file: &File) -> std::io::Result<Self> {
        let meta = file.metadata()?;
        let overlay = rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == OVERLAY_MAGIC);
        Ok(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            overlay,
        })
    }

    /// The same file, while one of the two is held open.
    ///
    /// Two containers of one image show one file under two devices, each its own overlay, and the kernel puts the probes of
    /// both into the one below: probed twice, it would say everything twice. Such twins have all but the device in common, the
    /// time of the last change in nanoseconds included.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
            || (self.overlay || other.overlay)
                && (self.ino, self.size, self.modified, self.changed)
                    == (other.ino, other.size, other.modified, other.changed)
    }

    /// Its inode: what is cheap to compare first.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.ino
    }

    /// Still with the bytes that it had. (Its number of links may be another one: that changes no byte.)
    #[must_use]
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        (self.size, self.modified) == (other.size, other.modified)
    }
}

/// What is done about something that is not there yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Later {
    /// Programs and libraries may come later.
    pub files: bool,
    /// Processes that were asked for may start others.
    pub children: bool,
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
/// for (empty: all), `inside` files that are targets by what is in them. Empty only if something may come `later`.
///
/// # Errors
/// The first thing asked for by the user that cannot be had; or that there is nothing.
pub fn discover(
    targets: &[Target],
    explicit: &[PathBuf],
    pids: &[u32],
    inside: Vec<Found>,
    later: Later,
) -> Result<Vec<Found>, TargetError> {
    let mut found = Vec::new();
    if !explicit.is_empty() {
        for path in explicit {
            add(&mut found, explicit_file(targets, path)?);
        }
        return Ok(found);
    }
    for &pid in pids {
        let here = of_named_process(targets, pid, &inside, later)?;
        here.into_iter().for_each(|one| add(&mut found, one));
    }
    inside.into_iter().for_each(|one| add(&mut found, one));
    if !pids.is_empty() {
        return Ok(found);
    }
    for pid in process::all() {
        of_process(targets, pid).into_iter().for_each(|one| add(&mut found, one));
    }
    in_usual_places(targets).into_iter().for_each(|one| add(&mut found, one));
    if found.is_empty() && !later.files {
        let places = usual_places(targets).into_iter().collect::<Vec<_>>().join(", ");
        return Err(TargetError::Nothing { wanted: wanted(targets), places });
    }
    Ok(found)
}

/// A file that the user named.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn explicit_file(targets: &[Target], path: &Path) -> Result<Found, TargetError> {
    let file = open(path).map_err(|source| TargetError::Open { path: path.into(), source })?;
    let program = targets.iter().all(|t| t.kind == TargetKind::Executable);
    keep(file, path.into(), "given", program, None).ok_or_else(|| TargetError::NotRegular { path: path.into() })
}

fn usual_places(targets: &[Target]) -> BTreeSet<&str> {
    targets.iter().flat_map(|t| t.paths.iter().map(String::as_str)).collect()
}

/// What is in the usual places now.
#[must_use]
pub fn in_usual_places(targets: &[Target]) -> Vec<Found> {
    let mut found = Vec::new();
    for target in targets {
        let program = target.kind == TargetKind::Executable;
        for place in &target.paths {
            let file = open(Path::new(place)).ok();
            found.extend(file.and_then(|file| keep(file, place.into(), "usual place", program, None)));
        }
    }
    found
}

/// Whether the process, or a child of it, runs or maps any of the targets.
#[must_use]
pub fn fits(targets: &[Target], pid: u32) -> bool {
    process::with_children(&[pid]).into_iter().any(|pid| !of_process(targets, pid).is_empty())
}

/// A process that the user named: what does not fit is an error, not a miss, unless it may still come.
fn of_named_process(targets: &[Target], pid: u32, inside: &[Found], later: Later) -> Result<Vec<Found>, TargetError> {
    if !process::exists(pid) {
        return Err(TargetError::NoProcess(pid));
    }
    let exe = process::exe_path(pid).map_err(|source| TargetError::Process { pid, source })?;
    // Children count as well (a shell that starts the server), and they may be there already.
    let all = process::with_children(&[pid]);
    let found: Vec<Found> = all.iter().flat_map(|pid| of_process(targets, *pid)).collect();
    let inside = inside.iter().any(|f| f.pid.is_some_and(|pid| all.contains(&pid)));
    if found.is_empty() && !inside && !(later.files && later.children) {
        return Err(TargetError::NotUsed { pid, exe: exe.display().to_string(), wanted: wanted(targets) });
    }
    Ok(found)
}

/// What this process runs or maps of the targets.
#[must_use]
pub fn of_process(targets: &[Target], pid: u32) -> Vec<Found> {
    let mut found = Vec::new();
    let Ok(exe) = process::exe_path(pid) else { return found };
    for target in targets {
        match target.kind {
            TargetKind::Executable => {
                if names(&target.names, &exe)
                    && let Ok(file) = process::open_exe(pid)
                {
                    let how = format!("process {pid}");
                    found.extend(keep(file, exe.clone(), &how, true, Some(pid)));
                }
            }
            TargetKind::Library => {
                for mapped in process::mapped_files(pid).into_iter().filter(|m| names(&target.sonames, &m.path)) {
                    if let Ok(file) = open_mapped(&mapped) {
                        let gone = if mapped.deleted { ", which maps it though it is gone" } else { "" };
                        found.extend(keep(file, mapped.path, &format!("process {pid}{gone}"), false, Some(pid)));
                    }
                }
            }
        }
    }
    found
}

/// Texts, one of which a file must have in it to be a target under any name: a program, or a library.
#[must_use]
pub fn contained(targets: &[Target], program: bool) -> Vec<String> {
    let of_kind = targets.iter().filter(|t| (t.kind == TargetKind::Executable) == program);
    of_kind.flat_map(|t| t.contains.iter().cloned()).collect()
}

/// A file that may be a target by what is in it.
#[derive(Debug)]
pub struct Unnamed {
    /// Device and inode, as the process's mapping has them.
    pub id: (u64, u64),
    /// The file.
    pub found: Found,
}

/// What this process runs or maps under a name that no target has, and what may be one by what is in it. `fresh` says of device
/// and inode whether the file is to be looked at: not every file is opened at every look.
pub fn unnamed(targets: &[Target], pid: u32, mut fresh: impl FnMut((u64, u64)) -> bool) -> Vec<Unnamed> {
    let wanted =
        |program: bool| targets.iter().any(|t| (t.kind == TargetKind::Executable) == program && !t.contains.is_empty());
    let mut found = Vec::new();
    let (true, Ok(exe)) = (wanted(true) || wanted(false), process::exe_path(pid)) else { return found };
    let named =
        |path: &Path, program: bool| targets.iter().any(|t| names(if program { &t.names } else { &t.sonames }, path));
    for mapped in process::mapped_files(pid) {
        let program = mapped.path == exe;
        if !wanted(program) || named(&mapped.path, program) || !fresh(mapped.id) {
            continue;
        }
        let file = if program { process::open_exe(pid) } else { open_mapped(&mapped) };
        if let Err(error) = &file {
            tracing::debug!("not looked through: {} of process {pid}: {error}", mapped.path.display());
        }
        let file = file.ok().and_then(|file| keep(file, mapped.path, &format!("process {pid}"), program, Some(pid)));
        found.extend(file.map(|found| Unnamed { id: mapped.id, found }));
    }
    found
}

/// Whether the last part of the path is one of these names, which may end with a `*`.
#[must_use]
pub fn names(wanted: &[String], path: &Path) -> bool {
    let fits = |name: &str, wanted: &String| match wanted.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == wanted,
    };
    path.file_name().and_then(|n| n.to_str()).is_some_and(|name| wanted.iter().any(|w| fits(name, w)))
}

/// Names of the targets, for people.
#[must_use]
pub fn wanted(targets: &[Target]) -> String {
    let names: BTreeSet<&str> =
        targets.iter().flat_map(|t| t.names.iter().chain(&t.sonames)).map(String::as_str).collect();
    let contained: BTreeSet<&str> = targets.iter().flat_map(|t| &t.contains).map(String::as_str).collect();
    let names = names.into_iter().map(str::to_owned);
    names.chain(contained.into_iter().map(|text| format!("files with {text:?} in them"))).collect::<Vec<_>>().join(", ")
}

/// Opens without ever waiting: a pipe or a device in place of a file must not hold us up.
///
/// # Errors
/// Of `open`.
pub fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Opens what a process maps. Its path may lead somewhere else by now, through a link or a mount that was put in its place: then
/// only the mapping itself will do. (In file systems laid over one another the mapping has another inode than the path.)
fn open_mapped(mapped: &Mapped) -> std::io::Result<File> {
    let file = open(&mapped.through)?;
    let id = FileId::of(&file)?;
    if mapped.deleted || id.overlay || id.ino == mapped.id.1 { Ok(file) } else { open(&mapped.mapping) }
}

fn keep(file: File, path: PathBuf, how: &str, program: bool, pid: Option<u32>) -> Option<Found> {
    let meta: fs::Metadata = file.metadata().ok()?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return None;
    }
    Some(Found { identity: FileId::of(&file).ok()?, file, path, how: how.into(), program, pid })
}

fn add(found: &mut Vec<Found>, one: Found) {
    if found.len() < MAX_TARGETS && found.iter().all(|f| !f.identity.is(&one.identity)) {
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
            contains: Vec::new(),
            paths: paths.iter().map(ToString::to_string).collect(),
            option: None,
        }]
    }

    #[test]
    fn an_explicit_path_wins_over_everything() {
        let found = discover(&executables(&["nothing"], &[]), &["/bin/true".into()], &[], Vec::new(), Later::default())
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].how, "given");
    }

    #[test]
    fn says_what_is_wrong_with_an_explicit_path() {
        let missing = discover(&[], &["/nowhere/at/all".into()], &[], Vec::new(), Later::default()).unwrap_err();
        assert!(matches!(missing, TargetError::Open { .. }), "{missing}");
        let directory = discover(&[], &["/".into()], &[], Vec::new(), Later::default()).unwrap_err();
        assert!(matches!(directory, TargetError::NotRegular { .. }), "{directory}");
    }

    #[test]
    fn two_paths_to_one_file_are_one_target() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "x").unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(discover(&[], &[a, b], &[], Vec::new(), Later::default()).unwrap().len(), 1);
    }

    #[test]
    fn finds_the_executable_of_a_running_process() {
        let me = std::env::current_exe().unwrap();
        let name = me.file_name().unwrap().to_str().unwrap();
        let found =
            discover(&executables(&[name], &[]), &[], &[std::process::id()], Vec::new(), Later::default()).unwrap();
        assert_eq!(found[0].path, me);
    }

    #[test]
    fn a_process_that_does_not_fit_is_an_error_that_names_it() {
        let error =
            discover(&executables(&["mariadbd"], &[]), &[], &[std::process::id()], Vec::new(), Later::default())
                .unwrap_err();
        assert!(error.to_string().contains("mariadbd"), "{error}");
        assert!(matches!(
            discover(&[], &[], &[u32::MAX], Vec::new(), Later::default()).unwrap_err(),
            TargetError::NoProcess(_)
        ));
    }

    #[test]
    fn nothing_found_says_what_was_looked_for_and_where_unless_it_may_come() {
        let nothing = executables(&["no-such-program"], &["/no/such/path"]);
        let text = discover(&nothing, &[], &[], Vec::new(), Later::default()).unwrap_err().to_string();
        assert!(text.contains("no-such-program") && text.contains("/no/such/path"), "{text}");
        let (files, all) = (Later { files: true, children: false }, Later { files: true, children: true });
        assert!(discover(&nothing, &[], &[], Vec::new(), files).unwrap().is_empty());
        let me = [std::process::id()];
        assert!(matches!(discover(&nothing, &[], &me, Vec::new(), files), Err(TargetError::NotUsed { .. })));
        assert!(discover(&nothing, &[], &me, Vec::new(), all).unwrap().is_empty());
        // A file that was named is there or is not.
        assert!(discover(&nothing, &["/no/such/path".into()], &[], Vec::new(), all).is_err());
    }

    #[test]
    fn files_without_a_name_are_those_that_no_target_names_and_each_once() {
        let me = std::process::id();
        let target = |kind, names: &[&str], sonames: &[&str]| Target {
            kind,
            sonames: sonames.iter().map(ToString::to_string).collect(),
            contains: vec!["some text".to_owned()],
            ..executables(names, &[]).remove(0)
        };
        let paths = |targets: &[Target]| -> Vec<(bool, String)> {
            let found = unnamed(targets, me, |_| true);
            found.into_iter().map(|f| (f.found.program, f.found.path.display().to_string())).collect()
        };
        let exe = std::env::current_exe().unwrap();
        let program = target(TargetKind::Executable, &[], &[]);
        assert_eq!(paths(std::slice::from_ref(&program)), [(true, exe.display().to_string())]);
        assert!(paths(&executables(&[], &[])).is_empty(), "nothing is asked about what is in files");
        let named = target(TargetKind::Executable, &[exe.file_name().unwrap().to_str().unwrap()], &[]);
        assert!(paths(&[named]).is_empty(), "it has a name already");
        let libraries = paths(&[target(TargetKind::Library, &[], &["libc.so.*"])]);
        assert!(libraries.iter().all(|(program, path)| !program && !path.contains("libc.so")), "{libraries:?}");
        assert!(!libraries.is_empty(), "the loader, for one");
        assert!(unnamed(&[program], me, |_| false).is_empty());
    }

    #[test]
    fn a_last_asterisk_stands_for_anything() {
        let wanted = ["libssl.so.*".to_owned(), "libcrypto.so.3".to_owned()];
        assert!(names(&wanted, Path::new("/usr/lib/libssl.so.1.1")));
        assert!(names(&wanted, Path::new("/usr/lib/libcrypto.so.3")));
        assert!(!names(&wanted, Path::new("/usr/lib/libcrypto.so.31")));
        assert!(!names(&wanted, Path::new("/usr/lib/libssl3.so")));
    }

    #[test]
    fn a_path_that_leads_elsewhere_by_now_is_not_what_is_mapped() {
        let me = std::process::id();
        let libc =
            process::mapped_files(me).into_iter().find(|m| m.path.to_string_lossy().contains("libc.so")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/bin/true", &link).unwrap();
        let elsewhere = Mapped { through: link, ..libc.clone() };
        // Without the capabilities for it there is nothing; with them, the mapping.
        if let Ok(file) = open_mapped(&elsewhere) {
            assert_eq!(FileId::of(&file).unwrap(), FileId::of(&open(&libc.through).unwrap()).unwrap());
        }
    }

    #[test]
    fn one_file_in_two_overlays_is_one_and_a_copy_is_another() {
        let one = FileId { dev: 1, ino: 7, size: 9, modified: (5, 1), changed: (6, 2), overlay: true };
        assert!(one.is(&FileId { dev: 2, ..one }));
        assert!(!one.is(&FileId { dev: 2, changed: (6, 3), ..one }));
        assert!(!one.is(&FileId { ino: 8, ..one }));
        let plain = FileId { overlay: false, ..one };
        assert!(!plain.is(&FileId { dev: 2, ..plain }), "a snapshot of a file system has all but the device in common");
        assert!(plain.is(&FileId { size: 10, ..plain }) && !plain.has_bytes_of(&FileId { size: 10, ..plain }));
        assert!(plain.has_bytes_of(&FileId { changed: (9, 9), ..plain }), "a rename changes no byte");
    }
}
