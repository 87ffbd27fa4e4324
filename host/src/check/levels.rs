//! The levels of a check, one after the other. An error ends it with its level: what comes after would only repeat it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecapture_plugin_api::manifest::{ConfigOption, OptionType};
use ecapture_plugin_api::plan::{Config, Detected, Value};

use super::Options;
use super::finding::{Level, Report, Severity};
use super::job::{Bench, Outcome, Trouble};
use super::mutate::{self, Numbers};
use crate::broker::Asked;
use crate::broker::checks::{self, objects};
use crate::cli::{ModuleOptions, RunOptions};
use crate::failure::{Exit, Failure};
use crate::module::{Facts, Loaded, Refusal};
use crate::recording::{Block, Reader, RecordedModule};
use crate::sandbox::{self, privileges};
use crate::sink::Format;

/// Records of one round of `robust`.
const ROUND: usize = 2_000;
/// Records of a recording that are kept as seeds.
const SEEDS: usize = 5_000;
/// A module larger than this carries something that it need not.
const LARGE: usize = 16 << 20;
/// How long level `live` captures.
const LIVE: Duration = Duration::from_secs(3);

/// Goes through the levels.
///
/// # Errors
/// What kept the check itself from being done. What is wrong with the module is in the report.
pub async fn run(
    options: &Options,
    facts: &Facts,
    judge: crate::module::judge::ObjectCheck<'_>,
) -> Result<Report, Failure> {
    let mut report = Report {
        schema: 1,
        file: options.file.display().to_string(),
        module: None,
        level: Level::Static,
        done: Vec::new(),
        findings: Vec::new(),
    };
    let module = match Loaded::file(&options.file, facts, judge) {
        Ok(module) => Arc::new(module),
        Err(refusal) => {
            refused(&mut report, &refusal);
            return Ok(report);
        }
    };
    let info = &module.manifest.module;
    report.module = Some(format!("{} {}, module API {}", info.name, info.version, info.api));
    look(&module, &mut report);
    let files = open(options)?;
    if options.level == Level::Live {
        live(&module, options, &mut report).await?;
    }
    // Nothing of the module or of a recording is touched with any right.
    let identity =
        privileges::give_up_all().map_err(|e| Failure::new("E-SANDBOX", format!("cannot give up privileges: {e}")))?;
    let bench = Bench::new(&module, identity)?;
    let checker = Checker { bench, options, files };
    let captured = report.findings.len();
    for level in [Level::Load, Level::Behaviour, Level::Robust] {
        let failed = report.findings.iter().skip(captured).any(|f| f.severity == Severity::Error);
        if failed || (report.has_errors() && options.level < Level::Live) || options.level < level {
            break;
        }
        report.level = level;
        match level {
            Level::Load => checker.load(&mut report).await?,
            Level::Behaviour => checker.behaviour(&mut report).await?,
            _ => checker.robust(&mut report).await?,
        }
    }
    if options.level == Level::Live && !report.has_errors() {
        report.level = Level::Live;
    }
    Ok(report)
}

/// Captures for a moment: what the kernel says of the objects, and whether the probes can be put in place. First of all, since
/// what is needed for it is given up afterwards.
async fn live(module: &Arc<Loaded>, options: &Options, report: &mut Report) -> Result<(), Failure> {
    let manifest = &module.manifest;
    let run = RunOptions {
        pids: options.pid.into_iter().collect(),
        children: true,
        uids: Vec::new(),
        comms: Vec::new(),
        cgroups: Vec::new(),
        containers: Vec::new(),
        follow: false,
        format: Format::None,
        writes: Vec::new(),
        record: None,
        rotation: None,
        duration: Some(LIVE),
        count: None,
        ring_bytes: None,
        btf: None,
        multiline: false,
        quiet: true,
        verbose: 0,
    };
    let asked = Asked {
        module: module.clone(),
        options: ModuleOptions { config: config(module, options, None)?, targets: options.targets.clone() },
    };
    match checks::capture(vec![asked], run).await {
        Ok(_) => report.done.push(format!("live: {} captured for {} s", manifest.module.name, LIVE.as_secs())),
        Err(failure) => {
            let fix = failure.remedy.clone().unwrap_or_else(|| "docs/refusals.md explains the code".into());
            report.error(failure.code, Level::Live, failure.message, &fix);
        }
    }
    Ok(())
}

