//! Redirections: their words stand before the command that they belong to, their text behind it.

use super::{Kind, REDIR, TextError, Writer, code_of, data_of};

const OPERATORS: [Option<&str>; 18] = [
    Some(">"),
    Some(">|"),
    Some(">>"),
    Some(">>|"),
    Some("&>"),
    Some("&>|"),
    Some("&>>"),
    Some("&>>|"),
    Some("<>"),
    Some("<"),
    Some("<<"),
    Some("<<-"),
    Some("<<<"),
    Some("<&"),
    Some(">&"),
    None, // closing is written as a merge
    Some("<"),
    Some(">"),
];

const READ_WRITE: u32 = 8;
const HERE_STRING: u32 = 12;
const MERGE_IN: u32 = 13;
const MERGE_OUT: u32 = 14;
const IN_PIPE: u32 = 16;

const KIND: u32 = 0x1f;
const NAMED: u32 = 0x20;
const FROM_DOCUMENT: u32 = 0x40;

impl Writer<'_> {
    /// Goes past the redirections that begin with the word before; they are written when the command is.
    pub(super) fn redirections(&mut self, word: u32) -> Result<(), TextError> {
        self.reader.at -= 1;
        let at = self.reader.at;
        while code_of(self.reader.peek()?) == REDIR {
            let data = data_of(self.reader.word()?);
            let more = if data & FROM_DOCUMENT != 0 { 4 } else { 2 };
            self.reader.pass(more + u32::from(data & NAMED != 0))?;
        }
        self.push(word, true, Kind::Redirections { at });
        Ok(())
    }

    /// Writes those that begin at `at`.
    pub(super) fn write_redirections(&mut self, at: usize) -> Result<(), TextError> {
        let then = std::mem::replace(&mut self.reader.at, at);
        while code_of(self.reader.peek()?) == REDIR {
            let data = data_of(self.reader.word()?);
            self.add(" ");
            self.redirection(data)?;
        }
        self.reader.at = then;
        Ok(())
    }

    fn redirection(&mut self, data: u32) -> Result<(), TextError> {
        let kind = data & KIND;
        let operator = usize::try_from(kind).ok().and_then(|kind| OPERATORS.get(kind).copied().flatten());
        let operator = operator.ok_or(TextError::Unknown)?;
        let fd = self.reader.word()?;
        let name = self.reader.string()?;
        let document =
            if data & FROM_DOCUMENT != 0 { Some((self.reader.string()?, self.reader.string()?)) } else { None };
        let reads = (READ_WRITE..=MERGE_IN).contains(&kind) || kind == IN_PIPE;
        if data & NAMED != 0 {
            self.add("{");
            self.add_string()?;
            self.add("}");
        } else if fd != u32::from(!reads) {
            // zsh writes the digit's character, whatever the number is.
            self.out.push(u8::try_from(fd & 0xff).unwrap_or(0).wrapping_add(b'0'));
        }
        match document {
            // It was a here-document before it became a here-string.
            Some((mark, end)) if kind == HERE_STRING => {
                self.add("<<");
                self.out.extend_from_slice(&mark);
                let pending = self.pending.get_or_insert_default();
                if !pending.is_empty() {
                    pending.push(b'\n');
                }
                pending.extend_from_slice(&name);
                pending.extend_from_slice(&end);
                if pending.len() > super::TEXT_MAX {
                    return Err(TextError::Long);
                }
            }
            _ => {
                self.add(operator);
                if kind != MERGE_IN && kind != MERGE_OUT {
                    self.add(" ");
                }
                self.out.extend_from_slice(&name);
            }
        }
        Ok(())
    }
}
