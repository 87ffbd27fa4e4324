//! What a module declares about its events: the boundary between the manifest and the sinks.
//!
//! A [`Schema`] is built from a manifest (by the code that knows manifests) and is all that the collector and the sinks
//! see of it. It is also where a worker's columns are held against what was declared ([`EventSchema::bind`]): a sink
//! never meets a column twice, of a wrong type, or with a name that belongs to the host.

use std::sync::Arc;

use ecapture_plugin_api::manifest::{self, HOST_COLUMNS, HOST_PREFIXES};

pub use ecapture_plugin_api::manifest::ColumnType;

use super::model::{Field, Value};
use super::template::Template;
use super::wire::{RawColumn, View, kind};

/// Most columns an event may declare; a bit mask of what was seen then fits two words.
pub const MAX_DECLARED: usize = 128;

/// A declared column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    name: String,
    ty: ColumnType,
}

/// A declared event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSchema {
    module: Arc<str>,
    name: String,
    columns: Vec<Column>,
    text: Template,
}

/// The events of one module, in the order of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    module: Arc<str>,
    events: Vec<EventSchema>,
}

/// Why a declaration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not `[A-Za-z0-9_.-]`, 1 to 100 bytes.
    #[error("`{0}`: names are 1 to 100 of a-z A-Z 0-9 _ . -")]
    Name(String),
    /// The key is the host's.
    #[error("column `{0}` has a name that the host fills in itself")]
    Reserved(String),
    /// Two columns or two events of one name.
    #[error("`{0}` is declared twice")]
    Twice(String),
    /// Too many columns.
    #[error("event `{0}` has more than {MAX_DECLARED} columns")]
    Columns(String),
    /// The text template does not fit the columns.
    #[error("event `{0}`: text template: {1}")]
    Text(String, String),
}

fn check_name(name: &str) -> Result<String, SchemaError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > 100 || !name.bytes().all(good) {
        return Err(SchemaError::Name(name.chars().take(100).collect()));
    }
    Ok(name.to_owned())
}

impl Column {
    /// A column.
    ///
    /// # Errors
    /// A name that is malformed or the host's.
    pub fn new(name: &str, ty: ColumnType) -> Result<Self, SchemaError> {
        let name = check_name(name)?;
        if HOST_COLUMNS.contains(&name.as_str()) || HOST_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(SchemaError::Reserved(name));
        }
        Ok(Self { name, ty })
    }

    /// Its name, which is its JSON key: needs no escaping.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type.
    pub fn ty(&self) -> ColumnType {
        self.ty
    }
}

impl Schema {
    /// A module without events yet.
    ///
    /// # Errors
    /// A malformed name.
    pub fn new(module: &str) -> Result<Self, SchemaError> {
        Ok(Self { module: check_name(module)?.into(), events: Vec::new() })
    }

    /// Adds the next event: `name` as in the manifest, without the module (`query`); `text` its template, or empty.
    ///
    /// # Errors
    /// See [`SchemaError`].
    pub fn push(&mut self, name: &str, text: &str, columns: Vec<Column>) -> Result<(), SchemaError> {
        let name = check_name(name)?;
        let full = format!("{}.{name}", self.module);
        if self.events.iter().any(|event| event.name == full) {
            return Err(SchemaError::Twice(full));
        }
        if columns.len() > MAX_DECLARED {
            return Err(SchemaError::Columns(full));
        }
        for (number, column) in columns.iter().enumerate() {
            if columns.iter().take(number).any(|earlier| earlier.name == column.name) {
                return Err(SchemaError::Twice(column.name.clone()));
            }
        }
        let text = manifest::Template::parse(text)
            .and_then(|template| Template::resolve(&template, &columns))
            .map_err(|error| SchemaError::Text(full.clone(), error))?;
        self.events.push(EventSchema { module: self.module.clone(), name: full, columns, text });
        Ok(())
    }

    /// The module's name.
    pub fn module(&self) -> &Arc<str> {
        &self.module
    }

    /// The declaration of event number `event`; `None` for a number the manifest does not have.
    pub fn event(&self, event: u16) -> Option<&EventSchema> {
        self.events.get(usize::from(event))
    }

    /// All events.
    pub fn events(&self) -> &[EventSchema] {
        &self.events
    }
}

impl EventSchema {
    /// The module's name.
    pub fn module(&self) -> &Arc<str> {
        &self.module
    }

    /// The whole name, `mysql.query`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns, by number.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The text form.
    pub fn text(&self) -> &Template {
        &self.text
    }

