//! Level `live`: the module captures, on this kernel, from whatever runs.

use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ecapture_plugin_api::plan::Config;

use super::Options;
use super::finding::{Level, Report};
use crate::broker::{Asked, checks};
use crate::cli::{ModuleOptions, RunOptions};
use crate::failure::Failure;
use crate::module::Loaded;
use crate::sink::Format;

/// How long it captures.
const LIVE: Duration = Duration::from_secs(3);

/// Captures for a moment: what the kernel says of the objects, and whether the probes can be put in place. First of all, since
/// what is needed for it is given up afterwards.
pub async fn live(module: &Arc<Loaded>, options: &Options, config: Config, report: &mut Report) -> Result<(), Failure> {
    let name = &module.manifest.module.name;
    let dir = Scratch::new()?;
    let events = dir.0.join("events");
    let run = RunOptions {
        pids: options.pid.into_iter().collect(),
        children: true,
        uids: Vec::new(),
        comms: Vec::new(),
        cgroups: Vec::new(),
        containers: Vec::new(),
        follow: false,
        real_time: true,
        format: Format::Json,
        format_open: false,
        keylog_file: None,
        writes: vec![events.clone()],
        record: None,
        rotation: None,
        duration: Some(LIVE),
        count: None,
        ring_bytes: None,
        btf: None,
        streams: Default::default(),
        bodies: None,
        multiline: false,
        quiet: true,
        losses: false,
        verbose: 0,
        packets: None,
    };
    let asked = Asked { module: module.clone(), options: ModuleOptions { config, targets: options.targets.clone() } };
    match checks::capture(vec![asked], run).await {
        Ok(_) => {
            let totals = totals(&events)?;
            let number = |key: &str| totals.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
            let (events, messages, lost) = (number("events"), number("produced"), number("lost"));
            report.done.push(format!(
                "live: {name} captured for {} s: {events} events of {messages} messages, {lost} lost",
                LIVE.as_secs()
            ));
            if events == 0 {
                let what = format!("no event came within {} s", LIVE.as_secs());
                let fix = "name a target or a process, and let it do what is captured while the check runs";
                report.warn("C-SILENT", Level::Live, what, fix);
            }
        }
        Err(failure) => {
            let fix = failure.remedy.clone().unwrap_or_else(|| "docs/refusals.md explains the code".into());
            report.error(failure.code, Level::Live, failure.message, &fix);
        }
    }
    Ok(())
}

/// What the end of the session says of the one module.
fn totals(events: &Path) -> Result<serde_json::Value, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new("E-OUTPUT", format!("cannot read {}: {e}", events.display()));
    let mut last = String::new();
    for line in BufReader::new(File::open(events).map_err(|e| failed(&e))?).lines() {
        last = line.map_err(|e| failed(&e))?;
    }
    let end: serde_json::Value = serde_json::from_str(&last).map_err(|e| failed(&e))?;
    let totals = end.get("ecapture.session.modules").and_then(|modules| modules.get(0)).cloned();
    totals.ok_or_else(|| failed(&"it has no end of the session"))
}

/// A directory for what is captured, which nobody else can read. Gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("ecapture-check-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|e| Failure::new("E-OUTPUT", format!("cannot make {}: {e}", dir.display())))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
