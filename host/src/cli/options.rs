//! What a run was asked to do, as plain values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use ecapture_plugin_api::manifest::{Manifest, Mode, ModeOutput};
use ecapture_plugin_api::plan::{Config, Value};

use crate::failure::{Exit, Failure};
use crate::redact::{MAX_PATTERNS, RedactOptions};
use crate::sink::{Format, Rotate};
use crate::statements::StatementOptions;
use crate::stream::options::{Bodies, Filter, StreamOptions, View};

/// How outputs are cut into files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// When the next one is begun.
    pub rotate: Rotate,
    /// Most files that are kept of an output; `None` = all.
    pub keep: Option<usize>,
}

impl Rotation {
    fn from_matches(matches: &ArgMatches) -> Result<Option<Self>, Failure> {
        let usage = |text: &str| Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
        let rotate =
            Rotate { size: matches.get_one("rotate-size").copied(), time: matches.get_one("rotate-time").copied() };
        let keep: Option<usize> = matches.get_one::<u32>("rotate-keep").map(|n| *n as usize);
        if rotate == Rotate::default() {
            let text =
                "--rotate-keep says how many files are kept, not when one is begun: add --rotate-size or --rotate-time";
            return if keep.is_some() { usage(text) } else { Ok(None) };
        }
        if writes_har(matches) {
            return usage(
                "a HAR file is one document and cannot be cut into several: leave out --rotate-size and --rotate-time",
            );
        }
        if !matches.get_many::<String>("write").into_iter().flatten().any(|path| path != "-") {
            return usage("stdout cannot be rotated: --rotate-size and --rotate-time need -w FILE");
        }
        Ok(Some(Self { rotate, keep }))
    }
}

/// Where the kernel shows frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketHook {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// TCX or nothing.
    Tcx,
    /// Filters of the discipline clsact.
    Clsact,
}

/// How frames of network interfaces are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketOptions {
    /// Names of the interfaces; empty: all that are up, now or later.
    pub interfaces: Vec<String>,
    /// Room for frames on their way from the kernel, bytes.
    pub ring_bytes: u64,
    /// Only frames that fit this tcpdump expression.
    pub filter: Option<String>,
    /// With a filter by process: also frames of which nobody knows whose they are.
    pub unowned: bool,
    /// Where the kernel shows frames.
    pub hook: PacketHook,
    /// The first of these options that somebody gave.
    pub given: Option<&'static str>,
}

impl PacketOptions {
    /// Without `--packet-ring`. A burst of 20 ms at 25 Gbit/s.
    const RING: u64 = 64 << 20;

    fn from_matches(matches: &ArgMatches) -> Self {
        let mut interfaces: Vec<String> = Vec::new();
        for name in matches.get_many::<String>("interface").into_iter().flatten() {
            if !interfaces.contains(name) {
                interfaces.push(name.clone());
            }
        }
        let ring_bytes = matches.get_one("packet-ring").copied().unwrap_or(Self::RING);
        Self {
            interfaces,
            ring_bytes,
            filter: expression(matches),
            unowned: matches.get_flag("unowned-packets"),
            hook: match matches.get_one::<String>("packet-hook").map(String::as_str) {
                Some("tcx") => PacketHook::Tcx,
                Some("clsact") => PacketHook::Clsact,
                _ => PacketHook::Auto,
            },
            given: Self::given(matches),
        }
    }

    /// The option that was given, if any was.
    fn given(matches: &ArgMatches) -> Option<&'static str> {
        let given = |name: &&str| matches.value_source(name).is_some_and(|source| source != ValueSource::DefaultValue);
        let named =
            ["interface", "packet-ring", "packet-filter", "packet-hook", "unowned-packets"].into_iter().find(given);
        named.or_else(|| expression(matches).map(|_| "packet-filter"))
    }
}

