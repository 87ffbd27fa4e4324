//! The collector's letters from the broker, and what they say of target files.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::protocol::control::Control;
use crate::protocol::{Process, TargetName, ToCollector};

/// The broker's messages. Those that come while an answer is waited for are kept for their turn.
#[derive(Default)]
pub struct Mail {
    control: Control,
    kept: VecDeque<Letter>,
    /// Target files by module and number.
    pub targets: HashMap<(usize, u32), Rc<TargetName>>,
    /// Those that no output has been told of yet.
    pub fresh: Vec<(usize, u32)>,
}

/// A message, and the file that came with it.
pub type Letter = (ToCollector, Option<OwnedFd>);

impl Mail {
    /// The next one, within `patience`.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Letter>, String> {
        loop {
            let letter = match self.kept.pop_front() {
                Some(letter) => Some(letter),
                None => self.control.hear_with_file(patience).map_err(|e| format!("the broker is gone: {e}"))?,
            };
            match letter {
                Some((ToCollector::Target(module, number, name), _)) => self.name(module, number, name),
                other => return Ok(other),
            }
        }
    }

    /// The next answer about a process, within `patience`. Errors come again at the next [`Mail::next`].
    pub fn answer(&mut self, patience: Duration) -> Option<Process> {
        let until = Instant::now() + patience;
        loop {
            match self.control.hear_with_file(until.saturating_duration_since(Instant::now())).ok()?? {
                (ToCollector::Resolved(process), _) => return Some(process),
                (ToCollector::Target(module, number, name), _) => self.name(module, number, name),
                other => self.kept.push_back(other),
            }
        }
    }

    fn name(&mut self, module: usize, number: u32, name: TargetName) {
        // The broker gives out a few numbers again and again.
        self.targets.insert((module, number), Rc::new(name));
        self.fresh.push((module, number));
    }

    /// The target of this number. The broker says a new one before its probes are attached, so if it is not known yet its name
    /// is among the letters that were not opened.
    pub fn target(&mut self, module: usize, number: u32) -> Option<Rc<TargetName>> {
        if !self.targets.contains_key(&(module, number)) {
            while let Ok(Some(letter)) = self.control.hear_with_file(Duration::ZERO) {
                match letter {
                    (ToCollector::Target(module, number, name), _) => self.name(module, number, name),
                    other => self.kept.push_back(other),
                }
            }
        }
        self.targets.get(&(module, number)).cloned()
    }
}
