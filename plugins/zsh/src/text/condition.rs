//! `[[ … ]]`.

use super::{Brackets, Kind, OPERATORS, Part, TextError, Writer, count, data_of};

const NOT: u32 = 0;
const AND: u32 = 1;
const OR: u32 = 2;
const EQUAL: u32 = 3;
const NOT_EQUAL: u32 = 5;
const MODULE: u32 = 18;
const MODULE_INFIX: u32 = 19;

fn kind_of(word: u32) -> u32 {
    data_of(word) & 127
}

impl Writer<'_> {
    /// A condition begins.
    pub(super) fn condition(&mut self, word: u32) -> Result<(), TextError> {
        self.add("[[ ");
        self.push(word, true, Kind::Condition { brackets: Brackets::Double });
        self.conditions(word)
    }

    /// What follows an inner condition: the end of brackets, or the other half of two. Whether that was all.
    pub(super) fn condition_again(&mut self, part: Part, brackets: Brackets) -> Result<bool, TextError> {
        let word = match (brackets, kind_of(part.word)) {
            (Brackets::Double, _) => {
                self.add(" ]]");
                return Ok(true);
            }
            (Brackets::Round, _) => {
                self.add(" )");
                return Ok(true);
            }
            (Brackets::None, AND) => {
                self.add(" && ");
                self.half(OR)?
            }
            (Brackets::None, OR) => {
                self.add(" || ");
                self.half(AND)?
            }
            (Brackets::None, _) => return Err(TextError::Unknown),
        };
        self.conditions(word)?;
        Ok(true)
    }

    /// One half of an AND or an OR: in brackets if it is one of the other kind.
    fn half(&mut self, other: u32) -> Result<u32, TextError> {
        let word = self.reader.word()?;
        if kind_of(word) == other {
            self.round(word);
        }
        Ok(word)
    }

    fn round(&mut self, word: u32) {
        self.add("( ");
        self.push(word, true, Kind::Condition { brackets: Brackets::Round });
    }

    /// Down to the first test.
    fn conditions(&mut self, mut word: u32) -> Result<(), TextError> {
        loop {
            match kind_of(word) {
                NOT => {
                    self.add("! ");
                    word = self.reader.word()?;
                    if kind_of(word) <= OR {
                        self.round(word);
                    }
                }
                kind @ (AND | OR) => {
                    self.push(word, true, Kind::Condition { brackets: Brackets::None });
                    word = self.half(if kind == AND { OR } else { AND })?;
                }
                kind => return self.test(word, kind),
            }
        }
    }

    fn test(&mut self, word: u32, kind: u32) -> Result<(), TextError> {
        match kind {
            MODULE => {
                self.add_string()?;
                self.add(" ");
                self.add_list(data_of(word) >> 7)
            }
            MODULE_INFIX => {
                let name = self.reader.string()?;
                self.add_string()?;
                self.add(" ");
                self.out.extend_from_slice(&name);
                self.add(" ");
                self.add_string()
            }
            _ if kind < MODULE => {
                let operator = OPERATORS.get(count(kind - EQUAL)).ok_or(TextError::Unknown)?;
                self.add_string()?;
                self.add(" ");
                self.add(operator);
                self.add(" ");
                self.add_string()?;
                // Place of a compiled pattern.
                if kind <= NOT_EQUAL { self.reader.pass(1) } else { Ok(()) }
            }
            letter => {
                self.add("-");
                self.out.push(u8::try_from(letter).unwrap_or(b'?'));
                self.add(" ");
                self.add_string()
            }
        }
    }
}
