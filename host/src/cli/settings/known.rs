//! The options that there are, and the check of one value: clap's for the host's, the manifest's for a module's.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};
use ecapture_plugin_api::manifest::{Manifest, OptionType};
use ecapture_plugin_api::plan::Value;

use super::file::{Complaint, Entry, Parsed, Section, short as short_word};
use super::{COMMAND_LINE_ONLY, PREFIX, did_you_mean, variable};
use crate::cli::command;
use crate::cli::options::mode_of;
use crate::module::Catalog;

/// The section of the host's options.
pub const COMMON: &str = "common";

/// How the values of an option are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// There or not.
    Flag,
    /// Counted.
    Count,
    /// One value.
    One,
    /// Any number of them.
    Many,
}

impl Shape {
    /// Of an argument of the command line.
    pub fn of(arg: &Arg) -> Self {
        match arg.get_action() {
            ArgAction::SetTrue => Self::Flag,
            ArgAction::Count => Self::Count,
            ArgAction::Append => Self::Many,
            _ => Self::One,
        }
    }
}

/// The section of a module's options.
pub fn section_of(module: &str) -> String {
    format!("module.{module}")
}

/// Whether an argument of a module's command is the module's own.
pub fn is_of_module(arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    id == "mode" || id.starts_with("module.")
}

/// A variable that a module's option would have, and an option of the host has.
pub fn belongs_to_host(section: &str, name: &str) -> bool {
    section != COMMON
        && command::common_args().iter().any(|arg| arg.get_long().is_some_and(|l| variable(COMMON, l) == name))
}

/// The words of the command line that say this.
pub fn words(long: &str, shape: Shape, values: &[String]) -> Vec<OsString> {
    let first = values.first().map(String::as_str).unwrap_or_default();
    match shape {
        Shape::Flag if first == "true" => vec![format!("--{long}").into()],
        Shape::Flag => Vec::new(),
        Shape::Count => vec![format!("--{long}").into(); first.parse().unwrap_or(0)],
        Shape::One | Shape::Many => values.iter().map(|value| format!("--{long}={value}").into()).collect(),
    }
}

/// The default that a manifest gives, as it would be written.
pub fn default_of(manifest: &Manifest, option: &str) -> Option<Vec<String>> {
    let all = manifest.check_config(&BTreeMap::new()).ok()?;
    let unit = |number: &i64| match manifest.option(option).map(|o| o.kind) {
        Some(OptionType::Size) => ecapture_plugin_api::manifest::format_size(*number),
        Some(OptionType::Duration) => ecapture_plugin_api::manifest::format_duration(*number),
        _ => number.to_string(),
    };
    Some(match all.get(option)? {
        Value::Text(text) => vec![text.clone()],
        Value::Int(number) => vec![unit(number)],
        Value::Bool(truth) => vec![truth.to_string()],
        Value::List(list) => list.clone(),
    })
}

/// What clap has to say, in one line.
pub fn short(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default().split("\n\nFor more").next().unwrap_or_default();
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    said.join(" ").trim_start_matches("error: ").to_owned()
}

/// One option.
pub struct Opt<'k> {
    name: String,
    check: Check<'k>,
}

enum Check<'k> {
    Host(Box<Arg>),
    Module(&'k Manifest),
    Mode(&'k Manifest),
}

impl Opt<'_> {
    /// Whether these values fit.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self, values: &[String]) -> Result<(), String> {
        match &self.check {
            Check::Host(arg) => check_host(arg, values),
            Check::Module(manifest) => {
                let given = BTreeMap::from([(self.name.clone(), values.to_vec())]);
                manifest.check_config(&given).map(drop).map_err(|e| e.message)
            }
            Check::Mode(manifest) => match values {
                [mode] if mode_of(manifest, mode).is_some() => Ok(()),
                _ => {
                    let modes: Vec<&str> = manifest.modes.iter().map(|m| m.name.as_str()).collect();
                    Err(format!("{:?} is no mode; expected one of {}", short_word(&values.join(",")), modes.join(", ")))
                }
            },
        }
    }
}

