//! The clap command, made from the host's own options and the manifests of the modules.

use clap::builder::{PossibleValue, PossibleValuesParser, StyledStr};
use clap::{Arg, ArgAction, Command, value_parser};
use ecapture_plugin_api::manifest::{ConfigOption, Manifest, Mode, ModeOutput, OptionType};

use super::duration::{
    duration, interval, max_body, packet_ring, redact_pattern, ring_size, rotate_size, rotate_time, stream_memory,
};
use super::options::mode_alias;
use super::settings::DEFAULT_FILE;
use super::{check, completion, replay};
use crate::module::Catalog;
use crate::stream::options::StatusRange;

/// Heading of the options that every module has.
const COMMON: &str = "Options of every module";

/// Heading of the options for what connections carry.
const CONNECTIONS: &str = "Options for connections, and the HTTP that they carry";

/// Heading of the options of modes that capture packets.
const PACKETS: &str = "Options for packets (-m pcapng)";

/// Builds the whole command line from what the catalog holds.
#[must_use]
pub fn build(catalog: &Catalog) -> Command {
    let mut command = Command::new("ecapture")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Captures what programs say, with eBPF and loadable modules")
        .after_help("Exit codes: 0 done, 1 failed, 2 usage, 3 module refused, 4 no privilege or kernel support")
        .args_conflicts_with_subcommands(false)
        .arg(flag("list-modules", "List the modules that are there, and why some are not used"))
        .arg(flag("json", "With --list-modules: as JSON").requires("list-modules"))
        .arg(flag("man", "Print the manual page"))
        .args(place_args().map(|arg| arg.global(true)))
        .subcommand(module_command())
        .subcommand(run_command())
        .subcommand(config_command(catalog))
        .subcommand(doctor_command())
        .subcommand(completion_command());
    for (entry, manifest) in catalog.runnable() {
        command = command.subcommand(capture_command(manifest, &entry.aliases).args(explain_args()));
    }
    command
}

/// What a module's command does instead of capturing. No option of a run: neither the environment nor a file says it.
fn explain_args() -> [Arg; 2] {
    [
        Arg::new("explain")
            .long("explain")
            .value_name("PID")
            .num_args(0..=1)
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_parser(value_parser!(u32).range(1..))
            .help("Capture nothing: say of these processes, or of all, whether they would be captured, and why not"),
        flag("json", "With --explain: as JSON").requires("explain"),
    ]
    .map(|arg| arg.help_heading(COMMON))
}

/// Several modules in one run. Options of a module are flags of its own command only: here they would have no owner.
pub fn run_command() -> Command {
    Command::new("run")
        .about("Capture with several modules at once")
        .arg(
            Arg::new("name").value_name("NAME").required(true).num_args(1..).help(
                "Names or commands of modules; their options come from the environment and the configuration file",
            ),
        )
        .args(common_args())
}

/// The command of one module.
pub fn capture_command(manifest: &Manifest, aliases: &[String]) -> Command {
    let mut command = Command::new(manifest.module.command.clone())
        .about(plain(&manifest.module.title))
        .visible_aliases(aliases.to_vec())
        .args(common_args());
    if manifest.modes.len() > 1 {
        // An alias that is another mode's name is that mode.
        let value = |mode: &Mode| {
            let alias = mode_alias(mode).filter(|alias| manifest.mode(alias).is_none());
            alias.into_iter().fold(PossibleValue::new(mode.name.clone()), PossibleValue::alias)
        };
        let names = manifest.modes.iter().map(value).collect::<Vec<_>>();
        let mode = Arg::new("mode")
            .long("mode")
            .value_name("MODE")
            .value_parser(PossibleValuesParser::new(names))
            .help("What to capture");
        command = command.arg(if has_short(manifest, 'm') { mode } else { mode.short('m') });
    }
    if manifest.modes.iter().any(|m| m.output == Some(ModeOutput::Keylog)) && !has_short(manifest, 'k') {
        command = command.mut_arg("keylog-file", |arg| arg.short('k'));
    }
    if manifest.modes.iter().any(|m| m.output == Some(ModeOutput::Pcapng)) {
        if !has_short(manifest, 'i') {
            command = command.mut_arg("interface", |arg| arg.short('i'));
        }
        command = command.arg(
            Arg::new("expression")
                .value_name("EXPRESSION")
                .num_args(0..)
                .conflicts_with("packet-filter")
                .help("With --mode pcapng: as --packet-filter"),
        );
    }
    command.args(manifest.config.iter().map(|s| setting_arg(s).help_heading("Options of this module")))
}

