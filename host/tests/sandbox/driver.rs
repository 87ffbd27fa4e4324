//! The broker's part that every check needs: start a child, hear it, see it end.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ecapture::sandbox::channel::receive;
use ecapture::sandbox::{BoundaryReport, Child, Ended, Identity, Role};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::inside::{Job, Said, Start};

pub type Check = Result<(), String>;

/// Where the checks run, and so what may be missing.
#[derive(Clone, Copy)]
pub struct Place {
    pub root: bool,
    pub landlock: bool,
}

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

pub const SOON: Duration = Duration::from_secs(10);

pub fn text<E: std::fmt::Display>(e: E) -> String {
    e.to_string()
}

pub fn start(job: Job) -> Start {
    Start { identity: Identity::choose(), preload: Vec::new(), readable: false, job, filler: String::new() }
}

pub fn spawn(role: Role, start: &Start, fds: &[BorrowedFd<'_>]) -> Result<Child, String> {
    Child::spawn(role, &serde_json::to_vec(start).map_err(text)?, fds).map_err(text)
}

pub fn ready(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).is_ok_and(|n| n > 0)
}

pub fn hear(child: &Child) -> Result<Said, String> {
    ensure!(ready(child.control.as_fd(), SOON), "the child says nothing");
    let bytes = receive(child.control.as_fd()).map_err(text)?.ok_or_else(|| format!("ended: {}", stderr(child)))?;
    serde_json::from_slice(&bytes).map_err(text)
}

pub fn stderr(child: &Child) -> String {
    let mut text = vec![0; 4096];
    let n = if ready(child.stderr.as_fd(), Duration::from_millis(100)) {
        rustix::io::read(&child.stderr, &mut text[..]).unwrap_or(0)
    } else {
        0
    };
    String::from_utf8_lossy(&text[..n]).into_owned()
}

pub fn hear_text(child: &Child) -> Result<String, String> {
    match hear(child)? {
        Said::Text(text) => Ok(text),
        other => Err(format!("{other:?}")),
    }
}

pub fn inside(child: &Child) -> Result<BoundaryReport, String> {
    match hear(child)? {
        Said::Inside(report) => Ok(report),
        other => Err(format!("{other:?}")),
    }
}

pub fn end(child: &mut Child) -> Result<Ended, String> {
    match child.wait(SOON).map_err(text)? {
        Some(ended) => Ok(ended),
        None => {
            child.kill().map_err(text)?;
            let _ = child.wait(SOON);
            Err("hung".into())
        }
    }
}
