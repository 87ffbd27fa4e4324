//! `ecapture --list-modules`: every file of the directory, refused ones included, as a table or as JSON.
//!
//! The table is for people and its text is escaped. The JSON is an interface: an array with one object a file, the keys of
//! `Row` in this order, all of them always there; keys may be added, never renamed (`docs/refusals.md`).

use std::fmt::Write as _;

use serde::Serialize;

use super::catalog::{Catalog, ModuleEntry};
use super::escape;
use super::refusal::Refusal;

/// A module may name many targets; the table shows so many characters of them.
const MOST_TARGETS: usize = 48;

/// One object of the JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// Name of the module; null if the manifest could not be understood or nobody vouches for the file.
    name: Option<&'a str>,
    /// The module's own version.
    version: Option<String>,
    /// The module API that it needs.
    api: Option<String>,
    title: Option<&'a str>,
    /// The word on the command line.
    command: Option<&'a str>,
    /// Other words for it, without those that belong to another module.
    aliases: &'a [String],
    targets: Vec<&'a str>,
    /// `owner` or `tainted`.
    trust: &'static str,
    /// Why not `owner`.
    trust_problem: Option<&'a str>,
    /// `ok` or `refused`.
    status: &'static str,
    file: String,
    /// Why refused.
    refusal: Option<RefusalRow<'a>>,
}

/// `refusal` in the JSON.
#[derive(Debug, Serialize)]
pub(super) struct RefusalRow<'a> {
    /// The stable code.
    code: &'static str,
    message: &'a str,
    remedy: &'a str,
}

impl<'a> RefusalRow<'a> {
    pub(super) fn of(refusal: &'a Refusal) -> Self {
        Self { code: refusal.code.as_str(), message: &refusal.message, remedy: &refusal.remedy }
    }
}

impl<'a> Row<'a> {
    fn of(entry: &'a ModuleEntry) -> Self {
        let module = entry.manifest.as_ref().map(|manifest| &manifest.module);
        Self {
            name: module.map(|module| module.name.as_str()),
            version: module.map(|module| module.version.to_string()),
            api: module.map(|module| module.api.to_string()),
            title: module.map(|module| module.title.as_str()),
            command: module.map(|module| module.command.as_str()),
            aliases: &entry.aliases,
            targets: entry.targets(),
            trust: entry.trust.as_str(),
            trust_problem: entry.trust_problem.as_deref(),
            status: entry.status(),
            file: entry.file.to_string_lossy().into_owned(),
            refusal: entry.refusal.as_ref().map(RefusalRow::of),
        }
    }
}

/// The table, with a newline at the end, and the catalog's notes below it.
pub fn table(catalog: &Catalog) -> String {
    let head = ["NAME", "VERSION", "API", "TARGETS", "TRUST", "STATUS"];
    let rows: Vec<[String; 6]> = catalog.entries.iter().map(cells).collect();
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &[&str], rest: &str| {
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(out, "{cell:<width$}  ");
        }
        out.push_str(rest);
        out.push('\n');
    };
    line(&head, "FILE");
    for (row, entry) in rows.iter().zip(&catalog.entries) {
        let mut rest = escape::os(entry.file.as_os_str());
        if let Some(refusal) = &entry.refusal {
            let _ = write!(rest, "  {}", escape::line(&refusal.to_string()));
        }
        line(&row.each_ref().map(String::as_str), &rest);
    }
    for note in &catalog.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn cells(entry: &ModuleEntry) -> [String; 6] {
    let dash = || "-".to_owned();
    let module = entry.manifest.as_ref().map(|manifest| &manifest.module);
    let targets = entry.targets().join(", ");
    [
        module.map_or_else(dash, |module| escape::line(&module.name)),
        module.map_or_else(dash, |module| escape::line(&module.version.to_string())),
        module.map_or_else(dash, |module| module.api.to_string()),
        if targets.is_empty() { dash() } else { escape::short(&targets, MOST_TARGETS) },
        entry.trust.to_string(),
        entry.status().to_owned(),
    ]
}

/// The JSON, with a newline at the end. The catalog's notes are not in it: they belong on standard error.
///
/// # Errors
/// None that can happen with these types; serde's is passed on.
pub fn json(catalog: &Catalog) -> Result<String, serde_json::Error> {
    let rows: Vec<Row<'_>> = catalog.entries.iter().map(Row::of).collect();
    serde_json::to_string_pretty(&rows).map(|text| text + "\n")
}
