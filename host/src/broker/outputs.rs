//! Opens the files that events are written to. The collector has no right to open anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::rotation::Series;
use crate::cli::Rotation;
use crate::failure::Failure;
use crate::sink::Rotate;

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
    /// For raw records instead of events.
    pub recording: bool,
    /// Where its next files come from, if it is rotated.
    pub series: Option<Series>,
    /// When they come.
    pub rotate: Option<Rotate>,
}

/// Opens what `-w` names, or stdout. Files are created with mode 0600, and never through a symbolic link: the program
/// runs as root, and the directory may be anybody's.
///
/// `rotation`: each file is the first of a series, and has a name of it; see [`super::rotation`].
///
/// # Errors
/// `E-OUTPUT` with the path and the cause.
pub fn open(writes: &[PathBuf], record: Option<&Path>, rotation: Option<&Rotation>) -> Result<Vec<Output>, Failure> {
    let open = |path: &PathBuf| match rotation {
        _ if path == Path::new("-") => stdout(),
        Some(rotation) => first(path, rotation),
        None => file(path),
    };
    let mut outputs = match writes {
        [] => vec![stdout()?],
        writes => writes.iter().map(open).collect::<Result<_, _>>()?,
    };
    if let Some(path) = record {
        outputs.push(Output { recording: true, ..file(path)? });
    }
    Ok(outputs)
}

/// The first file of a series.
fn first(path: &Path, rotation: &Rotation) -> Result<Output, Failure> {
    let mut series = Series::new(path, rotation.keep).map_err(|e| refuse(path, &e))?;
    let fd = series.next().map_err(|e| refuse(path, &e))?;
    let name = path.display().to_string();
    let rotate = Some(rotation.rotate);
    Ok(Output { fd, name, terminal: false, inherited: false, recording: false, series: Some(series), rotate })
}

fn stdout() -> Result<Output, Failure> {
    use io::IsTerminal;
    let out = io::stdout();
    let fd = out.as_fd().try_clone_to_owned().map_err(|e| {
        Failure::new("E-OUTPUT", format!("stdout cannot be used: {e}")).remedy("is it closed? use -w FILE")
    })?;
    let (name, terminal) = ("stdout".into(), out.is_terminal());
    Ok(Output { fd, name, terminal, inherited: true, recording: false, series: None, rotate: None })
}

fn file(path: &Path) -> Result<Output, Failure> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(path);
    let file: File = opened.map_err(|e| refuse(path, &e))?;
    Ok(Output {
        fd: file.into(),
        name: path.display().to_string(),
        terminal: false,
        inherited: false,
        recording: false,
        series: None,
        rotate: None,
    })
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
        let outputs = open(&[path.clone(), "-".into()], None, None).unwrap();
        assert_eq!(outputs.len(), 2);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        symlink(&path, &link).unwrap();
        let failure = open(&[link], None, None).unwrap_err();
        assert_eq!(failure.code, "E-OUTPUT");
        assert!(failure.remedy.unwrap().contains("symbolic link"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let failure = open(&["/nowhere/at/all".into()], None, None).unwrap_err();
        assert!(failure.message.contains("/nowhere/at/all"), "{failure}");
    }
}
