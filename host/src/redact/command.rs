//! Secrets in command lines: words as a shell splits them, arguments of well-known programs, assignments, URLs, headers, statements in quotes, and
//! what is piped or fed into programs that read a password.

use super::names::{is_secret_name, suspicious};
use super::programs::{self, Part, Place, Program, Reads, base_name, short_flag};
use super::spans::{Kinds, Spans};
use super::words::{Token, Word, after_nul, tokens};
use super::{http, inline, sql};
use crate::statements::lex::Dialect;

/// Commands within quotes that are looked into.
const DEPTH: u8 = 3;

/// Is told where a secret stands.
type Found<'f> = &'f mut dyn FnMut(usize, usize, Kinds);

/// Finds what is secret in a command line, or a script.
pub fn scan(text: &[u8], spans: &mut Spans) {
    lines(tokens(text), 0, &mut |from, to, kind| spans.add(from, to, kind));
}

/// The same of arguments that are separated by NUL.
pub fn arguments(text: &[u8], spans: &mut Spans) {
    lines(after_nul(text), 0, &mut |from, to, kind| spans.add(from, to, kind));
}

/// Commands that read from each other.
#[derive(Default)]
struct Pipeline {
    commands: Vec<Vec<Word>>,
    words: Vec<Word>,
    /// Here-strings.
    strings: Vec<Word>,
    /// Files that are written or read.
    files: Vec<Word>,
    here: bool,
}

/// What becomes of what a command is fed with.
#[derive(Clone, Copy, Default)]
struct Fed {
    reads: Reads,
    /// It is executed as SQL.
    sql: bool,
    /// It becomes a file of passwords of PostgreSQL.
    pgpass: bool,
}

impl Fed {
    fn and(self, other: Self) -> Self {
        Self { reads: self.reads.max(other.reads), sql: self.sql || other.sql, pgpass: self.pgpass || other.pgpass }
    }
}

fn lines(tokens: Vec<Token>, level: u8, found: Found<'_>) {
    let (mut pipeline, mut fed, mut over) = (Pipeline::default(), Fed::default(), false);
    for token in tokens {
        if std::mem::take(&mut over) && !matches!(token, Token::Document(_)) {
            fed = Fed::default();
        }
        match token {
            Token::Word(word) if std::mem::take(&mut pipeline.here) => pipeline.strings.push(word),
            Token::Word(word) => pipeline.words.push(word),
            Token::Target(word) => pipeline.files.push(word),
            Token::Here => pipeline.here = true,
            Token::Pipe => pipeline.commands.push(std::mem::take(&mut pipeline.words)),
            Token::End => fed = fed.and(std::mem::take(&mut pipeline).run(level, found)),
            Token::Line => {
                fed = fed.and(std::mem::take(&mut pipeline).run(level, found));
                over = true;
            }
            // The line that announced it is over, and maybe more documents come.
            Token::Document(word) => {
                body(&word, fed, level, true, found);
                over = true;
            }
        }
    }
    pipeline.run(level, found);
}

impl Pipeline {
    /// What is known of the readers of the here-documents that come.
    fn run(mut self, level: u8, found: Found<'_>) -> Fed {
        self.commands.push(self.words);
        let pgpass = self.files.iter().any(|file| matches!(base_name(&file.value), b".pgpass" | b"pgpass.conf"));
        let sql = self.files.iter().any(|file| file.value.ends_with(b".sql"));
        let (mut fed, mut before): (_, &[Word]) = (Fed { pgpass, sql, ..Fed::default() }, &[]);
        for words in &self.commands {
            let own = command(words, level, found);
            feeds(before, own, level, found);
            (fed, before) = (fed.and(own), words);
        }
        if pgpass {
            feeds(before, fed, level, found);
        }
        self.strings.iter().for_each(|word| body(word, fed, level, false, found));
        self.files.iter().for_each(|word| within(word, false, false, level, found));
        fed
    }
}

/// A here-string or here-document.
fn body(word: &Word, fed: Fed, level: u8, document: bool, found: Found<'_>) {
    let len = word.value.len();
    match fed.reads {
        Reads::Secrets => return word.tell(0, len, Kinds::PASSWORD, found),
        Reads::First => {
            let line = memchr::memchr(b'\n', &word.value).unwrap_or(len);
            word.tell(0, line, Kinds::PASSWORD, found);
        }
        Reads::Nothing => {}
    }
    if fed.pgpass {
        passwords_of_postgres(word, found);
    }
    if document {
        settings(word, found);
    }
    within(word, fed.sql, true, level, found);
}