/// The options given, in a mode.
fn config(module: &Loaded, options: &Options, mode: Option<&str>) -> Result<Config, Failure> {
    let manifest = &module.manifest;
    let values = manifest
        .check_config(&options.set)
        .map_err(|e| Failure::new("E-CONFIG", format!("--set {}: {}", e.option, e.message)).exit(Exit::Usage))?;
    let default = || manifest.default_mode().map(|m| m.name.clone()).unwrap_or_default();
    Ok(Config::new(mode.map_or_else(default, str::to_owned), values))
}

fn refused(report: &mut Report, refusal: &Refusal) {
    report.error(refusal.code.as_str(), Level::Static, refusal.message.clone(), &refusal.remedy);
}

/// What only needs the file, beside what the host refuses.
fn look(module: &Loaded, report: &mut Report) {
    let (manifest, level) = (&module.manifest, Level::Static);
    let bytes = module.image.bytes().len();
    report.done.push(format!(
        "static: {} KiB, {} eBPF objects, {} events, {} options",
        bytes >> 10,
        manifest.bpf.len(),
        manifest.events.len(),
        manifest.config.len()
    ));
    if manifest.module.contact.is_none() {
        report.warn(
            "C-CONTACT",
            level,
            "the manifest has no contact",
            "add module.contact: where users report what goes wrong",
        );
    }
    if bytes > LARGE {
        report.warn("C-SIZE", level, format!("the file has {} MiB", bytes >> 20), "strip it: strip --strip-debug");
    }
    for event in manifest.events.iter().filter(|e| e.text.is_none()) {
        let what = format!("event {} has no text: it is an empty line in the default output", event.name);
        report.warn("C-TEXT", level, what, "add event.text, a template with the event's columns");
    }
    for stream in manifest.streams.iter().filter(|s| s.join && s.join_max > 16 << 20) {
        let what = format!("stream {} joins up to {} MiB a thread", stream.name, stream.join_max >> 20);
        report.warn("C-MEMORY", level, what, "lower stream.join_max: the worker holds as much for each thread");
    }
}

struct Files {
    recordings: Vec<(PathBuf, File)>,
    targets: Vec<(String, File)>,
}

/// Opened while there may be rights to.
fn open(options: &Options) -> Result<Files, Failure> {
    let file = |path: &PathBuf, code| {
        File::open(path).map_err(|e| Failure::new(code, format!("cannot read {}: {e}", path.display())))
    };
    let recordings: Result<_, _> =
        options.recordings.iter().map(|path| Ok((path.clone(), file(path, "E-RECORDING")?))).collect();
    let targets: Result<_, _> =
        options.targets.iter().map(|path| Ok((path.display().to_string(), file(path, "E-TARGET")?))).collect();
    Ok(Files { recordings: recordings?, targets: targets? })
}

struct Checker<'a> {
    bench: Bench<'a>,
    options: &'a Options,
    files: Files,
}

