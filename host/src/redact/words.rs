//! A command line in words, with what quotes and backslashes mean, and for each byte where it stands in the line. Nothing is expanded.

use super::spans::Kinds;

/// A word without its quotes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Its bytes.
    pub value: Vec<u8>,
    /// Where each stands.
    at: Vec<usize>,
}

/// A word, or what stands between words.
#[derive(Debug, PartialEq, Eq)]
pub enum Token {
    /// A word.
    Word(Word),
    /// `|`
    Pipe,
    /// The end of a simple command.
    End,
    /// The same at the end of a line.
    Line,
    /// What a redirection leads to: no argument.
    Target(Word),
    /// `<<<`: the next word is read.
    Here,
    /// The lines of a here-document.
    Document(Word),
}

impl Word {
    fn push(&mut self, byte: u8, at: usize) {
        self.value.push(byte);
        self.at.push(at);
    }

    /// Says where a part of the word stands.
    pub fn tell(&self, from: usize, to: usize, kind: Kinds, found: &mut dyn FnMut(usize, usize, Kinds)) {
        if let (Some(first), Some(last)) = (self.at.get(from), to.checked_sub(1).and_then(|to| self.at.get(to)))
            && from < to
        {
            found(*first, last + 1, kind);
        }
    }
}

/// Arguments that are separated by NUL.
pub fn after_nul(text: &[u8]) -> Vec<Token> {
    let mut start = 0;
    let word = |part: &[u8]| {
        let word = Word { value: part.to_vec(), at: (start..start + part.len()).collect() };
        start += part.len() + 1;
        Token::Word(word)
    };
    text.split(|b| *b == 0).map(word).collect()
}

/// The words of a command line, or of several.
pub fn tokens(text: &[u8]) -> Vec<Token> {
    let mut split = Split { text, at: 0, word: None, out: Vec::new(), documents: Vec::new(), next: Next::Argument };
    split.run();
    split.out
}

struct Split<'t> {
    text: &'t [u8],
    at: usize,
    word: Option<Word>,
    out: Vec<Token>,
    /// Ends of here-documents that begin with the next line.
    documents: Vec<Vec<u8>>,
    next: Next,
}

/// What the next word is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Argument,
    /// The end of a here-document.
    Delimiter,
    /// Behind a redirection.
    Target,
}

impl Split<'_> {
    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn take(&mut self, byte: u8) {
        self.word.get_or_insert_default().push(byte, self.at);
        self.at += 1;
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        match std::mem::replace(&mut self.next, Next::Argument) {
            // Bounded: nobody has many at once.
            Next::Delimiter if self.documents.len() < 16 => self.documents.push(word.value),
            Next::Delimiter => {}
            Next::Target => self.out.push(Token::Target(word)),
            Next::Argument => self.out.push(Token::Word(word)),
        }
    }

    /// The end of a command, and of what it began.
    fn end(&mut self, token: Token, len: usize) {
        self.end_word();
        self.next = Next::Argument;
        self.out.push(token);
        self.at += len;
    }

    /// `>`, `2>>`, `&>`, `>&1`, `<`: the number before it belongs to it.
    fn redirection(&mut self) {
        let own = |word: &Word| {
            word.value.iter().all(u8::is_ascii_digit) && word.at.last() == self.at.checked_sub(1).as_ref()
        };
        if self.word.as_ref().is_some_and(own) {
            self.word = None;
        }
        self.end_word();
        while matches!(self.byte(0), Some(b'<' | b'>' | b'&' | b'|')) {
            self.at += 1;
        }
        // A command in its place is one.
        if self.byte(0) != Some(b'(') {
            self.next = Next::Target;
        }
    }

    fn quoted(&mut self, quote: u8, escapes: bool) {
        self.word.get_or_insert_default();
        self.at += 1;
        while let Some(byte) = self.byte(0) {
            match byte {
                b if b == quote => {
                    self.at += 1;
                    return;
                }
                b'\\' if escapes && matches!(self.byte(1), Some(b'"' | b'\\' | b'$' | b'`' | b'\'')) => {
                    self.at += 1;
                    let byte = self.byte(0).unwrap_or_default();
                    self.take(byte);
                }
                byte => self.take(byte),
            }
        }
    }

    fn run(&mut self) {
        while let Some(byte) = self.byte(0) {
            match byte {
                b'\'' => self.quoted(b'\'', false),
                b'"' => self.quoted(b'"', true),
                b'$' if self.byte(1) == Some(b'\'') => {
                    self.at += 1;
                    self.quoted(b'\'', true);
                }
                b'\\' if self.byte(1) == Some(b'\n') => self.at += 2,
                b'\\' => {
                    self.at += 1;
                    if let Some(byte) = self.byte(0) {
                        self.take(byte);
                    }
                }
                b'\n' => {
                    self.end(Token::Line, 1);
                    self.documents();
                }
                b' ' | b'\t' | b'\r' => {
                    self.end_word();
                    self.at += 1;
                }
                b'<' if self.text.get(self.at..).is_some_and(|t| t.starts_with(b"<<<")) => {
                    self.end_word();
                    self.out.push(Token::Here);
                    self.at += 3;
                }
                b'<' if self.byte(1) == Some(b'<') => {
                    self.end_word();
                    self.at += 2 + usize::from(self.byte(2) == Some(b'-'));
                    self.next = Next::Delimiter;
                }
                b'<' | b'>' => self.redirection(),
                b'&' if self.byte(1) == Some(b'>') => self.redirection(),
                b'|' if self.byte(1) == Some(b'|') => self.end(Token::End, 2),
                b'|' => self.end(Token::Pipe, 1 + usize::from(self.byte(1) == Some(b'&'))),
                b';' | b'(' | b')' | b'`' => self.end(Token::End, 1),
                // That of a URL without quotes as well: a shell would cut it here, and the rest is another command.
                b'&' => self.end(Token::End, 1),
                byte => self.take(byte),
            }
        }
        self.end_word();
    }

    /// The lines of the here-documents that were announced.
    fn documents(&mut self) {
        for end in std::mem::take(&mut self.documents) {
            let mut word = Word::default();
            while self.at < self.text.len() {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let len = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                let line = rest.get(..len).unwrap_or_default();
                let last = line.trim_ascii_start() == end.as_slice();
                if !last {
                    line.iter().enumerate().for_each(|(n, b)| word.push(*b, self.at + n));
                    if len < rest.len() {
                        word.push(b'\n', self.at + len);
                    }
                }
                self.at += (len + 1).min(rest.len());
                if last {
                    break;
                }
            }
            // The command that reads it has ended with its line.
            self.out.push(Token::Document(word));
        }
    }
}
