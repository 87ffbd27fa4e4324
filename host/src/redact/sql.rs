//! Secrets in SQL: the literal that follows `IDENTIFIED BY`, `PASSWORD`, `MASTER_PASSWORD =` and their like, by tokens and not by
//! expression, so that quotes and comments hide nothing and fool nobody. A literal that is no secret itself may hold a connection string or
//! another statement, and is looked into.

use super::inline::{self, is_secret_name};
use super::spans::{Kinds, Spans};
use crate::statements::lex::{Dialect, Kind, Lexer, Token};

/// Statements within statements that are looked into; what is deeper and looks suspicious is secret as a whole.
const DEPTH: u8 = 4;

/// Functions that are given a password or a key.
const FUNCTIONS: [&str; 7] =
    ["crypt", "pgp_sym_encrypt", "pgp_sym_decrypt", "aes_encrypt", "aes_decrypt", "old_password", "des_encrypt"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// `IDENTIFIED`, before `BY`.
    Identified,
    /// `PASSWORD FOR user`, before `=`.
    For,
    /// The next literal is the secret; `true`: so is the next word.
    Armed(bool),
    /// Behind one, which may go on.
    After,
}

/// Finds what is secret in a statement. True: a parameter stands where a secret belongs.
pub fn scan(sql: &[u8], dialect: Dialect, spans: &mut Spans) -> bool {
    if !inline::suspicious(sql) {
        return false;
    }
    let mut scan = Scan { sql, dialect, base: 0, spans, parameters: false, level: 0, text: false };
    scan.run();
    scan.parameters
}

/// The same in a text that is none by itself, but may hold statements: a word of a command line. Only what begins as a statement does is
/// read as one, from there to its `;`. `says 'see passwd(1)'` is none.
pub fn scan_text(text: &[u8], dialect: Dialect, spans: &mut Spans) {
    if inline::suspicious(text) {
        Scan { sql: text, dialect, base: 0, spans, parameters: false, level: 0, text: true }.run();
    }
}

/// Statements among the texts of a JSON array: values that a server is to execute.
pub fn scan_array(array: &[u8], dialect: Dialect, spans: &mut Spans) {
    let mut scan = Scan { sql: array, dialect, base: 0, spans, parameters: false, level: 0, text: false };
    // The quotes of JSON are read as MySQL's are.
    for token in Lexer::new(array, Dialect { mysql: true }) {
        if token.kind == Kind::Text && begins(array.get(token.from..token.to).unwrap_or_default(), dialect) {
            scan.within(token, false);
        }
    }
}

/// What statements begin with that may have a password in them.
const VERBS: [&str; 24] = [
    "alter", "begin", "call", "change", "copy", "create", "delete", "do", "exec", "execute", "explain", "grant",
    "insert", "import", "merge", "perform", "prepare", "replace", "select", "set", "start", "update", "upsert", "with",
];

/// How far a text is read as a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Whatever comes is one.
    All,
    /// What begins here may be one.
    Begins,
    /// One that may name a secret without quotes: it is about users.
    Users,
    /// Another one.
    Statement,
    /// Prose.
    Nothing,
}

struct Scan<'a, 's> {
    sql: &'a [u8],
    dialect: Dialect,
    base: usize,
    spans: &'s mut Spans,
    parameters: bool,
    level: u8,
    /// Not all of it is SQL.
    text: bool,
}

impl Scan<'_, '_> {
    fn text(&self, token: Token) -> &[u8] {
        self.sql.get(token.from..token.to).unwrap_or_default()
    }

    fn secret(&mut self, token: Token) {
        self.spans.add(self.base + token.from, self.base + token.to, Kinds::PASSWORD);
    }

