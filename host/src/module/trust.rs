//! Who could have put a file where it is: every step of the path, and the file itself.
//!
//! The rule is about the file system, not about who asks: a listing by an ordinary user gives the same answer as one by
//! root. No environment variable takes part. Opening is done in [`super::find`]; here is only the judgement of what
//! `fstat` said about the descriptors that were really opened.

use std::fmt;

/// The TRUST column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Only root can have put the file there, and only root can change it.
    Owner,
    /// Somebody else could. Such a module runs only with `--modules-dir DIR --allow-untrusted`.
    Tainted,
}

impl Trust {
    /// The word in the list and in its JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Trust::Owner => "owner",
            Trust::Tainted => "tainted",
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What `fstat` said of one step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The owner's uid.
    pub uid: u32,
    /// The mode, type bits included.
    pub mode: u32,
}

impl Owned {
    /// What is wrong with it, or `None`: owned by root, and writable by nobody else.
    ///
    /// A sticky directory (`/tmp`) does not count as protected: others cannot replace a file in it, but they can put a
    /// new `libecap_*.so` beside it. Access control lists need no look of their own: with one, the group bits of the mode
    /// are its mask, so an ACL that lets anybody write shows as group-writable.
    pub fn problem(self) -> Option<String> {
        let mode = self.mode & 0o7777;
        if self.uid != 0 {
            return Some(format!("is owned by uid {}, not by root", self.uid));
        }
        if mode & 0o002 != 0 {
            return Some(format!("is writable by everybody (mode {mode:04o})"));
        }
        if mode & 0o020 != 0 {
            return Some(format!("is writable by its group (mode {mode:04o})"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(uid: u32, mode: u32) -> Option<String> {
        Owned { uid, mode }.problem()
    }

    #[test]
    fn only_root_may_write() {
        assert_eq!(problem(0, 0o100644), None);
        assert_eq!(problem(0, 0o040755), None);
        assert_eq!(problem(0, 0o100600), None);
        assert_eq!(problem(1000, 0o100644).as_deref(), Some("is owned by uid 1000, not by root"));
        assert_eq!(problem(0, 0o100664).as_deref(), Some("is writable by its group (mode 0664)"));
        assert_eq!(problem(0, 0o100666).as_deref(), Some("is writable by everybody (mode 0666)"));
    }

    #[test]
    fn a_sticky_directory_is_not_trusted() {
        assert_eq!(problem(0, 0o041777).as_deref(), Some("is writable by everybody (mode 1777)"));
    }
}
