//! SQL in tokens, for whoever must not be fooled by quotes and comments. Bytes, not text: statements may be cut anywhere and
//! need not be UTF-8. Every byte belongs to one token, each is looked at once, and nothing is copied.

/// What differs between servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// MySQL and MariaDB: `\` escapes in strings, `"` quotes a string, `#` begins a comment, `/*! */` is executed.
    pub mysql: bool,
}

impl Dialect {
    /// By `db.system.name`.
    #[must_use]
    pub fn of(system: &[u8]) -> Self {
        Self { mysql: system == b"mysql" || system == b"mariadb" }
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// White space, and the brackets of MySQL's executed comments.
    Space,
    /// A comment; what it says is its body.
    Comment,
    /// A name or keyword.
    Word,
    /// A number.
    Number,
    /// A string.
    Text,
    /// A string between dollar signs.
    Dollar,
    /// A quoted name.
    Name,
    /// The place of a parameter: `?`, `$1`, `:name`.
    Marker,
    /// Anything else, a byte each.
    Other(u8),
}

/// A token: `start..end` with its quotes, `from..to` without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
    /// First byte within the quotes.
    pub from: usize,
    /// Behind the last byte within the quotes.
    pub to: usize,
}

/// The tokens of a statement.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    dialect: Dialect,
}

impl<'a> Lexer<'a> {
    /// From the beginning.
    #[must_use]
    pub fn new(sql: &'a [u8], dialect: Dialect) -> Self {
        Self { sql, at: 0, dialect }
    }

    fn byte(&self, at: usize) -> u8 {
        self.sql.get(at).copied().unwrap_or(0)
    }

    fn rest(&self, at: usize) -> &'a [u8] {
        self.sql.get(at..).unwrap_or_default()
    }

    /// The first place from `at` on whose byte is none of those.
    fn past(&self, at: usize, of: impl Fn(u8) -> bool) -> usize {
        self.rest(at).iter().position(|b| !of(*b)).map_or(self.sql.len(), |n| at + n)
    }

    /// Behind the closing quote, and whether there is one.
    fn quoted(&self, start: usize, quote: u8, backslash: bool) -> (usize, bool) {
        let mut at = start;
        loop {
            let found = if backslash {
                memchr::memchr2(quote, b'\\', self.rest(at))
            } else {
                memchr::memchr(quote, self.rest(at))
            };
            let Some(found) = found else { return (self.sql.len(), false) };
            at += found;
            if self.byte(at) == b'\\' && backslash || self.byte(at + 1) == quote && at + 1 < self.sql.len() {
                at = (at + 2).min(self.sql.len());
            } else {
                return (at + 1, true);
            }
        }
    }

    fn comment(&self, start: usize) -> (usize, bool) {
        let (mut at, mut depth) = (start, 1_u32);
        while let Some(found) = memchr::memchr2(b'*', b'/', self.rest(at)) {
            at += found;
            match (self.byte(at), self.byte(at + 1)) {
                (b'*', b'/') => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return (at, true);
                    }
                }
                (b'/', b'*') if !self.dialect.mysql => {
                    depth = depth.saturating_add(1);
                    at += 2;
                }
                _ => at += 1,
            }
        }
        (self.sql.len(), false)
    }

    fn token(&self) -> (Kind, usize, usize, usize) {
        let start = self.at;
        let (first, second) = (self.byte(start), self.byte(start + 1));
        let plain = |kind, end| (kind, end, start, end);
        let within = |kind, from, (end, closed): (usize, bool), quote: usize| {
            (kind, end, from, if closed { end - quote } else { end })
        };
        let mysql = self.dialect.mysql;
        let line = |intro: usize| {
            let end = memchr::memchr(b'\n', self.rest(start)).map_or(self.sql.len(), |n| start + n);
            (Kind::Comment, end, (start + intro).min(end), end)
        };
        match first {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                plain(Kind::Space, self.past(start, |b| b.is_ascii_whitespace() || b == 0x0b))
            }
            b'\'' => {
                let escapes = mysql || matches!(start.checked_sub(1).map(|at| self.byte(at)), Some(b'e' | b'E'));
                within(Kind::Text, start + 1, self.quoted(start + 1, first, escapes), 1)
            }
            b'"' if mysql => within(Kind::Text, start + 1, self.quoted(start + 1, first, true), 1),
            b'"' | b'`' => within(Kind::Name, start + 1, self.quoted(start + 1, first, false), 1),
            b'-' if second == b'-' && (!mysql || matches!(self.byte(start + 2), 0..=b' ')) => line(2),
            b'#' if mysql => line(1),
            b'/' if second == b'*' && mysql && self.byte(start + 2) == b'!' => {
                plain(Kind::Space, self.past(start + 3, |b| b.is_ascii_digit()))
            }
            b'/' if second == b'*' && mysql && self.rest(start + 2).starts_with(b"M!") => {
                plain(Kind::Space, self.past(start + 4, |b| b.is_ascii_digit()))
            }
            b'*' if second == b'/' && mysql => plain(Kind::Space, start + 2),
            b'/' if second == b'*' => within(Kind::Comment, start + 2, self.comment(start + 2), 2),
            b'$' if second.is_ascii_digit() => plain(Kind::Marker, self.past(start + 1, |b| b.is_ascii_digit())),
            b'$' if !mysql => {
                let tag = self.past(start + 1, is_word);
                if self.byte(tag) != b'$' || tag - start > 64 {
                    return plain(Kind::Other(first), start + 1);
                }
                let quote = self.sql.get(start..=tag).unwrap_or_default();
                let end = memchr::memmem::find(self.rest(tag + 1), quote).map(|n| tag + 1 + n + quote.len());
                within(Kind::Dollar, tag + 1, (end.unwrap_or(self.sql.len()), end.is_some()), quote.len())
            }
            b'?' => plain(Kind::Marker, start + 1),
            b':' if second == b':' => plain(Kind::Other(first), start + 1),
            b':' if is_first(second) && (start == 0 || self.byte(start - 1) != b':') => {
                plain(Kind::Marker, self.past(start + 1, is_word))
            }
            b'0'..=b'9' => plain(Kind::Number, self.number(start)),
            b'.' if second.is_ascii_digit() => plain(Kind::Number, self.number(start)),
            b if is_first(b) => plain(Kind::Word, self.past(start, |b| is_word(b) || b == b'$')),
            other => plain(Kind::Other(other), start + 1),
        }
    }

    fn number(&self, start: usize) -> usize {
        let mut end = self.past(start, |b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
        // 1e-5
        if matches!(self.byte(end - 1), b'e' | b'E')
            && matches!(self.byte(end), b'-' | b'+')
            && !self.rest(start).starts_with(b"0x")
        {
            end = self.past(end + 1, |b| b.is_ascii_digit());
        }
        end
    }
}

