//! Builds, and where the results are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The modules of this tree.
pub const MODULES: &[&str] = &["bash", "mysql", "openssl", "postgres", "zsh"];

/// Top of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// cargo, in the source tree.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs a command that must succeed.
pub fn must(command: &mut Command) -> Result<()> {
    eprintln!("xtask: {}", shown(command));
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(name).chain(command.get_args()).map(|w| w.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

/// Modules that only tests use.
const FIXTURES: &[&str] =
    &["ecapture-fixture-bench", "ecapture-fixture-evil", "ecapture-fixture-tls-ready", "ecapture-fixture-wrapped"];

/// Builds what the end-to-end tests use: host, modules, fixtures.
pub fn for_tests() -> Result<PathBuf> {
    let mut command = cargo(&["build", "--release"]);
    for fixture in FIXTURES {
        command.args(["-p", fixture]);
    }
    must(&mut command)?;
    release()
}

/// Builds the host and the modules in release mode; gives the directory that holds them.
pub fn release() -> Result<PathBuf> {
    let mut command = cargo(&["build", "--release", "-p", "ecapture"]);
    for module in MODULES {
        command.args(["-p", &format!("ecapture-module-{module}")]);
    }
    must(&mut command)?;
    Ok(target_dir().join("release"))
}

/// cargo's target directory.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
