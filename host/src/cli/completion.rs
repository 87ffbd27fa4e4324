//! Completions for shells, with the commands and options of the modules that are there now.

use clap::{Command, ValueEnum as _};
use clap_complete::Shell;

/// The shells, by the names of `ecapture completion`.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The script that a shell reads; empty for a shell that is none of [`SHELLS`].
pub fn script(mut command: Command, shell: &str) -> String {
    let mut script = Vec::new();
    if let Ok(shell) = Shell::from_str(shell, false) {
        clap_complete::generate(shell, &mut command, "ecapture", &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}
