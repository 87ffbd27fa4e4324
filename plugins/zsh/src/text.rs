//! From the code that zsh runs back to text: what `getpermtext` of zsh's text.c does, which makes the texts that `functions`,
//! `jobs` and the hook `preexec` show. Here it reads bytes of another process, so every number in them is checked, and the
//! work and the text are bounded.
//!
//! Not here: how messages are laid out (`record`). Names of codes are those of zsh's zsh.h; the walk is that of `gettext2`:
//! no recursion, a stack of what is to be done once an inner part is through.

use crate::record::Program;

mod condition;
mod parts;
mod reader;
mod redirection;

use reader::Reader;

/// Most bytes of text.
pub const TEXT_MAX: usize = 1 << 20;

/// Why there is no text, or none beyond what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The code ends inside of something, or was cut.
    #[error("the code ends inside of something")]
    End,
    /// A code that there is not.
    #[error("code that this module does not know")]
    Unknown,
    /// More than [`TEXT_MAX`], or code that goes round in circles.
    #[error("more text than {TEXT_MAX} bytes")]
    Long,
}

/// What was made of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The text, or as much of it as could be made.
    pub text: Vec<u8>,
    /// Why there is no more.
    pub stopped: Option<TextError>,
}

/// The text of a program.
pub fn text(program: &Program<'_>) -> Made {
    let (reader, out, parts) = (Reader::new(program), Vec::new(), Vec::new());
    let mut writer = Writer { reader, out, parts, indent: 0, pending: None, soft: None };
    let stopped = if program.words.is_empty() { None } else { writer.all().err() };
    if writer.soft == Some(writer.out.len()) {
        writer.out.pop();
    }
    Made { text: reader::plain(&writer.out), stopped }
}

const OPERATORS: [&str; 15] =
    ["=", "==", "!=", "<", ">", "-nt", "-ot", "-ef", "-eq", "-ne", "-lt", "-gt", "-le", "-ge", "=~"];

const LIST: u32 = 1;
const SUBLIST: u32 = 2;
const PIPE: u32 = 3;
const REDIR: u32 = 4;
const ASSIGN: u32 = 5;
const SIMPLE: u32 = 6;
const TYPESET: u32 = 7;
const SUBSH: u32 = 8;
const CURSH: u32 = 9;
const TIMED: u32 = 10;
const FUNCDEF: u32 = 11;
const FOR: u32 = 12;
const SELECT: u32 = 13;
const WHILE: u32 = 14;
const REPEAT: u32 = 15;
const CASE: u32 = 16;
const IF: u32 = 17;
const COND: u32 = 18;
const ARITH: u32 = 19;
const AUTOFN: u32 = 20;
const TRY: u32 = 21;

const fn code_of(word: u32) -> u32 {
    word & 31
}

const fn data_of(word: u32) -> u32 {
    word >> 5
}

fn count(words: u32) -> usize {
    usize::try_from(words).unwrap_or(usize::MAX)
}

/// Something that is not over before what is inside of it is.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Its code.
    word: u32,
    /// Whether it is done with when it is looked at again.
    pop: bool,
    kind: Kind,
}

/// What is to be remembered of a part. Places are numbers of words or of bytes of the strings.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Redirections { at: usize },
    Function { strings: usize, end: usize, names: u32 },
    Case { end: usize },
    If { condition: bool, end: usize },
    Condition { brackets: Brackets },
    Block { end: usize },
}

/// What ends a part of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brackets {
    None,
    Round,
    Double,
}

struct Writer<'a> {
    reader: Reader<'a>,
    out: Vec<u8>,
    parts: Vec<Part>,
    indent: usize,
    /// Here-documents whose line is not over.
    pending: Option<Vec<u8>>,
    /// Length at which the text ends in a space that separates it from nothing.
    soft: Option<usize>,
}

impl Writer<'_> {
    fn all(&mut self) -> Result<(), TextError> {
        // Whether the next step belongs to the innermost part, and not to the next word.
        let mut back = false;
        let steps = self.reader.words().saturating_mul(4).saturating_add(64);
        for _ in 0..steps {
            if self.out.len() > TEXT_MAX {
                return Err(TextError::Long);
            }
            if !back {
                let word = self.reader.word()?;
                back = self.begin(word)?;
                continue;
            }
            let Some(part) = self.parts.last().copied() else {
                self.here_documents()?;
                return Ok(());
            };
            if part.pop {
                self.parts.pop();
            }
            // New parts go on top of this one, so it stays where it is.
            let place = (!part.pop).then(|| self.parts.len() - 1);
            let (part, more) = self.again(part)?;
            if let Some(kept) = place.and_then(|place| self.parts.get_mut(place)) {
                *kept = part;
            }
            back = more;
        }
        Err(TextError::Long)
    }

    fn push(&mut self, word: u32, pop: bool, kind: Kind) {
        self.parts.push(Part { word, pop, kind });
    }

    fn add(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A string of the program, as it is there.
    fn add_string(&mut self) -> Result<(), TextError> {
        let string = self.reader.string()?;
        if self.out.len().saturating_add(string.len()) > TEXT_MAX {
            return Err(TextError::Long);
        }
        self.out.extend_from_slice(&string);
        Ok(())
    }

    /// Strings with spaces between them.
    fn add_list(&mut self, number: u32) -> Result<(), TextError> {
        for n in 0..number {
            if n > 0 {
                self.add(" ");
            }
            self.add_string()?;
        }
        Ok(())
    }

    fn line(&mut self) -> Result<(), TextError> {
        self.here_documents()?;
        self.add("\n");
        if self.out.len().saturating_add(self.indent) > TEXT_MAX {
            return Err(TextError::Long);
        }
        self.out.extend(std::iter::repeat_n(b'\t', self.indent));
        Ok(())
    }

    fn here_documents(&mut self) -> Result<(), TextError> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        if self.out.len().saturating_add(pending.len()) > TEXT_MAX {
            return Err(TextError::Long);
        }
        self.add("\n");
        self.out.extend_from_slice(&pending);
        Ok(())
    }

    fn deeper(&mut self) {
        self.indent += 1;
    }

    fn higher(&mut self) {
        self.indent = self.indent.saturating_sub(1);
    }

    /// An assignment; `declared`: by a builtin as `typeset`, where a name alone may stand.
    fn assignment(&mut self, word: u32, declared: bool) -> Result<(), TextError> {
        const ARRAY: u32 = 1;
        const INCREMENT: u32 = 2;
        let data = data_of(word);
        self.add_string()?;
        if data & INCREMENT != 0 {
            if declared {
                self.reader.string()?;
                self.space();
                return Ok(());
            }
            self.add("+");
        }
        self.add("=");
        if data & ARRAY != 0 {
            self.add("(");
            self.add_list(data >> 2)?;
            self.add(")");
        } else {
            self.add_string()?;
        }
        self.space();
        Ok(())
    }

    /// A space for what may follow.
    fn space(&mut self) {
        self.add(" ");
        self.soft = Some(self.out.len());
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
