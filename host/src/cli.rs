//! The command line: modules become commands here. Parses to plain values, resolves, and hands over to the broker.

mod check;
mod command;
mod completion;
mod duration;
mod early;
mod inspect;
mod manual;
mod options;
mod replay;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use ecapture_plugin_api::manifest::Permissions;

use crate::bpf::{self, ObjectSpec};
use crate::broker::{self, Asked};
use crate::doctor;
use crate::failure::{Exit, Failure};
use crate::module::{Catalog, Facts, Loaded, Refusal, Unknown, list};

pub use options::{ModuleOptions, RunOptions};

/// Runs the program as a user started it.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match run() {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("ecapture: {failure}");
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run() -> Result<Exit, Failure> {
    let args: Vec<_> = std::env::args_os().collect();
    // What the commands are depends on the modules, and where those are depends on two options: they are read first.
    let search = early::search(&args)?;
    let mut facts = Facts::of_this_host();
    facts.has_btf |= early::brings_types(&args);
    let catalog = Catalog::read(&search, &facts, &judge_object)
        .map_err(|e| Failure::new("E-USAGE", e.to_string()).exit(Exit::Usage))?;
    let matches = match command::build(&catalog).try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return explain(&error, &catalog),
    };
    if matches.get_flag("list-modules") {
        let json = matches.get_flag("json");
        let text = if json { list::json(&catalog).map_err(internal)? } else { list::table(&catalog) };
        return print(&text);
    }
    if matches.get_flag("man") {
        return print(&manual::page(command::build(&catalog))?);
    }
    match matches.subcommand() {
        Some(("completion", sub)) => {
            let shell = sub.get_one::<String>("shell").map(String::as_str).unwrap_or_default();
            print(&completion::script(command::build(&catalog), shell))
        }
        Some(("module", sub)) => inspect::run(&catalog, &facts, sub),
        Some(("run", sub)) => {
            let names = sub.get_many::<String>("name").into_iter().flatten();
            let mut asked: Vec<Asked> = Vec::new();
            for name in names {
                let module = load(&catalog, &facts, name)?;
                let known = &module.manifest.module.name;
                if asked.iter().any(|a| a.name() == known) {
                    let text = format!("the module {known} is named twice");
                    return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
                }
                let options = ModuleOptions::new(&module.manifest, None, &BTreeMap::new())?;
                asked.push(Asked { module: module.into(), options });
            }
            broker::capture(asked, RunOptions::from_matches(sub)?)
        }
        Some(("doctor", sub)) => {
            let checks = doctor::examine(&catalog, sub.get_one::<String>("btf").map(Path::new));
            print(&if sub.get_flag("json") {
                doctor::json(&checks).map_err(internal)?
            } else {
                doctor::text(&checks)
            })?;
            Ok(doctor::exit(&checks))
        }
        Some((name, sub)) => {
            let module = load(&catalog, &facts, name)?;
            let options = ModuleOptions::from_matches(&module.manifest, sub)?;
            broker::capture(vec![Asked { module: module.into(), options }], RunOptions::from_matches(sub)?)
        }
        None => {
            print(&command::build(&catalog).render_help().to_string())?;
            Ok(Exit::Usage)
        }
    }
}

/// The module behind a word of the command line, its bytes judged once more.
fn load(catalog: &Catalog, facts: &Facts, word: &str) -> Result<Loaded, Failure> {
    let entry = catalog.find_by_command(word).map_err(|e| unknown(&e))?;
    catalog.load(entry, facts, &judge_object).map_err(|refusal| refused(word, refusal))
}

fn refused(name: &str, refusal: Refusal) -> Failure {
    Failure::new(refusal.code.as_str(), format!("module {name} is refused: {}", refusal.message))
        .remedy(refusal.remedy)
        .exit(Exit::Refused)
}

/// Programs, helpers and maps of an eBPF object against what the manifest asks for.
fn judge_object(bytes: &[u8], permissions: &Permissions) -> Result<(), String> {
    let spec = ObjectSpec::parse(bytes).map_err(|e| e.to_string())?;
    let permissions = bpf::Permissions {
        programs: &permissions.programs,
        helpers: &permissions.helpers,
        map_memory: permissions.map_memory,
    };
    bpf::judge(&spec, &permissions).map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

fn unknown(error: &Unknown) -> Failure {
    match error {
        Unknown::Refused { name, refusal, .. } => refused(name, Refusal::clone(refusal)),
        Unknown::None { .. } => Failure::new("E-USAGE", error.to_string())
            .remedy("`ecapture --list-modules` shows the modules that are there")
            .exit(Exit::Usage),
    }
}

fn internal(error: serde_json::Error) -> Failure {
    Failure::new("E-OUTPUT", format!("cannot write JSON: {error}"))
}

/// Writes to stdout; a closed pipe is not an error.
fn print(text: &str) -> Result<Exit, Failure> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("E-OUTPUT", format!("cannot write to stdout: {e}")))
        }
        _ => Ok(Exit::Done),
    }
}

/// clap's own words, but for an unknown command: that may be a module that is there and refused.
fn explain(error: &clap::Error, catalog: &Catalog) -> Result<Exit, Failure> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && let Err(why) = catalog.find_by_command(name)
    {
        return Err(unknown(&why));
    }
    let done = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // A closed pipe behind `--help` is not an error.
    let _ = error.print();
    Ok(if done { Exit::Done } else { Exit::Usage })
}
