//! Where the value of an option comes from: the command line, else the environment, else the configuration file, else its
//! default. The same checks serve all of them: those of clap for the host's options, the manifest's for a module's.
//!
//! Where modules come from is not among these options: no variable and no file decides it.

mod file;
mod known;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use ecapture_plugin_api::manifest::Manifest;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::module::{Catalog, closest, escape};

pub use file::{DEFAULT_FILE, Spot, brings_types, read};
use file::{Entry, Parsed};
use known::Known;
pub use known::Shape;

/// What variables of options begin with.
const PREFIX: &str = "ECAPTURE_";
/// What only the command line says, as options and as ends of variables.
const COMMAND_LINE_ONLY: [&str; 3] = ["modules-dir", "allow-untrusted", "config"];

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the command line.
    Flag,
    /// In this variable.
    Variable(String),
    /// In this file, at this place.
    File(PathBuf, Spot),
    /// Nowhere: the option's own.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, spot) => write!(f, "{}:{}", escape::os(path.as_os_str()), spot.line),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One option of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `common`, or `module.` and the module's name.
    pub section: String,
    /// Its long name.
    pub name: String,
    /// How its values are written.
    pub shape: Shape,
    /// Its values, as they would be written; `None`: it has none.
    pub values: Option<Vec<String>>,
    /// Where they come from.
    pub source: Source,
}

/// A command line with everything that other places add.
#[derive(Debug)]
pub struct Merged {
    /// As if all had been said on the command line.
    pub matches: ArgMatches,
    /// Each option, and where its value is from.
    pub options: Vec<Resolved>,
}

/// Values of all places but the command line, checked.
#[derive(Debug, Default)]
pub struct Settings {
    file: Option<(PathBuf, Parsed)>,
    variables: BTreeMap<String, String>,
    /// Variables that look like slips of the hand, and those that are never looked at.
    pub notes: Vec<String>,
}

impl Settings {
    /// Reads and checks the configuration file, all of it, and the variables of the host's options and of those modules
    /// that may run. `config`: the file asked for.
    ///
    /// # Errors
    /// `E-CONFIG` with file, line and column, or with the name of the variable.
    pub fn load(catalog: &Catalog, config: Option<&Path>) -> Result<Self, Failure> {
        let file = read(config)?;
        let variables = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(PREFIX));
        Self::of(&Known::of(catalog), file, variables)
    }

    fn of(
        known: &Known,
        file: Option<(PathBuf, String)>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Failure> {
        let mut settings = Self::default();
        if let Some((path, text)) = file {
            let parsed = file::parse(&text).and_then(|parsed| known.check_file(&parsed).map(|()| parsed));
            let parsed = parsed.map_err(|complaint| {
                let at = format!("{}:{}:{}", escape::os(path.as_os_str()), complaint.spot.line, complaint.spot.column);
                refuse(format!("{at}: {}", complaint.message))
            })?;
            settings.file = Some((path, parsed));
        }
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            settings.take_variable(known, name, &value)?;
        }
        Ok(settings)
    }

    fn take_variable(&mut self, known: &Known, name: &str, value: &OsStr) -> Result<(), Failure> {
        // Set to nothing is how a shell says "not set".
        if value.is_empty() {
            return Ok(());
        }
        let options = known.options_of(name);
        if options.is_empty() {
            self.notes.extend(known.note_on(name));
            return Ok(());
        }
        let shown = |why: String| refuse(format!("the environment variable {name}: {why}"));
        let text = value.to_str().ok_or_else(|| shown("its value is not UTF-8".into()))?;
        for option in options {
            option.check(&[text.to_owned()]).map_err(shown)?;
        }
        self.variables.insert(name.to_owned(), text.to_owned());
        Ok(())
    }

    /// What the environment or the file says of an option.
    fn find(&self, section: &str, option: &str) -> Option<(Vec<String>, Source)> {
        let variable = variable(section, option);
        if let Some(value) = self.variables.get(&variable)
            && !known::belongs_to_host(section, &variable)
        {
            return Some((vec![value.clone()], Source::Variable(variable)));
        }
        let (path, parsed) = self.file.as_ref()?;
        let Entry { values, spot, .. } = parsed.find(section, option)?;
        Some((values.clone(), Source::File(path.clone(), *spot)))
    }

    /// An option of the host, for commands that capture nothing.
    #[must_use]
    pub fn common(&self, option: &str) -> Option<String> {
        self.find(known::COMMON, option).and_then(|(values, _)| values.into_iter().next())
    }

    /// What the environment and the file say of a module's options: its mode, and the rest as text.
    #[must_use]
    pub fn of_module(&self, manifest: &Manifest) -> (Option<String>, BTreeMap<String, Vec<String>>) {
        let section = known::section_of(&manifest.module.name);
        let mode = self.find(&section, "mode").and_then(|(values, _)| values.into_iter().next());
        let given = manifest.config.iter().filter_map(|option| {
            let (values, _) = self.find(&section, &option.name)?;
            Some((option.name.clone(), values))
        });
        (mode.filter(|_| manifest.modes.len() > 1), given.collect())
    }

    /// Adds to the command line of `command` what it leaves open. `module` is whose command it is, if it is a module's.
    ///
    /// # Errors
    /// `E-USAGE`: what all places say together does not go together.
    pub fn merge(&self, command: Command, module: Option<&Manifest>, matches: &ArgMatches) -> Result<Merged, Failure> {
        let (mut words, mut options) = (vec![OsString::from(command.get_name())], Vec::new());
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let section = match module {
                Some(manifest) if known::is_of_module(arg) => known::section_of(&manifest.module.name),
                _ => known::COMMON.to_owned(),
            };
            let shape = Shape::of(arg);
            let said = (matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
                .then(|| (from_flags(arg, shape, matches), Source::Flag));
            let found = said.or_else(|| self.find(&section, long));
            if let Some((values, _)) = &found {
                words.extend(known::words(long, shape, values));
            }
            let (values, source) = found.map_or((default(arg, module), Source::Default), |(v, s)| (Some(v), s));
            options.push(Resolved { section, name: long.to_owned(), shape, values, source });
        }
        if let Some(manifest) = module {
            output_of_mode(manifest, &mut options);
        }
        // Names of modules, of `run`.
        for arg in command.get_positionals() {
            let names = matches.get_raw(arg.get_id().as_str()).into_iter().flatten().map(OsStr::to_owned);
            words.push("--".into());
            words.extend(names);
        }
        let matches = command.try_get_matches_from(words).map_err(|e| usage(&e))?;
        Ok(Merged { matches, options })
    }
}

