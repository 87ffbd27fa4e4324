//! All modules of a directory side by side, and the way from a command to a module. Who has which name is settled in
//! `names`; what is run is read and judged once more in `load`.

mod load;
mod names;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use ecapture_plugin_api::manifest::elf::BuildFacts;
use ecapture_plugin_api::manifest::{Manifest, TargetKind};

use super::escape;
use super::facts::Facts;
use super::find::{Candidate, Directory, Search, SearchError};
use super::image::Image;
use super::judge::{self, Context, Judged, ObjectCheck};
use super::refusal::Refusal;
use super::trust::Trust;

pub use load::Loaded;
pub use names::closest;

/// What a directory holds, each file judged.
#[derive(Debug)]
pub struct Catalog {
    /// One for each file, by the files' names.
    pub entries: Vec<ModuleEntry>,
    /// What the list says besides, in words: no directory, a limit passed, an alias that two claim. Already escaped.
    pub notes: Vec<String>,
    search: Search,
    directory: Option<Directory>,
    commands: BTreeMap<String, usize>,
}

/// One module file.
#[derive(Clone, Debug)]
pub struct ModuleEntry {
    /// Its full path, for showing.
    pub file: PathBuf,
    /// Who vouches for it.
    pub trust: Trust,
    /// Why the trust is not `owner`.
    pub trust_problem: Option<String>,
    /// Aliases that the module has *and* that no other module took first.
    pub aliases: Vec<String>,
    /// The manifest, if it could be read and understood. Of a refused module it is for showing only.
    pub manifest: Option<Manifest>,
    /// How it was built.
    pub build: Option<BuildFacts>,
    /// The GNU build id, hexadecimal.
    pub build_id: Option<String>,
    /// Why it may not run; `None`: it may.
    pub refusal: Option<Refusal>,
    id: Option<(u64, u64)>,
}

/// No module for a command.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// There is one, and it is refused.
    #[error("module {name} is refused: {refusal}\n  file: {}\n  do: {}", escape::os(.file.as_os_str()), .refusal.remedy)]
    Refused {
        /// As asked for.
        name: String,
        /// The file.
        file: PathBuf,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// There is none.
    #[error("no module \"{}\" in {}{}", escape::short(.name, 64), escape::os(.dir.as_os_str()), hint(.did_you_mean.as_deref()))]
    None {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// The closest command that there is.
        did_you_mean: Option<String>,
    },
}

fn hint(did_you_mean: Option<&str>) -> String {
    did_you_mean.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

impl ModuleEntry {
    /// The module's name, or `-`.
    pub fn name(&self) -> &str {
        self.manifest.as_ref().map_or("-", |manifest| &manifest.module.name)
    }

    /// What it captures from: names of executables, sonames of libraries, else the base names of its paths.
    pub fn targets(&self) -> Vec<&str> {
        let mut out: Vec<&str> = Vec::new();
        for target in self.manifest.iter().flat_map(|manifest| &manifest.targets) {
            let named = match target.kind {
                TargetKind::Library if !target.sonames.is_empty() => &target.sonames,
                TargetKind::Library | TargetKind::Executable => &target.names,
            };
            let paths = if named.is_empty() { target.paths.as_slice() } else { &[] };
            let bases = paths.iter().map(|path| path.rsplit('/').next().unwrap_or(path));
            for name in named.iter().map(String::as_str).chain(bases) {
                if !out.contains(&name) {
                    out.push(name);
                }
            }
        }
        out
    }

    /// The STATUS column.
    pub fn status(&self) -> &'static str {
        if self.refusal.is_none() { "ok" } else { "refused" }
    }

    fn refused(file: PathBuf, trust: Trust, trust_problem: Option<String>, refusal: Refusal) -> Self {
        Self {
            file,
            trust,
            trust_problem,
            aliases: Vec::new(),
            manifest: None,
            build: None,
            build_id: None,
            refusal: Some(refusal),
            id: None,
        }
    }
}

impl Catalog {
    /// Reads and judges what the directory of `search` holds. A directory that is not there gives an empty catalog with a
    /// note; a file that may not run is an entry with a refusal.
    ///
    /// # Errors
    /// The directory cannot be used as asked.
    pub fn read(search: &Search, facts: &Facts, objects: ObjectCheck<'_>) -> Result<Self, SearchError> {
        let directory = Directory::open(search)?;
        let names = directory.as_ref().map(Directory::names).transpose()?.unwrap_or_default();
        let entries = match &directory {
            Some(directory) => {
                side_by_side(&names.files, |name| read_entry(directory, name, search.allow_untrusted(), facts, objects))
            }
            None => Vec::new(),
        };
        let mut catalog =
            Self { entries, notes: names.notes, search: search.clone(), directory, commands: BTreeMap::new() };
        catalog.hint_if_empty();
        catalog.settle_names();
        Ok(catalog)
    }