fn check_host(arg: &Arg, values: &[String]) -> Result<(), String> {
    let long = arg.get_long().unwrap_or_default();
    let shape = Shape::of(arg);
    match (shape, values) {
        (Shape::Flag, [value]) if value == "true" || value == "false" => return Ok(()),
        (Shape::Flag, _) => return Err(format!("{:?} is not true or false", short_word(&values.join(",")))),
        (Shape::Count, [value]) if matches!(value.parse::<u8>(), Ok(0..=9)) => return Ok(()),
        (Shape::Count, _) => return Err(format!("{:?} is not a number from 0 to 9", short_word(&values.join(",")))),
        (Shape::One, [_]) | (Shape::Many, _) => {}
        (Shape::One, _) => return Err(format!("takes one value, not {}", values.len())),
    }
    let only = Command::new("option").no_binary_name(true).disable_help_flag(true).arg(arg.clone());
    only.try_get_matches_from(words(long, shape, values)).map(drop).map_err(|e| short(&e))
}

/// All options that there are.
pub struct Known {
    modules: Vec<(String, Option<Manifest>)>,
}

impl Known {
    /// Those of the host, and of the modules of a directory. Of a module that is refused before its manifest is
    /// understood, only the name is known.
    pub fn of(catalog: &Catalog) -> Self {
        let module = |entry: &crate::module::ModuleEntry| {
            let name = match &entry.manifest {
                Some(manifest) => manifest.module.name.clone(),
                None => {
                    let file = entry.file.file_name()?.to_str()?;
                    file.strip_prefix("libecap_")?.strip_suffix(".so")?.to_owned()
                }
            };
            Some((name, entry.manifest.clone()))
        };
        Self { modules: catalog.entries.iter().filter_map(module).collect() }
    }

    #[cfg(test)]
    pub fn with(manifests: Vec<Manifest>) -> Self {
        Self { modules: manifests.into_iter().map(|m| (m.module.name.clone(), Some(m))).collect() }
    }

