//! The child's side of the boundary: the start message, and the steps by which a process gives everything up.
//!
//! Order and reasons: session and signals; then (in [`enter`]) bounding set, groups, ids, capabilities; dumpable and
//! parent-death signal after the ids, since a change of ids resets both; limits; the libraries that the module needs;
//! Landlock; the system-call lists last, since everything before makes calls that they refuse. What holds before the
//! module is loaded *is* the boundary (its constructors run inside it); [`Boundary::tighten`] is defence in depth.
#![expect(unsafe_code, reason = "signal(2) and close_range(2) have no safe wrapper")]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit, setsid};
use serde::{Deserialize, Serialize};

use super::channel::{ChannelError, receive_with_fds};
use super::spawn::{MAX_START, START_MAGIC};
use super::{Identity, PreloadError, Role, filter, identity, memfd, preload, privileges, turn, walls};

/// Why the boundary does not stand. The process must end: nothing that was to be inside may run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A system call of the recipe failed.
    #[error("sandbox: {call}: {source}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// A self-check found that something is not as it was set.
    #[error("sandbox: not in force: {0}")]
    NotInForce(&'static str),
    /// The parent is another process than the one that started this one.
    #[error("sandbox: the broker is gone")]
    BrokerGone,
    /// The start message did not come, or not whole.
    #[error("sandbox: start message: {0}")]
    Start(String),
    /// Landlock refused its rules; a kernel without it is no error.
    #[error("sandbox: Landlock: {0}")]
    Landlock(Box<landlock::RulesetError>),
    /// The system-call list could not be installed: kernels without CONFIG_SECCOMP_FILTER can't run children.
    #[error("sandbox: seccomp: {0}")]
    Filter(#[from] seccompiler::Error),
    /// A library that the module needs is not there. The module's fault, not the boundary's.
    #[error(transparent)]
    Preload(#[from] PreloadError),
}

impl From<seccompiler::BackendError> for SandboxError {
    fn from(e: seccompiler::BackendError) -> Self {
        SandboxError::Filter(e.into())
    }
}

/// Names the call that failed.
pub(super) fn step<T>(call: &'static str, result: rustix::io::Result<T>) -> Result<T, SandboxError> {
    result.map_err(|e| SandboxError::Call { call, source: e.into() })
}

/// The control channel of this child: fd 0.
pub fn control() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// First thing that a child does: leaves the terminal's session, so that Ctrl-C reaches only the broker (which then
/// lets the children drain), ignores INT, TERM and HUP, which service managers send to all, closes what the broker
/// itself inherited, and waits for the start message. Call it before anything else is opened in this process.
///
/// Answers the message's bytes and its descriptors in the order in which they were given to `Child::spawn`.
pub fn receive_start() -> Result<(Vec<u8>, Vec<OwnedFd>), SandboxError> {
    // rustix reads the kernel's auxiliary vector when it is first needed, which needs a call and a file that are refused
    // behind the walls.
    let _ = rustix::param::page_size();
    let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Fails only for the leader of a process group: started by hand, from a shell.
    step("setsid", setsid())?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: SIG_IGN installs no handler; there is one thread.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(SandboxError::Call { call: "signal", source: io::Error::last_os_error() });
        }
    }
    // Ours are close-on-exec, but a shell, cargo or service manager may have left the broker others that are not.
    // SAFETY: nothing in this process owns a descriptor but the standard ones: it has only just begun.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } == -1 {
        return Err(SandboxError::Call { call: "close_range", source: io::Error::last_os_error() });
    }
    let bad = |what: &str| SandboxError::Start(what.to_string());
    let (packet, mut fds) = match receive_with_fds(control()) {
        Ok(Some(message)) => message,
        Ok(None) => return Err(SandboxError::BrokerGone),
        Err(e @ ChannelError::Cut(_)) => return Err(bad(&format!("{e}; raise the limit of open files (ulimit -n)"))),
        Err(e) => return Err(bad(&e.to_string())),
    };
    let fields = packet.strip_prefix(&START_MAGIC).and_then(|rest| rest.split_first_chunk::<8>());
    let Some((len, Ok(count))) = fields.map(|(len, rest)| (u64::from_le_bytes(*len), <[u8; 4]>::try_from(rest))) else {
        return Err(bad("not one of this version"));
    };
    if fds.len() as u64 != u64::from(u32::from_le_bytes(count)) + 1 || len > MAX_START as u64 {
        return Err(bad("descriptors are missing"));
    }
    let message = fds.remove(0);
    let bytes = memfd::read_start(message.as_fd(), len as usize).map_err(|e| bad(&e.to_string()))?;
    Ok((bytes, fds))
}

