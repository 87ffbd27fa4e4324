//! What the user is told of what goes on: logs of children, what of a boundary is missing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::attend::printable;
use crate::sandbox::BoundaryReport;

/// Lines that a child may write at once, and how many more each second: a module that shouts must not drown the rest.
const BURST: f64 = 30.0;
const PER_SECOND: f64 = 2.0;

/// How much of one child's log is shown.
struct Allowance {
    lines: f64,
    at: Instant,
    held_back: u64,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, at: now, held_back: 0 }
    }

    /// `None`: this line is not shown. Else how many before it were not.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.lines, self.at) = ((self.lines + passed * PER_SECOND).min(BURST), now);
        if self.lines < 1.0 {
            self.held_back += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// By name of the child: a handful.
static ALLOWANCES: Mutex<BTreeMap<String, Allowance>> = Mutex::new(BTreeMap::new());

/// A line that a child wrote to the log, if it does not write too many.
pub fn log(name: &str, level: u8, text: &str) {
    let shown = match level {
        0..=2 => true,
        3 => tracing::enabled!(tracing::Level::INFO),
        4 => tracing::enabled!(tracing::Level::DEBUG),
        _ => tracing::enabled!(tracing::Level::TRACE),
    };
    if !shown {
        return;
    }
    let now = Instant::now();
    let mut all = ALLOWANCES.lock().unwrap_or_else(PoisonError::into_inner);
    match all.entry(name.into()).or_insert_with(|| Allowance::new(now)).take(now) {
        None => return,
        Some(0) => {}
        Some(held_back) => tracing::warn!("{name}: ({held_back} more lines that it wrote are not shown)"),
    }
    drop(all);
    let text = printable(text);
    match level {
        0 | 1 => tracing::error!("{name}: {text}"),
        2 => tracing::warn!("{name}: {text}"),
        3 => tracing::info!("{name}: {text}"),
        4 => tracing::debug!("{name}: {text}"),
        _ => tracing::trace!("{name}: {text}"),
    }
}

/// What of a child's walls could not be put up. Said once per child: a weaker boundary is never silent.
pub fn boundary(name: &str, report: &BoundaryReport) {
    for line in &report.degraded {
        tracing::warn!("{name}: {}", printable(line));
    }
}

/// Sets up the log: to stderr, as much as was asked for.
pub fn init(verbose: u8, quiet: bool) {
    use std::io::IsTerminal;
    let level = match (quiet, verbose) {
        (true, _) => tracing::Level::ERROR,
        (_, 0) => tracing::Level::WARN,
        (_, 1) => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // Captured by whoever was first; a second call in one process changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .try_init();
}

/// Name of this machine, for the session's first line.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_child_that_shouts_is_cut_short_and_told_of() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let shown = (0..1000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(shown, 30);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(970));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(0));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), None);
        assert_eq!(allowance.take(start + Duration::from_secs(100)), Some(1));
    }
}
