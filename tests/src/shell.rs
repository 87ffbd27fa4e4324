//! A private copy of a shell, with a directory that it may write to.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The user and group that shells of tests run as: nobody and nogroup.
pub const NOBODY: u32 = 65534;

/// The copy, under its own name.
pub struct Shell {
    dir: TempDir,
    name: &'static str,
}

impl Shell {
    /// Of this binary.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn of(name: &'static str, binary: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-shell-").tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        std::fs::copy(binary, dir.path().join(name)).unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let shell = Self { dir, name };
        std::fs::create_dir(shell.home()).expect("directory");
        chown(shell.home(), Some(NOBODY), Some(NOBODY)).expect("chown");
        shell
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The copy.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.dir.path().join(self.name)
    }

    /// The same, as text.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn text(&self) -> String {
        self.binary().to_str().expect("a path that is text").into()
    }

    /// Where it runs.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Has a command run as nobody, in the shell's directory, with next to no environment.
    pub fn prepare(&self, command: &mut Command) {
        command.current_dir(self.home()).uid(NOBODY).gid(NOBODY).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.home()).env("LC_ALL", "C.UTF-8");
    }
}
