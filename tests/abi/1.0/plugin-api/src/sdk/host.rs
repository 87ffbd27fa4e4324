//! The host as a module sees it.

use crate::abi::{HostApiV1_Ref, log_level};
use std::fmt;

/// What the host offers. Cheap to copy; valid for the life of the process.
#[derive(Clone, Copy)]
pub struct Host {
    api: HostApiV1_Ref,
}

impl Host {
    #[doc(hidden)]
    pub fn new(api: HostApiV1_Ref) -> Self {
        Self { api }
    }

    /// Writes one log line. The host adds the module's name, escapes the text and limits its length and rate.
    pub fn log(&self, level: u32, text: fmt::Arguments<'_>) {
        match text.as_str() {
            Some(text) => self.api.log()(level, text.into()),
            None => self.api.log()(level, text.to_string().as_str().into()),
        }
    }

    /// Something that the user asked for does not work.
    pub fn error(&self, text: fmt::Arguments<'_>) {
        self.log(log_level::ERROR, text);
    }

    /// Something is missing, and the module goes on without.
    pub fn warn(&self, text: fmt::Arguments<'_>) {
        self.log(log_level::WARN, text);
    }

    /// What the user wants to know once a run.
    pub fn info(&self, text: fmt::Arguments<'_>) {
        self.log(log_level::INFO, text);
    }

    /// Shown with `-v`.
    pub fn debug(&self, text: fmt::Arguments<'_>) {
        self.log(log_level::DEBUG, text);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}
