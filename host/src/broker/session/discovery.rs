//! Programs and libraries that come while the run lasts: started, installed, upgraded, or brought by a container.
//!
//! A probe sits in a file, so whatever else runs a file that is probed is captured from its first instruction on. Only a
//! file that nobody has seen before has to be looked at first. Such a file is found by the kernel's word that a program of
//! that name was started, by a look at the usual places twice a second, and by a slow walk through `/proc`, which also
//! finds libraries. It is then asked about in a throw-away worker and placed by a scout, as at the start, beside the
//! running capture; a few at a time, so that a file on which the module hangs holds up no other.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ecapture_plugin_api::manifest::TargetKind;

use super::capture::Capture;
use crate::broker::Asked;
use crate::broker::filters::{Filters, Notice};
use crate::broker::prepare::{Target, prepare_later};
use crate::broker::sift;
use crate::failure::Failure;
use crate::target::discover::{self, MAX_TARGETS};
use crate::target::{FileId, Found, process};

/// Files looked at at the same time.
const AT_ONCE: usize = 3;
/// Files looked at without a pause, and then so many a second: a look is two processes and a line of log, and anybody can
/// start programs of any name.
const LOOKS: f64 = 64.0;
const LOOKS_PER_SECOND: f64 = 2.0;
/// Files that wait to be looked at, at most; those beyond are found again by the walk.
const WAITING: usize = 256;
/// Time between the starts of two walks.
const WALK_EVERY: Duration = Duration::from_secs(2);
/// How long one step of a walk may take, twice a second: 2 % of a processor.
const WALK_STEP: Duration = Duration::from_millis(10);
/// The same, of the first walk: nothing is captured yet of what it finds.
const FIRST_WALK_STEP: Duration = Duration::from_millis(50);
/// Programs that were started a moment ago and may not have mapped their libraries yet, at most.
const YOUNG: usize = 4096;
/// After this a program has mapped what it was linked with.
const GROWN: Duration = Duration::from_millis(50);

/// Files of which device and inode are remembered, so that each is looked through once.
const REMEMBERED: usize = 1 << 16;
/// Files that wait to be looked through, at most; those beyond are found again by the walk.
const UNSIFTED: usize = 256;

/// Module, device and inode.
type Key = (usize, (u64, u64));

/// A file that may be a target by what is in it.
struct Unsifted {
    index: usize,
    key: Key,
    found: Found,
    since_ns: Option<u64>,
}

/// Those that are, of one batch.
type Sifting = Pin<Box<dyn Future<Output = Vec<Unsifted>>>>;

/// A file that is being looked at.
type Look = Pin<Box<dyn Future<Output = Result<Target, Failure>>>>;

struct Looking {
    index: usize,
    number: u32,
    id: FileId,
    since_ns: Option<u64>,
    look: Look,
}

struct Waiting {
    index: usize,
    found: Found,
    since_ns: Option<u64>,
}

/// What was found of a file that came later.
pub struct Looked {
    /// Place of the module.
    pub index: usize,
    /// Number that was set aside for it.
    pub number: u32,
    /// The file.
    pub id: FileId,
    /// When the program was started, if the kernel told.
    pub since_ns: Option<u64>,
    /// It can be attached to, or why not.
    pub result: Result<Target, Failure>,
}

/// The search for what comes.
pub struct Discovery {
    /// When the run looked for the first time, monotonic ns: what was started before has no gap to be told.
    began_ns: u64,
    waiting: VecDeque<Waiting>,
    looking: Vec<Looking>,
    young: VecDeque<(Instant, Notice)>,
    walk: VecDeque<u32>,
    walk_began: Option<Instant>,
    /// The first one is over.
    walked: bool,
    overflowed: u64,
    /// Files that have been or will be looked through, and what those are that are targets.
    sifted: HashMap<Key, Option<FileId>>,
    unsifted: VecDeque<Unsifted>,
    sifting: Option<Sifting>,
    /// Targets by what is in them, to be looked at next.
    passed: Vec<Unsifted>,
    allowance: (f64, Instant),
}

/// Names of the programs that the modules look for, and whether any looks for libraries.
#[must_use]
pub fn wanted(asked: &[Arc<Asked>]) -> (BTreeSet<String>, bool) {
    let mut names = BTreeSet::new();
    let mut libraries = false;
    for asked in asked {
        for target in &asked.module.manifest.targets {
            libraries |= target.kind == TargetKind::Library;
            let of_paths = target.paths.iter().filter_map(|p| p.rsplit('/').next());
            names.extend(target.names.iter().map(String::as_str).chain(of_paths).map(str::to_owned));
        }
        let given = asked.options.targets.iter().filter_map(|p| p.file_name()?.to_str());
        names.extend(given.map(str::to_owned));
    }
    (names, libraries)
}

