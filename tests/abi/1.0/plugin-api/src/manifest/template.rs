//! Text templates of events.

use serde::{Serialize, Serializer};
use std::fmt;

/// How an event is shown in one line: `conn {ecapture.connection.id}[  query {ecapture.outcome}]`.
///
/// `{column}` is a value, `-` if the column is absent; `[...]` is a group that is printed only when every column inside is
/// present; `[[`, `]]`, `{{`, `}}` are the characters themselves. Groups are not nested, and each has a column. The
/// longest escape wins: `]]` never ends a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<TemplatePart>,
}

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Printed as it is.
    Text(String),
    /// The value of the column of this name.
    Column(String),
    /// Printed when every column inside is present; holds no group, and at least one column.
    Group(Vec<TemplatePart>),
}

impl Template {
    /// Reads a template. Which columns exist is not its business: see [`Template::columns`].
    ///
    /// # Errors
    ///
    /// What is wrong and where, in bytes from the start.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut group: Option<(usize, Vec<TemplatePart>)> = None;
        let mut text = String::new();
        let mut chars = source.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let twice = chars.peek().is_some_and(|(_, next)| *next == c);
            if twice && "[]{}".contains(c) {
                chars.next();
                text.push(c);
                continue;
            }
            let part = match c {
                '{' => {
                    let name: String = chars.by_ref().map(|(_, c)| c).take_while(|c| *c != '}').collect();
                    if source.get(at + 1 + name.len()..).is_none_or(|rest| !rest.starts_with('}')) {
                        return Err(format!("the {{ at byte {at} has no }} (a {{ itself is written {{{{)"));
                    }
                    if name.is_empty() {
                        return Err(format!("the {{}} at byte {at} names no column"));
                    }
                    TemplatePart::Column(name)
                }
                '}' => return Err(format!("the }} at byte {at} ends nothing (a }} itself is written }}}})")),
                '[' if group.is_some() => return Err(format!("the [ at byte {at} is inside of another group")),
                '[' => {
                    flush(&mut text, &mut parts);
                    group = Some((at, Vec::new()));
                    continue;
                }
                ']' => {
                    let Some((start, mut inner)) = group.take() else {
                        return Err(format!("the ] at byte {at} ends nothing (a ] itself is written ]])"));
                    };
                    flush(&mut text, &mut inner);
                    if !inner.iter().any(|p| matches!(p, TemplatePart::Column(_))) {
                        return Err(format!("the group at byte {start} has no column"));
                    }
                    parts.push(TemplatePart::Group(inner));
                    continue;
                }
                other => {
                    text.push(other);
                    continue;
                }
            };
            let into = group.as_mut().map_or(&mut parts, |(_, inner)| inner);
            flush(&mut text, into);
            into.push(part);
        }
        if let Some((start, _)) = group {
            return Err(format!("the [ at byte {start} has no ] (a [ itself is written [[)"));
        }
        flush(&mut text, &mut parts);
        Ok(Self { source: source.to_owned(), parts })
    }

    /// Its pieces, in order.
    pub fn parts(&self) -> &[TemplatePart] {
        &self.parts
    }

    /// The columns that it shows, in its order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        fn names(parts: &[TemplatePart]) -> Vec<&str> {
            let of = |part| match part {
                &TemplatePart::Text(_) => Vec::new(),
                TemplatePart::Column(name) => vec![name.as_str()],
                TemplatePart::Group(inner) => names(inner),
            };
            parts.iter().flat_map(of).collect()
        }
        names(&self.parts).into_iter()
    }

    /// The line of one event; `value` gives a column's text, ready to be shown, or `None` if the event has it not. Called
    /// once for each place that shows the column.
    pub fn render(&self, mut value: impl FnMut(&str) -> Option<String>) -> String {
        let mut line = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => line.push_str(text),
                TemplatePart::Column(name) => line.push_str(&value(name).unwrap_or_else(|| "-".to_owned())),
                TemplatePart::Group(inner) => line.push_str(&render_group(inner, &mut value).unwrap_or_default()),
            }
        }
        line
    }
}

fn render_group(parts: &[TemplatePart], value: &mut impl FnMut(&str) -> Option<String>) -> Option<String> {
    let mut line = String::new();
    for part in parts {
        match part {
            TemplatePart::Text(text) => line.push_str(text),
            TemplatePart::Column(name) => line.push_str(&value(name)?),
            // Never made by `parse`.
            TemplatePart::Group(_) => {}
        }
    }
    Some(line)
}

fn flush(text: &mut String, parts: &mut Vec<TemplatePart>) {
    if !text.is_empty() {
        parts.push(TemplatePart::Text(std::mem::take(text)));
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> String {
        let value = |c: &str| match c {
            "a" => Some("A".to_owned()),
            "b" => Some("{a}[".to_owned()),
            _ => None,
        };
        Template::parse(template).expect(template).render(value)
    }

    #[test]
    fn values_and_groups() {
        assert_eq!(render("x {a} y"), "x A y");
        assert_eq!(render("{a}[ and {b}][ never {a}{none}]."), "A and {a}[.");
        assert_eq!(render("{none}"), "-");
        assert_eq!(render("[[{{{a}}}]]"), "[{A}]");
        assert_eq!(render("[é {a}]é"), "é Aé");
        assert_eq!(render(""), "");
    }

    #[test]
    fn columns_in_order() {
        let template = Template::parse("{b}[{a} {c}]{a}").expect("valid");
        assert_eq!(template.columns().collect::<Vec<_>>(), ["b", "a", "c", "a"]);
        assert_eq!(template.to_string(), "{b}[{a} {c}]{a}");
    }

    #[test]
    fn what_is_not_balanced_is_refused() {
        for bad in ["{a", "a}", "[{a}", "{a}]", "[[{a}]", "[x]", "{}", "[{a}[{b}]]", "x{"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
