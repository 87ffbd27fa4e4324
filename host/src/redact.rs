//! Passwords, tokens and cookies are taken out of every event before any output has it, unless `--show-secrets` says otherwise; and
//! literals of statements, if that is asked for. docs/redaction.md tells what is found, and what is not.
//!
//! Here live the search for secrets ([`sql`], [`command`], [`http`], [`inline`]) and the event without them ([`Redactor::event`]).
//! Nothing here knows a module: what a column is, its name says. Time is linear in what is looked at, whatever it is.

mod columns;
pub mod command;
mod event;
pub mod http;
pub mod inline;
mod literals;
mod login;
mod names;
mod programs;
mod spans;
pub mod sql;
mod words;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

pub use spans::{Kinds, REDACTED, Spans};

/// Most expressions of the user's own.
pub const MAX_PATTERNS: usize = 64;
/// Longest of them, bytes.
const MAX_PATTERN: usize = 1024;
/// Memory that one of them may take, bytes.
const PATTERN_MEMORY: usize = 1 << 20;

/// What is taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactOptions {
    /// Nothing that is found to be secret by itself.
    pub show_secrets: bool,
    /// Literals and parameters of statements.
    pub literals: bool,
    /// What these expressions fit.
    pub patterns: Vec<String>,
}

/// Compiles an expression of the user's own.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("is longer than {MAX_PATTERN} bytes"));
    }
    let regex = RegexBuilder::new(text).size_limit(PATTERN_MEMORY).dfa_size_limit(PATTERN_MEMORY).build();
    let regex = regex.map_err(|e| e.to_string().split_whitespace().collect::<Vec<_>>().join(" "))?;
    if regex.is_match(b"") {
        return Err("fits nothing at all, and so would be found everywhere".into());
    }
    Ok(regex)
}

/// Takes secrets out of events.
#[derive(Debug, Default)]
pub struct Redactor {
    show_secrets: bool,
    literals: bool,
    patterns: Vec<Regex>,
}

impl Redactor {
    /// As asked.
    ///
    /// # Errors
    /// An expression that is none.
    pub fn new(options: &RedactOptions) -> Result<Self, String> {
        let patterns = options.patterns.iter().take(MAX_PATTERNS).map(|text| pattern(text));
        Ok(Self {
            show_secrets: options.show_secrets,
            literals: options.literals,
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// Nothing is to be done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.show_secrets && !self.literals && self.patterns.is_empty()
    }

    fn own(&self, text: &[u8], spans: &mut Spans) {
        for pattern in &self.patterns {
            for found in pattern.captures_iter(text) {
                // A group says what of it is the secret.
                let secret = found.get(1).or_else(|| found.get(0));
                secret.into_iter().for_each(|m| spans.add(m.start(), m.end(), Kinds::PATTERN));
            }
        }
    }
}