/// The options of one run, common to all its modules.
#[derive(Debug)]
pub struct RunOptions {
    /// Only these processes; empty = all.
    pub pids: Vec<u32>,
    /// Their later children as well.
    pub children: bool,
    /// Only these users; empty = all.
    pub uids: Vec<u32>,
    /// Only threads of these names; empty = all.
    pub comms: Vec<String>,
    /// Only these control groups (path or number) and all below them; empty = all.
    pub cgroups: Vec<String>,
    /// Only these containers, by the beginning of their ids; empty = all.
    pub containers: Vec<String>,
    /// Files and processes that come later are captured from as well.
    pub follow: bool,
    /// Workers and the collector get their turns ([`crate::sandbox::turn`]).
    pub real_time: bool,
    /// How events are written.
    pub format: Format,
    /// Nobody said how: the modules' modes may.
    pub format_open: bool,
    /// Secrets are appended to this file.
    pub keylog_file: Option<PathBuf>,
    /// Where to; empty = stdout.
    pub writes: Vec<PathBuf>,
    /// Raw records go here as well.
    pub record: Option<PathBuf>,
    /// How the files of `writes` are cut.
    pub rotation: Option<Rotation>,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Stop after so many events.
    pub count: Option<u64>,
    /// Size of each module's ring, bytes; `None` = what the module's manifest asks for.
    pub ring_bytes: Option<u64>,
    /// Type information of the kernel.
    pub btf: Option<PathBuf>,
    /// What is done with connections.
    pub streams: StreamOptions,
    /// Bodies that are shown; `None`: as the format has it.
    pub bodies: Option<Bodies>,
    /// Line breaks of captured text are shown as line breaks.
    pub multiline: bool,
    /// Frames of network interfaces, if a mode has them.
    pub packets: Option<PacketOptions>,
    /// No messages but errors.
    pub quiet: bool,
    /// But at the end what is missing, if anything is.
    pub losses: bool,
    /// How much is said: 0, 1, 2.
    pub verbose: u8,
}

/// What one module of a run was asked to do.
#[derive(Debug)]
pub struct ModuleOptions {
    /// Mode and options for the module.
    pub config: Config,
    /// Explicit target files from options that name one.
    pub targets: Vec<PathBuf>,
}

impl ModuleOptions {
    /// From the command line of this module's own command.
    ///
    /// # Errors
    /// As of [`ModuleOptions::new`].
    pub fn from_matches(manifest: &Manifest, matches: &ArgMatches) -> Result<Self, Failure> {
        let mut given = BTreeMap::new();
        for option in &manifest.config {
            let id = format!("module.{}", option.name);
            if matches.value_source(&id) == Some(ValueSource::CommandLine) {
                let values: Vec<String> = matches.get_many::<String>(&id).into_iter().flatten().cloned().collect();
                given.insert(option.name.clone(), values);
            }
        }
        let mode = matches.try_get_one::<String>("mode").ok().flatten().cloned();
        Self::new(manifest, mode, &given)
    }

    /// From options as text, wherever they stood; `None` is the module's default mode.
    ///
    /// # Errors
    /// `E-CONFIG` with the option's name if a value does not fit the manifest.
    pub fn new(
        manifest: &Manifest,
        mode: Option<String>,
        given: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, Failure> {
        let options = manifest
            .check_config(given)
            .map_err(|e| Failure::new("E-CONFIG", format!("--{}: {}", e.option, e.message)).exit(Exit::Usage))?;
        let targets = manifest
            .targets
            .iter()
            .filter_map(|t| options.get(t.option.as_deref()?))
            .filter_map(|value| match value {
                Value::Text(path) if !path.is_empty() => Some(PathBuf::from(path)),
                _ => None,
            })
            .collect();
        let mode = match mode {
            Some(name) => mode_of(manifest, &name).map_or(name, |mode| mode.name.clone()),
            None => manifest.default_mode().map(|mode| mode.name.clone()).unwrap_or_default(),
        };
        Ok(Self { config: Config::new(mode, options), targets })
    }
}

impl RunOptions {
    /// From the command line of any command that captures.
    ///
    /// # Errors
    /// `E-USAGE` if a value is out of its range.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, Failure> {
        let format = format(matches);
        let (streams, bodies) = streams(matches, format)?;
        Ok(Self {
            pids: matches.get_many("pid").into_iter().flatten().copied().collect(),
            children: !matches.get_flag("no-children"),
            uids: matches.get_many("uid").into_iter().flatten().copied().collect(),
            comms: matches.get_many("comm").into_iter().flatten().cloned().collect(),
            cgroups: matches.get_many("cgroup").into_iter().flatten().cloned().collect(),
            containers: matches.get_many("container").into_iter().flatten().cloned().collect(),
            follow: !matches.get_flag("no-new-targets"),
            real_time: !matches.get_flag("no-real-time"),
            format,
            format_open: matches.value_source("output") == Some(ValueSource::DefaultValue),
            keylog_file: matches.get_one::<String>("keylog-file").map(PathBuf::from),
            writes: matches.get_many::<String>("write").into_iter().flatten().map(PathBuf::from).collect(),
            record: matches.get_one::<String>("record").map(PathBuf::from),
            rotation: Rotation::from_matches(matches)?,
            duration: matches.get_one("duration").copied(),
            count: matches.get_one("count").copied(),
            ring_bytes: matches.get_one("ring-size").copied(),
            btf: matches.get_one::<String>("btf").map(PathBuf::from),
            streams,
            bodies,
            packets: Some(PacketOptions::from_matches(matches)),
            multiline: matches.get_flag("multiline"),
            quiet: matches.get_flag("quiet"),
            losses: false,
            verbose: matches.get_count("verbose"),
        })
    }

