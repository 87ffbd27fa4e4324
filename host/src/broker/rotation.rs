//! Rotation: the next file of an output, opened when the collector asks for it.
//!
//! `-w out.jsonl` becomes `out.20261123T101112Z.000001.jsonl`, `….000002.jsonl` and so on: the time at which the file was begun, in UTC,
//! and its number in the run, so that names sort in the order in which they were written, over several runs as well. No file
//! is ever renamed, and none that is there already is written to or removed.
//!
//! The directory is opened once, before anything is attached: what its name means later, and who may walk to it, does not
//! matter. The collector, which reads what targets said, has a say in when, and in nothing else.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::attend::Attended;
use super::outputs::Output;
use crate::protocol::ToCollector;
use crate::sink::time::compact;

/// Names that are tried for one file: somebody else's may be there.
const TRIES: u32 = 1000;
/// Files that an output may get in a second, and at once. A file is at least 1 MiB, so no disk needs more.
const RATE: f64 = 100.0;
const BURST: f64 = 200.0;

/// The files of one output.
#[derive(Debug)]
pub struct Series {
    dir: OwnedFd,
    stem: OsString,
    ending: OsString,
    keep: Option<usize>,
    number: u64,
    /// Those that are there, oldest first, with device and inode: another one of that name is none of ours.
    files: VecDeque<(OsString, u64, u64)>,
    allowance: f64,
    refilled: Instant,
}

