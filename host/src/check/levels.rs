//! The levels of a check, one after the other. An error ends it with its level: what comes after would only repeat it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ecapture_plugin_api::plan::{Config, Detected, Value};

use super::Options;
use super::finding::{Level, Report, Severity};
use super::inputs::{Files, collect, edges, hostile, memory, open, recorded};
use super::job::{Bench, Outcome, Trouble};
use super::live::live;
use super::mutate::{self, Numbers};
use crate::broker::checks::{self, objects};
use crate::failure::{Exit, Failure};
use crate::module::{Facts, Loaded, Refusal};
use crate::recording::RecordedModule;
use crate::sandbox::privileges;

/// Records of one round of `robust`.
const ROUND: usize = 2_000;
/// A module larger than this carries something that it need not.
const LARGE: usize = 16 << 20;

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
    let files = open(options, &module.manifest)?;
    if options.level == Level::Live {
        live(&module, options, config(&module, options, None)?, &mut report).await?;
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

struct Checker<'a> {
    bench: Bench<'a>,
    options: &'a Options,
    files: Files,
}

impl Checker<'_> {
    fn config(&self, mode: Option<&str>) -> Result<Config, Failure> {
        config(self.bench.module, self.options, mode)
    }

    /// Number and options of the module in a recording. What was asked for on the command line holds there too.
    fn recorded(&self, path: &Path, file: &File) -> Result<(u8, Config), Failure> {
        let manifest = &self.bench.module.manifest;
        let mut given = self.config(None)?;
        given.options.retain(|name, _| self.options.set.contains_key(name));
        recorded(path, file, manifest, &given)
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
        let (number, config) = self.recorded(path, file)?;
        let once = self.bench.replay(&config, file, number).await?;
        self.judge_decoding(report, level, &format!("decoding {name}"), &once);
        if once.trouble().is_some() {
            return Ok(());
        }
        if let Some(damage) = &once.damage {
            return Err(Failure::new("E-RECORDING", format!("{name}: {damage}")).remedy("give one that is whole"));
        }
        let again = self.bench.replay(&config, file, number).await?;
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
        let (mut seeds, mut configs) = (Vec::new(), Vec::new());
        for mode in &manifest.modes {
            configs.push(self.config(Some(&mode.name))?);
        }
        for (path, file) in &self.files.recordings {
            let (number, config) = self.recorded(path, file)?;
            collect(file, number, &mut seeds);
            if !configs.contains(&config) {
                configs.push(config);
            }
        }
        let seed = self.options.seed;
        let (mut numbers, mut rounds, mut records) = (Numbers(seed), 0, 0);
        // All configurations in turn, each with the short records first.
        while began.elapsed() < self.options.time && !report.has_errors() {
            let Some(config) = configs.get(rounds % configs.len().max(1)) else { break };
            let module = RecordedModule {
                name: manifest.module.name.clone(),
                config: serde_json::to_value(config).unwrap_or_default(),
                ..RecordedModule::default()
            };
            let (bytes, count) = if rounds < configs.len() {
                let short = mutate::short(manifest, &seeds);
                let count = short.len();
                (mutate::recording(module, short.into_iter()), count)
            } else {
                (mutate::recording(module, mutate::random(manifest, &seeds, ROUND, &mut numbers)), ROUND)
            };
            let outcome = self.bench.replay(config, &memory(&bytes)?, 0).await?;
            let at = format!("round {rounds} of --seed {seed}, mode {}", config.mode);
            self.judge_decoding(report, level, &at, &outcome);
            rounds += 1;
            records += count;
        }
        report.done.push(format!(
            "robust: {} records out of {} seeds in {:.0} s",
            records,
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
                format!("{at}: {events} events that the manifest does not declare, or of a role that it may not have"),
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
        all.extend(hostile(self.bench.module.image.bytes())?);
        Ok(all)
    }
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
