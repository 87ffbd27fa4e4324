//! Attaching a loaded program, and detaching.
//!
//! Offsets are taken as given: the kernel checks only that they are inside the file, and a breakpoint in the middle of an
//! instruction or in data makes the target compute wrong results. So only offsets that a scout has proven may come here.
//! Must not live here: what a program is for.

use super::{
    kernel::{Method, is_refusal},
    object::ProgramKind,
    sys,
};
use aya_obj::generated::bpf_attach_type;
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread,
};

/// Threads that detach at once. Detaching waits for the kernel, not for a CPU.
const DETACHERS: usize = 32;
/// `ENOTSUPP`: the kernel cannot step over this instruction. Not in `libc`.
const ENOTSUPP: i32 = 524;

/// An opened file whose code is probed: in all processes that have it mapped, now and later, and also when it was unlinked.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: CString,
}

impl Target {
    /// The file must be a regular one, opened for reading.
    pub fn new(file: File) -> Self {
        // A number has no NUL in it, so this is never the default.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        Self { file, path }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Point {
    /// Byte in the file.
    pub offset: u64,
    /// What `bpf_get_attach_cookie` answers there.
    pub cookie: u64,
}

impl Point {
    /// The cookie of the contract: the target's number below, the probe's argument above.
    pub fn new(offset: u64, target: u32, argument: u32) -> Self {
        Self { offset, cookie: u64::from(target) | u64::from(argument) << 32 }
    }
}

/// Why a program could not be attached. Nothing of the call stays attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No points were given.
    #[error("program {program}: no point to attach to")]
    NoPoints {
        /// The program.
        program: String,
    },
    /// The program is of a type that is attached otherwise.
    #[error("program {program} is of type {kind} and cannot be attached to {what}")]
    Kind {
        /// The program.
        program: String,
        /// Its type.
        kind: &'static str,
        /// What it should have been attached to.
        what: &'static str,
    },
    /// The kernel refuses one point. (Others after it may be bad, too.)
    #[error("program {program}: the kernel refuses offset {offset:#x}{}", if source.raw_os_error() == Some(ENOTSUPP) { " (an instruction that it cannot step over)" } else { "" })]
    Point {
        /// The program.
        program: String,
        /// Its place in the list of points.
        index: usize,
        /// Byte in the file.
        offset: u64,
        /// The kernel's words.
        source: io::Error,
    },
    /// A right is missing.
    #[error("program {program}: the kernel refuses {call}: {hint}")]
    Refused {
        /// The program.
        program: String,
        /// What was called.
        call: &'static str,
        /// What is needed.
        hint: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel refuses for another reason than one point.
    #[error("program {program}: {call}")]
    Call {
        /// The program.
        program: String,
        /// What was called.
        call: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// A tracepoint that is not to be found in tracefs.
    #[error("program {program}: tracepoint {tracepoint}: {why}")]
    Tracepoint {
        /// The program.
        program: String,
        /// `category/name`.
        tracepoint: String,
        /// What is wrong.
        why: String,
    },
}

/// A program in the kernel. Dropping it unloads it, once nothing is linked to it.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    name: String,
    kind: ProgramKind,
    method: Method,
    uprobe_pmu: Option<u32>,
    /// What the verifier says of an accepted program: time, stack depths, instructions.
    pub stats: String,
}

/// Attached for as long as it lives. Dropping waits for the kernel; for many, `detach` is quicker.
#[derive(Debug)]
#[must_use = "dropping a link detaches the program"]
pub struct Link(Vec<OwnedFd>);

impl Program {
    pub(super) fn new(
        fd: OwnedFd,
        name: &str,
        kind: ProgramKind,
        method: Method,
        uprobe_pmu: Option<u32>,
        stats: String,
    ) -> Self {
        Self { fd, name: name.to_owned(), kind, method, uprobe_pmu, stats }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its descriptor, for what attaches it otherwise.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its type.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// Bytes of stack that it and the functions it calls need, as the verifier found: all of them added up, which is the most
    /// that a chain of calls can need. `None` if this kernel does not tell.
    pub fn stack_depth(&self) -> Option<u32> {
        let line = self.stats.lines().find_map(|line| line.strip_prefix("stack depth "))?;
        line.split_whitespace().next()?.split('+').map(|part| part.parse::<u32>().ok()).sum()
    }

    /// Attaches a uprobe or uretprobe to all points of a file, or to none.
    pub fn attach(&self, target: &Target, points: &[Point]) -> Result<Link, AttachError> {
        let at_return = match self.kind {
            ProgramKind::Uprobe => false,
            ProgramKind::Uretprobe => true,
            _ => return Err(self.wrong_kind("points of a file")),
        };
        if points.is_empty() {
            return Err(AttachError::NoPoints { program: self.name.clone() });
        }
        match self.method {
            Method::Multi => self.attach_multi(target, points, at_return),
            Method::Perf => self.attach_perf(target, points, at_return),
        }
    }

    fn attach_multi(&self, target: &Target, points: &[Point], at_return: bool) -> Result<Link, AttachError> {
        let link = |points: &[Point]| {
            let (offsets, cookies): (Vec<u64>, Vec<u64>) = points.iter().map(|p| (p.offset, p.cookie)).unzip();
            sys::link_uprobe_multi(self.fd.as_fd(), &target.path, &offsets, &cookies, at_return)
        };
        let mut source = match link(points) {
            Ok(fd) => return Ok(Link(vec![fd])),
            Err(source) => source,
        };
        // One bad point fails all, and the kernel does not say which: halve until one is left. Only for errors that a point
        // can cause; and what works on the way is detached again by its drop.
        if is_refusal(&source)
            || [libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EBADF, libc::E2BIG]
                .contains(&source.raw_os_error().unwrap_or(0))
        {
            return Err(self.failed("BPF_LINK_CREATE (uprobe_multi)", source));
        }
        let (mut from, mut to) = (0, points.len());
        while to - from > 1 {
            let middle = from + (to - from) / 2;
            match points.get(from..middle).map(link) {
                Some(Err(e)) => (to, source) = (middle, e),
                _ => from = middle,
            }
        }
        // The second half was not tried when the first was good: the last one standing must fail alone to be named.
        match points.get(from..to).map(link) {
            Some(Err(source)) => Err(self.refused(points, from, source)),
            _ => Err(self.failed("BPF_LINK_CREATE (uprobe_multi)", source)),
        }
    }

    fn attach_perf(&self, target: &Target, points: &[Point], at_return: bool) -> Result<Link, AttachError> {
        let no_pmu = || self.failed("perf uprobe", io::ErrorKind::Unsupported.into());
        let pmu = self.uprobe_pmu.ok_or_else(no_pmu)?;
        let mut fds = Vec::with_capacity(points.len());
        for (index, point) in points.iter().enumerate() {
            let linked = sys::perf_uprobe(pmu, &target.path, point.offset, at_return)
                .and_then(|event| sys::link_perf(self.fd.as_fd(), event.as_fd(), point.cookie));
            match linked {
                Ok(fd) => fds.push(fd),
                Err(source) => {
                    detach(vec![Link(fds)]);
                    if is_refusal(&source) {
                        return Err(self.failed("perf_event_open (uprobe)", source));
                    }
                    return Err(self.refused(points, index, source));
                }
            }
        }
        Ok(Link(fds))
    }

    /// Attaches a `tp_btf` program to the tracepoint that its load named.
    pub fn attach_tp_btf(&self) -> Result<Link, AttachError> {
        if self.kind != ProgramKind::TpBtf {
            return Err(self.wrong_kind("a typed tracepoint"));
        }
        let link = sys::link_tp_btf(self.fd.as_fd()).map_err(|e| self.failed("BPF_RAW_TRACEPOINT_OPEN", e))?;
        Ok(Link(vec![link]))
    }

    /// Attaches a `tracepoint` program to `category/name`. Needs tracefs, which is not there in all containers.
    pub fn attach_tracepoint(&self, tracepoint: &str) -> Result<Link, AttachError> {
        if self.kind != ProgramKind::Tracepoint {
            return Err(self.wrong_kind("a tracepoint"));
        }
        let unknown = |why: String| AttachError::Tracepoint {
            program: self.name.clone(),
            tracepoint: tracepoint.to_owned(),
            why,
        };
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let parts = tracepoint.split_once(['/', ':']).filter(|(category, name)| plain(category) && plain(name));
        let (category, name) = parts.ok_or_else(|| unknown("expected category/name".into()))?;
        let read = |root: &str| fs::read_to_string(format!("{root}/events/{category}/{name}/id"));
        let id = read("/sys/kernel/tracing").or_else(|_| read("/sys/kernel/debug/tracing"));
        let id = id.map_err(|e| unknown(format!("not found in /sys/kernel/tracing: {e}")))?;
        let id = id.trim().parse().map_err(|_| unknown("its id is no number".into()))?;
        let event = sys::perf_tracepoint(id).map_err(|e| self.failed("perf_event_open", e))?;
        let link = sys::link_perf(self.fd.as_fd(), event.as_fd(), 0).map_err(|e| self.failed("BPF_LINK_CREATE", e))?;
        Ok(Link(vec![link]))
    }

    /// Attaches a `cgroup_skb` program to an opened cgroup directory, beside what is attached there already.
    pub fn attach_cgroup(&self, cgroup: &File) -> Result<Link, AttachError> {
        let kind = match self.kind {
            ProgramKind::CgroupSkbIngress => bpf_attach_type::BPF_CGROUP_INET_INGRESS,
            ProgramKind::CgroupSkbEgress => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
            ProgramKind::CgroupSockCreate => bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE,
            _ => return Err(self.wrong_kind("a cgroup")),
        };
        let link = sys::link_cgroup(self.fd.as_fd(), cgroup.as_fd(), kind);
        Ok(Link(vec![link.map_err(|e| self.failed("BPF_LINK_CREATE (cgroup)", e))?]))
    }

    /// Attaches a `classifier` program to a network interface of this process's network namespace, by its number, before
    /// what is attached there already: an earlier program could end the look at a frame. Linux 6.6.
    pub fn attach_interface(&self, interface: u32, outbound: bool) -> Result<Link, AttachError> {
        if self.kind != ProgramKind::Classifier {
            return Err(self.wrong_kind("a network interface"));
        }
        let kind = if outbound { bpf_attach_type::BPF_TCX_EGRESS } else { bpf_attach_type::BPF_TCX_INGRESS };
        let link = sys::link_tcx(self.fd.as_fd(), interface, kind);
        Ok(Link(vec![link.map_err(|e| self.failed("BPF_LINK_CREATE (tcx)", e))?]))
    }

    fn wrong_kind(&self, what: &'static str) -> AttachError {
        AttachError::Kind { program: self.name.clone(), kind: self.kind.name(), what }
    }

    fn failed(&self, call: &'static str, source: io::Error) -> AttachError {
        if is_refusal(&source) {
            let hint = match self.method {
                // Linux 6.17 took it back from CAP_PERFMON ("perf: Revert to requiring CAP_SYS_ADMIN for uprobes"), since a
                // uprobe in the middle of an instruction can do harm; stable kernels followed. uprobe_multi was left as it was.
                Method::Perf => {
                    "uprobes through perf events need CAP_SYS_ADMIN on kernels since 2025, CAP_PERFMON before"
                }
                Method::Multi => "CAP_BPF and CAP_PERFMON are needed, and no security module that forbids it",
            };
            return AttachError::Refused { program: self.name.clone(), call, hint, source };
        }
        AttachError::Call { program: self.name.clone(), call, source }
    }

    fn refused(&self, points: &[Point], index: usize, source: io::Error) -> AttachError {
        let offset = points.get(index).map_or(0, |point| point.offset);
        AttachError::Point { program: self.name.clone(), index, offset, source }
    }
}

/// Detaches all and waits until it is done. Each link waits for a grace period of the kernel, whatever its number of points:
/// multi links wait side by side (24 of them: 70 ms instead of 1 s); perf links do not, and take 0.1 s for each point.
///
/// A process that is being started at that very moment has copies of all descriptors until its `exec`: what it holds is
/// detached then.
pub fn detach(links: Vec<Link>) {
    let mut groups: Vec<Vec<OwnedFd>> = Vec::new();
    groups.resize_with(DETACHERS, Vec::new);
    for (i, fd) in links.into_iter().flat_map(|link| link.0).enumerate() {
        if let Some(group) = groups.get_mut(i % DETACHERS) {
            group.push(fd);
        }
    }
    groups.retain(|group| !group.is_empty());
    let last = groups.pop();
    thread::scope(|scope| {
        for group in groups {
            // Without a thread the closure is dropped, and with it the links: here, and one after the other.
            let _ = thread::Builder::new().name("detach".into()).spawn_scoped(scope, move || drop(group));
        }
        drop(last);
    });
}
