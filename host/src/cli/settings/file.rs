//! The configuration file: opened as modules are, read up to a limit, and taken apart. Knows nothing of options.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::refuse;
use crate::failure::Failure;
use crate::module::find::Directory;
use crate::module::{Search, SearchError, escape};

/// Read if it is there and no other is named.
pub const DEFAULT_FILE: &str = "/etc/ecapture/ecapture.toml";
/// Longest file, in bytes.
const MAX: u64 = 256 << 10;
/// The option whose values stand in `[redact]`.
const PATTERN: &str = "redact-pattern";
/// Most values of one option.
const MAX_VALUES: usize = 1024;

/// A place in a file, both from 1; the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    pub spot: Spot,
    pub message: String,
}

/// `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub spot: Spot,
    /// As they would be written on the command line.
    pub values: Vec<String>,
    pub value_spot: Spot,
}

/// A section, by the name in its brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub spot: Spot,
    pub entries: Vec<Entry>,
}

/// A file, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    pub sections: Vec<Section>,
}

impl Parsed {
    /// The entry of an option.
    pub fn find(&self, section: &str, key: &str) -> Option<&Entry> {
        let section = self.sections.iter().find(|s| s.name == section)?;
        section.entries.iter().find(|e| e.key == key)
    }
}

/// The file asked for, else the usual one if it is there; with its text.
///
/// For root it has to be root's alone, as modules have: what stands in it decides what root's process does and writes.
///
/// # Errors
/// `E-CONFIG`: it cannot be opened or read, or somebody else could have written it.
pub fn read(asked: Option<&Path>) -> Result<Option<(PathBuf, String)>, Failure> {
    let path = match asked {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).symlink_metadata().is_err() => return Ok(None),
        None => Path::new(DEFAULT_FILE),
    };
    let shown = escape::os(path.as_os_str());
    let failed = |why: &str| refuse(format!("the configuration file {shown} {why}"));
    let file = if geteuid().is_root() { open_trusted(path) } else { open(path) }.map_err(|why| {
        failed(&why).remedy("it must be a regular file that root owns, where only root can write; no links")
    })?;
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(&format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX {
        return Err(failed(&format!("is longer than {} KiB", MAX >> 10)));
    }
    let text = String::from_utf8(bytes).map_err(|e| failed(&format!("is not UTF-8: {e}")))?;
    Ok(Some((path.to_owned(), text)))
}

fn open(path: &Path) -> Result<File, String> {
    // Not to wait for whoever writes to a pipe.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file =
        File::options().read(true).custom_flags(flags).open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let regular = file.metadata().is_ok_and(|m| m.is_file());
    if regular { Ok(file) } else { Err("is not a regular file".into()) }
}

fn open_trusted(path: &Path) -> Result<File, String> {
    let path = std::path::absolute(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("is not a regular file".into());
    };
    let words = |e: SearchError| match e {
        SearchError::Link { path, .. } => format!("is not used: {} is a symbolic link", escape::os(path.as_os_str())),
        SearchError::Open { path, source } => format!("cannot be opened: {}: {source}", escape::os(path.as_os_str())),
        other => format!("cannot be opened: {other}"),
    };
    let search = Search::new(Some(parent.to_owned()), false).map_err(words)?;
    let Some(directory) = Directory::open(&search).map_err(words)? else {
        return Err("cannot be opened: its directory does not exist".into());
    };
    let candidate = directory.candidate(name);
    let opened = candidate.opened.map_err(|refusal| refusal.message)?;
    match candidate.trust_problem {
        Some(problem) => Err(format!("is not used: {problem}")),
        None => Ok(opened.file),
    }
}

/// Whether a file, if it is one, names types of the kernel. For a look before the modules are judged.
pub fn brings_types(text: &str) -> bool {
    parse(text).is_ok_and(|parsed| parsed.find("common", "btf").is_some())
}