    /// Settles what depends on the modes of the modules: how events are written if nobody said it, and whether there are
    /// secrets for those who want them.
    ///
    /// # Errors
    /// `E-USAGE` if a key log is wanted of modes that make no secrets.
    pub fn settle<'m>(&mut self, modes: impl IntoIterator<Item = Option<&'m Mode>>) -> Result<(), Failure> {
        let outputs: Vec<Option<ModeOutput>> = modes.into_iter().map(|mode| mode.and_then(|m| m.output)).collect();
        let captures_packets = outputs.contains(&Some(ModeOutput::Pcapng));
        let secrets = captures_packets || outputs.contains(&Some(ModeOutput::Keylog));
        self.settle_packets(captures_packets)?;
        // Modules that are written differently have but one form in common.
        if let [first, rest @ ..] = outputs.as_slice()
            && self.format_open
            && rest.iter().all(|output| output == first)
        {
            self.format = match first {
                Some(ModeOutput::Json) => Format::Json,
                Some(ModeOutput::Hex) => Format::Hex,
                Some(ModeOutput::Keylog) => Format::Keylog,
                Some(ModeOutput::Pcapng) => Format::Pcapng,
                Some(ModeOutput::Text) | None => self.format,
            };
        }
        self.settle_capture_file(captures_packets)?;
        let option = match (self.format, &self.keylog_file) {
            _ if secrets => return Ok(()),
            (Format::Keylog, _) => "--output keylog",
            (_, Some(_)) => "--keylog-file",
            (_, None) => return Ok(()),
        };
        let text = format!("{option} needs a mode that makes secrets, and no module is asked for one");
        Err(Failure::new("E-USAGE", text).exit(Exit::Usage).remedy("add --mode keylog, as in `ecapture tls -m keylog`"))
    }

    /// Frames are captured by modes that have them, and by no others.
    fn settle_packets(&mut self, captured: bool) -> Result<(), Failure> {
        let usage = |text: String| Failure::new("E-USAGE", text).exit(Exit::Usage);
        let named = self.writes.iter().any(|path| is_pcapng(path));
        if captured {
            let shows = self.format_open || matches!(self.format, Format::Pcapng | Format::None) || named;
            let text = "this mode captures packets, which only the format pcapng has (and none counts)";
            let remedy = "leave out --output, or add a capture file: -w FILE.pcapng";
            return if shows { Ok(()) } else { Err(usage(text.into()).remedy(remedy)) };
        }
        let given = self.packets.take().and_then(|packets| packets.given.map(|name| format!("--{name}")));
        let option = given.or_else(|| (self.format == Format::Pcapng).then(|| "--output pcapng".to_owned()));
        let option = option.or_else(|| named.then(|| "--write FILE.pcapng".to_owned()));
        let Some(option) = option else { return Ok(()) };
        let text = format!("{option} needs a mode that captures packets, and no module is asked for one");
        Err(usage(text).remedy("add --mode pcapng, as in `ecapture tls -m pcapng`"))
    }

    /// With packets, some output must be one that has them.
    fn settle_capture_file(&self, captured: bool) -> Result<(), Failure> {
        let named = self.writes.iter().any(|path| is_pcapng(path));
        if captured && !named && !matches!(self.format, Format::Pcapng | Format::None) {
            let text = "modules whose modes are written differently cannot share outputs with packets";
            return Err(Failure::new("E-USAGE", text)
                .exit(Exit::Usage)
                .remedy("run them apart, or add a capture file: -w FILE.pcapng"));
        }
        Ok(())
    }

    /// Events go nowhere but into a key log: nobody asked for another output.
    #[must_use]
    pub fn only_keylog(&self) -> bool {
        let packets = self.format == Format::Pcapng;
        self.keylog_file.is_some() && self.format_open && self.writes.is_empty() && !packets
    }
}