/// Letters that the host does not keep for itself are the module's first.
fn has_short(manifest: &Manifest, short: char) -> bool {
    manifest.config.iter().any(|option| option.short == Some(short))
}

/// One option that a module declares. Its value is checked against the manifest afterwards, so that the same check
/// serves all sources of options.
fn setting_arg(setting: &ConfigOption) -> Arg {
    let mut arg = Arg::new(format!("module.{}", setting.name)).long(setting.name.clone()).help(plain(&setting.help));
    if let Some(short) = setting.short {
        arg = arg.short(short);
    }
    match setting.kind {
        OptionType::Bool => arg.num_args(0..=1).default_missing_value("true").require_equals(true),
        OptionType::List => arg.action(ArgAction::Append).value_delimiter(','),
        kind => arg.value_name(format!("{kind:?}").to_uppercase()),
    }
}

/// The options of every module's command.
pub fn common_args() -> Vec<Arg> {
    let common = vec![
        Arg::new("pid")
            .short('p')
            .long("pid")
            .value_name("PID")
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_parser(value_parser!(u32).range(1..))
            .help("Only these processes and their later children (a list: 1,2)"),
        flag("no-children", "With --pid: not the children"),
        Arg::new("uid")
            .short('u')
            .long("uid")
            .value_name("UID")
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_parser(value_parser!(u32))
            .help("Only processes of these users (a list; 0 is a user like any other)"),
        Arg::new("comm")
            .long("comm")
            .value_name("NAME")
            .action(ArgAction::Append)
            .value_delimiter(',')
            .help("Only threads of this name, as `ps -L -o comm` shows it; the first 15 bytes count (a list: a,b)"),
        Arg::new("cgroup")
            .long("cgroup")
            .value_name("PATH")
            .action(ArgAction::Append)
            .help("Only this control group (v2; path or number) and all below it; may be repeated"),
        Arg::new("container")
            .long("container")
            .value_name("ID")
            .action(ArgAction::Append)
            .value_delimiter(',')
            .help("Only this container, by the first digits of its id (a list)"),
        flag("no-new-targets", "Only programs and libraries that are found at the start, not those that come later"),
        flag("no-real-time", "No real-time turns for what empties the rings: more is lost on a busy machine"),
        Arg::new("output")
            .short('o')
            .long("output")
            .value_name("FORMAT")
            .default_value("text")
            .value_parser(["text", "json", "hex", "har", "keylog", "pcapng", "none"])
            .help("How events are written; without it, as the module's mode has it"),
        Arg::new("write")
            .short('w')
            .long("write")
            .value_name("FILE")
            .action(ArgAction::Append)
            .help("Write to this file instead of stdout; - is stdout; may be repeated"),
        Arg::new("record")
            .long("record")
            .value_name("FILE")
            .help("Also keep the raw records in this file, to be decoded again: ecapture module replay"),
        Arg::new("keylog-file").long("keylog-file").value_name("FILE").help(
            "Append the secrets of TLS connections to this key log; of modules whose mode makes them (-m keylog)",
        ),
        Arg::new("duration")
            .long("duration")
            .value_name("TIME")
            .value_parser(duration)
            .help("Stop after this time (30s, 200ms, 5m)"),
        Arg::new("count")
            .long("count")
            .value_name("N")
            .value_parser(value_parser!(u64).range(1..))
            .help("Stop after so many events"),
        Arg::new("ring-size")
            .long("ring-size")
            .value_name("SIZE")
            .value_parser(ring_size)
            .help("Room for records on their way from the kernel (16MiB)"),
        btf_arg(),
        flag("multiline", "Text output: show line breaks of captured text as line breaks, indented"),
        flag("quiet", "No messages but errors; the summary is left out as well").short('q'),
        Arg::new("verbose")
            .short('v')
            .long("verbose")
            .action(ArgAction::Count)
            .help("Say what is done; -vv also shows what the kernel's verifier said"),
    ];
    let common = common.into_iter().chain(rotation_args()).map(|arg| arg.help_heading(COMMON));
    let common = common.chain(stream_args().into_iter().map(|arg| arg.help_heading(CONNECTIONS)));
    common.chain(packet_args().into_iter().map(|arg| arg.help_heading(PACKETS))).collect()
}

