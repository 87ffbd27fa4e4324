//! Checking configuration values against the manifest.

use super::{
    ConfigOption, MAX_LIST, Manifest, OptionType, format_duration, format_size, names, parse_duration, parse_size,
};
use crate::plan::Value;
use std::collections::BTreeMap;

/// Longest text of a value, in bytes.
const MAX_VALUE: usize = 4096;

/// Why a value was refused. `Display`: `E-CONFIG: --slow: "5" is not a duration, as 100ms or 5s`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("E-CONFIG: --{option}: {message}")]
pub struct ConfigError {
    /// Name of the option.
    pub option: String,
    /// What was given and what was expected.
    pub message: String,
}

impl Manifest {
    /// Resolves the options of a run. `given` are texts by option name, from the command line or a configuration file: one
    /// for each option, several for a `list` (each may hold several, with commas between), `true` or `false` for a `bool`.
    /// Options that are not given get their default, and are absent without one (a `bool` is then false).
    ///
    /// # Errors
    ///
    /// The first option, by name, that does not exist or does not fit its type, range or values.
    pub fn check_config(&self, given: &BTreeMap<String, Vec<String>>) -> Result<BTreeMap<String, Value>, ConfigError> {
        let mut values = BTreeMap::new();
        for option in &self.config {
            if let Some(default) = &option.default {
                values.insert(option.name.clone(), default.clone());
            } else if option.kind == OptionType::Bool {
                values.insert(option.name.clone(), Value::Bool(false));
            }
        }
        for (name, texts) in given {
            let refuse = |message| ConfigError { option: name.clone(), message };
            let option = self.option(name).ok_or_else(|| refuse(self.unknown(name)))?;
            let value = option.read(texts).map_err(refuse)?;
            values.insert(name.clone(), value);
        }
        Ok(values)
    }

    fn unknown(&self, name: &str) -> String {
        match names::did_you_mean(name, self.config.iter().map(|o| o.name.as_str())) {
            Some(meant) => format!("no such option of {}; did you mean --{meant}?", self.module.name),
            None => format!("no such option of {}", self.module.name),
        }
    }
}

impl ConfigOption {
    /// Reads what was given for this option.
    ///
    /// # Errors
    ///
    /// What was given and what was expected.
    pub fn read(&self, texts: &[String]) -> Result<Value, String> {
        if let Some(long) = texts.iter().find(|t| t.len() > MAX_VALUE) {
            return Err(format!("{} bytes; at most {MAX_VALUE} are allowed", long.len()));
        }
        let value = if self.kind == OptionType::List {
            let words = texts.iter().flat_map(|t| t.split(',')).map(str::trim).filter(|w| !w.is_empty());
            Value::List(words.map(str::to_owned).collect())
        } else {
            match texts {
                [text] => self.read_one(text)?,
                [] => return Err("needs a value".to_owned()),
                [_, ..] => return Err("given twice".to_owned()),
            }
        };
        self.fits(&value)?;
        Ok(value)
    }

    fn read_one(&self, text: &str) -> Result<Value, String> {
        let no = |what: &str| format!("{text:?} is not {what}");
        Ok(match self.kind {
            OptionType::Bool => Value::Bool(text.parse().map_err(|_| no("true or false"))?),
            OptionType::Int => Value::Int(text.parse().map_err(|_| no("an integer of 64 bits"))?),
            OptionType::Duration => Value::Int(parse_duration(text).ok_or_else(|| no("a duration, as 100ms or 5s"))?),
            OptionType::Size => Value::Int(parse_size(text).ok_or_else(|| no("a size, as 64KiB or 1MiB"))?),
            OptionType::Path | OptionType::String | OptionType::Enum | OptionType::List => Value::Text(text.to_owned()),
        })
    }

    /// Checks a value against type, range and values.
    ///
    /// # Errors
    ///
    /// What it is and what was expected.
    pub fn fits(&self, value: &Value) -> Result<(), String> {
        match (self.kind, value) {
            (OptionType::Bool, Value::Bool(_)) => Ok(()),
            (OptionType::Int | OptionType::Duration | OptionType::Size, Value::Int(number)) => self.in_range(*number),
            (OptionType::String, Value::Text(text)) => no_nul(text),
            (OptionType::Path, Value::Text(text)) if text.starts_with('/') => no_nul(text),
            (OptionType::Path, Value::Text(text)) => Err(format!("{text:?} is not an absolute path")),
            (OptionType::Enum, Value::Text(text)) => self.allowed(text),
            (OptionType::List, Value::List(list)) if list.len() > MAX_LIST => {
                Err(format!("{} entries; at most {MAX_LIST} are allowed", list.len()))
            }
            (OptionType::List, Value::List(list)) => list.iter().try_for_each(|word| self.allowed(word)),
            _ => Err(format!("{value:?} is not of type {:?}", self.kind)),
        }
    }

    fn in_range(&self, number: i64) -> Result<(), String> {
        let show = |n: i64| match self.kind {
            OptionType::Duration => format_duration(n),
            OptionType::Size => format_size(n),
            _ => n.to_string(),
        };
        match (self.min, self.max) {
            (Some(min), _) if number < min => Err(format!("{} is less than {}", show(number), show(min))),
            (_, Some(max)) if number > max => Err(format!("{} is more than {}", show(number), show(max))),
            _ => Ok(()),
        }
    }

    fn allowed(&self, word: &str) -> Result<(), String> {
        no_nul(word)?;
        if self.values.is_empty() || self.values.iter().any(|v| v == word) {
            return Ok(());
        }
        let hint = match names::did_you_mean(word, self.values.iter().map(String::as_str)) {
            Some(meant) => format!("; did you mean {meant}?"),
            None => String::new(),
        };
        Err(format!("{word:?} is not one of {}{hint}", self.values.join(", ")))
    }
}

fn no_nul(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("contains a NUL byte".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
