//! What a process runs and maps, and which of it a capture would find. Only names and numbers of `/proc`; nothing is read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::Target;

use crate::target::discover::{self, MAX_TARGETS, explicit_file, in_usual_places, names, of_process};
use crate::target::{FileId, Found, TargetError, process};

/// Files that look similar, at most, of one process.
const MAX_SIMILAR: usize = 5;
/// Mark of the kernel behind a path that leads to this file no more.
const DELETED: &str = " (deleted)";

/// A file that fits by its name and still is not captured from.
#[derive(Debug)]
pub enum Miss {
    /// Its path is gone, or leads to another file by now.
    Deleted(PathBuf),
    /// It cannot be opened in the process's own root.
    Closed(PathBuf, String),
    /// Files were given, and it is none of them.
    Other(PathBuf),
    /// There is no room for so many files.
    Beyond(PathBuf),
}

/// One process.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Name, as the kernel has it.
    pub comm: String,
    /// What it runs, and whether that file is deleted; or why that cannot be known.
    pub exe: Result<(PathBuf, bool), String>,
    /// Nobody lets us see what it runs.
    pub closed: bool,
    /// Numbers of the files that it uses.
    pub uses: Vec<usize>,
    /// What it nearly uses.
    pub misses: Vec<Miss>,
    /// What it runs or maps that has a similar name.
    pub similar: Vec<PathBuf>,
    /// It maps libraries.
    pub libraries: bool,
    /// A child of it that uses one of the targets.
    pub child: Option<(u32, String)>,
}

/// The files that a capture would begin with, each once.
pub struct Files<'t> {
    targets: &'t [Target],
    given: bool,
    found: Vec<Found>,
    /// Files that were found by themselves, or by what is in them, not by the name that a process has for them.
    own: usize,
    stems: Vec<String>,
}

impl<'t> Files<'t> {
    /// Those that were given, or those in the usual places and those that are targets by what is `inside`.
    pub fn new(targets: &'t [Target], given: &[PathBuf], inside: Vec<Found>) -> Result<Self, TargetError> {
        let explicit = given.iter().map(|path| explicit_file(targets, path)).collect::<Result<Vec<_>, _>>()?;
        let mut first = if given.is_empty() { in_usual_places(targets) } else { explicit };
        first.extend(inside);
        let mut files = Self { targets, given: !given.is_empty(), found: Vec::new(), own: 0, stems: stems(targets) };
        for one in first {
            let _ = files.add(one);
        }
        files.own = files.found.len();
        Ok(files)
    }

    /// Its number, if there is room for it.
    fn add(&mut self, one: Found) -> Result<usize, PathBuf> {
        match self.found.iter().position(|f| f.identity.is(&one.identity)) {
            Some(at) => Ok(at),
            None if self.found.len() >= MAX_TARGETS => Err(one.path),
            None => {
                self.found.push(one);
                Ok(self.found.len() - 1)
            }
        }
    }