fn is_first(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b >= 0x80
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if self.at >= self.sql.len() {
            return None;
        }
        let (kind, end, from, to) = self.token();
        let end = end.clamp(self.at + 1, self.sql.len());
        let token = Token { kind, start: self.at, end, from: from.min(end), to: to.clamp(from.min(end), end) };
        self.at = end;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(sql: &str, mysql: bool) -> Vec<(Kind, &str)> {
        let tokens = Lexer::new(sql.as_bytes(), Dialect { mysql });
        tokens.filter(|t| t.kind != Kind::Space).map(|t| (t.kind, &sql[t.from..t.to])).collect()
    }

    #[test]
    fn quotes_comments_and_escapes_are_those_of_the_server() {
        use Kind::{Comment, Dollar, Marker, Name, Number, Other, Text, Word};
        assert_eq!(shown(r"'a\'b' c", true), [(Text, r"a\'b"), (Word, "c")]);
        assert_eq!(shown(r"'a\' c", false), [(Text, r"a\"), (Word, "c")]);
        assert_eq!(shown(r"E'a\'b' c", false)[1..], [(Text, r"a\'b"), (Word, "c")]);
        assert_eq!(shown("'a''b'", false), [(Text, "a''b")]);
        assert_eq!(shown("\"x\"", true), [(Text, "x")]);
        assert_eq!(shown("\"x\"", false), [(Name, "x")]);
        assert_eq!(shown("$t$ a ' $$ $t$ 1", false), [(Dollar, " a ' $$ "), (Number, "1")]);
        assert_eq!(shown("a -- b'\n c", false), [(Word, "a"), (Comment, " b'"), (Word, "c")]);
        assert_eq!(
            shown("1--1 # x", true),
            [(Number, "1"), (Other(b'-'), "-"), (Other(b'-'), "-"), (Number, "1"), (Comment, " x")]
        );
        assert_eq!(shown("/* a /* b */ c */ d", false), [(Comment, " a /* b */ c "), (Word, "d")]);
        assert_eq!(shown("/*!50000 a */ d", true), [(Word, "a"), (Word, "d")]);
        assert_eq!(shown("$1 :n ? x::int", false)[..3], [(Marker, "$1"), (Marker, ":n"), (Marker, "?")]);
        assert_eq!(shown("'open", false), [(Text, "open")]);
        assert_eq!(shown("1e-5 0x1F", false), [(Number, "1e-5"), (Number, "0x1F")]);
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_token(sql in proptest::collection::vec(prop_oneof![Just(b'\''), Just(b'"'), Just(b'$'), Just(b'\\'), Just(b'/'), Just(b'*'), Just(b'-'), Just(b'\n'), any::<u8>()], 0..200), mysql: bool) {
            let mut at = 0;
            for token in Lexer::new(&sql, Dialect { mysql }) {
                prop_assert!(token.start == at && token.end > at && token.start <= token.from && token.from <= token.to && token.to <= token.end);
                at = token.end;
            }
            prop_assert_eq!(at, sql.len());
        }
    }
}