/// Takes a file apart: `[common]` and `[module.NAME]`, with texts, numbers, truths and lists of them.
pub fn parse(text: &str) -> Result<Parsed, Complaint> {
    let spots = Spots(text);
    let root = DeTable::parse(text).map_err(|e| {
        let spot = spots.at(e.span().map_or(0, |span| span.start));
        let message: String = e.message().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        Complaint { spot, message }
    })?;
    let mut parsed = Parsed::default();
    let mut patterns = Vec::new();
    for (key, value) in root.get_ref() {
        let spot = spots.at(key.span().start);
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("module", DeValue::Table(modules)) => {
                for (name, value) in modules {
                    let spot = spots.at(name.span().start);
                    let name = format!("module.{}", name.get_ref());
                    parsed.sections.push(section(name, spot, value, &spots)?);
                }
            }
            ("redact", _) => patterns.extend(redact(section("redact".to_owned(), spot, value, &spots)?)?),
            (name, _) => parsed.sections.push(section(name.to_owned(), spot, value, &spots)?),
        }
    }
    if let Some(entry) = patterns.first() {
        match parsed.sections.iter_mut().find(|section| section.name == "common") {
            Some(common) if common.entries.iter().any(|e| e.key == PATTERN) => {
                let message =
                    format!("patterns stand in [redact] and as {PATTERN:?} in [common]: one of them is enough");
                return Err(Complaint { spot: entry.spot, message });
            }
            Some(common) => common.entries.append(&mut patterns),
            None => {
                let spot = entry.spot;
                parsed.sections.push(Section { name: "common".to_owned(), spot, entries: patterns });
            }
        }
    }
    Ok(parsed)
}

/// `patterns` of `[redact]` is the option `redact-pattern`.
fn redact(section: Section) -> Result<Vec<Entry>, Complaint> {
    let entry = |entry: Entry| match entry.key.as_str() {
        "patterns" => Ok(Entry { key: PATTERN.to_owned(), ..entry }),
        key => {
            let message = format!("unknown key {:?} in [redact]; known here: patterns", short(key));
            Err(Complaint { spot: entry.spot, message })
        }
    };
    section.entries.into_iter().map(entry).collect()
}

fn section(name: String, spot: Spot, value: &Spanned<DeValue<'_>>, spots: &Spots<'_>) -> Result<Section, Complaint> {
    let DeValue::Table(table) = value.get_ref() else {
        let message =
            format!("the key {:?} stands in no section: sections are [common] and [module.NAME]", short(&name));
        return Err(Complaint { spot, message });
    };
    let mut entries = Vec::new();
    for (key, value) in table {
        let spot = spots.at(key.span().start);
        // A table has the place of its brackets, which may be far from the key.
        let value_spot = if value.get_ref().is_table() { spot } else { spots.at(value.span().start) };
        let key = key.get_ref().to_string();
        let values = values(value.get_ref()).map_err(|why| Complaint {
            spot: value_spot,
            message: format!("{:?} in [{}]: {why}", short(&key), short(&name)),
        })?;
        entries.push(Entry { key, spot, values, value_spot });
    }
    Ok(Section { name, spot, entries })
}

fn values(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let DeValue::Array(array) = value else { return Ok(vec![one(value)?]) };
    if array.len() > MAX_VALUES {
        return Err(format!("{} values; at most {MAX_VALUES} are allowed", array.len()));
    }
    array.iter().map(|value| one(value.get_ref())).collect()
}

fn one(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if text.contains('\0') => Err("a text with a NUL in it".into()),
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|n| n.to_string())
            .map_err(|_| "a number of more than 64 bits".into()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        other => Err(format!("expected a text, a number, true, false or a list of those, not a {}", other.type_str())),
    }
}

/// A word of the file for a message.
pub fn short(word: &str) -> String {
    word.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

struct Spots<'t>(&'t str);

impl Spots<'_> {
    fn at(&self, offset: usize) -> Spot {
        let before = self.0.get(..offset).unwrap_or(self.0);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        Spot {
            line: 1 + before.matches('\n').count(),
            column: 1 + before.get(start..).unwrap_or_default().chars().count(),
        }
    }
}