    /// Looks at a process; `closely` if it was named.
    pub fn process(&mut self, pid: u32, closely: bool) -> Process {
        let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm).trim_end_matches('\n').to_owned();
        let link = fs::read_link(format!("/proc/{pid}/exe"));
        let closed = link.as_ref().is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        let exe = link.map(|link| without_mark(&link)).map_err(|e| e.to_string());
        let mut process = Process {
            pid,
            comm,
            exe,
            closed,
            uses: Vec::new(),
            misses: Vec::new(),
            similar: Vec::new(),
            libraries: false,
            child: None,
        };
        if process.exe.is_err() {
            return process;
        }
        if !self.given {
            for one in of_process(self.targets, pid) {
                match self.add(one) {
                    Ok(at) => process.uses.push(at),
                    Err(path) => process.misses.push(Miss::Beyond(path)),
                }
            }
        }
        let mapped: Vec<(PathBuf, bool)> =
            process::mapped_files(pid).into_iter().map(|mapped| (mapped.path, mapped.deleted)).collect();
        self.by_identity(&mut process, &mapped);
        process.uses.sort_unstable();
        process.uses.dedup();
        self.misses(&mut process, &mapped);
        process.libraries =
            mapped.iter().any(|(p, _)| p.file_name().is_some_and(|n| lossy(n.as_ref()).contains(".so")));
        if closely && process.uses.is_empty() {
            self.similar(&mut process, &mapped);
            let children = process::with_children(&[pid]).into_iter().skip(1);
            let user = children.map(|child| (child, of_process(self.targets, child)));
            process.child =
                user.filter_map(|(child, found)| Some((child, found.first()?.path.display().to_string()))).next();
        }
        process
    }

    /// A given file, or one of a usual place, may be used under any name.
    fn by_identity(&self, process: &mut Process, mapped: &[(PathBuf, bool)]) {
        let own = self.found.get(..self.own).unwrap_or_default();
        let exe = process::open_exe(process.pid).ok().and_then(|file| FileId::of(&file).ok());
        if let Some(id) = exe {
            process.uses.extend(own.iter().position(|f| f.identity.is(&id)));
        }
        for (path, _) in mapped.iter().filter(|(_, deleted)| !deleted) {
            let through = through(process.pid, path);
            let inode = fs::metadata(&through).ok().filter(fs::Metadata::is_file).map(|m| m.ino());
            if !own.iter().any(|f| Some(f.identity.inode()) == inode) {
                continue;
            }
            let id = discover::open(&through).ok().and_then(|file| FileId::of(&file).ok());
            process.uses.extend(id.and_then(|id| own.iter().position(|f| f.identity.is(&id))));
        }
    }

    fn misses(&self, process: &mut Process, mapped: &[(PathBuf, bool)]) {
        let exe = process.exe.iter().map(|(path, deleted)| (path, *deleted, true));
        let all = exe.chain(mapped.iter().map(|(path, deleted)| (path, *deleted, false)));
        let mut misses = Vec::new();
        let mut seen: Vec<&Path> = Vec::new();
        for (path, deleted, program) in all {
            let fits = self.targets.iter().any(|t| names(if program { &t.names } else { &t.sonames }, path));
            let was_own = |f: &Found| self.given && deleted && f.path == *path;
            if !(fits || self.found.iter().any(was_own)) || seen.contains(&path.as_path()) {
                continue;
            }
            seen.push(path);
            let used = |at: &usize| self.found.get(*at).is_some_and(|f| f.path == *path || f.program == program);
            match discover::open(&through(process.pid, path)) {
                // What a process runs is opened through the process itself, deleted or not.
                _ if program && process.uses.iter().any(used) => {}
                _ if deleted && (!program || self.given) => misses.push(Miss::Deleted(path.clone())),
                _ if self.given && !self.is_given(process.pid, path) => misses.push(Miss::Other(path.clone())),
                Err(e) if !program => misses.push(Miss::Closed(path.clone(), e.to_string())),
                _ => {}
            }
        }
        process.misses.extend(misses);
    }

    fn is_given(&self, pid: u32, path: &Path) -> bool {
        let id = discover::open(&through(pid, path)).ok().and_then(|file| FileId::of(&file).ok());
        id.is_some_and(|id| self.found.iter().any(|f| f.identity.is(&id)))
    }

    fn similar(&self, process: &mut Process, mapped: &[(PathBuf, bool)]) {
        let named = |path: &Path| {
            let name = path.file_name().map(|n| lossy(n.as_ref()).to_lowercase()).unwrap_or_default();
            self.stems.iter().any(|stem| name.contains(stem.as_str()))
        };
        let exe = process.exe.iter().map(|(path, _)| path);
        let mut all: Vec<PathBuf> = exe.chain(mapped.iter().map(|(path, _)| path)).cloned().collect();
        let missed = |path: &PathBuf| {
            process.misses.iter().any(|m| match m {
                Miss::Deleted(p) | Miss::Closed(p, _) | Miss::Other(p) | Miss::Beyond(p) => p == path,
            })
        };
        all.retain(|path| named(path) && !missed(path));
        all.dedup();
        all.truncate(MAX_SIMILAR);
        process.similar = all;
    }

    /// The files to be looked at, with their numbers: those that the processes use, with `all` those that nobody uses too.
    pub fn kept(self, processes: &[Process], all: bool) -> Vec<(usize, Found)> {
        let used = |at: &usize| all || processes.iter().any(|p| p.uses.contains(at));
        self.found.into_iter().enumerate().filter(|(at, _)| used(at)).collect()
    }
}

fn lossy(name: &Path) -> String {
    name.to_string_lossy().into_owned()
}

/// A path as the process sees it, from here.
pub fn through(pid: u32, path: &Path) -> PathBuf {
    let mut through = PathBuf::from(format!("/proc/{pid}/root"));
    through.push(path.strip_prefix("/").unwrap_or(path));
    through
}

fn without_mark(path: &Path) -> (PathBuf, bool) {
    match path.to_str().and_then(|text| text.strip_suffix(DELETED)) {
        Some(bare) => (bare.into(), true),
        None => (path.into(), false),
    }
}

/// What names that look similar have in common: `ssl` of `libssl.so.*`, `mysql` of `mysqld`.
fn stems(targets: &[Target]) -> Vec<String> {
    let library = |name: &String| name.strip_prefix("lib").unwrap_or(name).to_owned();
    let program = |name: &String| name.strip_suffix('d').filter(|n| n.len() > 3).unwrap_or(name).to_owned();
    let names = |t: &Target| t.sonames.iter().map(library).chain(t.names.iter().map(program)).collect::<Vec<_>>();
    let mut stems: Vec<String> = targets
        .iter()
        .flat_map(names)
        .map(|name| name.split(['.', '*']).next().unwrap_or_default().trim_matches(['-', '_']).to_lowercase())
        .filter(|stem| stem.len() >= 3)
        .collect();
    stems.sort();
    stems.dedup();
    stems
}

#[cfg(test)]
mod tests {
    use ecapture_plugin_api::manifest::TargetKind;

    use super::*;

    #[test]
    fn similar_is_what_has_the_stem_in_its_name() {
        let target = |kind, names: &[&str], sonames: &[&str]| Target {
            kind,
            names: names.iter().map(ToString::to_string).collect(),
            contains: Vec::new(),
            sonames: sonames.iter().map(ToString::to_string).collect(),
            paths: Vec::new(),
            option: None,
        };
        let targets = [
            target(TargetKind::Library, &[], &["libssl.so.*", "libssl-*", "_rust.abi3.so", "id.so"]),
            target(TargetKind::Executable, &["mysqld", "node"], &[]),
        ];
        assert_eq!(stems(&targets), ["mysql", "node", "rust", "ssl"]);
        assert_eq!(without_mark(Path::new("/a/b (deleted)")), ("/a/b".into(), true));
        assert_eq!(through(7, Path::new("/a/b")), Path::new("/proc/7/root/a/b"));
    }
}
