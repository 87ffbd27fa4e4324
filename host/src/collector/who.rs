//! Which program a process runs. The collector cannot look: it asks the broker once a process and remembers, bounded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Processes remembered, at most.
const MAX_KNOWN: usize = 4096;
/// After this the answer is asked for again: process ids are used again.
const FRESH: Duration = Duration::from_secs(10);

/// What is known of processes.
#[derive(Debug, Default)]
pub struct Who {
    known: HashMap<u32, (Option<String>, Instant)>,
}

impl Who {
    /// The executable of a process: `None` if it must be asked for, `Some(None)` if nobody knows.
    #[must_use]
    pub fn exe(&self, pid: u32, now: Instant) -> Option<Option<&str>> {
        let (exe, since) = self.known.get(&pid)?;
        (now.duration_since(*since) < FRESH).then_some(exe.as_deref())
    }

    /// Remembers an answer. A process that has ended meanwhile keeps the name that it had.
    pub fn learn(&mut self, pid: u32, exe: Option<String>, now: Instant) {
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, (_, since)| now.duration_since(*since) < FRESH);
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
        }
        let entry = self.known.entry(pid).or_insert((None, now));
        entry.1 = now;
        if exe.is_some() {
            entry.0 = exe;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_age_and_the_last_name_of_an_ended_process_stays() {
        let (mut who, now) = (Who::default(), Instant::now());
        assert_eq!(who.exe(7, now), None);
        who.learn(7, Some("/bin/x".into()), now);
        assert_eq!(who.exe(7, now), Some(Some("/bin/x")));
        assert_eq!(who.exe(7, now + FRESH), None);
        who.learn(7, None, now + FRESH);
        assert_eq!(who.exe(7, now + FRESH), Some(Some("/bin/x")));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut who, now) = (Who::default(), Instant::now());
        for pid in 0..3 * MAX_KNOWN as u32 {
            who.learn(pid, None, now);
        }
        assert!(who.known.len() <= MAX_KNOWN);
    }
}
