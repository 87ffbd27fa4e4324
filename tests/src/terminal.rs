//! A terminal with a shell at it: what is typed, and what is shown.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::shell::NOBODY;

/// A shell at a terminal of its own.
pub struct Session {
    process: Child,
    terminal: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    /// Starts a shell; `prepare` is given the command for user and environment.
    ///
    /// # Panics
    /// If there is no terminal to be had.
    #[must_use]
    pub fn start(shell: &Path, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
        grantpt(&terminal).expect("terminal");
        unlockpt(&terminal).expect("terminal");
        let name = ptsname(&terminal, Vec::new()).expect("terminal").into_string().expect("terminal");
        chown(&name, Some(NOBODY), None).expect("chown of the terminal");
        let end = || File::options().read(true).write(true).open(&name).expect("terminal");
        // Gives it the terminal as its own, which takes a system call between fork and exec.
        let mut command = Command::new("setsid");
        // What was ignored when a shell started stays ignored in what it runs, as SIGINT is in a job in the background.
        command.args(["--ctty", "--wait", "env", "--default-signal"]);
        command.arg(shell).args(args);
        prepare(&mut command);
        let process = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid (package util-linux)");
        let terminal = File::from(terminal);
        let mut reader = terminal.try_clone().expect("terminal");
        let (to, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if to.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { process, terminal, output, seen: String::new() }
    }

    /// Waits until this has been shown, and forgets all up to there.
    ///
    /// # Panics
    /// If it is not within 20 s.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?}; shown: {:?}", self.seen);
            match self.output.recv_timeout(Duration::from_millis(50)) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(e) => panic!("{e} before {text:?}; shown: {:?}", self.seen),
            }
        }
    }

    /// Types this.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn press(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).expect("terminal");
    }

    /// Types a line and waits until it has been echoed, and the prompt shown again.
    pub fn line(&mut self, line: &str, prompt: &str) {
        self.press(line.as_bytes());
        self.press(b"\r");
        self.wait_for("\n");
        self.wait_for(prompt);
    }

    /// Waits until a program of this name has the terminal: only then do keys like Ctrl-C mean it.
    ///
    /// # Panics
    /// If none has within 20 s.
    pub fn wait_until_runs(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
            let foreground = stat.rsplit(')').next()?.split_whitespace().nth(5)?.to_owned();
            Some(std::fs::read_to_string(format!("/proc/{foreground}/comm")).ok()?.trim_end() == name)
        };
        while runs() != Some(true) {
            assert!(Instant::now() < deadline, "no {name} at the terminal");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the shell itself sleeps, so waits for a key. A key that makes a signal throws away what was typed
    /// and not yet read, and readline misses a signal that comes just before it sleeps.
    ///
    /// # Panics
    /// If it does not within 20 s.
    pub fn wait_until_idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let idle = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
            Some(stat.rsplit(')').next()?.trim_start().starts_with('S'))
        };
        while idle() != Some(true) {
            assert!(Instant::now() < deadline, "the shell does not wait for a key");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within 20 s.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.process.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "the shell does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