/// The names by which eCapture has modes.
pub fn mode_alias(mode: &Mode) -> Option<&'static str> {
    let alias = match mode.output? {
        ModeOutput::Keylog => "key",
        ModeOutput::Pcapng => "pcap",
        _ => return None,
    };
    (mode.name != alias).then_some(alias)
}

/// The mode of this name or alias. A name comes first: another mode's alias may be the same.
pub fn mode_of<'m>(manifest: &'m Manifest, name: &str) -> Option<&'m Mode> {
    manifest.mode(name).or_else(|| manifest.modes.iter().find(|mode| mode_alias(mode) == Some(name)))
}

/// The tcpdump expression: of its option, or what stands at the end of the line, as tcpdump has it.
fn expression(matches: &ArgMatches) -> Option<String> {
    let words: Vec<&str> =
        matches.try_get_many::<String>("expression").ok().flatten().into_iter().flatten().map(String::as_str).collect();
    let trailing = (!words.is_empty()).then(|| words.join(" "));
    matches.try_get_one::<String>("packet-filter").ok().flatten().cloned().or(trailing)
}

/// Some output is a HAR file.
fn writes_har(matches: &ArgMatches) -> bool {
    let mut writes = matches.get_many::<String>("write").into_iter().flatten();
    format(matches) == Format::Har || writes.any(|path| is_har(Path::new(path)))
}

/// A file of this name is one, whatever the format of the others.
pub fn is_har(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("har"))
}

/// A file of this name is a capture file, whatever the format of the others.
pub fn is_pcapng(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("pcapng"))
}

/// How events are written.
pub fn format(matches: &ArgMatches) -> Format {
    matches.get_one::<String>("output").and_then(|f| Format::from_name(f)).unwrap_or(Format::Text)
}

/// What is done with connections, and which bodies are shown.
///
/// # Errors
/// `E-USAGE` if options contradict one another.
pub fn streams(matches: &ArgMatches, format: Format) -> Result<(StreamOptions, Option<Bodies>), Failure> {
    let list = |name: &str| -> Vec<String> { matches.get_many(name).into_iter().flatten().cloned().collect() };
    let filter = Filter {
        hosts: list("host"),
        paths: list("path"),
        status: matches.get_many("status").into_iter().flatten().copied().collect(),
        methods: list("method"),
        min_duration_ns: matches
            .get_one::<Duration>("min-duration")
            .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
    };
    let nanoseconds = |name: &str| {
        matches.get_one::<Duration>(name).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    };
    let statements = StatementOptions {
        digest: matches.get_one::<String>("view").is_some_and(|view| view == "digest"),
        interval_ns: nanoseconds("interval"),
        min_duration_ns: filter.min_duration_ns,
        errors_only: matches.get_flag("errors-only"),
    };
    if statements.interval_ns > 0 && !statements.digest {
        let text = "--interval says how often numbers are told, which only --view digest has";
        return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
    }
    let redact = redact(matches)?;
    // What is to be told apart by its columns does not depend on connections.
    let name = matches.get_one::<String>("view").map(|name| match name.as_str() {
        "digest" | "statements" => "auto",
        other => other,
    });
    let view = name.and_then(View::from_name).unwrap_or_default();
    let view = match view {
        View::Raw | View::Stream if !filter.is_empty() => {
            let text = format!(
                "--host, --path, --status, --method and --min-duration choose among HTTP requests, which --view {} does not show",
                if view == View::Raw { "raw" } else { "stream" }
            );
            return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
        }
        // What has no request fits no filter.
        _ if !filter.is_empty() => View::Http,
        // A dump is of the bytes as they were.
        View::Auto if format == Format::Hex && !writes_har(matches) => View::Raw,
        view => view,
    };
    if matches!(view, View::Raw | View::Stream) && writes_har(matches) {
        let text = format!(
            "a HAR file has HTTP requests, which --view {} does not show",
            if view == View::Raw { "raw" } else { "stream" }
        );
        return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
    }
    let bodies = matches.get_one::<String>("body").and_then(|name| Bodies::from_name(name));
    let wanted = match bodies {
        Some(bodies) => bodies != Bodies::None,
        None => format == Format::Json || writes_har(matches),
    };
    let max_body = if wanted { matches.get_one("max-body").copied().unwrap_or(1 << 20) } else { 0 };
    let memory = matches.get_one("stream-memory").copied().unwrap_or(64 << 20);
    Ok((StreamOptions { view, max_body, memory, filter, redact, statements }, bodies))
}

