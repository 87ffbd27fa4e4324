//! Words and strings of a program, each looked at before it is believed.

use super::{TextError, count};
use crate::record::Program;
use std::borrow::Cow;

/// Where the walk is.
pub struct Reader<'a> {
    words: &'a [u8],
    strings: &'a [u8],
    /// Number of the next word.
    pub at: usize,
    /// Begin of the strings that words count from: a function has its own.
    pub base: usize,
    /// See `Program`.
    pub function_words: usize,
}

impl<'a> Reader<'a> {
    /// At the first word.
    pub fn new(program: &Program<'a>) -> Self {
        let Program { words, strings, function_words } = *program;
        Self { words, strings, at: 0, base: 0, function_words }
    }

    /// Number of words.
    pub fn words(&self) -> usize {
        self.words.len() / 4
    }

    /// The next word, without going past it.
    pub fn peek(&self) -> Result<u32, TextError> {
        let bytes = self.at.checked_mul(4).and_then(|at| self.words.get(at..));
        bytes.and_then(|bytes| bytes.first_chunk::<4>()).map(|word| u32::from_le_bytes(*word)).ok_or(TextError::End)
    }

    /// The next word.
    pub fn word(&mut self) -> Result<u32, TextError> {
        let word = self.peek()?;
        self.at += 1;
        Ok(word)
    }

    /// The place so many words behind this one.
    pub fn ahead(&self, words: u32) -> Result<usize, TextError> {
        let place = self.at.checked_add(count(words)).filter(|place| *place <= self.words());
        place.ok_or(TextError::End)
    }

    /// Goes past so many words.
    pub fn pass(&mut self, words: u32) -> Result<(), TextError> {
        self.at = self.ahead(words)?;
        Ok(())
    }

    /// The next string: in its word, or where its word says.
    pub fn string(&mut self) -> Result<Cow<'a, [u8]>, TextError> {
        let word = self.word()?;
        if word == 6 || word == 7 {
            return Ok(Cow::Borrowed(&[]));
        }
        if word & 2 != 0 {
            let [a, b, c, _] = (word >> 3).to_le_bytes();
            let short: Vec<u8> = [a, b, c].into_iter().take_while(|byte| *byte != 0).collect();
            return Ok(Cow::Owned(short));
        }
        let from = self.base.checked_add(count(word >> 2)).ok_or(TextError::End)?;
        let rest = self.strings.get(from..).ok_or(TextError::End)?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(TextError::End)?;
        Ok(Cow::Borrowed(rest.get(..end).unwrap_or(rest)))
    }
}

/// zsh's own bytes for characters that mean something, and those that they stand for; one stands for nothing.
const TOKENS: &[u8; 29] = b"#$^*(())$=|{}[]`<>>?~`,-!'\"\\\\";
const FIRST_TOKEN: u8 = 0x84;
const NOTHING: u8 = 0xa1;
const META: u8 = 0x83;

/// Text as people write it, from zsh's inner form.
pub fn plain(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            META => out.extend(bytes.next().map(|byte| byte ^ 32)),
            NOTHING => {}
            token => {
                let place = token.checked_sub(FIRST_TOKEN).map(usize::from);
                out.push(place.and_then(|place| TOKENS.get(place)).copied().unwrap_or(token));
            }
        }
    }
    out
}
