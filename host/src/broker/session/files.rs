//! The files that one module knows: those it captures from, those being looked at, those that are of no use.

use std::collections::VecDeque;
use std::time::Instant;

use crate::target::{FileId, Found};

/// Files of no use that are remembered, so that each is looked at and complained of once.
const MAX_USELESS: usize = 256;

/// What is known of a file.
#[derive(Debug)]
enum State {
    /// Being looked at, or waiting for it.
    Pending { foreign: bool },
    /// Captured from, under this number.
    Attached { number: u32, foreign: bool },
}

#[derive(Debug)]
struct Entry {
    id: FileId,
    state: State,
    /// When a process was last seen to use it.
    used: Instant,
}

/// All of them, bounded.
#[derive(Debug, Default)]
pub struct Files {
    entries: Vec<Entry>,
    useless: VecDeque<FileId>,
}

impl Files {
    /// Whether the file has been seen before; if so, it is in use now.
    pub fn knows(&mut self, id: &FileId) -> bool {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.id.is(id)) {
            entry.used = Instant::now();
            return true;
        }
        // Nobody holds it open: under its number there may be another file by now.
        self.useless.iter().any(|useless| useless == id)
    }

    /// It is going to be looked at. Whose it is must be asked now: its process may end meanwhile.
    pub fn pending(&mut self, found: &Found) {
        let state = State::Pending { foreign: found.is_foreign() };
        self.entries.push(Entry { id: found.identity, state, used: Instant::now() });
    }

    fn was_foreign(&self, id: &FileId) -> bool {
        self.entries.iter().any(|e| e.id.is(id) && matches!(e.state, State::Pending { foreign: true }))
    }

    /// It is captured from.
    pub fn attached(&mut self, found: &Found, number: u32) {
        let foreign = found.is_foreign() || self.was_foreign(&found.identity);
        let state = State::Attached { number, foreign };
        match self.entries.iter_mut().find(|e| e.id.is(&found.identity)) {
            Some(entry) => (entry.state, entry.used) = (state, Instant::now()),
            None => self.entries.push(Entry { id: found.identity, state, used: Instant::now() }),
        }
    }

    /// It cannot be captured from.
    pub fn useless(&mut self, id: FileId) {
        self.entries.retain(|e| !(e.id.is(&id) && matches!(e.state, State::Pending { .. })));
        if self.useless.len() >= MAX_USELESS {
            self.useless.pop_front();
        }
        self.useless.push_back(id);
    }

    /// It was not looked at after all.
    pub fn forget(&mut self, id: &FileId) {
        self.entries.retain(|e| !e.id.is(id));
    }

    /// No longer captured from.
    pub fn detached(&mut self, number: u32) {
        self.entries.retain(|e| !matches!(e.state, State::Attached { number: n, .. } if n == number));
    }

    /// Numbers of files that no process was seen to use since then, and whether each was found in another root.
    #[must_use]
    pub fn unused_since(&self, since: Instant) -> Vec<(u32, bool)> {
        let unused = self.entries.iter().filter(|e| e.used < since);
        unused
            .filter_map(|e| match e.state {
                State::Attached { number, foreign } => Some((number, foreign)),
                State::Pending { .. } => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    fn made(dir: &std::path::Path, name: &str, bytes: &str) -> (File, FileId) {
        std::fs::write(dir.join(name), bytes).unwrap();
        let file = File::open(dir.join(name)).unwrap();
        let id = FileId::of(&file).unwrap();
        (file, id)
    }

    fn of(file: &File, identity: FileId) -> Found {
        let file = file.try_clone().unwrap();
        Found { file, path: "a".into(), identity, how: String::new(), program: true, pid: Some(std::process::id()) }
    }

    #[test]
    fn a_file_of_no_use_is_remembered_until_it_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, (file, id)) = (Files::default(), made(dir.path(), "a", "x"));
        assert!(!files.knows(&id));
        files.pending(&of(&file, id));
        assert!(files.knows(&id));
        files.useless(id);
        assert!(files.knows(&id));
        // Written anew, it is worth another look.
        let (_file, changed) = made(dir.path(), "a", "longer");
        assert!(!files.knows(&changed));
        for n in 0..2 * MAX_USELESS {
            files.useless(made(dir.path(), "b", &"y".repeat(n)).1);
        }
        assert!(files.useless.len() <= MAX_USELESS && !files.knows(&id));
    }

    #[test]
    fn what_nobody_uses_is_known_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, (file, id)) = (Files::default(), made(dir.path(), "a", "x"));
        files.attached(&of(&file, id), 5);
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(files.unused_since(later), [(5, false)]);
        assert!(files.unused_since(Instant::now() - Duration::from_secs(1)).is_empty());
        files.detached(5);
        assert!(!files.knows(&id) && files.unused_since(later).is_empty());
    }
}
