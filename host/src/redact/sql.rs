//! Secrets in SQL: the literal that follows `IDENTIFIED BY`, `PASSWORD`, `MASTER_PASSWORD =` and their like, by tokens and not by
//! expression, so that quotes and comments hide nothing and fool nobody. A literal that is no secret itself may hold a connection string or
//! another statement, and is looked into.

use super::columns::Columns;
use super::names::{is_secret_name, suspicious};
use super::spans::{Kinds, Spans};
use super::{command, inline};
use crate::statements::lex::{Dialect, Kind, Lexer, Token};

/// Statements within statements that are looked into; what is deeper and looks suspicious is secret as a whole.
const DEPTH: u8 = 4;

/// Functions that are given a password or a key, besides those that say `crypt`.
const FUNCTIONS: [&str; 5] = ["hmac", "md5", "sha1", "sha2", "old_password"];
/// Brackets behind these hold no pairs of names and values.
const LISTS: [&str; 5] = ["in", "any", "enum", "set", "array"];

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
    /// Behind a name in quotes: behind a comma, too, its value may come.
    Named,
    /// Behind a text that ends where its secret should begin; `true`: it looks like a part of something.
    Joined(bool),
    /// What is put into such a text is secret, as long as no more than so many brackets are closed.
    Open(u32),
    /// The next literal is a command.
    Command,
}

/// Finds what is secret in a statement. True: a parameter stands where a secret belongs.
pub fn scan(sql: &[u8], dialect: Dialect, spans: &mut Spans) -> bool {
    if !suspicious(sql) {
        return false;
    }
    let mut scan = Scan::new(sql, dialect, spans);
    scan.run();
    scan.parameters
}

/// The same in a text that is none by itself, but may hold statements: a word of a command line. Only what begins as a statement does is
/// read as one, from there to its `;`. `says 'see passwd(1)'` is none.
pub fn scan_text(text: &[u8], dialect: Dialect, spans: &mut Spans) {
    if suspicious(text) {
        Scan { text: Prose::Text, ..Scan::new(text, dialect, spans) }.run();
    }
}

/// The same in a script that a client of SQL reads: any line may begin a statement, and those that begin with `\` are for the client.
pub fn scan_script(text: &[u8], dialect: Dialect, spans: &mut Spans) {
    let (mut from, mut at) = (0, 0);
    let mut part = |from: usize, to: usize| {
        let sql = text.get(from..to).unwrap_or_default();
        if suspicious(sql) {
            Scan { base: from, text: Prose::Script, ..Scan::new(sql, dialect, spans) }.run();
        }
    };
    for line in text.split(|b| *b == b'\n') {
        if line.trim_ascii_start().starts_with(b"\\") {
            part(from, at);
            from = (at + line.len() + 1).min(text.len());
        }
        at += line.len() + 1;
    }
    part(from, text.len());
}

/// Statements among the texts of a JSON array: values that a server is to execute.
pub fn scan_array(array: &[u8], dialect: Dialect, spans: &mut Spans) {
    let mut scan = Scan::new(array, dialect, spans);
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

/// How much of a text is SQL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prose {
    /// All of it.
    Nothing,
    /// What begins as a statement does.
    Text,
    /// The same, at each line.
    Script,
}

struct Scan<'a, 's> {
    sql: &'a [u8],
    dialect: Dialect,
    base: usize,
    spans: &'s mut Spans,
    parameters: bool,
    /// Its secret is put in by what stands around it.
    open: bool,
    level: u8,
    text: Prose,
    /// Open brackets; for the last of them, whether they may hold pairs.
    brackets: u32,
    pairs: u64,
}

impl<'a, 's> Scan<'a, 's> {
    fn new(sql: &'a [u8], dialect: Dialect, spans: &'s mut Spans) -> Self {
        let text = Prose::Nothing;
        Self { sql, dialect, base: 0, spans, parameters: false, open: false, level: 0, text, brackets: 0, pairs: 0 }
    }

    fn text(&self, token: Token) -> &[u8] {
        self.sql.get(token.from..token.to).unwrap_or_default()
    }

