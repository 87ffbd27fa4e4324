//! The scout as a process: gives everything up, then looks at the files that it was handed.

use std::os::fd::OwnedFd;

use crate::packet::libpcap;
use crate::protocol::control::Control;
use crate::protocol::{FromScout, ScoutJob, ScoutStart};
use crate::sandbox::{self, Entry, Limits, Role, child, memfd};

/// Entry point of the role.
#[must_use]
pub fn main(broker: u32) -> i32 {
    match run(broker) {
        Ok(answer) => {
            Control::say(&answer);
            0
        }
        Err(why) => {
            Control::say(&FromScout::Failed(why));
            1
        }
    }
}

fn run(broker: u32) -> Result<FromScout, String> {
    let (text, files) = child::receive_start().map_err(|e| e.to_string())?;
    let start: ScoutStart = serde_json::from_slice(&text).map_err(|e| format!("start message: {e}"))?;
    let largest = match start.job {
        ScoutJob::Place(_) => files.first().map_or(Ok(0), memfd::file_size).map_err(|e| e.to_string())?,
        // Read piece by piece.
        ScoutJob::Sift(_) | ScoutJob::Filter(_) => 0,
    };
    let mut compiled = None;
    let entry = Entry {
        role: Role::Scout,
        broker_pid: broker,
        identity: start.identity,
        // The analysis of a program keeps tables that grow with its code.
        limits: Limits::of(Role::Scout, largest.saturating_mul(3), files.len()),
        preload: &[],
        readable: None,
    };
    // Names of hosts and ports stand in files, and in the network.
    let between = || {
        if let ScoutJob::Filter(expression) = &start.job {
            compiled = Some(libpcap::compile(expression));
        }
    };
    let boundary = sandbox::enter_after(&entry, between).map_err(|e| e.to_string())?;
    Control::say(&FromScout::Boundary(boundary.report().clone()));
    match start.job {
        ScoutJob::Place(request) => {
            let file = files.first().ok_or("start message: no file")?;
            let bytes = memfd::map_file(file).map_err(|e| format!("cannot map it: {e}"))?;
            Ok(FromScout::Answer(super::analyse(&bytes, &request)))
        }
        ScoutJob::Filter(_) => Ok(FromScout::Filter(compiled.ok_or("the filter was not compiled")?)),
        ScoutJob::Sift(texts) => Ok(FromScout::Sifted(files.into_iter().map(|file| sift(file, &texts)).collect())),
    }
}

fn sift(file: OwnedFd, texts: &[String]) -> Result<bool, String> {
    super::sift::contains(std::fs::File::from(file), texts).map_err(|e| e.to_string())
}