/// `host:port:database:user:SECRET`
fn passwords_of_postgres(word: &Word, found: Found<'_>) {
    let mut at = 0;
    for line in word.value.split(|b| *b == b'\n') {
        if let Some(colon) = memchr::memchr_iter(b':', line).nth(3) {
            word.tell(at + colon + 1, at + line.len(), Kinds::PASSWORD, found);
        }
        at += line.len() + 1;
    }
}

/// Lines of files that are written so: `name: value`, `name = value`, `password value`.
fn settings(word: &Word, found: Found<'_>) {
    let mut at = 0;
    for line in word.value.split(|b| *b == b'\n') {
        let blank = line.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'-' | b'"' | b'\'')).count();
        let rest = line.get(blank..).unwrap_or_default();
        let name = rest.get(..rest.iter().take_while(|b| inline::is_name(**b)).count()).unwrap_or_default();
        let value = rest.get(name.len()..).unwrap_or_default();
        let signs = value.iter().take_while(|b| matches!(b, b' ' | b'\t' | b':' | b'=' | b'"' | b'\'')).count();
        let signed = value.get(..signs).unwrap_or_default().iter().any(|b| matches!(b, b':' | b'='));
        // In `.netrc` there is no sign, and nothing but the one word behind it.
        let plain = name == b"password" && signs > 0 && !value.trim_ascii().contains(&b' ');
        if is_secret_name(name) && (signed || plain) {
            word.tell(at + blank + name.len() + signs, at + line.trim_ascii_end().len(), Kinds::PASSWORD, found);
        }
        at += line.len() + 1;
    }
}

/// What `echo` and its like say into a program that reads a password.
fn feeds(words: &[Word], fed: Fed, level: u8, found: Found<'_>) {
    let speaks = words.first().is_some_and(|w| matches!(base_name(&w.value), b"echo" | b"printf" | b"print" | b"yes"));
    if !speaks {
        return;
    }
    for word in words.iter().skip(1).filter(|w| !w.value.starts_with(b"-")) {
        match fed.reads {
            Reads::Nothing if fed.pgpass => passwords_of_postgres(word, found),
            Reads::Nothing if fed.sql => within(word, true, false, level, found),
            Reads::Nothing => {}
            _ => word.tell(0, word.value.len(), Kinds::PASSWORD, found),
        }
    }
}

/// What was read of a command.
#[derive(Default)]
struct Command {
    program: Option<&'static Program>,
    fed: Fed,
    /// The word that begins it is known.
    known: bool,
    /// Operands so far, and those from behind the word that one of the places names.
    operands: usize,
    behind: Option<(usize, usize)>,
    /// Names of secrets may be followed by them.
    named: bool,
    logs_in: bool,
    last: Option<usize>,
}

/// One simple command, and what becomes of what it reads.
fn command(words: &[Word], level: u8, found: Found<'_>) -> Fed {
    let mut command = Command::default();
    let first = words.iter().position(|word| !is_assignment(&word.value)).unwrap_or(words.len());
    let mut whole: Option<Part> = None;
    for (number, word) in words.iter().enumerate() {
        let value = word.value.as_slice();
        if let Some(part) = whole.take() {
            // `--password --host h`, and `ffmpeg -pass 1`.
            let none = part == Part::Next && (value.starts_with(b"--") || matches!(value, [b'0'..=b'9']));
            if !none {
                tell_part(word, 0, part, found);
                if !matches!(part, Part::All | Part::Next) {
                    within(word, false, false, level, found);
                }
                continue;
            }
        }
        let before = number.checked_sub(1).and_then(|n| words.get(n)).map_or(&b""[..], |word| &word.value);
        if number >= first && command.begins(value, number == first, before) {
            within(word, false, false, level, found);
            continue;
        }
        command.reads(value);
        let operand = !value.starts_with(b"-") && number > first;
        whole = command.option(word, found);
        if whole.is_none() && operand {
            if command.operand(word, number, found) {
                continue;
            }
            whole = (command.named && is_secret_name(value)).then_some(Part::All);
        }
        if whole.is_none() {
            // A command in quotes may begin with an assignment, which is not all of it.
            let runs = before.starts_with(b"-") && before.ends_with(b"c");
            let runs = runs || words.get(first).is_some_and(|w| matches!(base_name(&w.value), b"ssh" | b"eval"));
            within(word, false, runs, level, found);
        }
    }
    if let Some(word) = command.last.and_then(|last| words.get(last)) {
        let flag = |place: &Place| match place {
            Place::Last(flag) => words.iter().any(|word| short_flag(&word.value, *flag)),
            _ => false,
        };
        if command.places().iter().any(flag) {
            word.tell(0, word.value.len(), Kinds::PASSWORD, found);
        }
    }
    command.fed
}

