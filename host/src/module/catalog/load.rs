//! From an entry of the list to the bytes that are run: read whole, and judged again.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::Manifest;
use ecapture_plugin_api::manifest::elf::{BPF_SECTION, ModuleNotes};

use super::{Catalog, ModuleEntry};
use crate::module::facts::Facts;
use crate::module::find::{Directory, Search};
use crate::module::image::Image;
use crate::module::judge::{self, Context, ObjectCheck};
use crate::module::refusal::{Code, Refusal};
use crate::module::trust::Trust;

/// A module's bytes, judged once more: exactly these may be loaded.
#[derive(Debug)]
pub struct Loaded {
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest's text, which the loaded module must repeat byte for byte.
    pub manifest_text: String,
    /// The sonames of the libraries that it needs (`DT_NEEDED`).
    pub libraries: Vec<String>,
    /// The whole file, in memory.
    pub image: Image,
    /// The descriptor that the bytes were read from: kept open where the loader wants the file itself.
    pub file: std::fs::File,
    /// Its path, for showing.
    pub path: PathBuf,
    /// Who vouches for it.
    pub trust: Trust,
}

impl Loaded {
    /// The bytes of an eBPF object of the manifest; zeros up to a multiple of eight may stand behind them.
    pub fn object(&self, id: &str) -> Option<&[u8]> {
        self.image.section(&format!("{BPF_SECTION}{id}"))
    }
}

impl Catalog {
    /// Reads a module whole and judges those bytes: what was listed is not trusted to be there still.
    ///
    /// # Errors
    /// What a listing would say now; `E-NAME` if it has become another module in the meantime.
    pub fn load(&self, entry: &ModuleEntry, facts: &Facts, objects: ObjectCheck<'_>) -> Result<Loaded, Refusal> {
        let (directory, name) = self.directory.as_ref().zip(entry.file.file_name()).ok_or_else(gone)?;
        let loaded = read(directory, name, self.search.allow_untrusted(), facts, objects)?;
        // Names were settled among all modules of the list. One that has changed since would escape that.
        let same = entry.manifest.as_ref().is_some_and(|listed| {
            listed.module.name == loaded.manifest.module.name && listed.module.command == loaded.manifest.module.command
        });
        if entry.refusal.is_some() || !same {
            return Err(Refusal::new(Code::Name, "has become another module since it was listed", "start again"));
        }
        Ok(loaded)
    }
}

impl Loaded {
    /// A module file by its path, whoever could have written it: for looking at it without any privilege.
    ///
    /// # Errors
    /// What a listing would say of it.
    pub fn file(path: &Path, facts: &Facts, objects: ObjectCheck<'_>) -> Result<Self, Refusal> {
        let missing = |why: String| Refusal::new(Code::Elf, why, "give the path of a file libecap_NAME.so");
        let path = std::path::absolute(path).map_err(|e| missing(e.to_string()))?;
        let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(|| missing("is no file".into()))?;
        let directory = Search::new(Some(dir.to_owned()), true).and_then(|search| Directory::open(&search));
        let directory = directory.map_err(|e| missing(e.to_string()))?.ok_or_else(|| missing("is not there".into()))?;
        read(&directory, name, true, facts, objects)
    }
}

fn gone() -> Refusal {
    Refusal::new(Code::Elf, "is not there any more", "list the modules again")
}

fn read(
    directory: &Directory,
    name: &OsStr,
    allow_untrusted: bool,
    facts: &Facts,
    objects: ObjectCheck<'_>,
) -> Result<Loaded, Refusal> {
    let candidate = directory.candidate(name);
    let opened = candidate.opened?;
    let trust_problem = candidate.trust_problem.as_deref();
    let context = Context { file_name: name, trust_problem, allow_untrusted, facts, objects };
    let image = Image::whole(&opened.file, opened.size)?;
    let judged = judge::judge(&image, &context);
    if let Some(refusal) = judged.refusal {
        return Err(refusal);
    }
    let notes = ModuleNotes::read(image.bytes()).ok();
    let notes = notes.map(|notes| (notes.manifest.to_owned(), notes.elf.needed));
    let (manifest, (manifest_text, libraries)) = judged.manifest.zip(notes).ok_or_else(gone)?;
    Ok(Loaded {
        manifest,
        manifest_text,
        libraries,
        image,
        file: opened.file,
        path: candidate.path,
        trust: candidate.trust,
    })
}
