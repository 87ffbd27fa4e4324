//! The scout as a process: gives everything up, then looks at the one file that it was handed.

use crate::protocol::control::Control;
use crate::protocol::{FromScout, ScoutStart};
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
    let (text, fds) = child::receive_start().map_err(|e| e.to_string())?;
    let start: ScoutStart = serde_json::from_slice(&text).map_err(|e| format!("start message: {e}"))?;
    let file = fds.into_iter().next().ok_or("start message: no file")?;
    let size = memfd::file_size(&file).map_err(|e| e.to_string())?;
    let boundary = sandbox::enter(&Entry {
        role: Role::Scout,
        broker_pid: broker,
        identity: start.identity,
        // The analysis of a program keeps tables that grow with its code.
        limits: Limits::of(Role::Scout, size.saturating_mul(3), 1),
        preload: &[],
        readable: None,
    })
    .map_err(|e| e.to_string())?;
    Control::say(&FromScout::Boundary(boundary.report().clone()));
    let bytes = memfd::map_file(&file).map_err(|e| format!("cannot map it: {e}"))?;
    Ok(FromScout::Answer(super::analyse(&bytes, &start.request)))
}
