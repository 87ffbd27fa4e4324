//! `ecapture module replay FILE.so RECORDING`.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{command, judge_object, options, refused};
use crate::broker::{self, replay};
use crate::failure::{Exit, Failure};
use crate::module::{Facts, Loaded};

/// The sub-command.
pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("replay")
        .about("Decode a recording (--record) again: no kernel, no privilege, the same events each time")
        .arg(Arg::new("file").value_name("FILE.so").required(true).help("The module"))
        .arg(Arg::new("recording").value_name("RECORDING").required(true).help("What --record has written"))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FORMAT")
                .default_value("text")
                .value_parser(["text", "json", "hex", "har", "keylog", "none"])
                .help("How events are written"),
        )
        .arg(
            Arg::new("write")
                .short('w')
                .long("write")
                .value_name("FILE")
                .action(ArgAction::Append)
                .help("Write to this file instead of stdout; - is stdout; may be repeated"),
        )
        .args(command::stream_args())
        .arg(flag("multiline", "Text output: show line breaks of captured text as line breaks, indented"))
        .arg(flag("quiet", "No messages but errors; the summary is left out as well").short('q'))
        .arg(Arg::new("verbose").short('v').long("verbose").action(ArgAction::Count).help("Say what is done"))
}

/// Runs it.
pub fn run(facts: &Facts, matches: &ArgMatches) -> Result<Exit, Failure> {
    let path = |name: &str| matches.get_one::<String>(name).map(PathBuf::from).unwrap_or_default();
    let module = load(&path("file"), facts)?;
    let format = options::format(matches);
    let (streams, bodies) = options::streams(matches, format)?;
    let options = replay::Options {
        recording: path("recording"),
        format,
        writes: matches.get_many::<String>("write").into_iter().flatten().map(PathBuf::from).collect(),
        streams,
        bodies,
        multiline: matches.get_flag("multiline"),
        quiet: matches.get_flag("quiet"),
        verbose: matches.get_count("verbose"),
    };
    broker::block_on(replay::run(&module, &options))
}

/// A module by the path of its file.
pub fn load(path: &Path, facts: &Facts) -> Result<Loaded, Failure> {
    Loaded::file(path, facts, &judge_object).map_err(|refusal| refused(&path.display().to_string(), refusal))
}