/// What is taken out of events.
fn redact(matches: &ArgMatches) -> Result<RedactOptions, Failure> {
    let patterns: Vec<String> = matches.get_many("redact-pattern").into_iter().flatten().cloned().collect();
    if patterns.len() > MAX_PATTERNS {
        let text = format!("{} expressions of --redact-pattern; at most {MAX_PATTERNS} are allowed", patterns.len());
        return Err(Failure::new("E-USAGE", text).exit(Exit::Usage));
    }
    Ok(RedactOptions {
        show_secrets: matches.get_flag("show-secrets"),
        literals: matches.get_one::<String>("redact").is_some_and(|what| what == "literals"),
        patterns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> RunOptions {
        let command = clap::Command::new("x").args(crate::cli::command::common_args());
        let matches = command.try_get_matches_from([&["x"], words].concat()).unwrap();
        RunOptions::from_matches(&matches).unwrap()
    }

    fn mode(output: Option<ModeOutput>) -> Mode {
        Mode { name: "m".into(), help: "h".into(), default: false, output }
    }

    #[test]
    fn a_mode_has_the_name_that_ecapture_has_for_it_too() {
        let manifest = Manifest::parse(include_str!("../../../plugins/openssl/module.toml")).unwrap();
        for (given, meant) in [("key", "keylog"), ("keylog", "keylog"), ("pcap", "pcapng"), ("text", "text")] {
            let options = ModuleOptions::new(&manifest, Some(given.to_owned()), &BTreeMap::new()).unwrap();
            assert_eq!(options.config.mode, meant);
            assert!(mode_of(&manifest, given).is_some_and(|mode| mode.name == meant));
        }
        assert!(mode_of(&manifest, "ke").is_none());
    }

    #[test]
    fn a_mode_says_how_its_events_are_written_unless_somebody_else_does() {
        let (text, keylog) = (mode(None), mode(Some(ModeOutput::Keylog)));
        let settled = |words: &[&str], modes: &[&Mode]| {
            let mut options = options(words);
            options.settle(modes.iter().map(|m| Some(*m))).map(|()| (options.format, options.only_keylog()))
        };
        assert_eq!(settled(&[], &[&keylog]).unwrap(), (Format::Keylog, false));
        assert_eq!(settled(&["-o", "json"], &[&keylog]).unwrap(), (Format::Json, false));
        assert_eq!(settled(&[], &[&text]).unwrap(), (Format::Text, false));
        assert_eq!(settled(&[], &[&keylog, &text]).unwrap(), (Format::Text, false));
        assert_eq!(settled(&["--keylog-file", "k"], &[&keylog]).unwrap(), (Format::Keylog, true));
        assert_eq!(settled(&["--keylog-file", "k", "-w", "x"], &[&keylog]).unwrap(), (Format::Keylog, false));
        assert_eq!(settled(&["--keylog-file", "k", "-o", "json"], &[&keylog]).unwrap(), (Format::Json, false));
        let packets = mode(Some(ModeOutput::Pcapng));
        assert_eq!(settled(&["-w", "x"], &[&packets]).unwrap().0, Format::Pcapng);
        assert_eq!(settled(&["-w", "x", "--keylog-file", "k"], &[&packets]).unwrap().0, Format::Pcapng);
        assert_eq!(settled(&["-o", "none"], &[&packets]).unwrap().0, Format::None);
        assert_eq!(settled(&["-o", "json", "-w", "x.pcapng"], &[&packets]).unwrap().0, Format::Json);
        for words in [&["-o", "json"][..], &["-w", "x.json", "-o", "hex"]] {
            assert_eq!(settled(words, &[&packets]).unwrap_err().code, "E-USAGE", "{words:?}");
        }
        assert_eq!(settled(&[], &[&packets, &text]).unwrap_err().code, "E-USAGE");
        for words in [&["-w", "x.pcapng"][..], &["-o", "pcapng"], &["--interface", "lo"], &["--unowned-packets"]] {
            let failure = settled(words, &[&text]).unwrap_err();
            assert!(failure.remedy.unwrap().contains("-m pcapng"), "{words:?}");
        }
        for words in [["--keylog-file", "k"], ["-o", "keylog"]] {
            let failure = settled(&words, &[&text]).unwrap_err();
            assert_eq!((failure.code, failure.exit), ("E-USAGE", Exit::Usage));
            assert!(failure.remedy.unwrap().contains("-m keylog"));
        }
    }
}