/// `NAME=value`, before a command.
fn is_assignment(word: &[u8]) -> bool {
    let name = word.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    name > 0 && matches!(word.get(name..), Some([b'=', ..] | [b'+', b'=', ..]))
}

impl Command {
    fn places(&self) -> &'static [Place] {
        self.program.map_or(&[], |program| program.places)
    }

    /// Whether a word names the program. The first one does; those behind it do if the first one runs others, or nobody knows what it does. But
    /// what follows `--name` is a name.
    fn begins(&mut self, value: &[u8], first: bool, before: &[u8]) -> bool {
        let program = if first {
            programs::find(value)
        } else {
            let runs = self.program.is_none_or(|program| program.runs);
            let plain = self.program.is_some_and(|program| program.places.is_empty());
            let of_option = before.len() > 2 && before.starts_with(b"--") && !before.contains(&b'=') && !plain;
            if runs && !of_option { programs::find_argument(value) } else { None }
        };
        self.known |= first && program.is_some();
        let Some(program) = program else { return first };
        *self = Self { program: Some(program), known: self.known, fed: self.fed, ..Self::default() };
        self.fed.sql |= program.sql;
        self.named = program.places.iter().any(|place| matches!(place, Place::Named("")));
        // `grep passwd` reads none.
        if program.reads_with.is_empty() && self.known {
            self.fed.reads = self.fed.reads.max(program.reads);
        }
        true
    }

    fn reads(&mut self, value: &[u8]) {
        if let Some(program) = self.program.filter(|program| program.reads_by(value)) {
            self.fed.reads = self.fed.reads.max(program.reads);
        }
        if matches!(value, b"--password-stdin" | b"--passphrase-fd" | b"--with-token") {
            self.fed.reads = Reads::Secrets;
        }
    }

    /// An option whose value is secret. What of the next word is, if the value stands there.
    fn option(&self, word: &Word, found: Found<'_>) -> Option<Part> {
        let value = word.value.as_slice();
        for place in self.places() {
            let (flag, part) = match place {
                Place::Prefix(start) if value.starts_with(start.as_bytes()) => {
                    word.tell(start.len(), value.len(), Kinds::PASSWORD, found);
                    return None;
                }
                Place::Option(flag, part) => (flag.as_bytes(), *part),
                Place::OptionBehind(_, flag) if self.logs_in => (flag.as_bytes(), Part::All),
                _ => continue,
            };
            if value == flag {
                return (part != Part::Attached).then_some(part);
            }
            let single = flag.len() == 2;
            if (single || part == Part::Attached)
                && !matches!(part, Part::Next | Part::Nothing)
                && value.starts_with(flag)
            {
                tell_part(word, flag.len(), part, found);
                return None;
            }
            // `-sSu user:password`
            if single && !matches!(part, Part::Attached | Part::Next | Part::Nothing) && cluster(value, flag) {
                return Some(part);
            }
            if !single && value.starts_with(flag) && value.get(flag.len()) == Some(&b'=') {
                tell_part(word, flag.len() + 1, part, found);
                return None;
            }
        }
        // `--password SECRET`, `-password SECRET`; `--password=SECRET` says itself what it is.
        let name = value.strip_prefix(b"-")?;
        let long = name.strip_prefix(b"-").unwrap_or(name);
        let secret = (long.len() > 2 || long == b"pw") && is_secret_name(value)
            || name.len() > long.len() && matches!(long, b"passin" | b"passout");
        (secret && !value.contains(&b'=')).then_some(Part::Next)
    }

    /// An operand; true: it is a secret.
    fn operand(&mut self, word: &Word, number: usize, found: Found<'_>) -> bool {
        let value = word.value.as_slice();
        let behind = self.behind;
        let mut secret = false;
        for (index, place) in self.places().iter().enumerate() {
            match place {
                Place::Operands(from, Part::Slash) if self.operands != *from => {}
                Place::Operands(from, part) if self.operands >= *from => {
                    tell_part(word, 0, *part, found);
                    secret |= *part == Part::All;
                }
                Place::Behind(_, from) if behind.is_some_and(|(of, count)| of == index && count >= *from) => {
                    word.tell(0, value.len(), Kinds::PASSWORD, found);
                    secret = true;
                }
                Place::Behind(name, _) if behind.is_none() && value == name.as_bytes() => {
                    self.behind = Some((index, 0))
                }
                Place::Named(name) => self.named |= value == name.as_bytes(),
                Place::OptionBehind(name, _) => self.logs_in |= value == name.as_bytes(),
                _ => {}
            }
        }
        if let (Some((_, count)), true) = (&mut self.behind, behind.is_some()) {
            *count += 1;
        }
        self.operands += 1;
        self.last = Some(number);
        secret
    }
}

