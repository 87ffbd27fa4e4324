//! Opening the modules directory and the files in it.
//!
//! The path is walked one component at a time, each opened with `O_NOFOLLOW` relative to the one before, and the trust
//! judged on the descriptors that were opened: there is no moment at which a name is judged and another file used.
//! What must not live here: reading a file's contents.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::escape;
use super::refusal::{Code, Refusal};
use super::trust::{Owned, Trust};

/// Where modules are installed.
pub const DEFAULT_DIR: &str = "/usr/lib/ecapture/modules";

/// At most this many module files of a directory are looked at, the first ones by name.
pub const MAX_FILES: usize = 1024;

/// At most this many entries of a directory are read at all: a wrong `--modules-dir` must not cost minutes.
pub const MAX_DIR_ENTRIES: usize = 65_536;

/// Where to look for modules, and how strictly. Made only by [`Search::new`], which keeps the two in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    dir: PathBuf,
    allow_untrusted: bool,
}

/// The modules directory cannot be used as asked. A directory that is not there is not an error.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// `--allow-untrusted` without a directory of its own: it would silently weaken the installed modules.
    #[error("--allow-untrusted needs --modules-dir DIR: it never applies to {DEFAULT_DIR}")]
    UntrustedDefault,
    /// A component is a symbolic link. Not followed: what a link points to can change between two looks.
    #[error("{} is a symbolic link (to {}): give --modules-dir the real path", escape::os(.path.as_os_str()), escape::os(.to.as_os_str()))]
    Link {
        /// The path up to the link.
        path: PathBuf,
        /// What it points to.
        to: PathBuf,
    },
    /// A component is a file.
    #[error("{} is not a directory", escape::os(.0.as_os_str()))]
    NotADirectory(PathBuf),
    /// A component could not be opened, or the directory not be read.
    #[error("cannot open the modules directory: {}: {source}", escape::os(.path.as_os_str()))]
    Open {
        /// The path up to the component.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl Search {
    /// A search in `dir` (`--modules-dir`), else in [`DEFAULT_DIR`].
    ///
    /// # Errors
    /// [`SearchError::UntrustedDefault`] when untrusted files are allowed and no directory is named.
    pub fn new(dir: Option<PathBuf>, allow_untrusted: bool) -> Result<Self, SearchError> {
        match dir {
            None if allow_untrusted => Err(SearchError::UntrustedDefault),
            None => Ok(Self { dir: PathBuf::from(DEFAULT_DIR), allow_untrusted: false }),
            Some(dir) => Ok(Self { dir, allow_untrusted }),
        }
    }

    /// The directory, as given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether files that somebody other than root could have put there may run (as `tainted`).
    pub fn allow_untrusted(&self) -> bool {
        self.allow_untrusted
    }
}

/// The modules directory, open.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    allow_untrusted: bool,
    problem: Option<String>,
}

/// The names that a directory holds.
#[derive(Debug, Default)]
pub struct Names {
    /// `libecap_*.so`, sorted by their bytes.
    pub files: Vec<OsString>,
    /// What the limits left out, in words.
    pub notes: Vec<String>,
}

/// One file, opened or not, with its trust. Holds the only descriptor of the file; it closes on drop.
#[derive(Debug)]
pub struct Candidate {
    /// The full path, for messages only: it is never opened again by this name.
    pub path: PathBuf,
    /// The TRUST column.
    pub trust: Trust,
    /// Why not `owner`: which step of the path, and what is wrong with it.
    pub trust_problem: Option<String>,
    /// The file, or why it cannot be one.
    pub opened: Result<Opened, Refusal>,
}

/// An open regular file.
#[derive(Debug)]
pub struct Opened {
    /// Opened for reading.
    pub file: File,
    /// Its size when it was opened.
    pub size: u64,
    /// Device and inode: two names of one file are one module.
    pub id: (u64, u64),
}

