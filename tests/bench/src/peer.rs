//! bpftrace, and how to see from outside that a probe is in place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Modules, pid};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// A place in a running program, seen through its memory.
pub struct Place {
    memory: File,
    address: u64,
}

impl Place {
    /// File offset `offset` of `file` in the process.
    pub fn new(process: u32, file: &Path, offset: u64) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("maps");
        let address = maps.lines().filter(|l| l.ends_with(&file.display().to_string())).find_map(|line| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            let first = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
            (first..first + (end - start)).contains(&offset).then(|| start + offset - first)
        });
        let memory = File::open(format!("/proc/{process}/mem")).expect("memory of the process");
        Self { memory, address: address.expect("the place is mapped") }
    }

    /// Whether a breakpoint is there.
    pub fn is_armed(&self) -> bool {
        let mut byte = [0];
        self.memory.read_at(&mut byte, self.address).expect("memory of the process");
        byte == [0xcc]
    }

    /// Waits for a breakpoint, or for its end.
    pub fn wait(&self, armed: bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.is_armed() != armed {
            assert!(Instant::now() < deadline, "no probe (or one that stays)");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// File offset at which the module's first probe in this file goes.
pub fn first_probe(modules: &Modules, module: &str, file: &Path) -> u64 {
    let output = modules.run(&["module", "plan", module, "--json", "--target", &file.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).expect("a plan");
    plan["targets"][0]["scout"]["placed"][0]["points"][0]["offset"].as_u64().expect("a place")
}

/// A running bpftrace.
pub struct Bpftrace {
    process: Child,
    output: PathBuf,
}

impl Bpftrace {
    /// Starts it; its lines go to `output`. Its buffers are made as large as it takes: 4 MiB a processor.
    pub fn start(program: &str, output: &Path) -> Self {
        let process = Command::new("bpftrace")
            .arg("-o")
            .arg(output)
            .args(["-e", program])
            .env("BPFTRACE_STRLEN", "200")
            .env("BPFTRACE_PERF_RB_PAGES", "1024")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bpftrace (package bpftrace)");
        Self { process, output: output.to_owned() }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as Ctrl-C does and gives the number of lines that have `mark`.
    pub fn stop(&mut self, mark: &str) -> u64 {
        kill_process(pid(self.process.id()), Signal::INT).expect("signal");
        self.process.wait().expect("wait");
        lines(&self.output, mark)
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lines of a file that have `mark`.
pub fn lines(file: &Path, mark: &str) -> u64 {
    let text = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter(|l| l.contains(mark)).count() as u64
}
