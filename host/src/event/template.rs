//! The one-line text form of an event: `conn {ecapture.connection.id}[  query {ecapture.outcome}]`.
//!
//! The language is the manifest's ([`manifest::Template`]); here the names are resolved once to column numbers, since the
//! form is written for every event. How a value looks is a sink's business.

use ecapture_plugin_api::manifest::{self, TemplatePart};

use super::schema::Column;

/// A parsed template. Empty: the sink falls back to `name column=value ...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Printed as it is.
    Literal(String),
    /// The value of the column with this number.
    Column(u16),
    /// Printed when every column inside is present; holds no group.
    Group(Vec<Part>),
}

impl Template {
    /// Resolves the columns of a manifest's template; `columns` in the order of their numbers.
    ///
    /// # Errors
    /// Names the column that the event does not declare, or the control character that would let one event print as two
    /// lines.
    pub fn resolve(template: &manifest::Template, columns: &[Column]) -> Result<Self, String> {
        resolve(template.parts(), columns).map(Self)
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

fn resolve(parts: &[TemplatePart], columns: &[Column]) -> Result<Vec<Part>, String> {
    let one = |part: &TemplatePart| match part {
        TemplatePart::Text(text) if text.chars().any(char::is_control) => {
            Err("it holds a control character".to_owned())
        }
        TemplatePart::Text(text) => Ok(Part::Literal(text.clone())),
        TemplatePart::Column(name) => {
            let number = columns.iter().position(|column| column.name() == name).and_then(|n| u16::try_from(n).ok());
            number.map(Part::Column).ok_or_else(|| format!("the event does not declare the column `{name}`"))
        }
        TemplatePart::Group(inner) => resolve(inner, columns).map(Part::Group),
    };
    parts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ColumnType;

    fn parse(text: &str) -> Result<Template, String> {
        let columns = ["a", "b.c"].map(|name| Column::new(name, ColumnType::Text).unwrap());
        Template::resolve(&manifest::Template::parse(text)?, &columns)
    }

    #[test]
    fn columns_become_numbers() {
        let parts = parse("x {a}[  y {b.c}!][ z{a}]").unwrap().0;
        let first = Part::Group(vec![Part::Literal("  y ".into()), Part::Column(1), Part::Literal("!".into())]);
        let second = Part::Group(vec![Part::Literal(" z".into()), Part::Column(0)]);
        assert_eq!(parts, [Part::Literal("x ".into()), Part::Column(0), first, second]);
    }

    #[test]
    fn what_is_refused() {
        assert!(parse("{zz}").unwrap_err().contains("`zz`"));
        assert!(parse("a\nb").unwrap_err().contains("control"));
        assert!(parse("[{a} [{a}] ]").is_err());
    }
}
