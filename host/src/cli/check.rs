//! `ecapture module check FILE.so`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::EnumValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::duration::duration;
use super::{internal, judge_object, print};
use crate::broker;
use crate::check::{self, Level, Options};
use crate::failure::{Exit, Failure};
use crate::module::Facts;

/// The sub-command.
pub fn command() -> Command {
    let many =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value).action(ArgAction::Append);
    Command::new("check")
        .about("Does a module keep the rules? Up to level robust without any privilege")
        .arg(Arg::new("file").value_name("FILE.so").required(true).help("The module"))
        .arg(
            Arg::new("level")
                .long("level")
                .value_name("LEVEL")
                .value_parser(EnumValueParser::<Level>::new())
                .default_value("behaviour")
                .help("How far: each level has those before it"),
        )
        .arg(many("recording", "FILE").help("A recording of the module (--record): decoded, and changed at random"))
        .arg(many("target", "FILE").help("A program or library that it is for"))
        .arg(many("set", "NAME=VALUE").help("An option of the module"))
        .arg(
            Arg::new("time")
                .long("time")
                .value_name("TIME")
                .value_parser(duration)
                .default_value("10s")
                .help("How long level robust tries"),
        )
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .default_value("1")
                .help("Where the random numbers of level robust begin"),
        )
        .arg(
            Arg::new("pid")
                .short('p')
                .long("pid")
                .value_name("PID")
                .value_parser(value_parser!(u32).range(1..))
                .help("A process that level live captures from"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("As JSON"))
}

/// Runs it.
pub fn run(facts: &Facts, matches: &ArgMatches) -> Result<Exit, Failure> {
    let paths = |name: &str| matches.get_many::<String>(name).into_iter().flatten().map(PathBuf::from).collect();
    let mut set: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for given in matches.get_many::<String>("set").into_iter().flatten() {
        let (name, value) = given.split_once('=').ok_or_else(|| {
            Failure::new("E-USAGE", format!("--set {given:?}: expected NAME=VALUE")).exit(Exit::Usage)
        })?;
        set.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    let options = Options {
        file: matches.get_one::<String>("file").map(PathBuf::from).unwrap_or_default(),
        level: matches.get_one("level").copied().unwrap_or(Level::Behaviour),
        recordings: paths("recording"),
        targets: paths("target"),
        set,
        time: matches.get_one("time").copied().unwrap_or(Duration::from_secs(10)),
        seed: matches.get_one("seed").copied().unwrap_or(1),
        pid: matches.get_one("pid").copied(),
    };
    let report = broker::block_on(check::run(&options, facts, &judge_object))?;
    let text = if matches.get_flag("json") {
        serde_json::to_string_pretty(&report).map_err(internal)? + "\n"
    } else {
        report.text()
    };
    print(&text)?;
    Ok(if report.has_errors() { Exit::Refused } else { Exit::Done })
}
