//! A child under the broker's eyes: its control channel, its stderr, its end.

use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::channel::Channel;
use crate::failure::Failure;
use crate::sandbox::{Child, Role, turn};

/// Lines of a child's stderr that are shown; a module that shouts must not drown the log.
const SHOWN_LINES: usize = 50;
/// Longest line shown, in characters.
const SHOWN_CHARS: usize = 400;

/// One child process.
pub struct Attended {
    /// For messages: `worker of mysql`.
    pub name: String,
    channel: Channel,
    process: std::process::Child,
    stderr: Option<JoinHandle<()>>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended(pub ExitStatus);

impl Ended {
    /// Killed with SIGKILL: by somebody else, or for lack of memory; not by what it was working on.
    #[must_use]
    pub fn was_killed(self) -> bool {
        self.0.signal() == Some(libc::SIGKILL)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.signal(), self.0.code()) {
            (Some(libc::SIGSEGV), _) => f.write_str("crashed (SIGSEGV)"),
            (Some(libc::SIGABRT), _) => f.write_str("aborted (SIGABRT)"),
            (Some(libc::SIGSYS), _) => f.write_str("was stopped at a system call that it may not make (SIGSYS)"),
            (Some(libc::SIGXCPU), _) => {
                f.write_str("hung and was stopped: it kept the processor without a pause (SIGXCPU)")
            }
            (Some(libc::SIGKILL), _) => f.write_str("was killed (SIGKILL)"),
            (Some(signal), _) => write!(f, "was killed by signal {signal}"),
            (_, code) => write!(f, "ended with code {}", code.unwrap_or_default()),
        }
    }
}

impl Attended {
    /// Starts a child. From the main thread only: the kernel kills a child when the *thread* that made it ends.
    ///
    /// # Errors
    /// `E-CHILD` with what failed.
    pub fn start(role: Role, name: String, start: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<Self, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new("E-CHILD", format!("cannot start the {name}: {e}"));
        let text = serde_json::to_vec(start).map_err(|e| failed(&e))?;
        let Child { control, stderr, process, .. } = Child::spawn(role, &text, fds).map_err(|e| failed(&e))?;
        let channel = Channel::new(control).map_err(|e| failed(&e))?;
        let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(|e| failed(&e))?;
        let stderr = Some(tokio::spawn(relay(name.clone(), stderr)));
        Ok(Self { name, channel, process, stderr })
    }

    /// The next message; `None` when the child has gone (or speaks nonsense, which counts as gone).
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        match self.channel.receive().await {
            Ok(message) => message,
            Err(e) => {
                tracing::error!("{}: what it says makes no sense: {e}", self.name);
                self.kill();
                None
            }
        }
    }

    /// Sends one message. A child that does not read is hung and will be found so by whoever waits for its answer.
    pub fn send(&self, message: &impl Serialize) {
        if let Err(e) = self.channel.send(message) {
            tracing::debug!("{}: cannot be told anything: {e}", self.name);
        }
    }

    /// Sends one message with a descriptor.
    pub fn send_with_file(&self, message: &impl Serialize, file: BorrowedFd<'_>) {
        if let Err(e) = self.channel.send_with_file(message, file) {
            tracing::debug!("{}: cannot be given a file: {e}", self.name);
        }
    }

    /// Sends what it had no room for before.
    pub fn flush(&self) {
        if let Err(e) = self.channel.flush() {
            tracing::debug!("{}: cannot be told anything: {e}", self.name);
        }
    }

    /// Gives it its turn: see [`turn`].
    pub fn grant_turn(&self) {
        turn::grant(self.process.id());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
    }

    /// Waits for its end; kills it if that takes longer than `patience`.
    ///
    /// # Errors
    /// Of `waitpid`.
    pub async fn ended(&mut self, patience: Duration) -> std::io::Result<Ended> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Some(status) = self.process.try_wait()? {
                // What it said last is shown before anybody speaks of its end.
                if let Some(stderr) = self.stderr.take() {
                    let _ = tokio::time::timeout(Duration::from_millis(200), stderr).await;
                }
                return Ok(Ended(status));
            }
            if tokio::time::Instant::now() > deadline {
                self.kill();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Shows what a child writes to stderr, bounded and harmless for a terminal.
async fn relay(name: String, stderr: pipe::Receiver) {
    let mut reader = BufReader::new(stderr);
    let (mut line, mut shown, mut buffer) = (Vec::new(), 0, [0u8; 4096]);
    loop {
        let n = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        for byte in &buffer[..n] {
            if *byte != b'\n' {
                if line.len() < 4 * SHOWN_CHARS {
                    line.push(*byte);
                }
                continue;
            }
            show(&name, &line, &mut shown);
            line.clear();
        }
    }
    if !line.is_empty() {
        show(&name, &line, &mut shown);
    }
}

fn show(name: &str, line: &[u8], shown: &mut usize) {
    *shown += 1;
    match *shown {
        n if n <= SHOWN_LINES => tracing::warn!("{name}: {}", printable(&String::from_utf8_lossy(line))),
        n if n == SHOWN_LINES + 1 => tracing::warn!("{name}: (it writes more to stderr, which is not shown)"),
        _ => {}
    }
}

/// Text of a child for the terminal: one line, no control characters, not too long.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
