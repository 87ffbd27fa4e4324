//! The system calls that each role may make: seccomp allow-lists, and the check that they are in force.
//!
//! Everything not listed answers EPERM; calls of a foreign architecture (`int 0x80`) kill. x32 numbers miss the list as
//! well. Numbers come from libc, so the lists hold on each architecture that has the call.
#![expect(
    unsafe_code,
    reason = "the check makes calls that must be refused, by number and with arguments that do nothing"
)]

use std::collections::BTreeMap;
use std::io;

use libc::{
    F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL, O_ACCMODE, O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_TMPFILE,
    O_TRUNC, PROT_EXEC,
};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Role;
use super::child::SandboxError;

/// PR_SET_VMA: allocators name their mappings. Not in libc for every target.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// How a call's argument is compared: the kernel looks at 32 bits of an int, and at all of a pointer.
#[derive(Clone, Copy)]
enum Arg {
    Int,
    Long,
}

struct List(BTreeMap<i64, Vec<SeccompRule>>);

type Conditions<'a> = &'a [(u8, Arg, SeccompCmpOp, u64)];

impl List {
    fn new() -> List {
        List(BTreeMap::new())
    }

    /// These calls, with whatever arguments.
    fn any(&mut self, numbers: &[i64]) {
        for &n in numbers {
            self.0.insert(n, Vec::new());
        }
    }

    /// One more way in which the call matches: all conditions together. Not for a call of [`List::any`]: an empty list
    /// of rules means "always", and a rule would narrow it.
    fn when(&mut self, number: i64, conditions: Conditions<'_>) -> Result<(), BackendError> {
        let conditions = conditions.iter().map(|(index, arg, op, value)| {
            let len = match arg {
                Arg::Int => SeccompCmpArgLen::Dword,
                Arg::Long => SeccompCmpArgLen::Qword,
            };
            SeccompCondition::new(*index, len, op.clone(), *value)
        });
        let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
        self.0.entry(number).or_default().push(rule);
        Ok(())
    }

    fn install(self, matched: SeccompAction, otherwise: SeccompAction) -> Result<(), SandboxError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let program: BpfProgram = SeccompFilter::new(self.0, otherwise, matched, arch)?.try_into()?;
        Ok(seccompiler::apply_filter(&program)?)
    }
}

/// Newer calls that libc or std try first and replace after ENOSYS; EPERM would be taken for the answer.
const ABSENT: [i64; 4] = [libc::SYS_clone3, libc::SYS_openat2, libc::SYS_faccessat2, libc::SYS_statx];

/// These answer ENOSYS, now and behind every later filter. First of all filters, since the strictest action counts, and
/// of equal ones the youngest: behind this one an allow-list may, and must, let them pass.
pub(super) fn pretend_absent() -> Result<(), SandboxError> {
    let mut list = List::new();
    list.any(&ABSENT);
    list.install(SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)
}

/// What every role needs in the end: no call that opens, creates, connects, starts, signals or inspects.
fn common(list: &mut List) -> Result<(), BackendError> {
    list.any(&ABSENT);
    // Files it holds.
    list.any(&[libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev]);
    list.any(&[libc::SYS_close, libc::SYS_fstat, libc::SYS_lseek]);
    // Waiting.
    list.any(&[libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_ppoll]);
    list.any(&[libc::SYS_eventfd2, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_restart_syscall]);
    #[cfg(target_arch = "x86_64")]
    list.any(&[libc::SYS_epoll_wait, libc::SYS_poll]);
    list.any(&[libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday]);
    // Memory.
    list.any(&[libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk]);
    // The runtime's own affairs.
    list.any(&[libc::SYS_futex, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_getcpu]);
    list.any(&[libc::SYS_getrandom, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid]);
    list.any(&[libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_rseq, libc::SYS_exit, libc::SYS_exit_group]);
    list.any(&[libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack]);
    // A turn is given up: of itself, and down only.
    let normal = libc::SCHED_OTHER as u64;
    list.when(libc::SYS_sched_setscheduler, &[(0, Arg::Int, Eq, 0), (1, Arg::Int, Eq, normal)])?;
    // abort() signals itself.
    let me = u64::from(std::process::id());
    list.when(libc::SYS_tgkill, &[(0, Arg::Int, Eq, me)])?;
    list.when(libc::SYS_kill, &[(0, Arg::Int, Eq, me)])?;
    // Not prctl as such: with it a constructor could clear PDEATHSIG or make itself dumpable.
    list.when(libc::SYS_prctl, &[(0, Arg::Int, Eq, libc::PR_SET_NAME as u64)])?;
    list.when(libc::SYS_prctl, &[(0, Arg::Int, Eq, PR_SET_VMA)])?;
    // Not fcntl as such: F_SETOWN makes the kernel send signals for us.
    for command in [F_GETFL, F_GETFD, F_GET_SEALS, F_DUPFD_CLOEXEC] {
        list.when(libc::SYS_fcntl, &[(1, Arg::Int, Eq, command as u64)])?;
    }
    // Limits can be read, of this process only. The new value is a pointer, so all 64 bits of it are null.
    list.when(libc::SYS_prlimit64, &[(0, Arg::Int, Eq, 0), (2, Arg::Long, Eq, 0)])
}

fn no_new_code(list: &mut List) -> Result<(), BackendError> {
    list.when(libc::SYS_mmap, &[(2, Arg::Int, MaskedEq(PROT_EXEC as u64), 0)])?;
    list.when(libc::SYS_mprotect, &[(2, Arg::Int, MaskedEq(PROT_EXEC as u64), 0)])
}

