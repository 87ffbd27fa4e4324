//! What a hostile module, or an attacker in a scout or collector, would try. Each attack tells "worked" or its errno.

use std::os::fd::{AsRawFd, OwnedFd};

use libc::*;

use crate::inside::Results;

fn verdict(answer: i64) -> String {
    if answer != -1 {
        return "worked".into();
    }
    match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
        EPERM => "EPERM".into(),
        EACCES => "EACCES".into(),
        ENOSYS => "ENOSYS".into(),
        n => format!("errno {n}"),
    }
}

/// The raw call, so that no libc or std habit stands between.
fn attempt(number: i64, args: &[usize]) -> String {
    let arg = |n: usize| args.get(n).copied().unwrap_or(0);
    // SAFETY: it isn't: an attack is to be refused. Pointers are null or to live buffers that are long enough; the
    // child that makes it is thrown away, whatever happens.
    verdict(unsafe { syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) })
}

macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {
        attempt($number, &[$($arg as usize),*])
    };
}

pub const PATH: &std::ffi::CStr = c"/tmp/ecapture-sandbox-attack";

/// Signals are number 0: whether they would be let through, without harm to the tests should they be.
pub fn all(fds: &[OwnedFd]) -> Results {
    let parent = std::os::unix::process::parent_id() as i32;
    let rdonly = O_RDONLY | O_CLOEXEC;
    let open = |path: &std::ffi::CStr, flags: i32| call!(SYS_openat, AT_FDCWD, path.as_ptr(), flags, 0o600);
    let null = std::ptr::null::<u8>();
    let page = 4096usize;
    let anon = MAP_PRIVATE | MAP_ANONYMOUS;
    let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
    let given = fds.first().map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: a fresh mapping, never touched.
    let mine = unsafe { mmap(std::ptr::null_mut(), page, PROT_READ | PROT_WRITE, anon, -1, 0) };
    let memory = std::ffi::CString::new(format!("/proc/{parent}/mem")).unwrap();
    let variables = std::ffi::CString::new(format!("/proc/{parent}/environ")).unwrap();
    let again = std::ffi::CString::new(format!("/proc/self/fd/{given}")).unwrap();
    let mut buffer = [0u8; 512];
    let iov = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 8 };
    let more = rlimit { rlim_cur: RLIM_INFINITY, rlim_max: RLIM_INFINITY };
    let zero = [0u64; 32];
    let empty_program = [0u64; 2]; // sock_fprog with no instructions
    // SAFETY: all zero is a valid, empty message.
    let message: msghdr = unsafe { std::mem::zeroed() };
    let attacks = [
        ("open /etc/passwd", open(c"/etc/passwd", rdonly)),
        ("open /etc/shadow", open(c"/etc/shadow", rdonly)),
        ("open libc.so.6", open(c"/lib/x86_64-linux-gnu/libc.so.6", rdonly)),
        ("open / (O_PATH)", open(c"/", O_PATH)),
        ("list /usr/lib", open(c"/usr/lib", rdonly | O_DIRECTORY)),
        ("open /proc/self/maps", open(c"/proc/self/maps", rdonly)),
        ("open /proc/1/environ", open(c"/proc/1/environ", rdonly)),
        ("open broker's environ", open(&variables, rdonly)),
        ("open broker's mem", open(&memory, O_RDWR)),
        ("open given fd again", open(&again, rdonly)),
        ("create a file", open(PATH, O_WRONLY | O_CREAT)),
        ("unnamed file in /tmp", open(c"/tmp", O_TMPFILE | O_RDWR)),
        ("openat2 /etc/passwd", call!(SYS_openat2, AT_FDCWD, c"/etc/passwd".as_ptr(), zero.as_ptr(), 24)),
        ("stat /etc/shadow", call!(SYS_newfstatat, AT_FDCWD, c"/etc/shadow".as_ptr(), buffer.as_mut_ptr(), 0)),
        ("statx /etc/shadow", call!(SYS_statx, AT_FDCWD, c"/etc/shadow".as_ptr(), 0, 0xfff, buffer.as_mut_ptr())),
        ("unlink", call!(SYS_unlinkat, AT_FDCWD, PATH.as_ptr(), 0)),
        ("rename", call!(SYS_renameat2, AT_FDCWD, PATH.as_ptr(), AT_FDCWD, PATH.as_ptr(), 0)),
        ("chmod", call!(SYS_fchmodat, AT_FDCWD, PATH.as_ptr(), 0o777)),
        ("chdir /", call!(SYS_chdir, c"/".as_ptr())),
        ("chroot", call!(SYS_chroot, c"/".as_ptr())),
        ("mount", call!(SYS_mount, null, c"/".as_ptr(), null, MS_REMOUNT, null)),
        ("unshare user", call!(SYS_unshare, CLONE_NEWUSER)),
        ("socket unix", call!(SYS_socket, AF_UNIX, SOCK_STREAM, 0)),
        ("socket tcp", call!(SYS_socket, AF_INET, SOCK_STREAM, 0)),
        ("socketpair", call!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, buffer.as_mut_ptr())),
        ("connect fd 0", call!(SYS_connect, 0, buffer.as_ptr(), 2)),
        ("sendmsg fd 0", call!(SYS_sendmsg, 0, &raw const message, MSG_DONTWAIT)),
        ("sendto fd 0", call!(SYS_sendto, 0, c"x".as_ptr(), 1, MSG_DONTWAIT, null, 0)),
        // A peek at nothing: only whether the call itself is allowed.
        ("recvmsg fd 0", call!(SYS_recvmsg, 0, &raw const message, MSG_DONTWAIT | MSG_PEEK)),
        ("ioctl TIOCSTI fd 0", call!(SYS_ioctl, 0, TIOCSTI, c"x".as_ptr())),
        ("fcntl F_SETOWN broker", call!(SYS_fcntl, 0, F_SETOWN, parent)),
        ("fork", call!(SYS_clone, SIGCHLD, 0, 0, 0, 0)),
        ("clone3", call!(SYS_clone3, zero.as_ptr(), 64)),
        (
            "thread",
            match std::thread::Builder::new().spawn(|| ()) {
                Ok(_) => "worked".into(),
                Err(e) if e.raw_os_error() == Some(EPERM) => "EPERM".into(),
                Err(e) => e.to_string(),
            },
        ),
        ("execve /bin/true", call!(SYS_execve, argv[0], argv.as_ptr(), argv[1..].as_ptr())),
        (
            "execveat given fd",
            call!(SYS_execveat, given, c"".as_ptr(), argv.as_ptr(), argv[1..].as_ptr(), AT_EMPTY_PATH),
        ),
        ("kill broker", call!(SYS_kill, parent, 0)),
        ("kill all", call!(SYS_kill, usize::MAX, 0)),
        ("kill group", call!(SYS_kill, 0, 0)),
        ("tkill broker", call!(SYS_tkill, parent, 0)),
        ("tgkill broker", call!(SYS_tgkill, parent, parent, 0)),
        ("sigqueue broker", call!(SYS_rt_sigqueueinfo, parent, 0, buffer.as_ptr())),
        ("pidfd_open broker", call!(SYS_pidfd_open, parent, 0)),
        ("ptrace broker", call!(SYS_ptrace, PTRACE_ATTACH, parent, 0, 0)),
        ("read broker's memory", call!(SYS_process_vm_readv, parent, &raw const iov, 1, &raw const iov, 1, 0)),
        ("setuid(0)", call!(SYS_setuid, 0)),
        ("setresuid(0)", call!(SYS_setresuid, 0, 0, 0)),
        ("setgroups(0)", call!(SYS_setgroups, 1, zero.as_ptr())),
        ("capset", call!(SYS_capset, zero.as_ptr(), zero.as_ptr())),
        ("setsid", call!(SYS_setsid)),
        ("prctl DUMPABLE 1", call!(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)),
        ("prctl PDEATHSIG 0", call!(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0)),
        ("prctl SECCOMP off", call!(SYS_prctl, PR_SET_SECCOMP, 0, 0, 0, 0)),
        ("personality READ_IMPLIES_EXEC", call!(SYS_personality, READ_IMPLIES_EXEC)),
        ("raise RLIMIT_AS", call!(SYS_prlimit64, 0, RLIMIT_AS, &raw const more, null)),
        ("lower broker's RLIMIT_NOFILE", call!(SYS_prlimit64, parent, RLIMIT_NOFILE, zero.as_ptr(), null)),
        ("seccomp listener", call!(SYS_seccomp, 1, 8, empty_program.as_ptr())),
        ("seccomp filter", call!(SYS_seccomp, 1, 0, empty_program.as_ptr())),
        ("bpf map create", call!(SYS_bpf, 0, zero.as_ptr(), 64)),
        ("perf_event_open", call!(SYS_perf_event_open, zero.as_ptr(), 0, usize::MAX, usize::MAX, 0)),
        ("io_uring_setup", call!(SYS_io_uring_setup, 8, zero.as_ptr())),
        ("userfaultfd", call!(SYS_userfaultfd, 1)),
        ("keyctl", call!(SYS_keyctl, 0, -3i32, 0)),
        ("memfd_create", call!(SYS_memfd_create, c"x".as_ptr(), 0)),
        ("ftruncate given fd", call!(SYS_ftruncate, given, 0)),
        ("pwrite given fd", call!(SYS_pwrite64, given, c"x".as_ptr(), 1, 0)),
        ("mmap new code", call!(SYS_mmap, 0, page, PROT_READ | PROT_EXEC, anon, usize::MAX, 0)),
        ("mmap given fd as code", call!(SYS_mmap, 0, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, given, 0)),
        ("mprotect data to code", call!(SYS_mprotect, mine, page, PROT_READ | PROT_EXEC)),
        ("pkey_mprotect data to code", call!(SYS_pkey_mprotect, mine, page, PROT_READ | PROT_EXEC, usize::MAX)),
        #[cfg(target_arch = "x86_64")]
        ("x32 getpid", call!(0x4000_0000i64 | SYS_getpid)),
    ];
    attacks.into_iter().map(|(name, result)| (name.to_string(), result)).collect()
}

/// Ends the process in most cases; else tells what happened.
pub fn fatal(name: &str) -> String {
    match name {
        // SAFETY: it isn't: the process is to end of it.
        "segv" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        "abort" => std::process::abort(),
        "exit 0" => std::process::exit(0),
        "stop" => return call!(SYS_kill, std::process::id(), SIGSTOP),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: getpid by the 32-bit table writes eax only; the process is to end of it.
        "int 0x80" => unsafe {
            std::arch::asm!("int 0x80", inout("eax") 20 => _);
        },
        "memory" => {
            let mut all = Vec::new();
            loop {
                let mut block: Vec<u8> = Vec::new();
                if block.try_reserve_exact(8 << 20).is_err() {
                    return format!("refused after {} MiB", all.len() * 8);
                }
                all.push(block);
            }
        }
        other => return format!("no such attack: {other}"),
    }
    "survived".into()
}