/// Hard limits of a child. A lower limit that is already there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space, everything mapped included (rings twice, since eBPF rings are mapped twice).
    pub address_space: u64,
    /// One more than the largest file descriptor.
    pub open_files: u64,
}

impl Limits {
    /// What the role itself needs, plus `mapped` bytes for what it will map: rings, links, the target's file.
    /// `fds`: how many descriptors it is given.
    pub fn of(role: Role, mapped: u64, fds: usize) -> Limits {
        let (memory, files): (u64, u64) = match role {
            Role::Scout | Role::Worker => (1 << 30, 64),
            Role::Collector => (2 << 30, 256), // merges everybody's events; gets new output files as it goes
        };
        Limits { address_space: memory.saturating_add(mapped), open_files: files + fds as u64 }
    }

    fn set(self, role: Role) -> Result<(), SandboxError> {
        let (file_size, stack) = ((role != Role::Collector).then_some(0), 8 << 20);
        let limits = [
            ("RLIMIT_AS", Resource::As, Some(self.address_space)),
            ("RLIMIT_CORE", Resource::Core, Some(0)), // captured secrets are in memory
            // Shared mappings and pipes are not touched by it. Never for the collector, which writes the files.
            ("RLIMIT_FSIZE", Resource::Fsize, file_size),
            ("RLIMIT_NOFILE", Resource::Nofile, Some(self.open_files)),
            ("RLIMIT_MEMLOCK", Resource::Memlock, Some(0)),
            ("RLIMIT_STACK", Resource::Stack, Some(stack)),
            ("RLIMIT_RTPRIO", Resource::Rtprio, Some(0)),
        ];
        for (name, resource, wanted) in limits {
            let Some(wanted) = wanted else { continue };
            // Raising a hard limit takes a capability that is gone by now.
            let most = rustix::process::getrlimit(resource).maximum.map_or(wanted, |hard| hard.min(wanted));
            step(name, setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }))?;
        }
        // SIGXCPU first, which says that it was its own doing. The collector runs nobody's code but ours.
        if role == Role::Worker && rustix::process::getrlimit(Resource::Rttime).maximum.is_none() {
            let [soft, hard] = [1, 2].map(|times| u64::try_from((turn::HARD * times).as_micros()).ok());
            step("RLIMIT_RTTIME", setrlimit(Resource::Rttime, Rlimit { current: soft, maximum: hard }))?;
        }
        Ok(())
    }
}

/// What [`enter`] needs to know. Comes in the start message and the arguments.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Which system calls are left.
    pub role: Role,
    /// Argument 2: whose child this must be.
    pub broker_pid: u32,
    /// Whom to become.
    pub identity: Identity,
    /// Memory and files.
    pub limits: Limits,
    /// Worker: DT_NEEDED of the judged module, loaded before the walls close. Empty for the others.
    pub preload: &'a [String],
    /// Worker: the module's file if it is one on disk, which dlopen opens once more. `None` for a memory file (it lies
    /// beneath no path, so Landlock does not see it).
    pub readable: Option<BorrowedFd<'a>>,
}

/// What is in force and what is not, for the broker and the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundaryReport {
    /// Whose.
    pub role: Role,
    /// Nothing can be opened and no new code mapped. From the start but for a worker.
    pub tight: bool,
    /// The Landlock in force: "full", "part (ABI n)" or "none".
    pub landlock: String,
    /// One line for each thing that this system or the caller's lack of privileges left out. Empty: all of it holds.
    pub degraded: Vec<String>,
}

/// Proof that this thread, and there is one only, is inside the boundary. Not `Send`: lists and Landlock belong to
/// threads.
#[derive(Debug)]
pub struct Boundary {
    report: BoundaryReport,
    narrow_landlock: bool,
    _this_thread: PhantomData<*const ()>,
}

