//! What was found to be secret in a text, and the text without it.

use std::ops::BitOr;

use serde::{Deserialize, Serialize};

/// What stands in place of a secret.
pub const REDACTED: &[u8] = b"[redacted]";

/// Kinds of secrets, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kinds(pub u8);

impl Kinds {
    /// A password or a key.
    pub const PASSWORD: Self = Self(1);
    /// The value of an `Authorization` header, or one like it.
    pub const AUTHORIZATION: Self = Self(2);
    /// The value of a cookie.
    pub const COOKIE: Self = Self(4);
    /// What stands in a URL: the password of a user, a parameter.
    pub const URL: Self = Self(8);
    /// A literal or a parameter of a statement (`--redact literals`).
    pub const LITERAL: Self = Self(16);
    /// What an expression of the user's own fits.
    pub const PATTERN: Self = Self(32);

    const NAMES: [&str; 6] = ["password", "authorization", "cookie", "url", "literal", "pattern"];

    /// Nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        (0..).zip(Self::NAMES).filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| name)
    }
}

impl BitOr for Kinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Places of secrets in one text.
#[derive(Debug, Default)]
pub struct Spans {
    list: Vec<(usize, usize, Kinds)>,
}

impl Spans {
    /// Adds one; an empty one is none.
    pub fn add(&mut self, start: usize, end: usize, kind: Kinds) {
        if start < end {
            self.list.push((start, end, kind));
        }
    }

    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Where the first one begins.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.list.iter().map(|span| span.0).min()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, Kinds)> + '_ {
        self.list.iter().copied()
    }

    /// The text without them, and what they were. `None`: nothing was found.
    pub fn apply(mut self, text: &[u8]) -> Option<(Vec<u8>, Kinds)> {
        if self.list.is_empty() {
            return None;
        }
        self.list.sort_unstable_by_key(|span| (span.0, span.1));
        let (mut out, mut at, mut kinds) = (Vec::with_capacity(text.len()), 0, Kinds::default());
        for (start, end, kind) in self.list {
            kinds = kinds | kind;
            if start >= at {
                out.extend_from_slice(text.get(at..start).unwrap_or_default());
                out.extend_from_slice(REDACTED);
            }
            at = at.max(end);
        }
        out.extend_from_slice(text.get(at..).unwrap_or_default());
        Some((out, kinds))
    }
}