    fn secret(&mut self, token: Token) {
        self.spans.add(self.base + token.from, self.base + token.to, Kinds::PASSWORD);
    }

    fn run(&mut self) {
        let (mut state, mut depth, mut columns) = (State::Idle, 0_u32, Columns::default());
        let mut reads = if self.text == Prose::Nothing { Reads::All } else { Reads::Begins };
        let (mut line, mut list) = (false, false);
        for token in Lexer::new(self.sql, self.dialect) {
            match token.kind {
                Kind::Space => {
                    line |= self.text == Prose::Script && self.text(token).contains(&b'\n');
                    continue;
                }
                Kind::Comment => {
                    self.within(token, true);
                    continue;
                }
                _ => {}
            }
            if reads != Reads::All {
                // A statement goes on behind the end of a line, unless another one begins there.
                if std::mem::take(&mut line) && (reads == Reads::Nothing || self.is_one_of(token, &VERBS)) {
                    reads = Reads::Begins;
                }
                reads = self.reads(reads, token);
                if matches!(reads, Reads::Begins | Reads::Nothing) {
                    (state, columns) = (State::Idle, Columns::default());
                    // What stands in quotes may be one.
                    if matches!(token.kind, Kind::Text | Kind::Dollar | Kind::Name) {
                        self.within(token, token.kind == Kind::Dollar);
                    }
                    continue;
                }
            }
            self.bracket(token, list);
            list = token.kind == Kind::Word && self.is_one_of(token, &LISTS);
            if columns.holds_secret(self.sql, token) && self.value(token) {
                state = State::Idle;
                continue;
            }
            state = match state {
                State::After => match token.kind {
                    Kind::Text | Kind::Dollar => self.armed(token, false, &mut depth),
                    Kind::Other(b'|' | b'+') => State::Armed(false),
                    Kind::Word if self.is_one_of(token, &["replace"]) => State::Armed(false),
                    _ => self.idle(token),
                },
                State::Idle => self.idle(token),
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
                State::Named if token.kind == Kind::Other(b',') => {
                    if self.brackets > 0 && self.pairs & 1 == 1 {
                        State::Armed(false)
                    } else {
                        State::Idle
                    }
                }
                State::Named => self.armed(token, false, &mut depth),
                State::Joined(part) => match token.kind {
                    Kind::Other(b'|' | b'+') => State::Open(self.brackets),
                    Kind::Other(b',') if part => State::Open(self.brackets),
                    _ => self.idle(token),
                },
                State::Open(_) if token.kind == Kind::Other(b';') => State::Idle,
                State::Open(brackets) if self.brackets >= brackets => {
                    self.value(token);
                    state
                }
                State::Open(_) => State::Idle,
                State::Command => self.command(token),
                // The number of a manual's section is none.
                State::Armed(false) if token.kind == Kind::Number && reads != Reads::All => State::Idle,
                State::Armed(bare) => self.armed(token, bare, &mut depth),
            };
            if !matches!(state, State::Armed(_)) {
                depth = 0;
            }
        }
        self.open |= matches!(state, State::Armed(_));
    }

    /// Counts brackets. `list`: those that open here hold no pairs.
    fn bracket(&mut self, token: Token, list: bool) {
        match token.kind {
            Kind::Other(b'(') => {
                self.brackets = self.brackets.saturating_add(1);
                self.pairs = self.pairs << 1 | u64::from(!list);
            }
            Kind::Other(b')') => {
                self.brackets = self.brackets.saturating_sub(1);
                self.pairs >>= 1;
            }
            _ => {}
        }
    }

    /// A value that is secret for its place; false: it is none.
    fn value(&mut self, token: Token) -> bool {
        match token.kind {
            // An escaped quote looks like an empty literal with the secret behind it.
            Kind::Text if token.from == token.to && self.level > 0 => {
                self.spans.add(self.base + token.start, self.base + token.end, Kinds::PASSWORD);
            }
            Kind::Text | Kind::Dollar => self.secret(token),
            Kind::Number if token.end - token.start > 1 => self.secret(token),
            Kind::Name if self.sql.get(token.start) == Some(&b'"') => self.secret(token),
            Kind::Marker => self.parameters = true,
            _ => return false,
        }
        true
    }

