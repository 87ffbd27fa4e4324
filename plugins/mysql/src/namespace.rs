//! Which database a connection is in after a statement, told from the statement's text alone.
//!
//! The rule of the event model is "exact or absent". So this does not try to understand SQL; it knows one form that
//! surely sets the database (`USE name`), and beyond that every text that could possibly change it makes the answer
//! "unknown". Words are looked for anywhere, in strings and comments too (`/*!50000 USE x */` is executed): too many
//! unknowns cost a column, a wrong name would be a lie.

/// What a statement that succeeded does to the current database.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Surely nothing.
    Keeps,
    /// The database is now this one.
    Sets(std::borrow::Cow<'a, [u8]>),
    /// It may be another one now.
    Unknown,
}

/// Reads the effect from the text. `complete` is false if part of the text is missing.
pub fn effect(text: &[u8], complete: bool) -> Effect<'_> {
    if !complete {
        return Effect::Unknown;
    }
    if let Some(name) = plain_use(text) {
        return Effect::Sets(name);
    }
    let mut words = Words::default();
    for word in text.split(|byte| !IN_WORD[usize::from(*byte)]) {
        words.note(word);
    }
    if words.may_change() { Effect::Unknown } else { Effect::Keeps }
}

/// Bytes of words. A table: every byte of nearly every statement is looked up.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_';
        byte += 1;
    }
    table
};

/// Which of the words that matter were met.
#[derive(Default)]
struct Words {
    surely: bool,
    drop: bool,
    database: bool,
    alter: bool,
    upgrade: bool,
}

impl Words {
    fn note(&mut self, word: &[u8]) {
        if word.len() < 3 {
            return;
        }
        let mut word = word;
        // A digit may be glued to the front: `/*!50000use x*/` is executed.
        while let [b'0'..=b'9', rest @ ..] = word {
            word = rest;
        }
        let is = |wanted: &[u8]| word.eq_ignore_ascii_case(wanted);
        match word.len() {
            3 => self.surely |= is(b"use"),
            // EXECUTE and CALL run text that is not in this text.
            4 => {
                self.surely |= is(b"call");
                self.drop |= is(b"drop");
            }
            5 => self.alter |= is(b"alter"),
            6 => self.database |= is(b"schema"),
            7 => {
                self.surely |= is(b"execute");
                self.upgrade |= is(b"upgrade");
            }
            8 => self.database |= is(b"database"),
            _ => {}
        }
    }

    /// ALTER DATABASE ... UPGRADE DATA DIRECTORY NAME renames the database.
    fn may_change(&self) -> bool {
        self.surely || (self.drop && self.database) || (self.alter && self.upgrade)
    }
}

/// The name in a text that is `USE name` and nothing else, quoted or not. Cheap: looks at three bytes of most texts.
pub fn plain_use(text: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
    let (word, rest) = text.split_at_checked(3)?;
    if !word.eq_ignore_ascii_case(b"use") {
        return None;
    }
    let name = rest.trim_ascii_start();
    if let Some(quoted) = name.strip_prefix(b"`") {
        let inner = quoted.strip_suffix(b"`")?;
        if !inner.contains(&b'`') {
            return (!inner.is_empty()).then_some(inner.into());
        }
        let mut plain = Vec::with_capacity(inner.len());
        let mut bytes = inner.iter();
        while let Some(&byte) = bytes.next() {
            if byte == b'`' && bytes.next() != Some(&b'`') {
                return None;
            }
            plain.push(byte);
        }
        return Some(plain.into());
    }
    let bare = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || *byte >= 0x80;
    (name.len() < rest.len() && !name.is_empty() && name.iter().all(bare)).then_some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(text: &str) -> Option<String> {
        match effect(text.as_bytes(), true) {
            Effect::Sets(name) => Some(String::from_utf8_lossy(&name).into_owned()),
            _ => None,
        }
    }

    #[test]
    fn use_sets() {
        assert_eq!(sets("use shop").as_deref(), Some("shop"));
        assert_eq!(sets("  USE `my ``db` ;").as_deref(), Some("my `db"));
        assert_eq!(sets("use`a`").as_deref(), Some("a"));
        assert_eq!(sets("use größe").as_deref(), Some("größe"));
    }

    #[test]
    fn doubtful_forms_are_unknown() {
        for text in [
            "use a; select 1",
            "use `a`b`",
            "/*!50000use x*/",
            "select 1; USE x",
            "use",
            "use ``",
            "EXECUTE IMMEDIATE @a",
            "call p()",
            "drop /* x */ database y",
            "use a /* b */",
            "used",
        ] {
            let got = effect(text.as_bytes(), true);
            let want = if text == "used" { Effect::Keeps } else { Effect::Unknown };
            assert_eq!(got, want, "{text}");
        }
        assert_eq!(effect(b"select 1", false), Effect::Unknown);
    }

    #[test]
    fn ordinary_statements_keep_it() {
        for text in ["", "select user, reused from t", "drop table t", "insert into t values (1)", "select 'house'"] {
            assert_eq!(effect(text.as_bytes(), true), Effect::Keeps, "{text}");
        }
    }
}
