//! What a module's functions fail with.

use crate::abi::call_error;
use std::fmt;

/// A refusal with a text for the user: what is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub(super) code: u32,
    pub(super) message: String,
}

impl Error {
    /// A refusal.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: call_error::MODULE, message: message.into() }
    }

    /// An option (by its name in the manifest) that does not fit: `E-CONFIG`.
    pub fn option(name: &str, why: impl fmt::Display) -> Self {
        Self { code: call_error::CONFIG, message: format!("{name}: {why}") }
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}
