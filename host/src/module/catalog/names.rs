//! Names, commands and aliases: who has which, when several modules claim one. And the closest name to a slip of the hand.

use std::collections::BTreeMap;

use ecapture_plugin_api::manifest::Manifest;

use super::{Catalog, ModuleEntry};
use crate::module::escape;
use crate::module::refusal::{Code, Refusal};

impl Catalog {
    /// Gives out names, then commands, then aliases, each in the order of the modules' names: so a module's own name cannot
    /// be taken by another's command, nor a command by another's alias. Losing a name or command is a refusal, losing an
    /// alias a note.
    pub(super) fn settle_names(&mut self) {
        let mut order: Vec<usize> = (0..self.entries.len()).filter(|at| self.runs(*at)).collect();
        order.sort_by_key(|at| self.entries.get(*at).map(|entry| entry.name().to_owned()));
        let mut files: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        for &at in &order {
            let Some(id) = self.entries.get(at).and_then(|entry| entry.id) else { continue };
            if let Some(first) = files.insert(id, at) {
                files.insert(id, first);
                self.lose(at, first, "is the same file as");
            }
        }
        let (name, command) = (|m: &Manifest| m.module.name.clone(), |m: &Manifest| m.module.command.clone());
        let words: [fn(&Manifest) -> String; 2] = [name, command];
        for pick in words {
            for &at in &order {
                let word =
                    self.entries.get(at).filter(|_| self.runs(at)).and_then(|entry| entry.manifest.as_ref()).map(pick);
                let Some(word) = word else { continue };
                match self.commands.get(&word).copied() {
                    Some(owner) if owner != at => self.lose(at, owner, &format!("claims the name \"{word}\" of")),
                    Some(_) => {}
                    None => drop(self.commands.insert(word, at)),
                }
            }
        }
        // Only now, since a module that lost its command has lost its aliases as well.
        self.commands.retain(|_, at| self.entries.get(*at).is_some_and(|entry| entry.refusal.is_none()));
        for &at in &order {
            self.settle_aliases(at);
        }
    }

    fn settle_aliases(&mut self, at: usize) {
        let Some(entry) = self.entries.get(at).filter(|entry| entry.refusal.is_none()) else { return };
        let name = entry.name().to_owned();
        let wanted = entry.manifest.as_ref().map(|manifest| manifest.module.aliases.clone()).unwrap_or_default();
        let mut kept = Vec::new();
        for alias in wanted {
            match self.commands.get(&alias).copied() {
                Some(owner) if owner != at => {
                    let owner = self.entries.get(owner).map_or("-", ModuleEntry::name);
                    self.notes.push(format!("the alias \"{alias}\" of module {name} belongs to module {owner}"));
                }
                Some(_) => {}
                None => {
                    self.commands.insert(alias.clone(), at);
                    kept.push(alias);
                }
            }
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.aliases = kept;
        }
    }

    fn runs(&self, at: usize) -> bool {
        self.entries.get(at).is_some_and(|entry| entry.refusal.is_none())
    }

    fn lose(&mut self, at: usize, owner: usize, how: &str) {
        let other =
            self.entries.get(owner).and_then(|entry| entry.file.file_name()).map(escape::os).unwrap_or_default();
        if let Some(entry) = self.entries.get_mut(at) {
            entry.refusal = Some(Refusal::new(
                Code::Name,
                format!("{how} {other}"),
                format!("remove this file or {other}, or give one of them another name in its manifest"),
            ));
        }
    }
}

/// The closest of `known`, if it looks like a slip of the hand: one edit in a short word, two in a longer one.
pub fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = if word.chars().count() < 5 { 1 } else { 2 };
    known.map(|name| (edits(word, name), name)).filter(|(count, _)| *count <= limit).min().map(|(_, name)| name)
}

/// Insertions, deletions and replacements from one word to the other, a swap of neighbours counted as two.
pub(super) fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, x) in from.chars().take(64).enumerate() {
        let mut corner = at;
        let mut left = at + 1;
        for (y, cell) in to.iter().zip(row.iter_mut().skip(1)) {
            let best = (corner + usize::from(x != *y)).min(left + 1).min(*cell + 1);
            corner = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
