//! The command line: modules become commands here. Parses to plain values, resolves, and hands over to the broker.

mod check;
mod command;
mod completion;
mod duration;
mod early;
mod extcap;
mod inspect;
mod manual;
mod options;
mod replay;
mod settings;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use ecapture_plugin_api::manifest::{Mode, Permissions};

use crate::bpf::{self, ObjectSpec};
use crate::broker::{self, Asked};
use crate::doctor;
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::module::{Catalog, Facts, Loaded, Refusal, Unknown, list};

pub use options::{ModuleOptions, PacketHook, PacketOptions, Rotation, RunOptions, is_har, is_pcapng};
use settings::Settings;

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
    // The pipe is held for the whole of the run.
    let (args, fifo) = match extcap::read(&args)? {
        extcap::Asked::Nothing => (args, None),
        extcap::Asked::Answer(text) => return print(&text),
        extcap::Asked::Filter(expression) => {
            let why = broker::judge_filter(&expression).err().map(|failure| failure.message + "\n");
            return print(&why.unwrap_or_default());
        }
        extcap::Asked::Capture(args, fifo) => (args, Some(fifo)),
    };
    // What the commands are depends on the modules, and where those are depends on two options: they are read first.
    let search = early::search(&args)?;
    let mut facts = Facts::of_this_host();
    let config = early::config(&args).map(PathBuf::from);
    facts.has_btf |= early::brings_types(&args) || brings_types(config.as_deref());
    let catalog = Catalog::read(&search, &facts, &judge_object)
        .map_err(|e| Failure::new("E-USAGE", e.to_string()).exit(Exit::Usage))?;
    let matches = match command::build(&catalog).try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return in_words(&error, &catalog),
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
        Some(("config", sub)) => {
            let settings = Settings::load(&catalog, config.as_deref())?;
            show_config(&catalog, &settings, sub)
        }
        Some(("module", sub)) => inspect::run(&catalog, &facts, sub),
        Some(("run", sub)) => {
            let settings = Settings::load(&catalog, config.as_deref())?;
            let merged = settings.merge(command::run_command(), None, sub)?;
            say_notes(&settings, &merged.matches);
            let names = sub.get_many::<String>("name").into_iter().flatten();
            let mut asked: Vec<Asked> = Vec::new();
            for name in names {
                let module = load(&catalog, &facts, name)?;
                let known = &module.manifest.module.name;
                if asked.iter().any(|a| a.name() == known) {
                    let text = format!("the module {known} is named twice");
                    return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
                }
                let (mode, given) = settings.of_module(&module.manifest);
                let options = ModuleOptions::new(&module.manifest, mode, &given)?;
                asked.push(Asked { module: module.into(), options });
            }
            let mut run = RunOptions::from_matches(&merged.matches)?;
            run.settle(asked.iter().map(mode_of))?;
            broker::capture(asked, run)
        }
        Some(("doctor", sub)) => {
            let settings = Settings::load(&catalog, config.as_deref())?;
            let btf = sub.get_one::<String>("btf").cloned().or_else(|| settings.common("btf"));
            let checks = doctor::examine(&catalog, btf.as_deref().map(Path::new));
            print(&if sub.get_flag("json") {
                doctor::json(&checks).map_err(internal)?
            } else {
                doctor::text(&checks)
            })?;
            Ok(doctor::exit(&checks))
        }
        Some((name, sub)) => {
            let module = load(&catalog, &facts, name)?;
            let settings = Settings::load(&catalog, config.as_deref())?;
            let merged =
                settings.merge(command::capture_command(&module.manifest, &[]), Some(&module.manifest), sub)?;
            say_notes(&settings, &merged.matches);
            let options = ModuleOptions::from_matches(&module.manifest, &merged.matches)?;
            let asked = Asked { module: module.into(), options };
            let mut run = RunOptions::from_matches(&merged.matches)?;
            run.settle([mode_of(&asked)])?;
            // Whatever Wireshark hears it shows as an error.
            run.losses = fifo.is_some();
            if !sub.contains_id("explain") {
                return broker::capture(vec![asked], run);
            }
            let pids: Vec<u32> = sub.get_many("explain").into_iter().flatten().copied().collect();
            let told = broker::block_on(explain::look(&asked, &run, &pids))?;
            let json = sub.get_flag("json");
            print(&if json { explain::json(&told).map_err(internal)? } else { explain::text(&told) })?;
            Ok(explain::exit(&told))
        }
        None => {
            print(&command::build(&catalog).render_help().to_string())?;
            Ok(Exit::Usage)
        }
    }
}

fn mode_of(asked: &Asked) -> Option<&Mode> {
    asked.module.manifest.mode(&asked.options.config.mode)
}

/// Types of the kernel are named in the environment or in the file. What is wrong with these is said when they are used.
fn brings_types(config: Option<&Path>) -> bool {
    let file = || settings::read(config).ok().flatten().is_some_and(|(_, text)| settings::brings_types(&text));
    std::env::var_os("ECAPTURE_BTF").is_some_and(|value| !value.is_empty()) || file()
}

fn say_notes(settings: &Settings, matches: &ArgMatches) {
    if !matches.get_flag("quiet") {
        settings.notes.iter().for_each(|note| eprintln!("ecapture: {note}"));
    }
}

/// `config --show`: the options of a run that would begin now.
fn show_config(catalog: &Catalog, settings: &Settings, matches: &ArgMatches) -> Result<Exit, Failure> {
    let (json, shown) = (matches.get_flag("json"), matches.get_flag("show"));
    if !shown {
        let text = "nothing to do: `ecapture config --show` shows the options, and where their values are from";
        return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
    }
    let of_module = |name: &str, sub: Option<&ArgMatches>| {
        let entry = catalog.find_by_command(name).map_err(|e| unknown(&e))?;
        let Some(manifest) = &entry.manifest else { return Ok(None) };
        let command = command::capture_command(manifest, &[]);
        let nothing = || command.clone().try_get_matches_from([name]).map_err(|e| settings::usage(&e));
        let sub = sub.map_or_else(nothing, |sub| Ok(sub.clone()))?;
        settings.merge(command, Some(manifest), &sub).map(Some)
    };
    let merged = match matches.subcommand() {
        None => {
            let common = Command::new("config").args(command::common_args());
            let nothing = common.clone().try_get_matches_from(["config"]).map_err(|e| settings::usage(&e))?;
            settings.merge(common, None, &nothing)?
        }
        Some(("run", sub)) => {
            let mut all = settings.merge(command::run_command(), None, sub)?;
            for name in sub.get_many::<String>("name").into_iter().flatten() {
                let own = of_module(name, None)?.map(|merged| merged.options).unwrap_or_default();
                all.options.extend(own.into_iter().filter(|option| option.section.starts_with("module.")));
            }
            all
        }
        Some((name, sub)) => match of_module(name, Some(sub))? {
            Some(merged) => merged,
            None => return Ok(Exit::Failed),
        },
    };
    say_notes(settings, &merged.matches);
    print(&if json { show::json(&merged.options).map_err(internal)? } else { show::text(&merged.options) })
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
fn in_words(error: &clap::Error, catalog: &Catalog) -> Result<Exit, Failure> {
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
