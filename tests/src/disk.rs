//! Disks that are soon full.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A file system of a few bytes, in a directory of its own; gone when dropped.
#[derive(Debug)]
pub struct Tiny(TempDir);

impl Tiny {
    /// One of this size, as mount(8) takes it: `256k`.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn mount(size: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let options = format!("size={size},mode=0755");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        let output = output.map_err(|e| format!("needs mount: {e}"))?;
        match output.status.success() {
            true => Ok(Self(dir)),
            false => Err(format!("needs a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
