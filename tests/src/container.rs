//! Programs that run as in a container: their own root, their own mounts, and no way back.
//!
//! The mounts belong to the program's mount namespace and go away with it. What the kernel then says about the program
//! (`/proc/PID/exe`, `/proc/PID/maps`) are paths inside its root, which mean nothing, or something else, outside.

use std::path::Path;
use std::process::Command;

/// Makes `$0` the root and runs the rest there. The old root stays mounted on `/old`, where only this program sees it: to
/// take it away would need a program in the new root.
const ENTER: &str =
    "mount --bind \"$0\" \"$0\" && cd \"$0\" && mkdir -p old && pivot_root . old && cd / && exec \"$@\"";

/// A command that runs `program` (a path inside of `root`) in a mount namespace whose root is `root`. The process that is
/// spawned becomes the program. Needs root, and keeps it: the program is to give it up itself.
#[must_use]
pub fn command(root: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", ENTER]).arg(root).arg(program).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// A path inside of a process's root, as it can be opened from outside.
#[must_use]
pub fn through(pid: u32, path: &str) -> std::path::PathBuf {
    format!("/proc/{pid}/root{path}").into()
}
