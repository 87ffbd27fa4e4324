//! Small programs that tests capture from, compiled from `fixtures/targets`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A program in a directory of its own.
pub struct Program {
    dir: TempDir,
    name: String,
}

impl Program {
    /// Compiles `fixtures/targets/SOURCE` and calls it `name`. Functions are exported, and begin with a push as those of
    /// most programs do.
    ///
    /// # Panics
    /// If there is no gcc, or it fails.
    #[must_use]
    pub fn compile(source: &str, name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-target-").tempdir().expect("temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets").join(source);
        let status = Command::new("gcc")
            .args(["-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o"])
            .arg(dir.path().join(name))
            .arg(source)
            .status()
            .expect("gcc");
        assert!(status.success());
        Self { dir, name: name.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// The same, as text.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn text(&self) -> String {
        self.path().to_str().expect("a path that is text").into()
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, args: &[&str]) {
        assert!(Command::new(self.path()).args(args).status().expect("the target starts").success());
    }
}
