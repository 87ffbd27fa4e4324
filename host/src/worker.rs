//! A worker: the only process in which code of a module runs, without any privilege. It either looks at target files
//! once (`detect`) or drains the ring and decodes (`pump`). Single-threaded: Landlock and seccomp hold per thread.

mod detect;
mod join;
mod load;
mod publish;
mod pump;
mod source;

use std::os::fd::OwnedFd;

use crate::protocol::control::Control;
use crate::protocol::{FromWorker, WorkerJob, WorkerStart};
use crate::sandbox::{self, Entry, Limits, Role, child};

pub use publish::BatchCounts;

/// Entry point of the role. Returns the exit code; success is only what [`FromWorker::Done`] said.
#[must_use]
pub fn main(broker: u32) -> i32 {
    match run(broker) {
        Ok(()) => 0,
        Err((code, text)) => {
            Control::say(&FromWorker::Failed(code, text));
            1
        }
    }
}

fn run(broker: u32) -> Result<(), (String, String)> {
    let failed = |what: &str, e: &dyn std::fmt::Display| ("E-MODULE".to_string(), format!("{what}: {e}"));
    let (text, fds) = child::receive_start().map_err(|e| failed("start message", &e))?;
    let start: WorkerStart = serde_json::from_slice(&text).map_err(|e| failed("start message", &e))?;
    let given = fds.len();
    let mut fds = fds.into_iter();
    let module = fds.next().ok_or_else(|| failed("start message", &"no module"))?;
    let rest: Vec<OwnedFd> = fds.collect();

    let walls = |e: sandbox::SandboxError| ("E-SANDBOX".to_string(), e.to_string());
    let mut boundary = sandbox::enter(&Entry {
        role: Role::Worker,
        broker_pid: broker,
        identity: start.identity,
        limits: Limits::of(Role::Worker, mapped(&start.job), given),
        preload: &start.needed,
        readable: None,
    })
    .map_err(walls)?;
    let module = load::load(module, &start.manifest)?;
    // From here on no file can be opened and nothing new can become executable.
    boundary.tighten().map_err(walls)?;
    Control::say(&FromWorker::Boundary(boundary.report().clone()));

    let host = load::host_api();
    let config = serde_json::to_string(&start.config).map_err(|e| failed("config", &e))?;
    match start.job {
        WorkerJob::Detect { targets } => detect::run(&module, host, &config, &targets, rest),
        WorkerJob::Run(job) => pump::run(&module, host, &config, &job, rest),
        WorkerJob::Replay(job) => pump::replay(&module, host, &config, &job, rest),
    }?;
    Control::say(&FromWorker::Done);
    Ok(())
}

/// Bytes that the job maps, beside the program itself and what the module needs.
fn mapped(job: &WorkerJob) -> u64 {
    match job {
        // Target files are mapped one after the other; this is the largest one that discovery lets through.
        WorkerJob::Detect { .. } => 2 << 30,
        // The kernel maps a ring's data twice in a row.
        WorkerJob::Run(job) => 2 * job.ring_bytes + job.link_bytes,
        WorkerJob::Replay(job) => job.link_bytes,
    }
}
