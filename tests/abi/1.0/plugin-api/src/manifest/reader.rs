//! TOML values with the path and the line of each, so that every complaint says where and what was expected. Knows
//! nothing of the manifest's keys.

use super::{ManifestError, names};
use std::ops::Range;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A table of the text, with the path to it.
pub(super) struct Section<'t> {
    text: &'t str,
    path: String,
    span: Range<usize>,
    table: &'t DeTable<'t>,
}

/// A value of the text, with the path to it.
pub(super) struct Field<'t> {
    text: &'t str,
    path: String,
    value: &'t Spanned<DeValue<'t>>,
}

type Result<T> = std::result::Result<T, ManifestError>;

/// 1-based line of a byte offset.
pub(super) fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

/// A captured word for a message: short and without control characters.
pub(super) fn quote(word: &str) -> String {
    let short: String = word.chars().take(60).collect();
    if short.len() < word.len() { format!("{short:?}...") } else { format!("{short:?}") }
}

impl<'t> Section<'t> {
    /// The whole document.
    pub(super) fn root(text: &'t str, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self { text, path: String::new(), span: 0..0, table: table.get_ref() }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A complaint about the table itself.
    pub(super) fn error(&self, message: impl Into<String>) -> ManifestError {
        ManifestError { line: line(self.text, self.span.start), key: self.path.clone(), message: message.into() }
    }

    /// A complaint about a key that may not be there: on its line if it is.
    pub(super) fn error_at(&self, key: &str, message: impl Into<String>) -> ManifestError {
        match self.get(key) {
            Some(field) => field.error(message),
            None => ManifestError { key: self.path_of(key), ..self.error(message) },
        }
    }

    /// Refuses every key that is not in `keys`.
    pub(super) fn only(&self, keys: &[&str]) -> Result<()> {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if keys.contains(&name) {
                continue;
            }
            let mut message = match names::did_you_mean(name, keys.iter().copied()) {
                Some(meant) => format!("unknown key; did you mean {meant:?}?"),
                None => format!("unknown key; known here: {}", keys.join(", ")),
            };
            if self.path.is_empty() && !keys.contains(&"module") {
                message.push_str(" (of another schema?)");
            }
            let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(ManifestError { line: line(self.text, key.span().start), key: self.path_of(&shown), message });
        }
        Ok(())
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<Field<'t>> {
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref() == key)?;
        Some(Field { text: self.text, path: self.path_of(key), value })
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &str) -> Result<Field<'t>> {
        self.get(key).ok_or_else(|| self.error_at(key, "missing"))
    }

    /// A table that may be missing.
    pub(super) fn table(&self, key: &str) -> Result<Option<Self>> {
        self.get(key).map(|f| f.table()).transpose()
    }

    /// The tables of `[[key]]`, at most `max`.
    pub(super) fn tables(&self, key: &str, max: usize) -> Result<Vec<Self>> {
        let Some(field) = self.get(key) else { return Ok(Vec::new()) };
        let fields = field.array(max)?;
        fields.iter().map(Field::table).collect()
    }

    /// A list of texts, empty if it is missing; each is checked by `check`, and none is there twice.
    pub(super) fn list(
        &self,
        key: &str,
        max: usize,
        check: impl Fn(&Field<'t>) -> Result<String>,
    ) -> Result<Vec<String>> {
        let Some(field) = self.get(key) else { return Ok(Vec::new()) };
        let mut list: Vec<String> = Vec::new();
        for item in field.array(max)? {
            let word = check(&item)?;
            if list.contains(&word) {
                return Err(item.error(format!("{} is there twice", quote(&word))));
            }
            list.push(word);
        }
        Ok(list)
    }
}

impl<'t> Field<'t> {
    /// A complaint about this value.
    pub(super) fn error(&self, message: impl Into<String>) -> ManifestError {
        ManifestError {
            line: line(self.text, self.value.span().start),
            key: self.path.clone(),
            message: message.into(),
        }
    }

    fn expected(&self, what: &str) -> ManifestError {
        self.error(format!("expected {what}, found {}", self.value.get_ref().type_str()))
    }

    pub(super) fn str(&self) -> Result<&'t str> {
        self.value.get_ref().as_str().ok_or_else(|| self.expected("a string"))
    }

    /// A text of 1 to `max` bytes without control characters.
    pub(super) fn line_of_text(&self, max: usize) -> Result<String> {
        self.checked_text(max, char::is_control)
    }

    /// A text of 1 to `max` bytes without control characters but newlines.
    pub(super) fn help(&self) -> Result<String> {
        self.checked_text(super::MAX_HELP, |c| c.is_control() && c != '\n')
    }

    fn checked_text(&self, max: usize, bad: impl Fn(char) -> bool) -> Result<String> {
        let text = self.str()?;
        if text.trim().is_empty() {
            return Err(self.error("empty"));
        }
        if text.len() > max {
            return Err(self.error(format!("{} bytes; at most {max} are allowed", text.len())));
        }
        if text.chars().any(bad) {
            return Err(self.error("contains control characters"));
        }
        Ok(text.to_owned())
    }

    /// A text that `ok` takes; `pattern` says what that is.
    pub(super) fn matching(&self, ok: impl Fn(&str) -> bool, pattern: &str) -> Result<String> {
        let text = self.str()?;
        if ok(text) { Ok(text.to_owned()) } else { Err(self.error(format!("{} is not {pattern}", quote(text)))) }
    }

    /// `[a-z][a-z0-9_-]{0,31}`.
    pub(super) fn name(&self) -> Result<String> {
        self.matching(names::is_name, "a name: a lower-case letter, then at most 31 of a-z 0-9 _ -")
    }

    pub(super) fn bool(&self) -> Result<bool> {
        self.value.get_ref().as_bool().ok_or_else(|| self.expected("true or false"))
    }

    pub(super) fn int(&self) -> Result<i64> {
        let number = self.value.get_ref().as_integer().ok_or_else(|| self.expected("an integer"))?;
        i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| self.error("does not fit 64 bits"))
    }

    pub(super) fn is_int(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// One of the words, as the value beside it.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T> {
        let text = self.str()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Err(self.error(format!("{} is not one of {}", quote(text), all.join(", "))))
    }

    fn table(&self) -> Result<Section<'t>> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.expected("a table"))?;
        Ok(Section { text: self.text, path: self.path.clone(), span: self.value.span(), table })
    }

    pub(super) fn array(&self, max: usize) -> Result<Vec<Self>> {
        let items = self.value.get_ref().as_array().ok_or_else(|| self.expected("an array"))?;
        if items.len() > max {
            return Err(self.error(format!("{} entries; at most {max} are allowed", items.len())));
        }
        let item = |(i, value)| Self { text: self.text, path: format!("{}[{i}]", self.path), value };
        Ok(items.iter().enumerate().map(item).collect())
    }
}