impl Directory {
    /// Opens the directory of `search`; `None` if it, or a directory on the way to it, does not exist.
    ///
    /// # Errors
    /// A component that is a link or a file, or that cannot be opened.
    pub fn open(search: &Search) -> Result<Option<Self>, SearchError> {
        let wanted = std::path::absolute(&search.dir)
            .map_err(|source| SearchError::Open { path: search.dir.clone(), source })?;
        let mut path = PathBuf::from("/");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |path: &Path, errno: Errno| SearchError::Open { path: path.to_owned(), source: errno.into() };
        let mut fd =
            openat(rustix::fs::CWD, "/", flags, Mode::empty()).map_err(|errno| failed(Path::new("/"), errno))?;
        let mut problem = step_problem(&path, &fstat(&fd).map_err(|errno| failed(&path, errno))?);
        for component in wanted.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            path.push(name);
            let next = match openat(&fd, name, flags, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_directory(&fd, name, &path)),
                Err(errno) => return Err(failed(&path, errno)),
            };
            let stat = fstat(&next).map_err(|errno| failed(&path, errno))?;
            problem = problem.or_else(|| step_problem(&path, &stat));
            fd = next;
        }
        // An O_PATH descriptor cannot list. "." of it is the same directory, whatever the names say by now.
        let fd = openat(&fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(&path, errno))?;
        Ok(Some(Self { fd, path, allow_untrusted: search.allow_untrusted, problem }))
    }

    /// The absolute path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who else than root could put a module there, if anybody.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The module files, by name. Other files are none of ours and are passed over in silence.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(&self) -> Result<Names, SearchError> {
        let failed = |errno: Errno| SearchError::Open { path: self.path.clone(), source: errno.into() };
        let mut names = Names::default();
        let mut seen = 0usize;
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            seen += 1;
            if seen > MAX_DIR_ENTRIES {
                names.notes.push(format!(
                    "{} holds more than {MAX_DIR_ENTRIES} entries; the rest was not looked at",
                    escape::os(self.path.as_os_str())
                ));
                break;
            }
            let name = entry.file_name().to_bytes();
            if is_module_name(name) {
                names.files.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.files.sort_unstable();
        if names.files.len() > MAX_FILES {
            names.notes.push(format!(
                "{} holds {} module files; only the first {MAX_FILES} by name were looked at",
                escape::os(self.path.as_os_str()),
                names.files.len()
            ));
            names.files.truncate(MAX_FILES);
        }
        Ok(names)
    }

    /// Opens one file of the directory. Anything but a regular file comes back as a refusal, without having been opened:
    /// opening a device or a pipe can have effects.
    pub fn candidate(&self, name: &OsStr) -> Candidate {
        let path = self.path.join(name);
        let mut problem = self.problem.clone();
        let opened = self.open_file(name, &path, &mut problem);
        let trust = if problem.is_none() { Trust::Owner } else { Trust::Tainted };
        Candidate { path, trust, trust_problem: problem, opened }
    }

    fn open_file(&self, name: &OsStr, path: &Path, problem: &mut Option<String>) -> Result<Opened, Refusal> {
        let unreadable = |errno: Errno| {
            let remedy = if errno == Errno::ACCESS {
                "list as root, or make the file readable: chmod a+r"
            } else {
                "install the file again"
            };
            Refusal::new(Code::Elf, format!("cannot be opened: {}", std::io::Error::from(errno)), remedy)
        };
        let mut follow = OFlags::NOFOLLOW;
        let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => {
                let link = self.link(name, path, &stat, problem)?;
                follow = link;
            }
            other => {
                *problem = problem.take().or_else(|| step_problem(path, &stat));
                return Err(Refusal::new(
                    Code::Elf,
                    format!("is {}, not a regular file", kind(other)),
                    "remove it: a module is a regular file",
                ));
            }
        }
        // O_NONBLOCK: should the name have become a pipe since the look above, the open must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | follow;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(unreadable)?;
        let stat = fstat(&fd).map_err(unreadable)?;
        *problem = problem.take().or_else(|| step_problem(path, &stat));
        let found = FileType::from_raw_mode(stat.st_mode);
        if found != FileType::RegularFile {
            return Err(Refusal::new(
                Code::Elf,
                format!("is {}, not a regular file", kind(found)),
                "remove it: a module is a regular file",
            ));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Opened { file: File::from(fd), size, id: (stat.st_dev, stat.st_ino) })
    }

    /// A link is followed only where untrusted files are allowed anyway (`target/debug` is full of them); what it points to
    /// has a path of its own that nobody has judged.
    fn link(&self, name: &OsStr, path: &Path, stat: &Stat, problem: &mut Option<String>) -> Result<OFlags, Refusal> {
        let to = readlinkat(&self.fd, name, Vec::new()).map(|to| OsString::from_vec(to.into_bytes()));
        let to = to.map_or_else(|_| "?".to_owned(), |to| escape::os(&to));
        if matches!(statat(&self.fd, name, AtFlags::empty()), Err(Errno::NOENT | Errno::LOOP)) {
            // A link's own mode says nothing; its owner does.
            let owned = Owned { uid: stat.st_uid, mode: 0 };
            *problem = problem.take().or_else(|| owned.problem().map(|what| format!("{} {what}", shown(path))));
            return Err(Refusal::new(
                Code::Elf,
                format!("is a symbolic link to {to}, which is not there"),
                "remove the link, or copy the module's file in its place",
            ));
        }
        let what = format!("{} is a symbolic link to {to}", shown(path));
        *problem = problem.take().or(Some(what));
        if self.allow_untrusted {
            return Ok(OFlags::empty());
        }
        Err(Refusal::new(
            Code::Trust,
            format!("is a symbolic link to {to}: who can change what it points to is not judged"),
            "copy the module's file in the link's place",
        ))
    }
}

fn is_module_name(name: &[u8]) -> bool {
    name.strip_prefix(b"libecap_").and_then(|rest| rest.strip_suffix(b".so")).is_some()
}

fn shown(path: &Path) -> String {
    escape::os(path.as_os_str())
}

fn step_problem(path: &Path, stat: &Stat) -> Option<String> {
    Owned { uid: stat.st_uid, mode: stat.st_mode }.problem().map(|what| format!("{} {what}", shown(path)))
}

fn not_a_directory(parent: &OwnedFd, name: &OsStr, path: &Path) -> SearchError {
    match readlinkat(parent, name, Vec::new()) {
        Ok(to) => SearchError::Link { path: path.to_owned(), to: OsStr::from_bytes(to.as_bytes()).into() },
        Err(_) => SearchError::NotADirectory(path.to_owned()),
    }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile | FileType::Unknown => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests;