impl Checker<'_> {
    fn config(&self, mode: Option<&str>) -> Result<Config, Failure> {
        config(self.bench.module, self.options, mode)
    }

    /// It is loaded, and what it says it is.
    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let outcome = self.bench.detect(&self.config(None)?, &[]).await?;
        if let Some(trouble) = outcome.trouble() {
            said(report, Level::Load, "when it is loaded and configured with its defaults", &trouble, false);
        }
        report.done.push("load: its code is the one that its file promises, and configure answers".into());
        Ok(())
    }

    /// Everything that the manifest allows, and files that are no targets.
    async fn behaviour(&self, report: &mut Report) -> Result<(), Failure> {
        let level = Level::Behaviour;
        let manifest = &self.bench.module.manifest;
        let mut calls = 0;
        for (what, config) in self.configurations()? {
            let outcome = self.bench.detect(&config, &[]).await?;
            calls += 1;
            if let Some(trouble) = outcome.trouble() {
                said(report, level, &format!("when it is configured with {what}"), &trouble, true);
            }
            if let Some(configured) = &outcome.configured
                && let Err(e) = checks::configured(configured, manifest, &objects(self.bench.module)?)
            {
                report.error(
                    "E-PLAN",
                    level,
                    format!("configured with {what}, {e}"),
                    "ask for what the manifest permits",
                );
            }
        }
        let targets = self.targets()?;
        let outcome = self.bench.detect(&self.config(None)?, &targets).await?;
        if let Some(trouble) = outcome.trouble() {
            let at = targets.get(outcome.detected.len()).map_or("a file", |(name, _)| name.as_str());
            said(report, level, &format!("when it looks at {at}"), &trouble, false);
        }
        let known = self.files.targets.len();
        for (number, answer) in &outcome.detected {
            let name = targets.get(*number as usize).map_or("a file", |(name, _)| name.as_str());
            match answer {
                Ok(Detected { unsupported: None, probes, .. }) if (*number as usize) >= known && probes.is_empty() => {
                    let what = format!("it supports {name}, with no probe");
                    report.warn("C-DETECT", level, what, "answer `unsupported`, with the reason");
                }
                Ok(detected) if detected.unsupported.is_none() => {
                    if let Some(configured) = &outcome.configured
                        && let Err(e) = checks::detected(detected, configured, &objects(self.bench.module)?)
                    {
                        report.error("E-PLAN", level, format!("for {name}, {e}"), "ask for what the objects have");
                    }
                }
                Ok(_) => {}
                Err(why) if why.contains("panick") => {
                    report.error(
                        "C-PANIC",
                        level,
                        format!("detect panics on {name}: {why}"),
                        "answer `unsupported`: files are hostile",
                    );
                }
                Err(_) => {}
            }
        }
        report.done.push(format!("behaviour: {calls} configurations, {} files", targets.len()));
        for (path, file) in &self.files.recordings {
            self.decode(report, path, file).await?;
        }
        if self.files.recordings.is_empty() {
            let what = "no recording was given: its decoder has seen no real record";
            report.warn(
                "C-UNTRIED",
                level,
                what,
                "make one with --record, keep it with the module, and give it with --recording",
            );
        }
        Ok(())
    }

    /// A recording, twice.
    async fn decode(&self, report: &mut Report, path: &Path, file: &File) -> Result<(), Failure> {
        let (level, name) = (Level::Behaviour, path.display());
        let config = self.config(None)?;
        let once = self.bench.replay(&config, file).await?;
        self.judge_decoding(report, level, &format!("decoding {name}"), &once);
        if once.trouble().is_some() {
            return Ok(());
        }
        let again = self.bench.replay(&config, file).await?;
        if once.output != again.output {
            let what = format!("{name} gives other events the second time");
            report.error(
                "C-DETERMINISM",
                level,
                what,
                "let events follow from records alone: no clock, no addresses, no order of hash maps",
            );
        }
        let events = once.totals.as_ref().map_or(0, |t| t.events);
        if events == 0 {
            report.warn(
                "C-SILENT",
                level,
                format!("{name} gives no event"),
                "is it a recording of this module, and of anything?",
            );
        }
        report.done.push(format!("behaviour: {name}: {events} events, twice the same"));
        Ok(())
    }

    /// Records that no kernel side sends, for a while.
    async fn robust(&self, report: &mut Report) -> Result<(), Failure> {
        let (level, began) = (Level::Robust, Instant::now());
        let manifest = &self.bench.module.manifest;
        let config = self.config(None)?;
        let mut seeds = Vec::new();
        for (_, file) in &self.files.recordings {
            collect(file, &manifest.module.name, &mut seeds);
        }
        let (mut numbers, mut rounds) = (Numbers(self.options.seed), 0_u64);
        while began.elapsed() < self.options.time && !report.has_errors() {
            let module = RecordedModule {
                name: manifest.module.name.clone(),
                config: serde_json::to_value(&config).unwrap_or_default(),
                ..RecordedModule::default()
            };
            let bytes = mutate::recording(manifest, module, &seeds, ROUND, &mut numbers);
            let file = memory(&bytes)?;
            let outcome = self.bench.replay(&config, &file).await?;
            let seed = self.options.seed;
            self.judge_decoding(report, level, &format!("round {rounds} of --seed {seed}"), &outcome);
            rounds += 1;
        }
        report.done.push(format!(
            "robust: {} records out of {} seeds in {:.0} s",
            rounds * ROUND as u64,
            seeds.len(),
            began.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn judge_decoding(&self, report: &mut Report, level: Level, at: &str, outcome: &Outcome) {
        if let Some(trouble) = outcome.trouble() {
            said(report, level, at, &trouble, false);
        }
        if let Some(text) = outcome.decoder_failures.first() {
            let fix = "return an error for a record that makes no sense; index and slice with get";
            report.error("C-PANIC", level, format!("the decoder panics: {at}: {text}"), fix);
        }
        let Some(totals) = &outcome.totals else { return };
        if totals.columns_refused > 0 {
            let what = format!("{at}: {} columns that the manifest does not declare so", totals.columns_refused);
            report.error(
                "C-COLUMN",
                level,
                what,
                "number columns in the manifest's order, with the types that it says",
            );
        }
        if outcome.undeclared > 0 {
            let events = outcome.undeclared;
            report.error(
                "C-EVENT",
                level,
                format!("{at}: {events} events that the manifest does not declare"),
                "number events in the manifest's order",
            );
        }
    }

    /// Each mode, and for each option what is at its edges.
    fn configurations(&self) -> Result<Vec<(String, Config)>, Failure> {
        let manifest = &self.bench.module.manifest;
        let mut all = Vec::new();
        for mode in &manifest.modes {
            all.push((format!("mode {}", mode.name), self.config(Some(&mode.name))?));
        }
        let base = self.config(None)?;
        for option in &manifest.config {
            if self.options.set.contains_key(&option.name) {
                continue;
            }
            for value in edges(option) {
                let mut options: BTreeMap<String, Value> = base.options.clone();
                let shown: String = format!("{value:?}").chars().take(60).collect();
                options.insert(option.name.clone(), value);
                all.push((format!("--{} {shown}", option.name), Config::new(base.mode.clone(), options)));
            }
        }
        Ok(all)
    }

    /// Those given, and files that are nobody's target.
    fn targets(&self) -> Result<Vec<(String, File)>, Failure> {
        let mut all = Vec::new();
        for (name, file) in &self.files.targets {
            let file = file.try_clone().map_err(|e| Failure::new("E-TARGET", format!("{name}: {e}")))?;
            all.push((name.clone(), file));
        }
        let image = self.bench.module.image.bytes();
        let cut = |n: usize| image.get(..n.min(image.len())).unwrap_or_default().to_vec();
        let mut wild = cut(4096);
        for (index, byte) in wild.iter_mut().enumerate().skip(16) {
            *byte ^= (index.wrapping_mul(97) >> 3) as u8;
        }
        for (name, bytes) in [
            ("a file with text", b"#!/bin/sh\necho no program\n".to_vec()),
            ("a library that is no target", image.to_vec()),
            ("the first 64 bytes of a library", cut(64)),
            ("the first 4096 bytes of a library", cut(4096)),
            ("half a library", cut(image.len() / 2)),
            ("a library with wild headers", wild),
            ("zeros", vec![0; 8192]),
        ] {
            all.push((name.to_owned(), memory(&bytes)?));
        }
        Ok(all)
    }
}

fn memory(bytes: &[u8]) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::new("E-CHILD", format!("cannot make a file in memory: {e}"));
    let mut file = sandbox::memfd::scratch("check").map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    Ok(file)
}

/// What a job that did not come to its end means. `options`: a refusal that names an option is what is wanted.
fn said(report: &mut Report, level: Level, at: &str, trouble: &Trouble<'_>, options: bool) {
    match trouble {
        Trouble::Hung => {
            report.error(
                "C-HANG",
                level,
                format!("{at}: it does not come back"),
                "bound every loop by what is left of the input",
            );
        }
        Trouble::Failed("E-CONFIG", _) if options => {}
        Trouble::Failed(_, text) if text.contains("does not come to an end") => {
            report.error(
                "C-RUNAWAY",
                level,
                format!("{at}: {text}"),
                "let the number of events follow from the record's length",
            );
        }
        Trouble::Failed(_, text) if text.contains("panick") => {
            report.error("C-PANIC", level, format!("{at}: {text}"), "return an error instead");
        }
        Trouble::Failed(code, text) => {
            let known = code.get(1..2) == Some("-");
            report.error(
                if known { code } else { "C-CRASH" },
                level,
                format!("{at}: {text}"),
                "docs/refusals.md explains the code",
            );
        }
        Trouble::Died(how) => {
            report.error(
                "C-CRASH",
                level,
                format!("{at}: the worker {how}"),
                "no unsafe code on what comes from outside; bound what is allocated by what was read",
            );
        }
    }
}

/// Values that are allowed, and as far out as that goes.
fn edges(option: &ConfigOption) -> Vec<Value> {
    let text = |t: &str| Value::Text(t.to_owned());
    match option.kind {
        OptionType::Bool => vec![Value::Bool(true), Value::Bool(false)],
        OptionType::Int | OptionType::Duration | OptionType::Size => {
            let floor = if option.kind == OptionType::Int { i64::MIN } else { 0 };
            vec![Value::Int(option.min.unwrap_or(floor)), Value::Int(option.max.unwrap_or(i64::MAX))]
        }
        OptionType::Enum => option.values.iter().map(|v| text(v)).collect(),
        OptionType::Path => vec![text("/"), text(&format!("/{}", "x".repeat(4000)))],
        OptionType::String => {
            vec![text(""), text(&"x".repeat(4096)), text("\u{202e}\u{1b}[31m\n%s%n{}'\""), text("\u{10ffff}\u{fc}")]
        }
        OptionType::List if option.values.is_empty() => {
            vec![Value::List(Vec::new()), Value::List(vec!["x".repeat(100); 16])]
        }
        OptionType::List => vec![Value::List(Vec::new()), Value::List(option.values.clone())],
    }
}

/// Records of a recording, to be changed.
fn collect(file: &File, module: &str, seeds: &mut Vec<Vec<u8>>) {
    use std::io::Seek as _;
    let Ok(mut file) = rustix::io::dup(file.as_fd()).map(File::from) else { return };
    if file.rewind().is_err() {
        return;
    }
    let Ok((mut reader, header)) = Reader::new(BufReader::new(file)) else { return };
    let Some(number) = header.modules.iter().position(|m| m.name == module) else { return };
    while seeds.len() < SEEDS {
        match reader.block() {
            Ok(Block::Record { module, bytes, .. }) if usize::from(module) == number => seeds.push(bytes.to_vec()),
            Ok(Block::Record { .. } | Block::Gap { .. }) => {}
            Ok(Block::End(_)) | Err(_) => break,
        }
    }
}
