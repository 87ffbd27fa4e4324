//! What an engine makes a container of: a root of its own, mounts and process ids of its own, a control group with an id in
//! its name. Made by hand, so that no engine is needed.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory tree that a process can have as its root.
pub struct Root {
    dir: TempDir,
}

impl Root {
    /// A root that holds `program` as `place` (an absolute path), and the libraries that it needs.
    ///
    /// # Panics
    /// If anything cannot be copied.
    #[must_use]
    pub fn with(program: &Path, place: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-root-").tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        let root = Self { dir };
        root.copy(program, place);
        let output = Command::new("ldd").arg(program).output().expect("ldd");
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
            root.copy(Path::new(word), word);
        }
        for folder in ["proc", "tmp", "etc"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        std::fs::set_permissions(root.path().join("tmp"), PermissionsExt::from_mode(0o1777)).expect("permissions");
        root
    }

    /// Copies a file to a place in it.
    ///
    /// # Panics
    /// If that fails.
    pub fn copy(&self, from: &Path, place: &str) {
        let to = self.path().join(place.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(from, &to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a program of it, with mounts and process ids of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--root"]).arg(self.path()).args(args);
        Running::new(command)
    }
}

/// Two or more roots that share their files: overlays, as engines give them to containers of one image. The mounts are in
/// the namespace of the process alone.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn start_over(image: &Root, own: &Path, args: &[&str]) -> Running {
    let folder = |name: &str| {
        let path = own.join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path.display().to_string()
    };
    let (upper, work, merged) = (folder("upper"), folder("work"), folder("merged"));
    let script = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={upper},workdir={work} {merged} && \
         exec unshare --pid --fork --kill-child --root {merged} \"$@\"",
        image.path().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).args(args);
    Running::new(command)
}

/// A process that is stopped when dropped, and what it started with it.
pub struct Running(Child);

impl Running {
    fn new(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"))
    }

    /// Waits for its end; its exit code.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn wait(&mut self) -> Option<i32> {
        self.0.wait().expect("wait").code()
    }

    /// Ends it at once, and what it has started: a server that becomes another user is not asked to end with its parent.
    pub fn kill(&mut self) {
        let pid = self.0.id();
        let started = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in started.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            // The first of its process ids: the kernel ends the others.
            let _ = kill_process(child, Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A control group (v2), removed when dropped.
pub struct Group(PathBuf);

impl Group {
    /// Where control groups are.
    #[must_use]
    pub fn hierarchy() -> Option<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        line.split(' ').nth(1).map(PathBuf::from)
    }

    /// The reason why control groups cannot be tested here, if there is one.
    #[must_use]
    pub fn missing() -> Option<String> {
        let Some(hierarchy) = Self::hierarchy() else { return Some("needs cgroup v2".into()) };
        let probe = hierarchy.join(format!("ecapture-probe-{}", std::process::id()));
        match std::fs::create_dir(&probe) {
            Ok(()) => {
                let _ = std::fs::remove_dir(&probe);
                None
            }
            Err(e) => Some(format!("needs a writable cgroup v2: {e}")),
        }
    }

    /// A new one at the top.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ecapture-{}-{number}-{name}", std::process::id());
        Self::at(Self::hierarchy().expect("cgroup v2").join(name))
    }

    /// A new one in this one.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self::at(self.0.join(name))
    }

    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The same, as text.
    ///
    /// # Panics
    /// If it is no text.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_str().expect("a path that is text").into()
    }

    /// Runs a program in it to its end; its process id.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, program: &Path, args: &[&str]) -> u32 {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        let mut child =
            Command::new("sh").args(["-c", &script, "sh"]).arg(program).args(args).spawn().expect("sh starts");
        let pid = child.id();
        assert!(child.wait().expect("wait").success());
        pid
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may be on its way out still.
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