/// Frames of network interfaces.
fn packet_args() -> [Arg; 5] {
    [
        Arg::new("interface").long("interface").value_name("IF").action(ArgAction::Append).value_delimiter(',').help(
            "Only from these network interfaces (a list: lo,eth0); without it, from all that are up, now or later",
        ),
        Arg::new("packet-filter").long("packet-filter").value_name("EXPRESSION").help(
            "Only frames that fit this tcpdump expression ('tcp port 443'); it may as well stand at the end of the line",
        ),
        Arg::new("packet-hook")
            .long("packet-hook")
            .value_name("HOOK")
            .default_value("auto")
            .value_parser(["auto", "tcx", "clsact"])
            .help("Where the kernel shows frames: tcx (Linux 6.6), or filters of clsact; auto takes tcx where it is"),
        Arg::new("packet-ring")
            .long("packet-ring")
            .value_name("SIZE")
            .value_parser(packet_ring)
            .help("Room for frames on their way from the kernel (64MiB)"),
        flag(
            "unowned-packets",
            "With --pid, --uid, --comm, --cgroup or --container: also frames of which it is not known whose they are",
        ),
    ]
}

/// What is shown of connections: of a run, and of a recording that is decoded again.
pub fn stream_args() -> Vec<Arg> {
    let list = |name: &'static str, value: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Append).value_delimiter(',')
    };
    vec![
        Arg::new("view")
            .long("view")
            .value_name("VIEW")
            .default_value("auto")
            .value_parser(["auto", "raw", "http", "stream", "statements", "digest"])
            .help("Show requests with their responses where HTTP is spoken (auto), those only (http), every call as it is (raw), or what connections carry, put in order (stream); of SQL each statement (statements), or numbers of those that differ only in values (digest)"),
        Arg::new("body")
            .long("body")
            .value_name("WHICH")
            .value_parser(["none", "text", "all"])
            .help("Show these bodies; text output shows none if nothing is said, JSON all"),
        Arg::new("max-body")
            .long("max-body")
            .value_name("SIZE")
            .value_parser(max_body)
            .help("Longest part of a body that is shown, after decoding (1MiB)"),
        Arg::new("stream-memory")
            .long("stream-memory")
            .value_name("SIZE")
            .value_parser(stream_memory)
            .help("Room for what is held of all connections together (64MiB)"),
        list("host", "HOST").help("Only requests to these hosts (a list: example.org,*.example.com)"),
        list("path", "PATH").help("Only requests for these paths and what is below them; with * a pattern"),
        list("status", "STATUS")
            .value_parser(value_parser!(StatusRange))
            .help("Only responses with these status codes (a list: 404,5xx,200-299)"),
        list("method", "METHOD").help("Only requests with these methods (a list)"),
        Arg::new("min-duration")
            .long("min-duration")
            .value_name("TIME")
            .value_parser(duration)
            .help("Only requests, and statements, that took at least so long, up to the end of the response (500ms)"),
        Arg::new("interval")
            .long("interval")
            .value_name("TIME")
            .value_parser(interval)
            .help("With --view digest: tell the numbers so often, each time from 0, and not only at the end (5s)"),
        flag("errors-only", "Only statements, commands and requests that did not end well"),
        flag("show-secrets", "Show passwords, tokens and cookies that are found, which are left out otherwise"),
        Arg::new("redact")
            .long("redact")
            .value_name("WHAT")
            .value_parser(["literals"])
            .help("Also leave out all literals and parameters of statements"),
        Arg::new("redact-pattern")
            .long("redact-pattern")
            .value_name("REGEX")
            .action(ArgAction::Append)
            .value_parser(redact_pattern)
            .help("Also leave out what this expression fits, or its first group; may be repeated"),
    ]
}

