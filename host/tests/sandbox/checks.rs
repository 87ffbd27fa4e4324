//! The list of checks, and those about the life of children and their channels.

use std::io::{BufRead, BufReader, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ecapture::link::{self, Consumer, Message, Observer, Positions};
use ecapture::sandbox::channel::{receive, send_with_fds};
use ecapture::sandbox::privileges::{self, Keep};
use ecapture::sandbox::{Child, Ended, Role, SpawnError, memfd};

use crate::boundary::{attacks, fatal, lie, load, on_disk, preload, status};
use crate::driver::{Check, Place, SOON, end, ensure, hear, hear_text, inside, ready, spawn, start, text};
use crate::inside::{Job, Said, Start};

/// Name, whether it needs root, whether it is left out inside another run, and the check.
type Listed = (&'static str, bool, bool, fn(Place) -> Check);

pub fn main(words: &[String]) -> ExitCode {
    let root = rustix::process::getuid().is_root() && privileges::missing().is_empty();
    let flag = |name: &str| words.iter().any(|w| w == name);
    let place = Place { root, landlock: !flag("--without-landlock") };
    if flag("--list") {
        return ExitCode::SUCCESS; // a test runner that asks for names: there are none of its kind
    }
    if flag("--broker") {
        return broker_to_be_killed();
    }
    if flag("--keep-only") {
        return tell(keep_only());
    }
    if !place.landlock {
        hide_landlock();
    }
    let inner = flag("--inner");
    let checks: [Listed; 22] = [
        ("start: 256 KiB and 252 descriptors arrive", false, false, start_message),
        ("start: too much is refused", false, false, start_refused),
        ("status: worker has given everything up", false, false, |p| status(p, Role::Worker)),
        ("status: scout has given everything up", false, false, |p| status(p, Role::Scout)),
        ("status: collector has given everything up", false, false, |p| status(p, Role::Collector)),
        ("attacks: worker, before and after tighten", false, false, |p| attacks(p, Role::Worker)),
        ("attacks: scout", false, false, |p| attacks(p, Role::Scout)),
        ("attacks: collector", false, false, |p| attacks(p, Role::Collector)),
        ("attacks: those that end the process", false, false, fatal),
        ("file: a module on disk is readable until tighten", false, false, on_disk),
        ("preload: libraries by soname, nothing else", false, false, preload),
        ("load: a library from its sealed copy, then tighten", false, false, load),
        ("load: a constructor that fakes the last list is found out", false, false, lie),
        ("life: signals ignored, end of channel obeyed", false, false, life),
        ("life: a child that loops dies with the broker", false, false, dies_with_broker),
        ("link: between processes, woken by the bell", false, false, link_between_processes),
        ("scout: maps and reads its target", false, false, scout_reads),
        ("collector: writes files that come later", false, false, collector_writes),
        ("broker: keeps what restarting takes, and no more", true, true, |_| rerun(&["--keep-only"], None)),
        ("degraded: all of this without privileges", true, true, |_| rerun(&["--inner"], Some(1000))),
        ("degraded: all of this without both", true, true, |_| rerun(&["--inner", "--without-landlock"], Some(1000))),
        ("degraded: all of this without Landlock", true, true, |_| rerun(&["--inner", "--without-landlock"], None)),
    ];
    let wanted: Vec<&String> = words.iter().filter(|w| !w.starts_with("--")).collect();
    let (mut failed, mut skipped) = (0, 0);
    for (name, needs_root, outer, check) in checks {
        if (outer && inner) || (!wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str()))) {
            continue;
        }
        if needs_root && !root {
            println!("skip   {name} (needs root)");
            skipped += 1;
            continue;
        }
        let begin = Instant::now();
        match check(place) {
            Ok(()) => println!("ok     {name} ({} ms)", begin.elapsed().as_millis()),
            Err(e) => {
                println!("FAILED {name}: {e}");
                failed += 1;
            }
        }
    }
    println!("sandbox: {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// This program once more, in another place.
fn rerun(args: &[&str], uid: Option<u32>) -> Check {
    let mut command = Command::new("/proc/self/exe");
    command.args(args).stdin(Stdio::null());
    if let Some(id) = uid {
        command.uid(id).gid(id); // as root, this also empties the supplementary groups
    }
    let output = command.output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).replace('\n', "\n         ");
    print!("         {}\r", said);
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// As an old kernel: landlock_create_ruleset is unknown, to us and to every child.
fn hide_landlock() {
    use seccompiler::{SeccompAction, SeccompFilter};
    let list = [(libc::SYS_landlock_create_ruleset, Vec::new())].into_iter().collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let program: seccompiler::BpfProgram =
        SeccompFilter::new(list, SeccompAction::Allow, absent, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn start_message(_: Place) -> Check {
    let file = memfd::sealed_copy("x", b"x").map_err(text)?;
    let fds = vec![file.as_fd(); 252];
    let start = Start { filler: "x".repeat(256 << 10), ..start(Job::Echo) };
    for role in Role::ALL {
        let mut child = spawn(role, &start, &fds)?;
        inside(&child)?;
        let said = hear_text(&child)?;
        ensure!(said == "262144 bytes, 252 fds", "{role}: {said}");
        ensure!(end(&mut child)? == Ended::Exited(0), "{role} did not end well");
    }
    Ok(())
}

fn start_refused(_: Place) -> Check {
    let file = memfd::sealed_copy("x", b"x").map_err(text)?;
    let many = vec![file.as_fd(); 253];
    let refused = Child::spawn(Role::Scout, b"{}", &many);
    ensure!(matches!(refused, Err(SpawnError::TooManyFds(253))), "{refused:?}");
    let refused = Child::spawn(Role::Scout, &vec![b' '; (1 << 20) + 1], &[]);
    ensure!(matches!(refused, Err(SpawnError::StartTooLong(_))), "{refused:?}");
    // A channel that closes before the message: the child must not go on.
    let mut child = Child::spawn(Role::Worker, b"not json", &[]).map_err(text)?;
    ensure!(matches!(hear(&child)?, Said::Error(_)), "took a broken message");
    ensure!(end(&mut child)? == Ended::Exited(3), "went on");
    Ok(())
}

fn life(_: Place) -> Check {
    let mut child = spawn(Role::Worker, &start(Job::Sleep), &[])?;
    inside(&child)?;
    let pid = rustix::process::Pid::from_raw(child.pid as i32).ok_or("pid")?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let signal = rustix::process::Signal::from_named_raw(signal).ok_or("signal")?;
        // Without CAP_KILL another user's process can't be signalled; then there is nothing to test here.
        let _ = rustix::process::kill_process(pid, signal);
    }
    ensure!(child.wait(Duration::from_millis(100)).map_err(text)?.is_none(), "a signal ended it");
    child.set_nonblocking(true).map_err(text)?;
    let nothing = receive(child.control.as_fd());
    ensure!(nothing.is_err_and(|e| e.to_string().contains("emporarily")), "the channel waits");
    let Child { control, mut process, .. } = child;
    drop(control);
    let begin = Instant::now();
    while begin.elapsed() < SOON {
        if let Some(status) = process.try_wait().map_err(text)? {
            ensure!(status.success(), "{status}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = process.kill();
    Err("it did not end with its channel".into())
}

fn broker_to_be_killed() -> ExitCode {
    let child = spawn(Role::Worker, &start(Job::Loop), &[]).unwrap();
    inside(&child).unwrap();
    println!("{}", child.pid);
    std::thread::sleep(Duration::from_secs(60));
    ExitCode::FAILURE
}

fn dies_with_broker(_: Place) -> Check {
    let mut broker = Command::new("/proc/self/exe").arg("--broker").stdout(Stdio::piped()).spawn().map_err(text)?;
    let mut line = String::new();
    let out = broker.stdout.take().ok_or("no stdout")?;
    BufReader::new(out).read_line(&mut line).map_err(text)?;
    let stat = format!("/proc/{}/stat", line.trim());
    let lives = || std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z"));
    let lived = lives();
    broker.kill().map_err(text)?;
    broker.wait().map_err(text)?;
    ensure!(lived, "no child: {line:?}");
    let begin = Instant::now();
    while lives() {
        ensure!(begin.elapsed() < SOON, "it still loops");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn link_between_processes(_: Place) -> Check {
    const COUNT: u64 = 20_000;
    let link = link::create(1 << 20).map_err(text)?;
    let observer = Observer::new(&link).map_err(text)?;
    let own = |fd: &OwnedFd| fd.try_clone().map_err(text);
    let mut consumer = Consumer::new(own(&link.ring)?, own(&link.bell)?, link.size).map_err(text)?;
    let job = Job::Link { size: link.size, count: COUNT };
    let mut child = spawn(Role::Worker, &start(job), &[link.ring.as_fd(), link.bell.as_fd()])?;
    inside(&child)?;
    let (mut positions, mut next, mut bad, mut done) = (Positions::default(), 0, 0, false);
    let begin = Instant::now();
    while !done {
        ensure!(begin.elapsed() < SOON * 2, "only {next} came: {:?}", hear(&child));
        let n = consumer
            .drain(1000, u64::MAX, |message| match message {
                Message::Hello { pos: 0 } => assert!(positions.admit(&message)),
                Message::Event { end, payload, .. } => {
                    let right = end == next + 1 && payload == vec![next as u8; (next % 3000) as usize];
                    bad += u64::from(!right || !positions.admit(&message));
                    next += 1;
                }
                Message::BatchEnd { end: COUNT, payload: b"last" } => done = true,
                _ => bad += 1,
            })
            .map_err(text)?;
        if n == 0 && consumer.arm() {
            ready(consumer.bell(), Duration::from_secs(1));
            consumer.disarm();
        }
    }
    ensure!(bad == 0 && next == COUNT, "{bad} wrong, {next} came");
    ensure!(observer.waiting() == 0 && observer.now_at().is_none(), "{observer:?}");
    hear_text(&child)?;
    ensure!(end(&mut child)? == Ended::Exited(0), "did not end well");
    Ok(())
}

fn scout_reads(_: Place) -> Check {
    let file = std::fs::File::open("/proc/self/exe").map_err(text)?;
    let bytes = std::fs::read("/proc/self/exe").map_err(text)?;
    let mut child = spawn(Role::Scout, &start(Job::Sum { len: bytes.len() }), &[file.as_fd()])?;
    inside(&child)?;
    let want = format!("{} of {}", bytes.iter().map(|b| u64::from(*b)).sum::<u64>(), bytes.len());
    let said = hear_text(&child)?;
    ensure!(said == want, "{said}, not {want}");
    ensure!(end(&mut child)? == Ended::Exited(0), "did not end well");
    Ok(())
}

fn collector_writes(_: Place) -> Check {
    let mut child = spawn(Role::Collector, &start(Job::Write), &[])?;
    inside(&child)?;
    let mut files = [tempfile::tempfile().map_err(text)?, tempfile::tempfile().map_err(text)?];
    let fds = [files[0].as_fd(), files[1].as_fd()];
    send_with_fds(child.control.as_fd(), b"one ", &fds[..1]).map_err(text)?;
    ensure!(hear_text(&child)? == "1 files", "one file");
    send_with_fds(child.control.as_fd(), b"both", &fds).map_err(text)?;
    ensure!(hear_text(&child)? == "2 files", "two files");
    for (file, want) in files.iter_mut().zip(["one both", "both"]) {
        let mut got = String::new();
        file.rewind().map_err(text)?;
        file.read_to_string(&mut got).map_err(text)?;
        ensure!(got == want, "{got:?}, not {want:?}");
    }
    rustix::net::shutdown(&child.control, rustix::net::Shutdown::Write).map_err(text)?;
    ensure!(end(&mut child)? == Ended::Exited(0), "did not end well");
    Ok(())
}

fn tell(result: Check) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// In a process of its own, since what is given up does not come back.
fn keep_only() -> Check {
    use rustix::thread::{CapabilitySet as C, capabilities, capability_is_in_bounding_set};
    privileges::keep_only(Keep::default()).map_err(text)?;
    privileges::undumpable().map_err(text)?;
    let restarts = C::SETUID | C::SETGID | C::SETPCAP | C::KILL | C::SYS_NICE;
    let want = C::BPF | C::PERFMON | C::SYS_PTRACE | C::DAC_READ_SEARCH | restarts;
    let held = capabilities(None).map_err(text)?;
    ensure!(held.effective == want && held.permitted == want && held.inheritable.is_empty(), "{held:?}");
    for gone in [C::SYS_ADMIN, C::DAC_OVERRIDE, C::NET_ADMIN, C::SYS_MODULE, C::CHECKPOINT_RESTORE] {
        ensure!(!capability_is_in_bounding_set(gone).map_err(text)?, "{gone:?} is still in the bounding set");
    }
    ensure!(privileges::missing().is_empty(), "{:?}", privileges::missing());
    // Children can be started, be killed and be started again, and give up as much as before.
    let place = Place { root: true, landlock: true };
    for _ in 0..2 {
        status(place, Role::Worker)?;
    }
    attacks(place, Role::Worker)
}