fn tell_part(word: &Word, from: usize, part: Part, found: Found<'_>) {
    let rest = word.value.get(from..).unwrap_or_default();
    let (skip, end) = match part {
        Part::All | Part::Attached | Part::Next => (Some(0), rest.len()),
        Part::Nothing => (None, 0),
        Part::After(sign) => (memchr::memchr(sign, rest).map(|n| n + 1), rest.len()),
        // `@file` is a script, `directory=/a/b` has no user in it.
        Part::Slash if rest.starts_with(b"@") || rest.contains(&b'=') && !rest.starts_with(b"userid=") => (None, 0),
        Part::Slash => (memchr::memchr(b'/', rest).map(|n| n + 1), memchr::memrchr(b'@', rest).unwrap_or(rest.len())),
        Part::Header => {
            let mut spans = Spans::default();
            if let Some(colon) = memchr::memchr(b':', rest) {
                let (name, value) = (rest.get(..colon).unwrap_or_default(), rest.get(colon + 1..).unwrap_or_default());
                http::header(name, value, &mut spans);
                spans.iter().for_each(|(start, end, kind)| {
                    word.tell(from + colon + 1 + start, from + colon + 1 + end, kind, found)
                });
            }
            (None, 0)
        }
    };
    if let Some(skip) = skip {
        word.tell(from + skip, from + end, Kinds::PASSWORD, found);
    }
}

fn cluster(value: &[u8], flag: &[u8]) -> bool {
    value.len() > 2
        && value.last() == flag.last()
        && value.get(1..).is_some_and(|v| v.iter().all(u8::is_ascii_alphabetic))
}

/// Where the value of an assignment begins that says that it is a secret.
fn assigned(word: &[u8]) -> Option<usize> {
    let name = word.iter().take_while(|b| inline::is_name(**b)).count();
    let sign = if word.get(name) == Some(&b'+') { name + 1 } else { name };
    (word.get(sign) == Some(&b'=') && is_secret_name(word.get(..name)?)).then_some(sign + 1)
}

/// What says itself that it is a secret, and commands and statements in quotes. `sql`: it is a script of statements; `commands`: it is one of
/// commands.
fn within(word: &Word, script: bool, commands: bool, level: u8, found: Found<'_>) {
    let value = word.value.as_slice();
    // Only quotes could end it before the word does, and these are gone.
    if let Some(from) = assigned(value).filter(|_| !commands || !value.iter().any(u8::is_ascii_whitespace)) {
        return word.tell(from, value.len(), Kinds::PASSWORD, found);
    }
    let mut spans = Spans::default();
    if suspicious(value) {
        inline::scan(value, 0, &mut spans);
        if value.contains(&b' ') {
            // Behind the option that it may be written to: `-eCREATE …`, `--command=CREATE …`.
            let skip = match value {
                [b'-', b'-', ..] => memchr::memchr(b'=', value).map_or(0, |sign| sign + 1),
                [b'-', _, ..] => 2,
                _ => 0,
            };
            let text = value.get(skip..).unwrap_or_default();
            // Of whatever server: what one of them takes for a secret is one.
            for mysql in [true, false] {
                let mut own = Spans::default();
                if script {
                    sql::scan_script(text, Dialect { mysql }, &mut own);
                } else {
                    sql::scan_text(text, Dialect { mysql }, &mut own);
                }
                own.iter().for_each(|(from, to, kind)| spans.add(skip + from, skip + to, kind));
            }
        }
    }
    spans.iter().for_each(|(from, to, kind)| word.tell(from, to, kind, found));
    if level < DEPTH && value.iter().any(|b| matches!(b, b' ' | b'\n')) {
        lines(tokens(value), level + 1, &mut |from, to, kind| word.tell(from, to, kind, found));
    }
}