fn rotation_args() -> [Arg; 3] {
    [
        Arg::new("rotate-size")
            .long("rotate-size")
            .value_name("SIZE")
            .value_parser(rotate_size)
            .help("Begin another file before one of -w grows beyond this (1MiB or more); names get time and number"),
        Arg::new("rotate-time")
            .long("rotate-time")
            .value_name("TIME")
            .value_parser(rotate_time)
            .help("Begin another file so long after the first event of one of -w (1s or more)"),
        Arg::new("rotate-keep")
            .long("rotate-keep")
            .value_name("N")
            .value_parser(value_parser!(u32).range(1..=1_000_000))
            .help("Keep only the last N files of each -w"),
    ]
}

fn place_args() -> [Arg; 3] {
    [
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help(format!("Take options from here instead of {DEFAULT_FILE}")),
        Arg::new("modules-dir").long("modules-dir").value_name("DIR").help("Take modules from here, for development"),
        flag("allow-untrusted", "With --modules-dir: also use modules that others than root could have written"),
    ]
}

fn module_command() -> Command {
    let name = || Arg::new("name").value_name("NAME").required(true).help("Name or command of a module");
    Command::new("module")
        .about("Look at modules")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("info").about("What a module is and needs").arg(name()).arg(flag("json", "As JSON")))
        .subcommand(
            Command::new("plan")
                .about("Where a module would put its probes in a file, and why; attaches nothing")
                .arg(name())
                .arg(Arg::new("mode").long("mode").value_name("MODE").help("For this mode of the module"))
                .arg(Arg::new("target").long("target").value_name("FILE").required(true).help("The program or library"))
                .arg(flag("json", "As JSON")),
        )
        .subcommand(
            Command::new("new")
                .about("Make a workspace for a module of your own, with the SDK in it")
                .arg(Arg::new("name").value_name("NAME").required(true).help("What it is to be called"))
                .arg(
                    Arg::new("dir")
                        .long("dir")
                        .value_name("DIR")
                        .help("Where, instead of a directory of that name here"),
                ),
        )
        .subcommand(replay::command())
        .subcommand(check::command())
}

fn config_command(catalog: &Catalog) -> Command {
    let mut command = Command::new("config")
        .about("What a run would be told: each option, and where its value is from")
        .subcommand_value_name("MODULE")
        .subcommand_help_heading("Modules, with the options of their commands")
        .disable_help_subcommand(true)
        .arg(flag("show", "Show the options of every module, or all of the one named").global(true))
        .arg(flag("json", "With --show: as JSON").global(true))
        .subcommand(run_command());
    for (entry, manifest) in catalog.runnable() {
        command = command.subcommand(capture_command(manifest, &entry.aliases));
    }
    command
}

fn doctor_command() -> Command {
    Command::new("doctor")
        .about("What this machine has of what capturing needs, what is missing, and how to get it")
        .after_help("Exit codes: 0 capturing works, 4 it does not")
        .arg(flag("json", "As JSON"))
        .arg(btf_arg())
}

fn btf_arg() -> Arg {
    Arg::new("btf").long("btf").value_name("FILE").help("Type information of the kernel, if it has none of its own")
}

fn completion_command() -> Command {
    Command::new("completion")
        .about("Print what a shell needs to complete commands and options, those of the modules included")
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(completion::SHELLS))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// Text from a manifest, which may hold anything, for the terminal.
fn plain(text: &str) -> StyledStr {
    text.chars().filter(|c| !c.is_control()).collect::<String>().into()
}
