//! Programs that have begun and not ended, by shell process and time. Bounded by count and by bytes of their texts: whoever
//! runs shells decides how many there are. The oldest gives way.

use std::collections::BTreeMap;

/// Names a program: the shell process, and when it began (`CLOCK_MONOTONIC`, ns).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The process.
    pub process: u32,
    /// The time.
    pub start_ns: u64,
}

/// Text of a program: what could be made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// There should be more.
    pub partial: bool,
    /// Bytes of the code that did not come.
    pub missing: u64,
}

/// What is known of one that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// Its text; absent if its START was lost.
    pub text: Option<Text>,
    /// Where it comes from.
    pub context: Option<&'static str>,
    /// Stack pointer of what runs it.
    pub sp: u64,
    /// How often records had been lost when it began.
    pub losses: u64,
}

impl Open {
    fn weight(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.bytes.len())
    }
}

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Programs.
    pub programs: usize,
    /// Bytes of their texts.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { programs: 1 << 16, bytes: 64 << 20 }
    }
}

/// All of them.
#[derive(Debug)]
pub struct Programs {
    open: BTreeMap<Id, Open>,
    bytes: usize,
    limits: Limits,
}

impl Programs {
    /// None.
    pub fn new(limits: Limits) -> Self {
        Self { open: BTreeMap::new(), bytes: 0, limits }
    }

    /// Takes one out.
    pub fn take(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(open.weight());
        Some(open)
    }

    /// Puts one in; gives back those that had to give way.
    pub fn put(&mut self, id: Id, open: Open) -> Vec<(Id, Open)> {
        let mut out = Vec::new();
        out.extend(self.take(id).map(|old| (id, old)));
        while !self.open.is_empty()
            && (self.open.len() >= self.limits.programs || self.bytes + open.weight() > self.limits.bytes)
        {
            // A full table is rare enough for a search.
            let Some(oldest) = self.open.keys().min_by_key(|id| id.start_ns).copied() else { break };
            out.extend(self.take(oldest).map(|open| (oldest, open)));
        }
        self.bytes = self.bytes.saturating_add(open.weight());
        self.open.insert(id, open);
        out
    }

    /// Those of one process, the innermost first.
    pub fn of_process(&self, process: u32) -> impl Iterator<Item = (Id, &Open)> {
        let all = Id { process, start_ns: 0 }..=Id { process, start_ns: u64::MAX };
        self.open.range(all).rev().map(|(id, open)| (*id, open))
    }

    /// Those of one process are not on its stack any more: it is another program.
    pub fn replaced(&mut self, process: u32) {
        let all = Id { process, start_ns: 0 }..=Id { process, start_ns: u64::MAX };
        for (_, open) in self.open.range_mut(all) {
            open.sp = u64::MAX;
        }
    }

    /// Takes out everything, in the order in which it began.
    pub fn drain(&mut self) -> Vec<(Id, Open)> {
        self.bytes = 0;
        let mut all: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        all.sort_by_key(|(id, _)| (id.start_ns, id.process));
        all
    }
}
