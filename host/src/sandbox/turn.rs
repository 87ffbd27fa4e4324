//! Turns: the processor at once, for children that need little of it, but in time.
//!
//! A ring holds what a target says in a second or two. Among many busy threads, and worse between control groups or
//! sessions, the scheduler may leave a worker that is ready waiting for most of that (measured:
//! docs/decisions/018-turns.md). So the broker makes workers and the collector real-time processes of the lowest priority
//! ([`grant`], each [`WINDOW`]), and each of them gives that up by itself as soon as it has used its share of a processor, a
//! quarter, until the broker grants the next turn ([`Turn::spend`]). Who could use all of a processor gets what everybody
//! gets, and a quarter. A child cannot grant itself anything: that takes CAP_SYS_NICE. A worker that does not give up its
//! turn, since its module hangs, is ended by the kernel after 5 s.
#![expect(unsafe_code, reason = "libc has the call, and nothing safe above it")]

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The lowest real-time priority there is.
const PRIORITY: i32 = 1;
/// Time from one turn to the next.
pub const WINDOW: Duration = Duration::from_millis(100);
/// Processor time of one turn. As long may a thread of the target have to wait for its processor.
const SHARE: Duration = Duration::from_millis(25);
/// Processor time of a worker as a real-time process, without a sleep, after which the kernel ends it (`RLIMIT_RTTIME`).
pub(super) const HARD: Duration = Duration::from_secs(5);

/// Gives a child its turn. Not where that is not allowed: without CAP_SYS_NICE, or in a control group that has no real-time
/// processor time.
pub fn grant(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        schedule(pid, libc::SCHED_RR, PRIORITY);
    }
}

/// What this process, which has one thread, has used of its turns.
#[derive(Debug)]
pub struct Turn {
    window: Instant,
    /// Processor time when the window began.
    before: Duration,
    given_up: bool,
}

impl Turn {
    /// Nothing used.
    #[must_use]
    pub fn new() -> Self {
        Self { window: Instant::now(), before: processor_time(), given_up: false }
    }

    /// Looks at what was used, and gives up the turn where that is its share. To be called in each round of work.
    pub fn spend(&mut self) {
        let used = processor_time().saturating_sub(self.before);
        if used >= SHARE {
            // Each time: the broker may have granted another one within the window.
            schedule(0, libc::SCHED_OTHER, 0);
            if !std::mem::replace(&mut self.given_up, true) {
                // The kernel adds up real time from sleep to sleep.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self.window.elapsed() >= WINDOW {
            *self = Self::new();
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

/// 0 is this process.
fn schedule(pid: i32, policy: i32, priority: i32) {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the structure is this call's own, and only read.
    unsafe { libc::sched_setscheduler(pid, policy, &raw const parameters) };
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