/// How events are written is the mode's to say where nobody else has said it.
fn output_of_mode(manifest: &Manifest, options: &mut [Resolved]) {
    let value = |name: &str| options.iter().find(|o| o.name == name)?.values.as_ref()?.first().cloned();
    let mode = value("mode").and_then(|name| manifest.modes.iter().find(|mode| mode.name == name));
    let output = mode.and_then(|mode| serde_json::to_value(mode.output?).ok());
    if let Some(Value::String(output)) = output
        && let Some(option) = options.iter_mut().find(|o| o.name == "output" && matches!(o.source, Source::Default))
    {
        option.values = Some(vec![output]);
    }
}

/// What does not go together.
pub fn usage(error: &clap::Error) -> Failure {
    let failure = Failure::new("E-USAGE", known::short(error)).exit(Exit::Usage);
    failure.remedy("`ecapture config --show` tells where each option is from")
}

/// The variable of an option.
fn variable(section: &str, option: &str) -> String {
    let name = match section.strip_prefix("module.") {
        Some(module) => format!("{PREFIX}{module}_{option}"),
        None => format!("{PREFIX}{option}"),
    };
    name.replace('-', "_").to_uppercase()
}

fn from_flags(arg: &Arg, shape: Shape, matches: &ArgMatches) -> Vec<String> {
    let id = arg.get_id().as_str();
    match shape {
        Shape::Flag => vec!["true".into()],
        Shape::Count => vec![matches.get_count(id).to_string()],
        Shape::One | Shape::Many => {
            matches.get_raw(id).into_iter().flatten().map(|v| v.to_string_lossy().into_owned()).collect()
        }
    }
}

fn default(arg: &Arg, module: Option<&Manifest>) -> Option<Vec<String>> {
    if let (Some(manifest), Some(option)) = (module, arg.get_id().as_str().strip_prefix("module.")) {
        return known::default_of(manifest, option);
    }
    if let (Some(manifest), "mode") = (module, arg.get_id().as_str()) {
        return manifest.default_mode().map(|mode| vec![mode.name.clone()]);
    }
    let values: Vec<String> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    match Shape::of(arg) {
        Shape::Flag => Some(vec!["false".into()]),
        Shape::Count => Some(vec!["0".into()]),
        _ => (!values.is_empty()).then_some(values),
    }
}

fn refuse(message: String) -> Failure {
    Failure::new("E-CONFIG", message).exit(Exit::Usage)
}

fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    closest(word, known)
}