    /// Holds the columns of `view` against the declaration and puts those that fit into `out` (cleared first).
    /// Returns how many did not fit: a number not declared, sent twice (the first counts), a kind that is not its
    /// type's or is newer than this host. They are dropped, and the event says how many.
    pub fn bind<'a>(&self, view: &View<'a>, out: &mut Vec<Field<'a>>) -> u32 {
        out.clear();
        let mut seen = 0_u128;
        let mut refused = 0;
        for raw in view.columns() {
            let declared = self.columns.get(usize::from(raw.column));
            let bit = 1_u128.checked_shl(u32::from(raw.column)).unwrap_or(0);
            match declared.and_then(|column| value(column.ty, &raw)) {
                Some(value) if seen & bit == 0 => {
                    seen |= bit;
                    out.push(Field { column: raw.column, value });
                }
                _ => refused += 1,
            }
        }
        refused
    }
}

/// The value of a raw column if its kind can stand for the declared type. Text may be sent as bytes and the reverse,
/// since neither promises UTF-8; a number that would change its meaning is not bent.
fn value<'a>(ty: ColumnType, raw: &RawColumn<'a>) -> Option<Value<'a>> {
    Some(match (ty, raw.kind) {
        (ColumnType::Text, kind::TEXT | kind::BYTES) => Value::Text(raw.bytes),
        (ColumnType::Bytes, kind::TEXT | kind::BYTES) => Value::Bytes(raw.bytes),
        (ColumnType::U64, kind::U64) => Value::U64(raw.bits),
        (ColumnType::Duration, kind::U64) => Value::Duration(raw.bits),
        (ColumnType::Id, kind::U64) => Value::Id(raw.bits),
        (ColumnType::I64, kind::I64) => Value::I64(raw.bits.cast_signed()),
        (ColumnType::I64, kind::U64) => Value::I64(i64::try_from(raw.bits).ok()?),
        (ColumnType::Bool, kind::BOOL) => Value::Bool(raw.bits != 0),
        (ColumnType::F64, kind::F64) => Value::F64(f64::from_bits(raw.bits)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::wire::{Fixed, encode};

    fn schema() -> Schema {
        let column = |name, ty| Column::new(name, ty).unwrap();
        let mut schema = Schema::new("mysql").unwrap();
        let columns = vec![column("db.query.text", ColumnType::Text), column("ecapture.rows", ColumnType::I64)];
        schema.push("query", "{db.query.text}", columns).unwrap();
        schema
    }

    #[test]
    fn only_declared_columns_of_the_declared_type_get_through_and_once() {
        let raw = |column, kind, bits, bytes| RawColumn { column, kind, bits, bytes };
        let columns = [
            raw(1, kind::U64, u64::MAX, &b""[..]), // not an i64
            raw(0, kind::TEXT, 0, b"select"),
            raw(0, kind::TEXT, 0, b"again"),
            raw(7, kind::U64, 1, b""),
            raw(u16::MAX, kind::U64, 1, b""),
            raw(1, 99, 1, b""),
            raw(1, kind::I64, u64::MAX, b""),
        ];
        let mut bytes = Vec::new();
        encode(&Fixed::default(), columns, b"", &mut bytes).unwrap();
        let mut fields = vec![Field { column: 9, value: Value::Bool(true) }];
        let refused = schema().event(0).unwrap().bind(&View::decode(&bytes).unwrap(), &mut fields);
        assert_eq!(refused, 5);
        let expected = [Field { column: 0, value: Value::Text(b"select") }, Field { column: 1, value: Value::I64(-1) }];
        assert_eq!(fields, expected);
    }

    #[test]
    fn names_of_the_host_cannot_be_taken() {
        for name in HOST_COLUMNS {
            assert_eq!(Column::new(name, ColumnType::Text), Err(SchemaError::Reserved((*name).to_owned())));
        }
        assert!(matches!(Column::new("ecapture.base64.x", ColumnType::Text), Err(SchemaError::Reserved(_))));
        for name in ["", "a b", "a\"b", "a\n", "ä", &"x".repeat(101)] {
            assert!(matches!(Column::new(name, ColumnType::Text), Err(SchemaError::Name(_))), "{name}");
        }
        assert!(Schema::new("a/b").is_err());
    }

    #[test]
    fn doubles_and_bad_templates_are_refused() {
        let mut schema = schema();
        let column = || Column::new("x", ColumnType::Bool).unwrap();
        assert!(matches!(schema.push("query", "", vec![]), Err(SchemaError::Twice(_))));
        assert!(matches!(schema.push("other", "", vec![column(), column()]), Err(SchemaError::Twice(_))));
        assert!(matches!(schema.push("other", "{y}", vec![column()]), Err(SchemaError::Text(..))));
        assert_eq!(schema.events().len(), 1);
        assert!(schema.event(1).is_none());
    }
}
