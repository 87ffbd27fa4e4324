//! Opens the files that events are written to. The collector has no right to open anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

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
}

/// Opens what `-w` names, or stdout. Files are created with mode 0600, and never through a symbolic link: the program
/// runs as root, and the directory may be anybody's.
///
/// # Errors
/// `E-OUTPUT` with the path and the cause.
pub fn open(writes: &[PathBuf], record: Option<&Path>) -> Result<Vec<Output>, Failure> {
    let open = |path: &PathBuf| if path == Path::new("-") { stdout() } else { file(path) };
    let mut outputs = match writes {
        [] => vec![stdout()?],
        writes => writes.iter().map(open).collect::<Result<_, _>>()?,
    };
    if let Some(path) = record {
        outputs.push(Output { recording: true, ..file(path)? });
    }
    Ok(outputs)
}

fn stdout() -> Result<Output, Failure> {
    use io::IsTerminal;
    let out = io::stdout();
    let fd = out.as_fd().try_clone_to_owned().map_err(|e| {
        Failure::new("E-OUTPUT", format!("stdout cannot be used: {e}")).remedy("is it closed? use -w FILE")
    })?;
    Ok(Output { fd, name: "stdout".into(), terminal: out.is_terminal(), inherited: true, recording: false })
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
        let outputs = open(&[path.clone(), "-".into()], None).unwrap();
        assert_eq!(outputs.len(), 2);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        symlink(&path, &link).unwrap();
        let failure = open(&[link], None).unwrap_err();
        assert_eq!(failure.code, "E-OUTPUT");
        assert!(failure.remedy.unwrap().contains("symbolic link"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let failure = open(&["/nowhere/at/all".into()], None).unwrap_err();
        assert!(failure.message.contains("/nowhere/at/all"), "{failure}");
    }
}