/// Gives everything up, in the order that the module's head explains, and checks that it is gone. After an error the
/// process must exit: it may be anywhere between inside and outside.
///
/// Scout and collector are as tight as they get; a worker loads its module next and then calls [`Boundary::tighten`].
pub fn enter(entry: &Entry<'_>) -> Result<Boundary, SandboxError> {
    enter_after(entry, || ())
}

/// As [`enter`], with something done in between: when ids, capabilities and the way back to them are gone, and files and the network are
/// not. For what needs those, and has nothing captured to give away.
///
/// # Errors
/// As of [`enter`].
pub fn enter_after(entry: &Entry<'_>, between: impl FnOnce()) -> Result<Boundary, SandboxError> {
    let mut degraded = Vec::new();
    if !matches!(std::fs::read_dir("/proc/self/task").map(Iterator::count), Ok(1)) {
        return Err(SandboxError::NotInForce("there must be exactly one thread"));
    }
    identity::give_up(entry.identity, &mut degraded)?;
    privileges::undumpable()?;
    step("prctl(PR_SET_PDEATHSIG)", set_parent_process_death_signal(Some(Signal::KILL)))?;
    // Had it ended before the line above, nobody would have told us.
    if getppid().map(Pid::as_raw_pid) != i32::try_from(entry.broker_pid).ok() {
        return Err(SandboxError::BrokerGone);
    }
    privileges::no_new_privileges()?;
    entry.limits.set(entry.role)?;
    preload(entry.preload)?;
    between();

    let enforced = walls::close(entry.readable)?;
    let landlock = match enforced {
        walls::Enforced::Full => "full".to_string(),
        walls::Enforced::Part(abi) => {
            degraded.push(format!("Landlock ABI {abi} of this kernel covers only a part (6 and later: all)"));
            format!("part (ABI {abi})")
        }
        walls::Enforced::Nothing(why) => {
            degraded.push(format!("no Landlock ({why}): only the list of system calls keeps files closed"));
            "none".to_string()
        }
    };
    if !matches!(enforced, walls::Enforced::Nothing(_)) {
        filter::verify_landlock()?;
    }

    filter::pretend_absent()?;
    let tight = entry.role != Role::Worker;
    if tight {
        filter::running(entry.role)?;
        filter::verify_tight()?;
    } else {
        filter::before_load(entry.readable.is_some())?;
        filter::verify()?;
    }
    let report = BoundaryReport { role: entry.role, tight, landlock, degraded };
    Ok(Boundary { report, narrow_landlock: entry.readable.is_some(), _this_thread: PhantomData })
}

impl Boundary {
    /// What to tell the broker.
    pub fn report(&self) -> &BoundaryReport {
        &self.report
    }

    /// After the module is loaded: nothing can be opened any more, no new executable memory, no further filters.
    /// Changes nothing for a role that is tight already. After an error the process must exit.
    pub fn tighten(&mut self) -> Result<(), SandboxError> {
        if self.report.tight {
            return Ok(());
        }
        if self.narrow_landlock {
            // How much of it there is was found out before; what a constructor did to this call can only be less.
            walls::close(None)?;
        }
        filter::running(self.report.role)?;
        filter::verify_tight()?;
        self.report.tight = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_survives_its_way_to_the_broker() {
        let report = BoundaryReport {
            role: Role::Worker,
            tight: false,
            landlock: "none".into(),
            degraded: vec!["no Landlock (not in this kernel)".into()],
        };
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#""role":"worker""#), "{text}");
        assert_eq!(serde_json::from_str::<BoundaryReport>(&text).unwrap(), report);
    }

    #[test]
    fn limits_grow_with_what_is_mapped_and_never_overflow() {
        let small = Limits::of(Role::Worker, 0, 0);
        assert_eq!(Limits::of(Role::Worker, 1 << 20, 9).address_space, small.address_space + (1 << 20));
        assert_eq!(Limits::of(Role::Worker, 0, 9).open_files, small.open_files + 9);
        assert_eq!(Limits::of(Role::Collector, u64::MAX, 0).address_space, u64::MAX);
    }
}