    fn run(&mut self) {
        let (mut state, mut depth) = (State::Idle, 0_u32);
        let mut reads = if self.text { Reads::Begins } else { Reads::All };
        for token in Lexer::new(self.sql, self.dialect) {
            match token.kind {
                Kind::Space => continue,
                Kind::Comment => {
                    self.within(token, true);
                    continue;
                }
                _ => {}
            }
            if reads != Reads::All {
                reads = self.reads(reads, token);
                if matches!(reads, Reads::Begins | Reads::Nothing) {
                    state = State::Idle;
                    // What stands in quotes may be one.
                    if matches!(token.kind, Kind::Text | Kind::Dollar | Kind::Name) {
                        self.within(token, token.kind == Kind::Dollar);
                    }
                    continue;
                }
            }
            if state == State::After {
                state = match token.kind {
                    Kind::Text | Kind::Dollar => State::Armed(false),
                    Kind::Other(b'|' | b'+') => {
                        state = State::Armed(false);
                        continue;
                    }
                    Kind::Word if self.text(token).eq_ignore_ascii_case(b"replace") => {
                        state = State::Armed(false);
                        continue;
                    }
                    _ => State::Idle,
                };
            }
            state = match state {
                State::Idle | State::After => self.idle(token),
                State::Identified => match token.kind {
                    Kind::Word if self.is_one_of(token, &["by", "as", "using"]) => {
                        State::Armed(matches!(reads, Reads::All | Reads::Users))
                    }
                    Kind::Other(b';' | b',' | b')') => State::Idle,
                    _ => State::Identified,
                },
                State::For => match token.kind {
                    Kind::Other(b'=') => State::Armed(false),
                    Kind::Word if self.is_one_of(token, &["to"]) => State::Armed(false),
                    Kind::Other(b';') => State::Idle,
                    _ => State::For,
                },
                // The number of a manual's section is none.
                State::Armed(false) if token.kind == Kind::Number && reads != Reads::All => State::Idle,
                State::Armed(bare) => self.armed(token, bare, &mut depth),
            };
            if !matches!(state, State::Armed(_)) {
                depth = 0;
            }
        }
    }

    /// What a token makes of what was read before it.
    fn reads(&self, before: Reads, token: Token) -> Reads {
        match (before, token.kind) {
            (_, Kind::Other(b';')) => Reads::Begins,
            // `(SELECT …)`
            (Reads::Begins, Kind::Other(b'(')) => Reads::Begins,
            (Reads::Begins, Kind::Word) if self.is_one_of(token, &["alter", "create", "grant"]) => Reads::Users,
            (Reads::Begins, Kind::Word) if self.is_one_of(token, &VERBS) => Reads::Statement,
            (Reads::Begins, _) => Reads::Nothing,
            (before, _) => before,
        }
    }

    fn is_one_of(&self, token: Token, words: &[&str]) -> bool {
        let text = self.text(token);
        words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes()))
    }

    fn idle(&mut self, token: Token) -> State {
        match token.kind {
            Kind::Word if self.is_one_of(token, &["identified"]) => State::Identified,
            Kind::Word | Kind::Name if is_secret_name(self.text(token)) => State::Armed(false),
            Kind::Word if self.is_one_of(token, &FUNCTIONS) && self.calls(token) => State::Armed(false),
            Kind::Text if is_secret_name(self.text(token)) && token.to - token.from < 40 => State::Armed(false),
            Kind::Text => {
                self.within(token, false);
                State::Idle
            }
            Kind::Dollar => {
                self.within(token, true);
                State::Idle
            }
            _ => State::Idle,
        }
    }

    /// Whether a bracket follows.
    fn calls(&self, token: Token) -> bool {
        let next = self.sql.get(token.end..).unwrap_or_default();
        next.iter().take(16).find(|byte| !byte.is_ascii_whitespace()) == Some(&b'(')
    }

    fn armed(&mut self, token: Token, bare: bool, depth: &mut u32) -> State {
        let found = if *depth > 0 { State::Armed(false) } else { State::After };
        match token.kind {
            Kind::Text | Kind::Dollar | Kind::Number => {
                self.secret(token);
                found
            }
            Kind::Name if self.sql.get(token.start) == Some(&b'"') => {
                self.secret(token);
                found
            }
            Kind::Marker => {
                self.parameters = true;
                found
            }
            Kind::Word => self.word(token, bare, found),
            Kind::Other(b'(') => {
                *depth += 1;
                State::Armed(bare)
            }
            Kind::Other(b')') if *depth > 0 => {
                *depth -= 1;
                if *depth > 0 { State::Armed(bare) } else { State::After }
            }
            Kind::Other(b',') if *depth > 0 => State::Armed(bare),
            Kind::Other(b',' | b')' | b';' | b'.') | Kind::Name => State::Idle,
            _ => State::Armed(bare),
        }
    }

    fn word(&mut self, token: Token, bare: bool, found: State) -> State {
        let next = self.sql.get(token.end..).unwrap_or_default();
        let blank = next.iter().take(16).take_while(|b| b.is_ascii_whitespace()).count();
        let goes_on = [
            "password",
            "by",
            "as",
            "to",
            "using",
            "with",
            "encrypted",
            "unencrypted",
            "in",
            "any",
            "like",
            "ilike",
            "binary",
            "hash",
            "all",
            "not",
            "convert",
        ];
        match next.first() {
            // A prefix of the literal: N'…', _utf8'…', U&'…'.
            Some(b'\'' | b'"') => return State::Armed(bare),
            _ if next.starts_with(b"&'") => return State::Armed(bare),
            _ if next.get(blank) == Some(&b'(') => return State::Armed(false),
            _ if self.is_one_of(token, &goes_on) => return State::Armed(bare),
            _ if self.is_one_of(token, &["for"]) => return State::For,
            _ => {}
        }
        // Character sets: _utf8 'x'.
        if self.text(token).first() == Some(&b'_') && matches!(next.get(blank), Some(b'\'' | b'"')) {
            return State::Armed(bare);
        }
        if bare && !self.is_one_of(token, &["random", "values", "null", "current", "default"]) {
            self.secret(token);
            return found;
        }
        // What comes instead of a secret may be the beginning of one.
        match self.idle(token) {
            State::Idle if found == State::Armed(false) => found,
            state => state,
        }
    }

    /// Looks into a literal or a comment. `exact`: its bytes are those of the statement in it; else they are escaped, and from its first
    /// secret on all of it is one.
    fn within(&mut self, token: Token, exact: bool) {
        let (sql, base) = (self.sql.get(token.from..token.to).unwrap_or_default(), self.base + token.from);
        if !inline::suspicious(sql) {
            return;
        }
        if self.level >= DEPTH {
            return self.secret(token);
        }
        inline::scan(sql, base, self.spans);
        let (dialect, level) = (self.dialect, self.level + 1);
        if exact {
            let text = self.text;
            let mut inner = Scan { sql, dialect, base, spans: self.spans, parameters: false, level, text };
            inner.run();
            self.parameters |= inner.parameters;
            return;
        }
        let mut spans = Spans::default();
        let text = self.text;
        Scan { sql, dialect, base, spans: &mut spans, parameters: false, level, text }.run();
        // An escaped quote looks like an empty literal with the secret behind it.
        if let Some(first) = spans
            .first()
            .or_else(|| doubled(sql, dialect).filter(|_| !text || begins(sql, dialect)).map(|at| base + at))
        {
            self.spans.add(first, base + sql.len(), Kinds::PASSWORD);
        }
    }
}

