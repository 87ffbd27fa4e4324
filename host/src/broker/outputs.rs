//! Opens the files that events are written to. The collector has no right to open anything.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::rotation::Series;
use crate::cli::{Rotation, RunOptions};
use crate::failure::{Exit, Failure};
use crate::sink::{Format, Rotate};

/// An output as it is handed to the collector.
#[derive(Debug)]
pub struct Output {
    /// Written to by the collector.
    pub fd: OwnedFd,
    /// For messages: `stdout` or the path.
    pub name: String,
    /// Colours make sense.
    pub terminal: bool,
    /// From the shell, and so shared with others; not opened here.
    pub inherited: bool,
    /// Written in this way, whatever the others are.
    pub format: Option<Format>,
    /// Where its next files come from, if it is rotated.
    pub series: Option<Series>,
    /// When they come.
    pub rotate: Option<Rotate>,
}

/// Opens what `-w` names, or stdout, and what `--keylog-file` and `--record` name. Files are created with mode 0600, and never through a symbolic link: the program
/// runs as root, and the directory may be anybody's.
///
/// With rotation each file of `-w` is the first of a series, and has a name of it; see [`super::rotation`].
///
/// # Errors
/// `E-OUTPUT` with the path and the cause.
pub fn open(options: &RunOptions) -> Result<Vec<Output>, Failure> {
    let mut outputs =
        if options.only_keylog() { Vec::new() } else { writes(&options.writes, options.rotation.as_ref())? };
    if options.format == Format::Pcapng
        && let Some(terminal) = outputs.iter().find(|output| output.fd.is_terminal())
    {
        let text = format!("a capture file is not for reading, and {} is a terminal", terminal.name);
        let remedy = "write it to a file (-w out.pcapng), or into a program that reads it (-w - | tshark -r -)";
        return Err(Failure::new("E-OUTPUT", text).remedy(remedy).exit(Exit::Usage));
    }
    if let Some(path) = &options.keylog_file {
        let output = if path == Path::new("-") { stdout()? } else { keylog(path)? };
        outputs.push(Output { format: Some(Format::Keylog), ..output });
    }
    if let Some(path) = &options.record {
        tracing::warn!("a recording holds everything as it was captured, passwords included: {}", path.display());
        outputs.push(Output { format: Some(Format::Recording), ..file(path)? });
    }
    Ok(outputs)
}

/// What `-w` names, or stdout.
///
/// # Errors
/// `E-OUTPUT` with the path and the cause.
pub fn writes(writes: &[PathBuf], rotation: Option<&Rotation>) -> Result<Vec<Output>, Failure> {
    let open = |path: &PathBuf| match rotation {
        _ if path == Path::new("-") => stdout(),
        Some(rotation) => first(path, rotation),
        None => file(path),
    };
    match writes {
        [] => Ok(vec![stdout()?]),
        writes => writes.iter().map(open).collect(),
    }
}

/// The first file of a series.
fn first(path: &Path, rotation: &Rotation) -> Result<Output, Failure> {
    let mut series = Series::new(path, rotation.keep).map_err(|e| refuse(path, &e))?;
    let fd = series.next().map_err(|e| refuse(path, &e))?;
    let name = path.display().to_string();
    let rotate = Some(rotation.rotate);
    Ok(Output { fd, name, terminal: false, inherited: false, format: None, series: Some(series), rotate })
}

fn stdout() -> Result<Output, Failure> {
    let out = io::stdout();
    let fd = out.as_fd().try_clone_to_owned().map_err(|e| {
        Failure::new("E-OUTPUT", format!("stdout cannot be used: {e}")).remedy("is it closed? use -w FILE")
    })?;
    let (name, terminal) = ("stdout".into(), out.is_terminal());
    Ok(Output { fd, name, terminal, inherited: true, format: None, series: None, rotate: None })
}

/// Emptied, and then always written at its end: if others empty it meanwhile, as logrotate does, there is no hole before what
/// comes next.
fn file(path: &Path) -> Result<Output, Failure> {
    let mut how = OpenOptions::new();
    opened(path, how.append(true).create(true), libc::O_TRUNC).map(|file| output(path, file))
}

/// A key log: others may be writing to it too, and what is in it is of use still. A last line without an end is given one.
fn keylog(path: &Path) -> Result<Output, Failure> {
    let mut how = OpenOptions::new();
    let file = opened(path, how.append(true).create(true), 0)?;
    // A pipe or a device is taken as it is.
    if file.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
        let mut last = [0];
        let mut reader = opened(path, OpenOptions::new().read(true), 0)?;
        let read = reader.seek(SeekFrom::End(-1)).and_then(|_| reader.read_exact(&mut last));
        read.and_then(|()| if last == *b"\n" { Ok(()) } else { (&file).write_all(b"\n") })
            .map_err(|e| refuse(path, &e))?;
    }
    Ok(output(path, file))
}

fn opened(path: &Path, how: &mut OpenOptions, more: libc::c_int) -> Result<File, Failure> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | more;
    how.mode(0o600).custom_flags(flags).open(path).map_err(|e| refuse(path, &e))
}

fn output(path: &Path, file: File) -> Output {
    Output {
        fd: file.into(),
        name: path.display().to_string(),
        terminal: false,
        inherited: false,
        format: None,
        series: None,
        rotate: None,
    }
}

fn refuse(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new("E-OUTPUT", format!("cannot write to {}: {error}", path.display()));
    match error.raw_os_error() {
        Some(libc::ELOOP) => failure.remedy("it is a symbolic link; name the file itself"),
        Some(libc::ENXIO) => failure.remedy("it is a pipe that nobody reads; start the reader first"),
        Some(libc::ENOENT) => failure.remedy("the directory does not exist; create it first"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn files_are_private_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("out"), dir.path().join("link"));
        let outputs = writes(&[path.clone(), "-".into()], None).unwrap();
        assert_eq!(outputs.len(), 2);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        symlink(&path, &link).unwrap();
        let failure = writes(std::slice::from_ref(&link), None).unwrap_err();
        assert_eq!(failure.code, "E-OUTPUT");
        assert!(failure.remedy.unwrap().contains("symbolic link"));
        assert_eq!(keylog(&link).unwrap_err().code, "E-OUTPUT");
    }

    #[test]
    fn a_key_log_is_private_and_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        for line in ["one\n", "two", "three\n"] {
            let output = keylog(&path).unwrap();
            File::from(output.fd).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let failure = writes(&["/nowhere/at/all".into()], None).unwrap_err();
        assert!(failure.message.contains("/nowhere/at/all"), "{failure}");
    }
}
