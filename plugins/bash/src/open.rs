//! Commands that have begun and are not over, in the order in which they began. Bounded: how many there are is for the
//! captured scripts to choose.
//!
//! Not here: when a command is over (`decode`).

use crate::record::Id;
use std::collections::{BTreeMap, BTreeSet};

/// Bounds. Both hold at any time, except that one command alone may be larger than `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Commands.
    pub commands: usize,
    /// Bytes of their texts and arguments.
    pub bytes: usize,
}

impl Default for Limits {
    /// 65,536 commands, 128 MiB.
    fn default() -> Self {
        Self { commands: 1 << 16, bytes: 128 << 20 }
    }
}

/// Exact bytes, and how many behind them did not come.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Text {
    /// A prefix.
    pub bytes: Vec<u8>,
    /// Bytes behind it.
    pub missing: u64,
}

/// What is known of a command.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its text; `None` if its START never came.
    pub text: Option<Text>,
    /// Arguments of the program it ran, each with a NUL behind it.
    pub args: Option<Text>,
    /// [`flag`](crate::record::flag)s.
    pub flags: u32,
    /// The shell's stack pointer.
    pub sp: u64,
    /// It has a process of its own, whose status is its own.
    pub forked: bool,
    /// The shell process itself became its program.
    pub replaced: bool,
    /// The shell's status when it left without an end, and when that was.
    pub hint: Option<(u32, u64)>,
    /// Losses that were known when it began.
    pub losses: u64,
}

impl Open {
    fn bytes(&self) -> usize {
        let len = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.bytes.len());
        len(&self.text).saturating_add(len(&self.args))
    }
}

/// The open commands.
#[derive(Debug)]
pub struct Commands {
    limits: Limits,
    bytes: usize,
    all: BTreeMap<Id, Open>,
    by_age: BTreeSet<(u64, u32)>,
}

impl Commands {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, bytes: 0, all: BTreeMap::new(), by_age: BTreeSet::new() }
    }

    /// How many.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds one (one of the same name is replaced), and gives those for which there is no more room, oldest first.
    pub fn put(&mut self, id: Id, open: Open) -> Vec<(Id, Open)> {
        drop(self.take(id));
        self.bytes = self.bytes.saturating_add(open.bytes());
        self.all.insert(id, open);
        self.by_age.insert((id.start_ns, id.process));
        let mut out = Vec::new();
        while self.all.len() > 1 && (self.all.len() > self.limits.commands || self.bytes > self.limits.bytes) {
            let oldest = self.by_age.iter().map(|&(start_ns, process)| Id { process, start_ns }).find(|o| *o != id);
            let Some((oldest, open)) = oldest.and_then(|oldest| Some((oldest, self.take(oldest)?))) else { break };
            out.push((oldest, open));
        }
        out
    }

    /// Takes one out.
    pub fn take(&mut self, id: Id) -> Option<Open> {
        let open = self.all.remove(&id)?;
        self.by_age.remove(&(id.start_ns, id.process));
        self.bytes = self.bytes.saturating_sub(open.bytes());
        Some(open)
    }

    /// Changes what does not weigh: `false` if there is none of that name.
    pub fn change(&mut self, id: Id, change: impl FnOnce(&mut Open)) -> bool {
        self.all.get_mut(&id).map(change).is_some()
    }

    /// Those of a process, the innermost (latest) first.
    pub fn of_process(&self, process: u32) -> impl Iterator<Item = (Id, &Open)> {
        let range = Id { process, start_ns: 0 }..=Id { process, start_ns: u64::MAX };
        self.all.range(range).rev().map(|(id, open)| (*id, open))
    }

    /// Takes all out, oldest first.
    pub fn drain(&mut self) -> Vec<(Id, Open)> {
        let ages = std::mem::take(&mut self.by_age);
        let all = &mut self.all;
        self.bytes = 0;
        let ids = ages.into_iter().map(|(start_ns, process)| Id { process, start_ns });
        ids.filter_map(|id| Some((id, all.remove(&id)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(process: u32, start_ns: u64) -> Id {
        Id { process, start_ns }
    }

    fn open(bytes: usize) -> Open {
        Open { text: Some(Text { bytes: vec![b'x'; bytes], missing: 0 }), ..Open::default() }
    }

    #[test]
    fn the_oldest_goes_first_and_the_new_one_stays() {
        let mut commands = Commands::new(Limits { commands: 2, bytes: 100 });
        assert!(commands.put(id(9, 1), open(1)).is_empty());
        assert!(commands.put(id(1, 2), open(1)).is_empty());
        let gone: Vec<_> = commands.put(id(5, 3), open(1)).into_iter().map(|(id, _)| id).collect();
        assert_eq!(gone, [id(9, 1)]);
        // Larger than all there may be, and the oldest by its time: it alone is left.
        let gone: Vec<_> = commands.put(id(5, 0), open(1000)).into_iter().map(|(id, _)| id).collect();
        assert_eq!(gone, [id(1, 2), id(5, 3)]);
        assert_eq!(commands.len(), 1);
        assert!(commands.take(id(5, 0)).is_some());
        assert_eq!((commands.len(), commands.bytes), (0, 0));
    }

    #[test]
    fn a_process_has_its_own() {
        let mut commands = Commands::new(Limits::default());
        for (process, start) in [(1, 5), (2, 6), (1, 7), (3, 1)] {
            commands.put(id(process, start), open(3));
        }
        let of_one: Vec<_> = commands.of_process(1).map(|(id, _)| id.start_ns).collect();
        assert_eq!(of_one, [7, 5]);
        let all: Vec<_> = commands.drain().into_iter().map(|(id, _)| id.start_ns).collect();
        assert_eq!(all, [1, 5, 6, 7]);
        assert_eq!((commands.len(), commands.bytes), (0, 0));
    }
}