/// Whether a text begins as a statement does.
fn begins(sql: &[u8], dialect: Dialect) -> bool {
    let first = Lexer::new(sql, dialect).find(|token| !matches!(token.kind, Kind::Space | Kind::Comment));
    let first = first.and_then(|token| sql.get(token.from..token.to)).unwrap_or_default();
    VERBS.iter().any(|verb| first.eq_ignore_ascii_case(verb.as_bytes()))
}

/// Where a secret begins whose quotes are doubled.
fn doubled(sql: &[u8], dialect: Dialect) -> Option<usize> {
    let mut armed = 0_u8;
    for token in Lexer::new(sql, dialect) {
        let text = sql.get(token.from..token.to).unwrap_or_default();
        armed = match token.kind {
            Kind::Word if text.eq_ignore_ascii_case(b"identified") => 1,
            Kind::Word if armed == 1 && (text.eq_ignore_ascii_case(b"by") || text.eq_ignore_ascii_case(b"as")) => 2,
            Kind::Word | Kind::Name if is_secret_name(text) => 2,
            Kind::Text if armed == 2 => return Some(token.start),
            Kind::Space | Kind::Other(b'=' | b'(' | b'\\') => armed,
            Kind::Word if armed == 1 => 1,
            _ => 0,
        };
    }
    None
}

/// The statement with every literal as `?`; names and keywords stay. `None`: there is none.
#[must_use]
pub fn literals(sql: &[u8], dialect: Dialect) -> Option<Vec<u8>> {
    let (mut out, mut any) = (Vec::with_capacity(sql.len()), false);
    for token in Lexer::new(sql, dialect) {
        let all = sql.get(token.start..token.end).unwrap_or_default();
        match token.kind {
            Kind::Text | Kind::Dollar | Kind::Number => {
                out.push(b'?');
                any = true;
            }
            // What people write into a comment is nobody's to judge.
            Kind::Comment if token.to > token.from => {
                out.extend_from_slice(sql.get(token.start..token.from).unwrap_or_default());
                out.push(b'?');
                out.extend_from_slice(sql.get(token.to..token.end).unwrap_or_default());
                any = true;
            }
            _ => out.extend_from_slice(all),
        }
    }
    any.then_some(out)
}

/// A message of the server, which quotes the statement: everything in quotes is a literal.
#[must_use]
pub fn quotes(text: &[u8]) -> Option<Vec<u8>> {
    literals(text, Dialect { mysql: true })
}