impl Discovery {
    /// For what comes after that time.
    #[must_use]
    pub fn new(began_ns: u64) -> Self {
        Self {
            began_ns,
            waiting: VecDeque::new(),
            looking: Vec::new(),
            young: VecDeque::new(),
            walk: VecDeque::new(),
            walk_began: None,
            walked: false,
            overflowed: 0,
            sifted: HashMap::new(),
            unsifted: VecDeque::new(),
            sifting: None,
            passed: Vec::new(),
            allowance: (LOOKS, Instant::now()),
        }
    }

    /// The kernel told of a process that runs another program.
    pub fn started(&mut self, notice: Notice, captures: &mut [Capture], filters: &Filters) {
        self.process(notice.pid, Some(notice.time_ns), captures, filters);
        if captures.iter().any(|c| c.wants_libraries()) && self.young.len() < YOUNG {
            self.young.push_back((Instant::now() + GROWN, notice));
        }
    }

    /// Twice a second: files in their usual places, young processes, a step of the walk.
    pub fn look_around(&mut self, captures: &mut [Capture], filters: &mut Filters) {
        for index in 0..captures.len() {
            let Some(capture) = captures.get_mut(index) else { continue };
            for found in capture.places(!filters.by_process()) {
                self.found(index, found, None, capture);
            }
        }
        let now = Instant::now();
        while let Some((due, notice)) = self.young.front().copied()
            && due <= now
        {
            self.young.pop_front();
            self.process(notice.pid, Some(notice.time_ns), captures, filters);
        }
        if filters.unheard() > 0 {
            // Something was started that nobody told of: the walk begins anew at once.
            self.walk_began = None;
        }
        self.walk(now, captures, filters);
    }

    fn walk(&mut self, now: Instant, captures: &mut [Capture], filters: &Filters) {
        if self.walk.is_empty() {
            if self.walk_began.is_some_and(|began| now.duration_since(began) < WALK_EVERY) {
                return;
            }
            self.walked = self.walk_began.is_some();
            if let Some(began) = self.walk_began {
                captures.iter_mut().for_each(|c| c.let_go(began));
            }
            self.walk = process::all().into();
            self.walk_began = Some(now);
        }
        let step = if self.walked { WALK_STEP } else { FIRST_WALK_STEP };
        while now.elapsed() < step
            && let Some(pid) = self.walk.pop_front()
        {
            self.process(pid, None, captures, filters);
        }
    }

    /// Looks at one process for all modules.
    fn process(&mut self, pid: u32, since_ns: Option<u64>, captures: &mut [Capture], filters: &Filters) {
        if !filters.watches(pid) {
            return;
        }
        for (index, capture) in captures.iter_mut().enumerate().filter(|(_, c)| !c.is_over()) {
            let found = discover::of_process(&capture.wanted, pid);
            if capture.asked.options.targets.is_empty() {
                for one in found {
                    // The walk may come upon a process before the kernel's word of it is read.
                    let began = || process::started_ns(pid).filter(|began| *began > self.began_ns);
                    let since_ns = if capture.knows(&one.identity) { None } else { since_ns.or_else(began) };
                    self.found(index, one, since_ns, capture);
                }
                self.unnamed(index, pid, since_ns, capture);
                continue;
            }
            // Where the user named the files a process cannot bring others: what it uses of them is noted, and when a program of
            // that name is started, the files themselves are looked at.
            found.iter().for_each(|one| _ = capture.knows(&one.identity));
            if since_ns.is_some() {
                capture.places(false).into_iter().for_each(|one| self.found(index, one, since_ns, capture));
            }
        }
    }

    /// What the process uses under other names: each file is looked through once.
    fn unnamed(&mut self, index: usize, pid: u32, since_ns: Option<u64>, capture: &mut Capture) {
        if self.sifted.len() >= REMEMBERED {
            self.sifted.clear();
        }
        let mut fresh = Vec::new();
        let (sifted, mut room) = (&self.sifted, UNSIFTED.saturating_sub(self.unsifted.len()));
        let found = discover::unnamed(&capture.wanted.clone(), pid, |id| match sifted.get(&(index, id)) {
            // In use, whatever it is called.
            Some(target) => {
                target.iter().for_each(|id| _ = capture.knows(id));
                false
            }
            None if room == 0 || fresh.contains(&id) => false,
            None => {
                room -= 1;
                fresh.push(id);
                true
            }
        });
        for one in found {
            let began = || process::started_ns(pid).filter(|began| *began > self.began_ns);
            let since_ns = since_ns.or_else(began);
            let unsifted = Unsifted { index, key: (index, one.id), found: one.found, since_ns };
            // What was started a moment ago first: it is running, and nothing is captured.
            match since_ns {
                Some(_) => self.unsifted.push_front(unsifted),
                None => self.unsifted.push_back(unsifted),
            }
        }
        self.sifted.extend(fresh.into_iter().map(|id| ((index, id), None)));
    }

    fn found(&mut self, index: usize, found: Found, since_ns: Option<u64>, capture: &mut Capture) {
        if capture.knows(&found.identity) || capture.is_over() {
            return;
        }
        if self.waiting.len() >= WAITING {
            self.overflowed += 1;
            if self.overflowed.is_power_of_two() {
                tracing::warn!(
                    "{}: {WAITING} new files wait to be looked at; others wait for their turn",
                    capture.name()
                );
            }
            return;
        }
        capture.note_pending(&found);
        self.waiting.push_back(Waiting { index, found, since_ns });
    }

