//! What the user is told when something fails: a stable code, what failed, why, and what to do about it.

use std::fmt;

/// Exit codes of the program. A change here is a change of the public surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well, Ctrl-C included.
    Done = 0,
    /// The run failed.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// The module asked for is refused.
    Refused = 3,
    /// Privileges or kernel features are missing.
    Privilege = 4,
}

/// An error on its way to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable code, such as `E-TARGET`; listed in docs/refusals.md.
    pub code: &'static str,
    /// How the process ends because of it.
    pub exit: Exit,
    /// What failed, on what, and why. One line.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure that ends with exit code 1.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, exit: Exit::Failed, message: message.into(), remedy: None }
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The same with a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
