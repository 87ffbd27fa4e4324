//! Each code: what is written when it is met, and when what is inside of it is over.

use super::{
    ARITH, ASSIGN, AUTOFN, CASE, COND, CURSH, FOR, FUNCDEF, IF, Kind, LIST, PIPE, Part, REDIR, REPEAT, SELECT, SIMPLE,
    SUBLIST, SUBSH, TIMED, TRY, TYPESET, TextError, WHILE, Writer, code_of, data_of,
};

const Z_ASYNC: u32 = 4;
const Z_DISOWN: u32 = 8;
const Z_END: u32 = 16;
const Z_SIMPLE: u32 = 32;

const SUBLIST_OR: u32 = 2;
const SUBLIST_COPROC: u32 = 4;
const SUBLIST_NOT: u32 = 8;
const SUBLIST_SIMPLE: u32 = 16;

const END: u32 = 0;

impl Writer<'_> {
    /// A word is met. Whether that was all of it, so that the innermost part goes on.
    pub(super) fn begin(&mut self, word: u32) -> Result<bool, TextError> {
        let data = data_of(word);
        match code_of(word) {
            LIST => {
                self.push(word, data & Z_END != 0, Kind::Plain);
                if data & Z_SIMPLE != 0 {
                    self.reader.pass(1)?;
                }
            }
            SUBLIST => return self.sublist(word),
            PIPE => {
                self.push(word, data & 1 == 0, Kind::Plain);
                if data & 1 != 0 {
                    self.reader.pass(1)?;
                }
            }
            REDIR => self.redirections(word)?,
            ASSIGN => self.assignment(word, false)?,
            SIMPLE => return self.add_list(data).map(|()| true),
            TYPESET => {
                self.add_list(data)?;
                let number = self.reader.word()?;
                if number > 0 {
                    self.add(" ");
                }
                for _ in 0..number {
                    let word = self.reader.word()?;
                    self.assignment(word, true)?;
                }
                return Ok(true);
            }
            SUBSH | CURSH => {
                self.add(if code_of(word) == SUBSH { "(" } else { "{" });
                self.deeper();
                self.line()?;
                let end = self.reader.ahead(data)?;
                self.push(word, true, Kind::Block { end });
                self.reader.pass(1)?;
            }
            TIMED => {
                self.add("time");
                if data != 1 {
                    return Ok(true);
                }
                self.add(" ");
                self.deeper();
                self.push(word, true, Kind::Plain);
            }
            FUNCDEF => self.function(word)?,
            FOR => self.for_loop(word)?,
            SELECT => {
                self.add("select ");
                self.add_string()?;
                if data & 1 != 0 {
                    self.add(" in ");
                    let number = self.reader.word()?;
                    self.add_list(number)?;
                }
                self.line()?;
                self.add("do");
                self.line()?;
                self.deeper();
                self.push(word, true, Kind::Plain);
            }
            WHILE => {
                self.add(if data & 1 != 0 { "until " } else { "while " });
                self.deeper();
                self.push(word, false, Kind::Plain);
            }
            REPEAT => {
                self.add("repeat ");
                self.add_string()?;
                self.line()?;
                self.body(word)?;
            }
            CASE => return self.case(word),
            IF => {
                let end = self.reader.ahead(data >> 2)?;
                self.add("if ");
                self.deeper();
                self.reader.pass(1)?;
                self.push(word, false, Kind::If { condition: true, end });
            }
            COND => return self.condition(word).map(|()| true),
            ARITH => {
                self.add("((");
                self.add_string()?;
                self.add("))");
                return Ok(true);
            }
            AUTOFN => {
                self.add("builtin autoload -X");
                return Ok(true);
            }
            TRY => {
                self.add("{");
                self.deeper();
                self.line()?;
                let inner = self.reader.word()?;
                let end = self.reader.ahead(data_of(inner))?;
                self.push(word, false, Kind::Block { end });
            }
            END => return Ok(true),
            _ => return Err(TextError::Unknown),
        }
        Ok(false)
    }

    /// What is inside of a part is over. The part as it is now, and whether that was all of it.
    pub(super) fn again(&mut self, mut part: Part) -> Result<(Part, bool), TextError> {
        let data = data_of(part.word);
        let over = match (code_of(part.word), part.kind) {
            (LIST, _) => return self.list_again(part),
            (SUBLIST, _) => return self.sublist_again(part),
            (PIPE, _) if data & 1 == 0 => true,
            (PIPE, _) => {
                self.add(" | ");
                part.word = self.reader.word()?;
                part.pop = data_of(part.word) & 1 == 0;
                if !part.pop {
                    self.reader.pass(1)?;
                }
                false
            }
            (REDIR, Kind::Redirections { at }) => {
                self.write_redirections(at)?;
                true
            }
            (SUBSH | CURSH, Kind::Block { end }) => {
                self.reader.at = end;
                self.close(if code_of(part.word) == SUBSH { ")" } else { "}" })?;
                true
            }
            (TIMED, _) => {
                self.higher();
                true
            }
            (FUNCDEF, Kind::Function { strings, end, names }) => {
                (self.reader.base, self.reader.at) = (strings, end);
                self.close("}")?;
                if names == 0 {
                    self.arguments()?;
                }
                true
            }
            (FOR | SELECT | REPEAT, _) => {
                self.close("done")?;
                true
            }
            (WHILE, _) if part.pop => {
                self.close("done")?;
                true
            }
            (WHILE, _) => {
                self.close("do")?;
                self.deeper();
                self.line()?;
                part.pop = true;
                false
            }
            (CASE, Kind::Case { end }) => return self.case_again(part, end),
            (IF, Kind::If { condition, end }) => return self.if_again(part, condition, end),
            (COND, Kind::Condition { brackets }) => self.condition_again(part, brackets)?,
            (TRY, _) if part.pop => {
                self.close("}")?;
                true
            }
            (TRY, Kind::Block { end }) => {
                self.reader.at = end;
                self.close("} always {")?;
                self.deeper();
                self.line()?;
                part.pop = true;
                false
            }
            _ => return Err(TextError::Unknown),
        };
        Ok((part, over))
    }

    fn list_again(&mut self, mut part: Part) -> Result<(Part, bool), TextError> {
        let data = data_of(part.word);
        if data & Z_ASYNC != 0 {
            self.add(if data & Z_DISOWN != 0 { " &|" } else { " &" });
        }
        let over = data & Z_END != 0;
        if !over {
            self.line()?;
            part.word = self.reader.word()?;
            part.pop = data_of(part.word) & Z_END != 0;
            if data_of(part.word) & Z_SIMPLE != 0 {
                self.reader.pass(1)?;
            }
        }
        Ok((part, over))
    }

    fn sublist(&mut self, word: u32) -> Result<bool, TextError> {
        let data = data_of(word);
        // Nothing follows the word `!` or `coproc`.
        let alone = data & SUBLIST_SIMPLE == 0 && code_of(self.reader.peek()?) != PIPE;
        if data & SUBLIST_NOT != 0 {
            self.add(if alone { "!" } else { "! " });
        }
        if data & SUBLIST_COPROC != 0 {
            self.add(if alone { "coproc" } else { "coproc " });
        }
        self.push(word, data & 3 == 0, Kind::Plain);
        if data & SUBLIST_SIMPLE != 0 {
            self.reader.pass(1)?;
        }
        Ok(alone)
    }

    fn sublist_again(&mut self, mut part: Part) -> Result<(Part, bool), TextError> {
        let data = data_of(part.word);
        if data & 3 == 0 {
            return Ok((part, true));
        }
        self.add(if data & 3 == SUBLIST_OR { " || " } else { " && " });
        part.word = self.reader.word()?;
        let data = data_of(part.word);
        part.pop = data & 3 == 0;
        let mut alone = false;
        if data & SUBLIST_NOT != 0 {
            alone = data >> 5 == 0;
            let bare = alone || (data & SUBLIST_SIMPLE == 0 && code_of(self.reader.peek()?) != PIPE);
            self.add(if bare { "!" } else { "! " });
        }
        if data & SUBLIST_COPROC != 0 {
            self.add("coproc ");
        }
        if !alone && data & SUBLIST_SIMPLE != 0 {
            self.reader.pass(1)?;
        }
        Ok((part, alone))
    }

    fn function(&mut self, word: u32) -> Result<(), TextError> {
        let end = self.reader.ahead(data_of(word))?;
        let names = self.reader.word()?;
        self.add_list(names)?;
        self.add(if names > 0 { " () {" } else { "() {" });
        self.deeper();
        self.line()?;
        self.push(word, true, Kind::Function { strings: self.reader.base, end, names });
        let offset = self.reader.peek()?;
        self.reader.base = self.reader.base.saturating_add(super::count(offset));
        self.reader.at = self.reader.at.saturating_add(self.reader.function_words);
        Ok(())
    }

    /// What a function without a name is called with, at once.
    fn arguments(&mut self) -> Result<(), TextError> {
        let length = self.reader.word()?;
        // Counted from the word that says it.
        let end = self.reader.ahead(length.saturating_sub(1))?;
        let number = self.reader.word()?;
        if number > 0 {
            self.add(" ");
            self.add_list(number)?;
        }
        self.reader.at = end;
        Ok(())
    }

    fn for_loop(&mut self, word: u32) -> Result<(), TextError> {
        const LIST_GIVEN: u32 = 1;
        const ARITHMETIC: u32 = 2;
        self.add("for ");
        let kind = data_of(word) & 3;
        if kind == ARITHMETIC {
            self.add("((");
            self.add_string()?;
            self.add("; ");
            self.add_string()?;
            self.add("; ");
            self.add_string()?;
            self.add(")) ");
        } else {
            let names = self.reader.word()?;
            self.add_list(names)?;
            if kind == LIST_GIVEN {
                self.add(" in ");
                let number = self.reader.word()?;
                self.add_list(number)?;
            }
            self.line()?;
        }
        self.body(word)
    }

    /// `do` and what follows up to `done`.
    fn body(&mut self, word: u32) -> Result<(), TextError> {
        self.add("do");
        self.deeper();
        self.line()?;
        self.push(word, true, Kind::Plain);
        Ok(())
    }

    /// The end of something that was written deeper.
    fn close(&mut self, end: &str) -> Result<(), TextError> {
        self.higher();
        self.line()?;
        self.add(end);
        Ok(())
    }

    fn case(&mut self, word: u32) -> Result<bool, TextError> {
        let end = self.reader.ahead(data_of(word) >> 3)?;
        self.add("case ");
        self.add_string()?;
        self.add(" in");
        if self.reader.at >= end {
            self.line()?;
            self.add("esac");
            return Ok(true);
        }
        self.deeper();
        let (branch, last) = self.branch(end)?;
        self.push(branch, last, Kind::Case { end });
        Ok(false)
    }

    /// A branch of `case`: its word, and whether it is the last.
    fn branch(&mut self, end: usize) -> Result<(u32, bool), TextError> {
        self.line()?;
        self.add("(");
        let word = self.reader.word()?;
        let place = self.reader.at;
        for n in (0..self.reader.word()?).rev() {
            self.add_string()?;
            // Place of a compiled pattern.
            self.reader.pass(1)?;
            if n > 0 {
                self.add(" | ");
            }
        }
        self.add(") ");
        self.deeper();
        Ok((word, place.saturating_add(super::count(data_of(word) >> 3)) >= end))
    }

    fn case_again(&mut self, mut part: Part, end: usize) -> Result<(Part, bool), TextError> {
        self.higher();
        self.add(match data_of(part.word) & 7 {
            1 => " ;;",
            2 => " ;&",
            _ => " ;|",
        });
        if self.reader.at < end {
            (part.word, part.pop) = self.branch(end)?;
            return Ok((part, false));
        }
        self.close("esac")?;
        Ok((part, true))
    }

    fn if_again(&mut self, mut part: Part, condition: bool, end: usize) -> Result<(Part, bool), TextError> {
        const ELIF: u32 = 2;
        if part.pop {
            return Ok((part, true));
        }
        if condition {
            self.close("then")?;
            self.deeper();
            self.line()?;
            part.kind = Kind::If { condition: false, end };
        } else if self.reader.at < end {
            self.higher();
            self.line()?;
            if data_of(self.reader.word()?) & 3 == ELIF {
                self.add("elif ");
                self.deeper();
                part.kind = Kind::If { condition: true, end };
            } else {
                self.add("else");
                self.deeper();
                self.line()?;
            }
        } else {
            self.close("fi")?;
            part.pop = true;
            return Ok((part, true));
        }
        Ok((part, false))
    }
}
