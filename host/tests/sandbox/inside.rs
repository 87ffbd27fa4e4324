//! The child: enters the boundary as told, then does what the start message says.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use ecapture::link::Producer;
use ecapture::sandbox::channel::{receive, receive_with_fds, send};
use ecapture::sandbox::{BoundaryReport, Entry, Identity, Limits, Role, child};
use serde::{Deserialize, Serialize};

use crate::attacks;

/// What a child is to do, once it is inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Tell what was received.
    Echo,
    /// All attacks; a worker before and after it is tightened.
    Attack,
    /// One attack that ends the process, after `tighten`.
    Fatal(String),
    /// Worker: load the library of fd 0, tighten, and call its `cos`.
    Load,
    /// Worker: before `tighten`, install a filter that answers "done" to the calls that it makes.
    Lie,
    /// Wait for the end of the control channel.
    Sleep,
    /// Spin and never look.
    Loop,
    /// Worker: push so many events into the link given as fds 0 and 1.
    Link { size: u64, count: u64 },
    /// Scout: sum of the bytes of fd 0, by mapping it.
    Sum { len: usize },
    /// Collector: write to files that come later.
    Write,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    pub identity: Identity,
    pub preload: Vec<String>,
    /// Whether fd 0 is to stay readable until `tighten`.
    pub readable: bool,
    pub job: Job,
    pub filler: String,
}

pub type Results = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    Inside(BoundaryReport),
    Results { before: Results, after: Results },
    Text(String),
    Error(String),
}

fn say(said: &Said) {
    let text = serde_json::to_vec(said).unwrap();
    send(child::control(), &text).unwrap();
}

pub fn main(role: Role, broker: u32) -> ExitCode {
    match run(role, broker) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = serde_json::to_vec(&Said::Error(e)).map(|t| send(child::control(), &t));
            ExitCode::from(3)
        }
    }
}

fn run(role: Role, broker_pid: u32) -> Result<(), String> {
    let (bytes, fds) = child::receive_start().map_err(|e| e.to_string())?;
    let start: Start = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let entry = Entry {
        role,
        broker_pid,
        identity: start.identity,
        limits: Limits::of(role, 64 << 20, fds.len()),
        preload: &start.preload,
        readable: if start.readable { fds.first().map(AsFd::as_fd) } else { None },
    };
    let mut boundary = child::enter(&entry).map_err(|e| e.to_string())?;
    say(&Said::Inside(boundary.report().clone()));
    let before = if matches!(start.job, Job::Attack) { attacks::all(&fds) } else { Results::new() };
    let cos = if matches!(start.job, Job::Load) { Some(load(&fds[0])?) } else { None };
    if matches!(start.job, Job::Lie) {
        lie();
    }
    boundary.tighten().map_err(|e| e.to_string())?;
    boundary.tighten().map_err(|e| format!("again: {e}"))?;
    match start.job {
        Job::Echo => say(&Said::Text(format!("{} bytes, {} fds", start.filler.len(), fds.len()))),
        Job::Load => say(&Said::Text(format!("{:?} {}", cos.map(|f| f(0.0)), boundary.report().tight))),
        Job::Lie => say(&Said::Text("believed".into())),
        Job::Attack => say(&Said::Results { before, after: attacks::all(&fds) }),
        Job::Fatal(name) => say(&Said::Text(attacks::fatal(&name))),
        Job::Sleep => while !matches!(receive(child::control()), Ok(None)) {},
        Job::Loop => loop {
            std::hint::spin_loop();
        },
        Job::Link { size, count } => link(fds, size, count)?,
        Job::Sum { len } => {
            // SAFETY: nobody writes the test program while it runs.
            let map = unsafe { memmap2::MmapOptions::new().len(len).map(&fds[0]) }.map_err(|e| e.to_string())?;
            let size = ecapture::sandbox::memfd::file_size(fds[0].as_fd()).map_err(|e| e.to_string())?;
            say(&Said::Text(format!("{} of {size}", map.iter().map(|b| u64::from(*b)).sum::<u64>())));
        }
        Job::Write => write()?,
    }
    Ok(())
}

fn link(fds: Vec<OwnedFd>, size: u64, count: u64) -> Result<(), String> {
    let [ring, bell] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| "two fds".to_string())?;
    let mut producer = Producer::new(ring, bell, size).map_err(|e| e.to_string())?;
    let mut wait = || true;
    producer.hello(0, &mut wait).map_err(|e| e.to_string())?;
    for n in 0..count {
        let payload = vec![n as u8; (n % 3000) as usize];
        producer.push_event(0, n + 1, &payload, &mut wait).map_err(|e| e.to_string())?;
        if n % 50 == 0 {
            producer.publish();
        }
    }
    producer.batch_end(count, b"last", &mut wait).map_err(|e| e.to_string())?;
    producer.publish();
    say(&Said::Text("pushed".into()));
    Ok(())
}

/// As a worker loads a module: from its memory file, for ever.
fn load(fd: &OwnedFd) -> Result<extern "C" fn(f64) -> f64, String> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // SAFETY: the system's libm; its constructors do nothing.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| e.to_string())?;
    // SAFETY: the C function of that name and type.
    let cos = unsafe { library.get::<extern "C" fn(f64) -> f64>(b"cos") }.map(|f| *f).map_err(|e| e.to_string());
    std::mem::forget(library);
    cos
}

/// What a hostile constructor may do: every later filter is then "installed" without being there.
fn lie() {
    use seccompiler::{SeccompAction, SeccompFilter};
    let list = [(libc::SYS_seccomp, Vec::new())].into_iter().collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(list, SeccompAction::Allow, SeccompAction::Errno(0), arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// The collector's life: files come over the control channel, text goes into them.
fn write() -> Result<(), String> {
    use rustix::event::epoll;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
    let (data, flags) = (epoll::EventData::new_u64(0), epoll::EventFlags::IN);
    epoll::add(&poll, child::control(), data, flags).map_err(|e| e.to_string())?;
    let mut events = Vec::with_capacity(1);
    epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).map_err(|e| format!("epoll: {e}"))?;
    while let Some((text, files)) = receive_with_fds(child::control()).map_err(|e| e.to_string())? {
        for file in &files {
            rustix::io::write(file, &text).map_err(|e| format!("write: {e}"))?;
            rustix::fs::fdatasync(file).map_err(|e| format!("fdatasync: {e}"))?;
        }
        say(&Said::Text(format!("{} files", files.len())));
    }
    Ok(())
}
