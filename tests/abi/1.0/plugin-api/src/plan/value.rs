//! Values that go to a module: the configuration, and the globals of its objects.

use super::{Hex, MAX_ANSWER, PlanError, SCHEMA};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// One option's value. In JSON a plain value; the option's type in the manifest says what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `bool`.
    Bool(bool),
    /// `int`; `duration` in nanoseconds; `size` in bytes.
    Int(i64),
    /// `string`, `path`, `enum`.
    Text(String),
    /// `list`.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => b.fmt(f),
            Self::Int(n) => n.fmt(f),
            Self::Text(s) => f.write_str(s),
            Self::List(l) => f.write_str(&l.join(",")),
        }
    }
}

/// What a module is configured with: the same for `configure`, `detect` and `new_decoder`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the chosen `[[mode]]`.
    pub mode: String,
    /// Every option that is set or has a default, by name, checked against the manifest.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
}

impl Config {
    /// A configuration of this schema.
    pub fn new(mode: impl Into<String>, options: BTreeMap<String, Value>) -> Self {
        Self { schema: SCHEMA, mode: mode.into(), options }
    }

    /// Reads the JSON text.
    ///
    /// # Errors
    ///
    /// Too long, not JSON, or another schema.
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        PlanError::check_size(text, MAX_ANSWER)?;
        let config: Self = serde_json::from_str(text)?;
        PlanError::check_schema(config.schema)?;
        Ok(config)
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        super::answer::to_json(self)
    }

    /// An option of type `bool`; `false` if it is not set.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.options.get(name), Some(Value::Bool(true)))
    }

    /// An option of type `int`, `duration` (ns) or `size` (bytes).
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.options.get(name) {
            Some(Value::Int(n)) => Some(*n),
            _ => None,
        }
    }

    /// An option of type `string`, `path` or `enum`.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.options.get(name) {
            Some(Value::Text(s)) => Some(s),
            _ => None,
        }
    }

    /// An option of type `list`; empty if it is not set.
    pub fn list(&self, name: &str) -> &[String] {
        match self.options.get(name) {
            Some(Value::List(l)) => l,
            _ => &[],
        }
    }
}

/// A `const volatile` global of an eBPF object: an integer, or its bytes in memory order as hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GlobalValue {
    /// Not negative. The host refuses it if the global's size (from BTF) is too small.
    Unsigned(u64),
    /// Negative.
    Signed(i64),
    /// Exactly the global's size.
    Bytes(Hex),
}
