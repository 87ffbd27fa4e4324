//! The broker's side of a child: exec of ourselves, the control channel as its stdin, everything else in one message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Role;
use super::channel::{ChannelError, MAX_FDS, send_with_fds};
use super::memfd::sealed_copy;

/// Most bytes of a start message.
pub const MAX_START: usize = 1 << 20;

/// First bytes of the start packet; then the message's length as u64 and the number of descriptors as u32, little
/// endian.
pub(super) const START_MAGIC: [u8; 8] = *b"ecapst01";

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// PDEATHSIG fires when the *thread* that spawned ends, so a child of another thread could die at any time.
    #[error("children can only be spawned from the main thread")]
    NotMainThread,
    /// The start message is longer than 1 MiB.
    #[error("a start message of {0} bytes is too long (at most {MAX_START})")]
    StartTooLong(usize),
    /// More than 252 descriptors (one of a packet's 253 is the message itself).
    #[error("{0} descriptors can't be given to a child (at most {max})", max = MAX_FDS - 1)]
    TooManyFds(usize),
    /// The start message could not be sent: the child ended at once.
    #[error("start message: {0}")]
    Start(#[from] ChannelError),
    /// A system call failed.
    #[error("{call}: {source}")]
    Io {
        /// What was tried.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

fn io_error<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> SpawnError {
    move |e| SpawnError::Io { call, source: e.into() }
}

/// How a child ended. `Exited(0)` is no success by itself: a module can call exit(0). Only a "done" message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// exit status.
    Exited(i32),
    /// Killed by this signal; 31 (SIGSYS) is the seccomp filter on a foreign architecture's calls.
    Killed(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exit {code}"),
            Ended::Killed(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// A running child. The parts are public so that they can be moved into an event loop; whoever drops `control` ends the
/// child (it leaves on end of file), and whoever drops `process` without waiting leaves a zombie until the broker ends.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// SEQPACKET, one message a packet, blocking until [`Child::set_nonblocking`]. Read it with read(2), never
    /// recvmsg(2): see [`super::channel`].
    pub control: OwnedFd,
    /// What it says on stderr. Must be read (bounded) while the child lives: a full pipe blocks it.
    pub stderr: OwnedFd,
    /// Readable once the child has ended; also names it without any race for signals.
    pub pidfd: OwnedFd,
    /// For wait(2).
    pub process: std::process::Child,
}

impl Child {
    /// Starts a child and gives it its start message, from the main thread only (the child dies with the thread that
    /// spawned it).
    ///
    /// `/proc/self/exe` is what runs, so an upgrade on disk can't mix two versions. No environment: neither
    /// LD_LIBRARY_PATH nor anybody's secrets reach module code. stdin is the control channel, stdout /dev/null, stderr
    /// a pipe; nothing else is inherited, since every descriptor of ours is close-on-exec, and the child closes any
    /// other.
    ///
    /// The message (JSON by convention) travels in a sealed memory file that is the packet's first descriptor: a packet
    /// of 256 KiB would need a larger send buffer than an unprivileged broker may set, and one way for all sizes is one
    /// way to test.
    pub fn spawn(role: Role, start: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Child, SpawnError> {
        if rustix::thread::gettid() != rustix::process::getpid() {
            return Err(SpawnError::NotMainThread);
        }
        if start.len() > MAX_START {
            return Err(SpawnError::StartTooLong(start.len()));
        }
        if fds.len() >= MAX_FDS {
            return Err(SpawnError::TooManyFds(fds.len()));
        }
        let message = sealed_copy("ecapture start", start).map_err(io_error("memfd_create"))?;
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io_error("socketpair"))?;
        let mut process = Command::new("/proc/self/exe")
            .arg0(role.argv0())
            .arg(role.name())
            .arg(std::process::id().to_string())
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_error("exec of /proc/self/exe"))?;
        let given = introduce(&process, &control, &message, start.len(), fds);
        match (given, process.stderr.take()) {
            (Ok(pidfd), Some(stderr)) => {
                Ok(Child { pid: process.id(), control, stderr: stderr.into(), pidfd, process })
            }
            (given, _) => {
                // Nobody else knows this process: it must not stay.
                let _ = process.kill();
                let _ = process.wait();
                Err(given.err().unwrap_or(SpawnError::Io { call: "stderr", source: io::ErrorKind::NotFound.into() }))
            }
        }
    }

    /// Whether reads and writes of `control` answer `WouldBlock` instead of waiting. Only our end: the child's stays as
    /// it is.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.control, on)?)
    }

    /// SIGKILL. Fine on a child that has ended already.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits at most `patience` for its end. `Ok(None)`: it still runs.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<Ended>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(Some(match (status.signal(), status.code()) {
                    (Some(signal), _) => Ended::Killed(signal),
                    (None, code) => Ended::Exited(code.unwrap_or(-1)),
                }));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = rustix::event::Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The start message; the answer is the child's pidfd, opened before anybody could have waited for the child.
fn introduce(
    process: &std::process::Child,
    control: &OwnedFd,
    message: &OwnedFd,
    len: usize,
    fds: &[BorrowedFd<'_>],
) -> Result<OwnedFd, SpawnError> {
    let pid = Pid::from_child(process);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(io_error("pidfd_open"))?;
    let all: Vec<BorrowedFd<'_>> = std::iter::once(message.as_fd()).chain(fds.iter().copied()).collect();
    let mut packet = START_MAGIC.to_vec();
    packet.extend((len as u64).to_le_bytes());
    packet.extend((fds.len() as u32).to_le_bytes());
    send_with_fds(control.as_fd(), &packet, &all)?;
    Ok(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_before_anything_is_started() {
        // The test harness runs this on a thread of its own.
        assert!(matches!(Child::spawn(Role::Scout, b"{}", &[]), Err(SpawnError::NotMainThread)));
    }
}