    /// What is given to a shell.
    fn command(&mut self, token: Token) -> State {
        match token.kind {
            Kind::Text | Kind::Dollar => {
                let mut own = Spans::default();
                command::scan(self.text(token), &mut own);
                let base = self.base + token.from;
                own.iter().for_each(|(from, to, kind)| self.spans.add(base + from, base + to, kind));
                State::Idle
            }
            Kind::Other(b'(' | b'=') => State::Command,
            Kind::Word if self.sql.get(token.end) == Some(&b'\'') => State::Command,
            _ => self.idle(token),
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
            Kind::Word if self.calls(token) && self.is_given_secrets(token) => State::Armed(false),
            Kind::Word if self.is_one_of(token, &["program", "xp_cmdshell"]) => State::Command,
            Kind::Text if is_secret_name(self.text(token)) && !self.text(token).contains(&b' ') => State::Named,
            Kind::Text => self.within(token, false),
            Kind::Dollar => self.within(token, true),
            _ => State::Idle,
        }
    }

    fn is_given_secrets(&self, token: Token) -> bool {
        let name = self.text(token);
        self.is_one_of(token, &FUNCTIONS) || name.windows(5).any(|part| part.eq_ignore_ascii_case(b"crypt"))
    }

    /// Whether a bracket follows.
    fn calls(&self, token: Token) -> bool {
        let next = self.sql.get(token.end..).unwrap_or_default();
        next.iter().take(16).find(|byte| !byte.is_ascii_whitespace()) == Some(&b'(')
    }

    fn armed(&mut self, token: Token, bare: bool, depth: &mut u32) -> State {
        let found = if *depth > 0 { State::Armed(false) } else { State::After };
        match token.kind {
            // The quote that opens here is closed by another text.
            Kind::Text if self.level > 0 && token.from == token.to && token.end == self.sql.len() => State::Armed(bare),
            // No more than yes or no.
            Kind::Number if token.end - token.start == 1 => found,
            Kind::Text | Kind::Dollar | Kind::Number => {
                self.open |= self.level > 0 && self.text(token).starts_with(b"%");
                self.secret(token);
                found
            }
            // The place of a value, of `format`.
            Kind::Other(b'%') if self.level > 0 => {
                self.open = true;
                State::Idle
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
    fn within(&mut self, token: Token, exact: bool) -> State {
        let (sql, base) = (self.sql.get(token.from..token.to).unwrap_or_default(), self.base + token.from);
        if !suspicious(sql) {
            return State::Idle;
        }
        if self.level >= DEPTH {
            self.secret(token);
            return State::Idle;
        }
        inline::scan(sql, base, self.spans);
        let mut spans = Spans::default();
        let mut inner =
            Scan { base, level: self.level + 1, text: self.text, ..Scan::new(sql, self.dialect, &mut spans) };
        inner.run();
        let (parameters, mut open) = (inner.parameters, inner.open);
        let text = self.text != Prose::Nothing;
        if exact {
            spans.iter().for_each(|(from, to, kind)| self.spans.add(from, to, kind));
            self.parameters |= parameters;
        } else if let Some(first) = spans
            .first()
            .or_else(|| doubled(sql, self.dialect).filter(|_| !text || begins(sql, self.dialect)).map(|at| base + at))
        {
            // An escaped quote looks like an empty literal with the secret behind it.
            open |= sql.get(first - base..).unwrap_or_default().contains(&b'%');
            self.spans.add(first, base + sql.len(), Kinds::PASSWORD);
        }
        let statement = token.kind != Kind::Comment && (open || parameters) && begins(sql, self.dialect);
        match sql.last() {
            _ if statement && (parameters || sql.contains(&b'%')) => State::Open(self.brackets),
            Some(last) if open => State::Joined(last.is_ascii_whitespace() || matches!(last, b'\'' | b'"')),
            _ => State::Idle,
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
