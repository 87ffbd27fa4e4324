//! Which program a process runs, and in which container. The collector cannot look: it asks the broker once a process and
//! remembers, bounded, until the broker says that it is no longer true.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::protocol::Process;

/// Processes remembered, at most.
const MAX_KNOWN: usize = 4096;
/// Control groups remembered, at most.
const MAX_GROUPS: usize = 4096;
/// After this the answer is asked for again, should the broker not have heard of a change.
const FRESH: Duration = Duration::from_secs(10);

/// An answer, and when it holds.
#[derive(Debug, Clone)]
struct Answer {
    process: Rc<Process>,
    /// Of events from here on (monotonic ns).
    from_ns: u64,
    /// Of events before this; `u64::MAX`: nothing else is known yet.
    until_ns: u64,
    since: Instant,
}

/// What is known of processes.
#[derive(Debug, Default)]
pub struct Who {
    /// The last answer of each, and the one before: events come some milliseconds after they happened.
    known: HashMap<u32, (Answer, Option<Answer>)>,
    /// Containers by control group: a group's number is never used again.
    groups: HashMap<u64, Option<Rc<str>>>,
}

impl Who {
    /// What is known of a process at the time of an event: `None` if it must be asked for.
    #[must_use]
    pub fn process(&self, pid: u32, time_ns: u64, now: Instant) -> Option<Rc<Process>> {
        let (last, before) = self.known.get(&pid)?;
        if time_ns < last.from_ns {
            // Either what was known before, or a process of that number of which nobody knows anything any more.
            let before = before.as_ref().filter(|b| (b.from_ns..b.until_ns).contains(&time_ns));
            return Some(before.map_or_else(|| nobody(pid), |b| b.process.clone()));
        }
        let holds = time_ns < last.until_ns && (last.until_ns != u64::MAX || now.duration_since(last.since) < FRESH);
        holds.then(|| last.process.clone())
    }

    /// The container of a control group: `None` if it is not known.
    #[must_use]
    pub fn container(&self, group: u64) -> Option<Option<Rc<str>>> {
        self.groups.get(&group).cloned()
    }

    /// Remembers an answer. A process that has ended meanwhile keeps the name that it had.
    pub fn learn(&mut self, process: Process, now: Instant) {
        if self.groups.len() >= MAX_GROUPS {
            self.groups.clear();
        }
        if let Some(group) = process.group {
            self.groups.insert(group, process.container.as_deref().map(Rc::from));
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, (last, _)| now.duration_since(last.since) < FRESH);
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
        }
        let old = self.known.remove(&process.pid);
        if process.exe.is_none()
            && let Some((last, before)) = old
        {
            // Gone: nothing more will come of it but what is on its way.
            self.known.insert(process.pid, (Answer { since: now, ..last }, before));
            return;
        }
        let before = old.map(|(last, _)| last).filter(|last| last.until_ns != u64::MAX);
        let from_ns = before.as_ref().map_or(0, |b| b.until_ns).max(process.started_ns);
        let pid = process.pid;
        self.known.insert(pid, (Answer { process: Rc::new(process), from_ns, until_ns: u64::MAX, since: now }, before));
    }

    /// Nothing was said of a control group when it was asked about.
    pub fn nothing_of(&mut self, group: u64) {
        if group != 0 {
            self.groups.entry(group).or_default();
        }
    }

    /// The process runs another program, or has ended, since then.
    pub fn changed(&mut self, pid: u32, time_ns: u64) {
        if let Some((last, _)) = self.known.get_mut(&pid) {
            last.until_ns = last.until_ns.min(time_ns);
        }
    }
}

fn nobody(pid: u32) -> Rc<Process> {
    Rc::new(Process { pid, ..Process::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, exe: &str, started_ns: u64) -> Process {
        Process { pid, exe: Some(exe.into()), started_ns, ..Process::default() }
    }

    fn exe(who: &Who, pid: u32, time_ns: u64, now: Instant) -> Option<Option<String>> {
        who.process(pid, time_ns, now).map(|p| p.exe.clone())
    }

    #[test]
    fn answers_age_and_the_last_name_of_an_ended_process_stays() {
        let (mut who, now) = (Who::default(), Instant::now());
        assert_eq!(exe(&who, 7, 100, now), None);
        who.learn(process(7, "/bin/x", 50), now);
        assert_eq!(exe(&who, 7, 100, now), Some(Some("/bin/x".into())));
        assert_eq!(exe(&who, 7, 100, now + FRESH), None);
        who.learn(Process { pid: 7, ..Process::default() }, now + FRESH);
        assert_eq!(exe(&who, 7, 100, now + FRESH), Some(Some("/bin/x".into())));
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let (mut who, now) = (Who::default(), Instant::now());
        who.learn(process(7, "/bin/old", 50), now);
        who.changed(7, 200);
        // What the old one said before it ended is still its own; then somebody must be asked.
        assert_eq!(exe(&who, 7, 199, now + FRESH), Some(Some("/bin/old".into())));
        assert_eq!(exe(&who, 7, 200, now), None);
        who.learn(process(7, "/bin/new", 210), now);
        assert_eq!(exe(&who, 7, 220, now), Some(Some("/bin/new".into())));
        assert_eq!(exe(&who, 7, 199, now), Some(Some("/bin/old".into())));
        // Between the two there was nobody.
        assert_eq!(exe(&who, 7, 205, now), Some(None));
        // Of one that began after the event, nothing can be said of the event.
        who.learn(process(8, "/bin/late", 1000), now);
        assert_eq!(exe(&who, 8, 999, now), Some(None));
    }

    #[test]
    fn another_program_in_the_same_process_is_another_name() {
        let (mut who, now) = (Who::default(), Instant::now());
        who.learn(process(7, "/bin/sh", 50), now);
        who.changed(7, 200);
        who.learn(process(7, "/bin/ls", 50), now);
        assert_eq!(exe(&who, 7, 199, now), Some(Some("/bin/sh".into())));
        assert_eq!(exe(&who, 7, 201, now), Some(Some("/bin/ls".into())));
    }

    #[test]
    fn containers_are_known_by_their_group() {
        let (mut who, now) = (Who::default(), Instant::now());
        let inside = Process { container: Some("abc".into()), group: Some(99), ..process(7, "/x", 0) };
        who.learn(inside, now);
        who.learn(Process { group: Some(1), ..process(8, "/y", 0) }, now);
        assert_eq!(who.container(99), Some(Some("abc".into())));
        assert_eq!(who.container(1), Some(None));
        assert_eq!(who.container(2), None);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut who, now) = (Who::default(), Instant::now());
        for pid in 0..3 * MAX_KNOWN as u32 {
            who.learn(Process { pid, group: Some(pid.into()), ..Process::default() }, now);
        }
        assert!(who.known.len() <= MAX_KNOWN && who.groups.len() <= MAX_GROUPS);
    }
}