    /// Where it was read from, as given.
    pub fn dir(&self) -> &Path {
        self.search.dir()
    }

    /// The directory, if it is there.
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// The module that a word on the command line means: its name, its command or an alias.
    ///
    /// # Errors
    /// [`Unknown`]: there is none, with the closest command; or there is one, and it is refused.
    pub fn find_by_command(&self, word: &str) -> Result<&ModuleEntry, Unknown> {
        if let Some(entry) = self.commands.get(word).and_then(|at| self.entries.get(*at)) {
            return Ok(entry);
        }
        if let Some(entry) = self.find_refused(word)
            && let Some(refusal) = &entry.refusal
        {
            return Err(Unknown::Refused {
                name: word.to_owned(),
                file: entry.file.clone(),
                refusal: Box::new(refusal.clone()),
            });
        }
        Err(Unknown::None {
            name: word.to_owned(),
            dir: self.dir().to_owned(),
            did_you_mean: closest(word, self.commands.keys().map(String::as_str)).map(str::to_owned),
        })
    }

    /// As [`Catalog::find_by_command`], refused modules included: for showing one, not for running it.
    ///
    /// # Errors
    /// [`Unknown::None`].
    pub fn find_for_info(&self, word: &str) -> Result<&ModuleEntry, Unknown> {
        match self.find_by_command(word) {
            Err(unknown @ Unknown::Refused { .. }) => self.find_refused(word).ok_or(unknown),
            other => other,
        }
    }

    /// The commands that there are, each with its module: names, commands, aliases.
    pub fn commands(&self) -> impl Iterator<Item = (&str, &ModuleEntry)> {
        self.commands.iter().filter_map(|(word, at)| self.entries.get(*at).map(|entry| (word.as_str(), entry)))
    }

    /// The modules that may run, by name.
    pub fn runnable(&self) -> impl Iterator<Item = (&ModuleEntry, &Manifest)> {
        let runnable = self.entries.iter().filter(|entry| entry.refusal.is_none());
        runnable.filter_map(|entry| entry.manifest.as_ref().map(|manifest| (entry, manifest)))
    }

    fn find_refused(&self, word: &str) -> Option<&ModuleEntry> {
        let file_name = OsString::from(format!("libecap_{}.so", word.replace('-', "_")));
        let refused = || self.entries.iter().filter(|entry| entry.refusal.is_some());
        let by_file = refused().find(|entry| entry.file.file_name() == Some(&file_name));
        by_file.or_else(|| {
            refused().find(|entry| {
                let module = entry.manifest.as_ref().map(|manifest| &manifest.module);
                module.is_some_and(|module| {
                    module.name == word || module.command == word || module.aliases.iter().any(|alias| alias == word)
                })
            })
        })
    }

    fn hint_if_empty(&mut self) {
        let dir = escape::os(self.search.dir().as_os_str());
        if self.directory.is_none() {
            self.notes.push(format!(
                "no modules: {dir} does not exist; install one there, or name a directory: --modules-dir DIR"
            ));
        } else if self.entries.is_empty() {
            self.notes.push(format!("no modules: {dir} holds no file libecap_*.so"));
        }
    }
}

fn read_entry(
    directory: &Directory,
    name: &OsStr,
    allow_untrusted: bool,
    facts: &Facts,
    objects: ObjectCheck<'_>,
) -> ModuleEntry {
    let Candidate { path, trust, trust_problem, opened } = directory.candidate(name);
    let image = opened.and_then(|opened| Ok((Image::sparse(&opened.file, opened.size)?, opened.id)));
    let (image, id) = match image {
        Ok(read) => read,
        Err(refusal) => return ModuleEntry::refused(path, trust, trust_problem, refusal),
    };
    let context = Context { file_name: name, trust_problem: trust_problem.as_deref(), allow_untrusted, facts, objects };
    let Judged { manifest, build, build_id, refusal } = judge::judge(&image, &context);
    let aliases = Vec::new();
    ModuleEntry { file: path, trust, trust_problem, aliases, manifest, build, build_id, refusal, id: Some(id) }
}

/// Runs `work` on all items, on all processors. The threads have ended when it returns, before any process is started.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    // A thread costs about what judging one small module does.
    if threads == 1 || items.len() < 4 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let all = |part: &[T]| part.iter().map(&work).collect::<Vec<R>>();
    std::thread::scope(|scope| {
        let all = &all;
        // A thread that cannot be had (a limit on processes) is done without.
        let start = |part| std::thread::Builder::new().spawn_scoped(scope, move || all(part)).map_err(|_| part);
        let running: Vec<_> = items.chunks(share).map(start).collect();
        let finish = |thread: Result<ScopedJoinHandle<'_, Vec<R>>, &[T]>| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)),
            Err(part) => all(part),
        };
        running.into_iter().flat_map(finish).collect()
    })
}

#[cfg(test)]
mod tests;
