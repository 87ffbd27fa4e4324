//! What a check found, and how it is told. Codes are stable: docs/module-check.md.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use crate::module::escape;

/// How far a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What the file says.
    Static,
    /// It loads.
    Load,
    /// It answers.
    Behaviour,
    /// Nothing that comes from outside harms it.
    Robust,
    /// It captures.
    Live,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Better done otherwise.
    Warning,
    /// Must be mended.
    Error,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: `C-...`, or the code of a refusal.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// Where it was found.
    pub level: Level,
    /// What.
    pub what: String,
    /// What to do.
    pub fix: String,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this report's form.
    pub schema: u32,
    /// The file.
    pub file: String,
    /// Name and version of the module, if they could be read.
    pub module: Option<String>,
    /// The last level that was gone through; an error ends a check with its level.
    pub level: Level,
    /// What was done, a line each.
    pub done: Vec<String>,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether anything must be mended.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }

    /// Notes an error.
    pub(super) fn error(&mut self, code: &str, level: Level, what: impl Into<String>, fix: &str) {
        self.add(code, Severity::Error, level, what.into(), fix);
    }

    /// Notes a warning.
    pub(super) fn warn(&mut self, code: &str, level: Level, what: impl Into<String>, fix: &str) {
        self.add(code, Severity::Warning, level, what.into(), fix);
    }

    /// Once for each code and level: the same defect shows in many places.
    fn add(&mut self, code: &str, severity: Severity, level: Level, what: String, fix: &str) {
        if !self.findings.iter().any(|f| f.code == code && f.level == level) {
            let what = what.chars().take(400).collect();
            self.findings.push(Finding { code: code.to_owned(), severity, level, what, fix: fix.to_owned() });
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let name = self.module.as_deref().unwrap_or("no module");
        let _ = writeln!(out, "{}: {}", escape::line(&self.file), escape::line(name));
        for line in &self.done {
            let _ = writeln!(out, "  {}", escape::line(line));
        }
        for finding in &self.findings {
            let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
            let _ = writeln!(out, "{severity} {}: {}", finding.code, escape::line(&finding.what));
            let _ = writeln!(out, "  do: {}", finding.fix);
        }
        let errors = self.findings.iter().filter(|f| f.severity == Severity::Error).count();
        let level = format!("{:?}", self.level).to_lowercase();
        let _ = writeln!(out, "level {level}: {errors} errors, {} warnings", self.findings.len() - errors);
        out
    }
}