impl Series {
    /// For the file of this name; opens its directory. `keep`: most files that are kept of a run.
    ///
    /// # Errors
    /// The directory cannot be opened, or the path names no file.
    pub fn new(path: &Path, keep: Option<usize>) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, parent, flags, Mode::empty())?;
        let ending = path.extension().map_or_else(OsString::new, |e| [OsStr::new("."), e].into_iter().collect());
        let stem = path.file_stem().unwrap_or(name).to_owned();
        let (files, allowance, refilled) = (VecDeque::new(), BURST, Instant::now());
        Ok(Self { dir, stem, ending, keep: keep.map(|n| n.max(1)), number: 0, files, allowance, refilled })
    }

    /// Whether opening the next file takes CAP_DAC_OVERRIDE: the directory is somebody else's, who lets nobody in.
    pub fn needs_override(&self) -> bool {
        let Ok(stat) = fstat(&self.dir) else { return false };
        let bits = match () {
            () if stat.st_uid == geteuid().as_raw() => stat.st_mode >> 6,
            () if stat.st_gid == getegid().as_raw() => stat.st_mode >> 3,
            () => stat.st_mode,
        };
        bits & 0o3 != 0o3
    }

    /// Opens the next file, and removes the oldest if there are as many as are kept.
    ///
    /// # Errors
    /// Of openat(2); `EAGAIN`: they are asked for faster than anybody can fill them.
    pub fn next(&mut self) -> io::Result<OwnedFd> {
        let (now, before) = (Instant::now(), self.refilled);
        self.allowance = (self.allowance + now.duration_since(before).as_secs_f64() * RATE).min(BURST);
        self.refilled = now;
        if self.allowance < 1.0 {
            return Err(Errno::AGAIN.into());
        }
        self.allowance -= 1.0;
        // Before the next one is there, since that may be for want of the room that this one takes.
        while self.keep.is_some_and(|keep| self.files.len() >= keep) {
            self.remove_oldest();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        for _ in 0..TRIES {
            self.number += 1;
            let mut name = self.stem.clone();
            name.push(format!(".{}.{:06}", compact(time), self.number));
            name.push(&self.ending);
            match openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    let stat = fstat(&file)?;
                    self.files.push_back((name, stat.st_dev, stat.st_ino));
                    return Ok(file);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => {
                    self.number -= 1;
                    return Err(errno.into());
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    fn remove_oldest(&mut self) {
        let Some((name, dev, ino)) = self.files.pop_front() else { return };
        let ours =
            statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| (s.st_dev, s.st_ino) == (dev, ino));
        // Somebody may have moved it away; that is what files are for.
        if ours && let Err(errno) = unlinkat(&self.dir, &name, AtFlags::empty()) {
            tracing::warn!("{}: cannot be removed: {}", name.display(), io::Error::from(errno));
        }
    }
}

/// The outputs of a run that are rotated.
#[derive(Debug, Default)]
pub struct Rotation(Vec<Option<Series>>);

impl Rotation {
    /// Takes over the series of these outputs.
    pub fn of(outputs: &mut [Output]) -> Self {
        Self(outputs.iter_mut().map(|output| output.series.take()).collect())
    }

    /// Whether a later file takes CAP_DAC_OVERRIDE.
    pub fn needs_override(&self) -> bool {
        self.0.iter().flatten().any(Series::needs_override)
    }

    /// The collector asks for the next file of an output.
    pub fn answer(&mut self, output: usize, collector: &Attended) {
        let Some(series) = self.0.get_mut(output).and_then(Option::as_mut) else {
            return tracing::error!("the collector asks for a file of an output that is not rotated");
        };
        match series.next() {
            Ok(file) => collector.send_with_file(&ToCollector::File { output, refused: None }, file.as_fd()),
            Err(e) => {
                let refused = Some(e.raw_os_error().unwrap_or(libc::EIO));
                collector.send(&ToCollector::File { output, refused });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_private_new_and_sorted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::new(&dir.path().join("out.jsonl"), None).unwrap();
        for number in 1..=3u8 {
            std::fs::File::from(series.next().unwrap()).write_all(&[number]).unwrap();
        }
        let names = names(dir.path());
        assert_eq!(names.len(), 3);
        for (number, name) in (1u8..).zip(&names) {
            let path = dir.path().join(name);
            assert_eq!(std::fs::read(&path).unwrap(), [number], "{names:?}");
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
            assert!(name.starts_with("out.20") && name.ends_with(&format!("Z.00000{number}.jsonl")), "{name}");
        }
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::new(&dir.path().join("out"), Some(1)).unwrap();
        let first = {
            drop(series.next().unwrap());
            names(dir.path()).remove(0)
        };
        // The names that come next, for some seconds: links and files of somebody else.
        let (start, _) = first.rsplit_once('.').unwrap();
        let taken = dir.path().join(format!("{start}.000002"));
        symlink("/dev/null", &taken).unwrap();
        std::fs::write(dir.path().join(format!("{start}.000003")), "other").unwrap();
        drop(series.next().unwrap());
        assert!(taken.is_symlink());
        let names = names(dir.path());
        assert!(!names.contains(&first) && names.len() == 3, "{names:?}");
        // One that was moved away and replaced is not ours any more.
        let ours = dir.path().join(&series.files[0].0);
        std::fs::rename(&ours, dir.path().join("kept")).unwrap();
        std::fs::write(&ours, "other").unwrap();
        drop(series.next().unwrap());
        assert_eq!(std::fs::read(&ours).unwrap(), b"other");
    }

    #[test]
    fn only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::new(&dir.path().join("out.x.json"), Some(2)).unwrap();
        for _ in 0..5 {
            drop(series.next().unwrap());
        }
        let names = names(dir.path());
        assert!(
            names.len() == 2 && names[0].ends_with(".000004.json") && names[1].ends_with(".000005.json"),
            "{names:?}"
        );
        assert!(names[0].starts_with("out.x.20"), "{names:?}");
    }

    #[test]
    fn the_directory_is_the_one_of_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&before).unwrap();
        let mut series = Series::new(&before.join("out"), None).unwrap();
        std::fs::rename(&before, &after).unwrap();
        std::fs::create_dir(&before).unwrap();
        drop(series.next().unwrap());
        assert_eq!((names(&before).len(), names(&after).len()), (0, 1));
        std::fs::remove_dir_all(&after).unwrap();
        assert_eq!(series.next().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Series::new(Path::new("/nowhere/out"), None).is_err());
        assert!(Series::new(Path::new("/"), None).is_err());
    }

    #[test]
    fn a_collector_that_asks_without_end_gets_no_files_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::new(&dir.path().join("out"), None).unwrap();
        let got = (0..2000).filter(|_| series.next().is_ok()).count();
        assert!((200..1000).contains(&got), "{got}");
    }

    #[test]
    fn a_directory_of_somebody_else_takes_a_right() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        let series = Series::new(&dir.path().join("out"), None).unwrap();
        assert!(!series.needs_override());
        mode(0o500);
        assert!(series.needs_override());
        if geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
            mode(0o755);
            assert!(series.needs_override());
            mode(0o777);
            assert!(!series.needs_override());
        }
    }
}