    fn host(long: &str) -> Option<Opt<'static>> {
        let arg = command::common_args().into_iter().find(|arg| arg.get_long() == Some(long))?;
        Some(Opt { name: long.to_owned(), check: Check::Host(Box::new(arg)) })
    }

    fn module<'k>(manifest: &'k Manifest, name: &str) -> Option<Opt<'k>> {
        if name == "mode" && manifest.modes.len() > 1 {
            return Some(Opt { name: name.to_owned(), check: Check::Mode(manifest) });
        }
        manifest.option(name).map(|_| Opt { name: name.to_owned(), check: Check::Module(manifest) })
    }

    fn names_of(manifest: &Manifest) -> Vec<String> {
        let mode = (manifest.modes.len() > 1).then(|| "mode".to_owned());
        manifest.config.iter().map(|o| o.name.clone()).chain(mode).collect()
    }

    fn common_names() -> Vec<String> {
        command::common_args().iter().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
    }

    /// Every variable, with the section and name of its option.
    fn variables(&self) -> Vec<(String, String, String)> {
        let host = Self::common_names().into_iter().map(|name| (COMMON.to_owned(), name));
        let modules = self.modules.iter().filter_map(|(name, manifest)| Some((section_of(name), manifest.as_ref()?)));
        let modules = modules.flat_map(|(section, manifest)| {
            Self::names_of(manifest).into_iter().map(move |name| (section.clone(), name))
        });
        host.chain(modules).map(|(section, name)| (variable(&section, &name), section, name)).collect()
    }

    /// The options that a variable sets: one of the host, or else those of modules.
    pub fn options_of(&self, name: &str) -> Vec<Opt<'_>> {
        let meant: Vec<_> = self.variables().into_iter().filter(|(variable, ..)| variable == name).collect();
        if let Some((.., option)) = meant.iter().find(|(_, section, _)| section == COMMON) {
            return Self::host(option).into_iter().collect();
        }
        meant.iter().filter_map(|(_, section, option)| Self::module(self.manifest(section)?, option)).collect()
    }

    fn manifest(&self, section: &str) -> Option<&Manifest> {
        let name = section.strip_prefix("module.")?;
        self.modules.iter().find(|(module, _)| module == name)?.1.as_ref()
    }

    /// What to say about a variable that is no option's, if anything.
    pub fn note_on(&self, name: &str) -> Option<String> {
        let end = name.strip_prefix(PREFIX)?;
        if COMMAND_LINE_ONLY.iter().any(|option| variable(COMMON, option) == name) {
            let option = end.to_lowercase().replace('_', "-");
            return Some(format!("the environment variable {name} is not looked at: only --{option} says that"));
        }
        let all = self.variables();
        let meant = did_you_mean(end, all.iter().filter_map(|(variable, ..)| variable.strip_prefix(PREFIX)))?;
        Some(format!("the environment variable {name} is no option's; did you mean {PREFIX}{meant}?"))
    }

    /// Every section, key and value of a file.
    pub fn check_file(&self, parsed: &Parsed) -> Result<(), Complaint> {
        parsed.sections.iter().try_for_each(|section| self.check_section(section))
    }

    fn check_section(&self, section: &Section) -> Result<(), Complaint> {
        if section.name == COMMON {
            let find = |name: &str| Self::host(name);
            return section.entries.iter().try_for_each(|e| check_entry(section, e, find, &Self::common_names()));
        }
        let module = section.name.strip_prefix("module.");
        if let Some((_, manifest)) = self.modules.iter().find(|(name, _)| Some(name.as_str()) == module) {
            // Of a module that is refused, nothing is known; and nothing of it runs.
            let Some(manifest) = manifest else { return Ok(()) };
            let names = Self::names_of(manifest);
            let find = |name: &str| Self::module(manifest, name);
            return section.entries.iter().try_for_each(|e| check_entry(section, e, find, &names));
        }
        let message = match module {
            Some(name) => format!("[{}]: there is no module {:?}", short_word(&section.name), short_word(name)),
            None => format!("unknown section [{}]", short_word(&section.name)),
        };
        let hint = match self.meant_by(&section.name, module) {
            Some(meant) => format!("; did you mean [{meant}]?"),
            None => "; sections are [common] and [module.NAME]".to_owned(),
        };
        Err(Complaint { spot: section.spot, message: message + &hint })
    }

    /// The section that somebody may have meant: misspelt, without `module.`, or by the module's command or alias.
    fn meant_by(&self, name: &str, module: Option<&str>) -> Option<String> {
        let word = module.unwrap_or(name);
        let called = |manifest: &Manifest| {
            manifest.module.command == word || manifest.module.aliases.iter().any(|alias| alias == word)
        };
        let by_alias = self.modules.iter().find(|(name, m)| name == word || m.as_ref().is_some_and(called));
        if let Some((name, _)) = by_alias {
            return Some(section_of(name));
        }
        if module.is_none() && did_you_mean(word, [COMMON].into_iter()).is_some() {
            return Some(COMMON.to_owned());
        }
        did_you_mean(word, self.modules.iter().map(|(name, _)| name.as_str())).map(section_of)
    }
}

fn check_entry<'k>(
    section: &Section,
    entry: &Entry,
    find: impl Fn(&str) -> Option<Opt<'k>>,
    names: &[String],
) -> Result<(), Complaint> {
    let (key, section) = (short_word(&entry.key), short_word(&section.name));
    if let Some(option) = find(&entry.key) {
        return option
            .check(&entry.values)
            .map_err(|why| Complaint { spot: entry.value_spot, message: format!("{key:?} in [{section}]: {why}") });
    }
    let hint = match did_you_mean(&entry.key, names.iter().map(String::as_str)) {
        _ if COMMAND_LINE_ONLY.contains(&entry.key.as_str()) => format!("; only --{key} on the command line says that"),
        Some(meant) => format!("; did you mean {meant:?}?"),
        None if names.is_empty() => "; it has no options".to_owned(),
        None => format!("; known here: {}", names.join(", ")),
    };
    Err(Complaint { spot: entry.spot, message: format!("unknown key {key:?} in [{section}]{hint}") })
}