    /// Files that were found to be targets by what is in them: to be looked at as any other.
    fn take_passed(&mut self, captures: &mut [Capture]) {
        for Unsifted { index, key, found, since_ns } in std::mem::take(&mut self.passed) {
            self.sifted.insert(key, Some(found.identity));
            if let Some(capture) = captures.get_mut(index) {
                self.found(index, found, since_ns, capture);
            }
        }
    }

    /// The next file that was looked at; waits until there is one, or until files were looked through (`None`): then
    /// [`Discovery::begin`] goes on.
    pub async fn looked(&mut self) -> Option<Looked> {
        std::future::poll_fn(|context| {
            if let Some(sifting) = &mut self.sifting
                && let Poll::Ready(passed) = sifting.as_mut().poll(context)
            {
                self.sifting = None;
                self.passed.extend(passed);
                return Poll::Ready(None);
            }
            for at in 0..self.looking.len() {
                let Some(looking) = self.looking.get_mut(at) else { continue };
                if let Poll::Ready(result) = looking.look.as_mut().poll(context) {
                    let Looking { index, number, id, since_ns, .. } = self.looking.swap_remove(at);
                    return Poll::Ready(Some(Looked { index, number, id, since_ns, result }));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Starts to look through files that wait for it, one batch at a time.
    fn begin_sifting(&mut self, captures: &[Capture]) {
        let (None, Some(first)) = (&self.sifting, self.unsifted.front()) else { return };
        let (index, program) = (first.index, first.found.program);
        let alike = |u: &Unsifted| (u.index, u.found.program) == (index, program);
        let count = self.unsifted.iter().take_while(|u| alike(u)).count().min(sift::BATCH);
        let batch: Vec<Unsifted> = self.unsifted.drain(..count).collect();
        let Some(capture) = captures.get(index).filter(|c| !c.is_over()) else { return };
        let (identity, texts) = (capture.ready.identity, discover::contained(&capture.wanted, program));
        self.sifting = Some(Box::pin(async move {
            let mut about = Vec::new();
            let mut files = Vec::new();
            for Unsifted { key, found, since_ns, .. } in batch {
                about.push((key, since_ns, found.identity));
                files.push(found);
            }
            let passed = sift::sift(identity, texts, files).await;
            let of = |found: Found| {
                let (key, since_ns, _) = about.iter().find(|(_, _, id)| *id == found.identity)?;
                Some(Unsifted { index, key: *key, found, since_ns: *since_ns })
            };
            passed.into_iter().filter_map(of).collect()
        }));
    }

    /// Starts to look at files that wait, as many as may be looked at at once. Each gets a number first.
    pub fn begin(&mut self, captures: &mut [Capture]) {
        self.take_passed(captures);
        self.begin_sifting(captures);
        let (looks, at) = self.allowance;
        self.allowance = ((looks + at.elapsed().as_secs_f64() * LOOKS_PER_SECOND).min(LOOKS), Instant::now());
        while self.looking.len() < AT_ONCE
            && self.allowance.0 >= 1.0
            && let Some(Waiting { index, found, since_ns }) = self.waiting.pop_front()
        {
            let Some(capture) = captures.get_mut(index).filter(|c| !c.is_over()) else { continue };
            let Some(number) = capture.take_number() else {
                capture.table_full(&found);
                continue;
            };
            self.allowance.0 -= 1.0;
            let id = found.identity;
            let look = prepare_later(capture.asked.clone(), capture.ready.clone(), found, number);
            self.looking.push(Looking { index, number, id, since_ns, look: Box::pin(look) });
        }
    }

    /// Nothing more is wanted.
    pub fn stop(&mut self) {
        *self = Self::new(self.began_ns);
    }
}

/// Numbers of targets: rows of `ecap_layouts`. A number that was given back is the last to be given out again, since records
/// with it may still be on their way.
#[derive(Debug)]
pub struct Numbers {
    free: VecDeque<u32>,
}

impl Numbers {
    /// All but those that are in use.
    #[must_use]
    pub fn but(used: &[u32]) -> Self {
        Self { free: (0..MAX_TARGETS as u32).filter(|n| !used.contains(n)).collect() }
    }

    /// The next one, if there is any.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// Not used any more.
    pub fn give_back(&mut self, number: u32) {
        if number < MAX_TARGETS as u32 && !self.free.contains(&number) {
            self.free.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_comes_back_is_the_last_to_go_out_again() {
        let mut numbers = Numbers::but(&[0, 2]);
        assert_eq!(numbers.take(), Some(1));
        numbers.give_back(1);
        numbers.give_back(1);
        let all: Vec<u32> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(all.len(), MAX_TARGETS - 2);
        assert_eq!((all[0], all.last()), (3, Some(&1)));
        numbers.give_back(u32::MAX);
        assert_eq!(numbers.take(), None);
    }
}
