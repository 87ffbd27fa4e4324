//! Why a manifest was refused.

use std::fmt;

/// Where a manifest is wrong and what was expected. `Display` is one line:
/// `E-MANIFEST: module.toml line 12: event[0].column[1].type: "strng" is not one of text, bytes, ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// 1-based; 0 if the error belongs to no line (the text is too long).
    pub line: usize,
    /// The path of the key, with 0-based indexes: `event[0].column[1].type`. Empty for a syntax error.
    pub key: String,
    /// What is there and what was expected.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("E-MANIFEST: module.toml")?;
        if self.line > 0 {
            write!(f, " line {}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ManifestError {}