/// A worker's first list: what dlopen of the module, and the second list, need besides. `landlock`: Landlock will be
/// narrowed as well.
pub(super) fn before_load(landlock: bool) -> Result<(), SandboxError> {
    let mut list = List::new();
    common(&mut list)?;
    // Read-only, even where there is no Landlock; and no O_PATH, which Landlock lets through (it tells what exists).
    // O_TMPFILE contains O_DIRECTORY, which alone is harmless.
    let refused = (O_ACCMODE | O_CREAT | O_TRUNC | O_PATH | (O_TMPFILE & !O_DIRECTORY)) as u64;
    list.when(libc::SYS_openat, &[(2, Arg::Int, MaskedEq(refused), O_RDONLY as u64)])?;
    list.any(&[libc::SYS_pread64, libc::SYS_newfstatat, libc::SYS_readlinkat, libc::SYS_mmap, libc::SYS_mprotect]);
    #[cfg(target_arch = "x86_64")]
    list.any(&[libc::SYS_readlink]);
    // No flags: no listener (whoever holds one answers this process's calls), no TSYNC.
    let set_filter = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    list.when(libc::SYS_seccomp, &[(0, Arg::Int, Eq, set_filter), (1, Arg::Int, Eq, 0)])?;
    list.when(libc::SYS_prctl, &[(0, Arg::Int, Eq, libc::PR_SET_NO_NEW_PRIVS as u64)])?;
    if landlock {
        list.any(&[libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self]);
    }
    list.install(SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
}

/// The last list of each role.
pub(super) fn running(role: Role) -> Result<(), SandboxError> {
    let mut list = List::new();
    common(&mut list)?;
    no_new_code(&mut list)?;
    match role {
        Role::Worker => {}
        // Reads the target by mapping it, or piecewise.
        Role::Scout => list.any(&[libc::SYS_pread64, libc::SYS_preadv]),
        // Writes files that are open, and gets new ones from the broker. It answers by write(2): no sendmsg, which
        // would send descriptors away, or datagrams to anywhere over a socket that a later sink may hold.
        Role::Collector => {
            list.any(&[libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2]);
            list.any(&[libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_recvmsg]);
            // Half a line at the end of a full file system is taken back. The links' memory is sealed against it.
            list.any(&[libc::SYS_ftruncate]);
        }
    }
    list.install(SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
}

/// A raw call that is expected to fail; the answer is its errno, 0 if it worked.
fn errno_of(number: i64, args: [usize; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    #[expect(clippy::disallowed_methods, reason = "this is sandbox/")]
    // SAFETY: the callers in this file pass null pointers, or pointers to constants that are only read; should a call
    // be let through, it either fails for its arguments or makes a mapping or descriptor that nobody uses.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

const HERE: usize = libc::AT_FDCWD as usize;

fn expect(what: &'static str, want: i32, number: i64, args: [usize; 6]) -> Result<(), SandboxError> {
    if errno_of(number, args) == want { Ok(()) } else { Err(SandboxError::NotInForce(what)) }
}

/// Whether the first filters hold. Every probe would fail with another errno, or do nothing, if it were let through.
pub(super) fn verify() -> Result<(), SandboxError> {
    let what = "the list of system calls";
    expect(what, libc::EPERM, libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0])?;
    expect(what, libc::EPERM, libc::SYS_execve, [0; 6])?; // EFAULT
    expect(what, libc::EPERM, libc::SYS_clone, [libc::CLONE_THREAD as usize, 0, 0, 0, 0, 0])?; // EINVAL
    expect(what, libc::EPERM, libc::SYS_ptrace, [usize::MAX, 0, 0, 0, 0, 0])?; // ESRCH
    expect(what, libc::EPERM, libc::SYS_sched_setscheduler, [0, libc::SCHED_RR as usize, 0, 0, 0, 0])?; // EINVAL
    for number in ABSENT {
        expect("the calls to be absent", libc::ENOSYS, number, [0; 6])?; // EFAULT, EINVAL
    }
    Ok(())
}

/// Whether the last list holds: a constructor of the module may have put a lying filter before it, so that "installed"
/// was no truth.
pub(super) fn verify_tight() -> Result<(), SandboxError> {
    verify()?;
    let what = "the last list of system calls";
    let root = c"/".as_ptr() as usize;
    expect(what, libc::EPERM, libc::SYS_openat, [HERE, root, O_PATH as usize, 0, 0, 0])?;
    expect(what, libc::EPERM, libc::SYS_openat, [HERE, root, (O_RDONLY | O_DIRECTORY) as usize, 0, 0, 0])?;
    expect(what, libc::EPERM, libc::SYS_newfstatat, [HERE, 0, 0, 0, 0, 0])?; // EFAULT
    let (exec, flags) = (PROT_EXEC as usize, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize);
    expect(what, libc::EPERM, libc::SYS_mmap, [0, 4096, exec, flags, usize::MAX, 0])?;
    expect(what, libc::EPERM, libc::SYS_mprotect, [0, 0, exec, 0, 0, 0])?; // nothing to change: would work
    expect(what, libc::EPERM, libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER as usize, 0, 0, 0, 0, 0]) // EFAULT
}

/// Whether Landlock refuses a directory that everybody may read. Before the last list, which refuses it as well.
pub(super) fn verify_landlock() -> Result<(), SandboxError> {
    let args = [HERE, c"/".as_ptr() as usize, (O_RDONLY | O_DIRECTORY) as usize, 0, 0, 0];
    expect("Landlock", libc::EACCES, libc::SYS_openat, args)
}
