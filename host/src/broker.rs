//! The broker: the one privileged process. Finds targets and opens them, loads eBPF, attaches numbers, watches over its
//! children. It never runs module code, never parses a target, never touches captured data.

mod attach;
mod attend;
mod channel;
mod expression;
mod filters;
mod localtime;
mod outputs;
mod packets;
mod plan;
mod policy;
mod prepare;
pub mod replay;
mod rotation;
mod session;
mod sift;
mod sockets;
mod watch;

use std::sync::Arc;

use tokio::runtime::Builder;

use crate::cli::{ModuleOptions, RunOptions};
use crate::failure::{Exit, Failure};
use crate::module::Loaded;

pub use plan::not_needed;
pub use prepare::{Prepared, Request, prepare};

/// What an explanation uses of a run.
pub(crate) mod explained {
    pub use super::filters::group_paths;
    pub use super::prepare::{Examined, examine, target_remedy};
    pub use super::sift::of_processes as inside;
    pub use super::watch::init as init_log;
}

/// What a check of a module uses of a run.
pub(crate) mod checks {
    pub use super::attend::{Attended, printable};
    pub use super::plan::{check_configured as configured, request as detected};
    pub use super::prepare::{objects, worker_start};
    pub(crate) use super::session::{LINK_BYTES, max_message, run as capture};
}

/// One module of a run, and what it was asked to do.
#[derive(Debug)]
pub struct Asked {
    /// Its bytes, judged.
    pub module: Arc<Loaded>,
    /// Its part of the options.
    pub options: ModuleOptions,
}

impl Asked {
    /// Name of the module.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.module.manifest.module.name
    }
}

/// Captures with these modules until the user or the options end it.
///
/// # Errors
/// What the user is told; see docs/refusals.md.
pub fn capture(asked: Vec<Asked>, options: RunOptions) -> Result<Exit, Failure> {
    block_on(session::run(asked, options))
}

/// Whether libpcap understands a packet filter, and there is one.
///
/// # Errors
/// Why not.
pub fn judge_filter(expression: &str) -> Result<(), Failure> {
    block_on(expression::compile(expression)).map(drop)
}

/// Runs the broker's event loop on this thread: children must be started from the main thread.
///
/// # Errors
/// Of `future`, or that there can be no event loop.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new("E-CHILD", format!("cannot set up the event loop: {e}")))?;
    runtime.block_on(future)
}
