//! `ecapture module info | plan`: looks at modules, changes nothing, needs no privilege.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use ecapture_plugin_api::plan::Config;
use serde_json::json;

use super::options::mode_of;
use super::{internal, load, print, unknown};
use crate::broker::{self, Prepared, Request};
use crate::failure::{Exit, Failure};
use crate::module::{Catalog, Facts, Loaded, escape, info};
use crate::target::Later;
use crate::template;

/// Runs one of the sub-commands.
pub fn run(catalog: &Catalog, facts: &Facts, matches: &ArgMatches) -> Result<Exit, Failure> {
    let Some((verb, matches)) = matches.subcommand() else { return Ok(Exit::Usage) };
    if verb == "new" {
        let name = matches.get_one::<String>("name").map(String::as_str).unwrap_or_default();
        let made = template::make(name, matches.get_one::<String>("dir").map(Path::new))?;
        return print(&next_steps(name, &made));
    }
    if verb == "check" {
        return super::check::run(facts, matches);
    }
    if verb == "replay" {
        return super::replay::run(facts, matches);
    }
    let name = matches.get_one::<String>("name").map(String::as_str).unwrap_or_default();
    let as_json = matches.get_flag("json");
    if verb == "info" {
        let entry = catalog.find_for_info(name).map_err(|e| unknown(&e))?;
        let text = if as_json { info::json(entry).map_err(internal)? } else { info::text(entry) };
        return print(&text);
    }
    let module = load(catalog, facts, name)?;
    let target = matches.get_one::<String>("target").map(PathBuf::from).unwrap_or_default();
    let options = module
        .manifest
        .check_config(&std::collections::BTreeMap::new())
        .map_err(|e| Failure::new("E-CONFIG", format!("--{}: {}", e.option, e.message)).exit(Exit::Usage))?;
    let mode = mode(&module, matches.get_one::<String>("mode"))?;
    let config = Config::new(mode, options);
    let request = Request { config: &config, targets: &[target], pids: &[], later: Later::default() };
    let prepared = broker::block_on(broker::prepare(&module, &request))?;
    if as_json { plan_json(&prepared) } else { print(&plan_text(&module, &prepared)) }
}

/// What to type next.
fn next_steps(name: &str, made: &Path) -> String {
    let dir = escape::os(made.as_os_str());
    format!(
        "{dir}: a module that captures from SQLite; make it yours\n\n  cd {dir}\n  cargo build --release\n  \
         ecapture module check target/release/libecap_{name}.so --level robust\n  \
         sudo ecapture --modules-dir target/release --allow-untrusted {name}\n\ndocs/writing-a-module.md tells how.\n"
    )
}

/// The mode asked for, or the module's default.
fn mode(module: &Loaded, asked: Option<&String>) -> Result<String, Failure> {
    let manifest = &module.manifest;
    let Some(name) = asked else { return Ok(manifest.default_mode().map(|m| m.name.clone()).unwrap_or_default()) };
    mode_of(manifest, name).map(|mode| mode.name.clone()).ok_or_else(|| {
        let known: Vec<&str> = manifest.modes.iter().map(|m| m.name.as_str()).collect();
        let text = format!("module {} has no mode {name:?}; it has: {}", manifest.module.name, known.join(", "));
        Failure::new("E-USAGE", text).exit(Exit::Usage)
    })
}

/// The plan for people: what was found and how, and for each probe the place, its cost and the reason.
fn plan_text(module: &Loaded, prepared: &Prepared) -> String {
    let mut out = String::new();
    for target in &prepared.targets {
        let _ = writeln!(out, "{} in {}", module.manifest.module.name, escape::os(target.found.path.as_os_str()));
        if let Some(version) = &target.detected.version {
            let text = format!("{} {} ({})", version.product, version.text, version.how);
            let _ = writeln!(out, "  version   {}", escape::line(&text));
        }
        if let Some(id) = target.answer.file.as_ref().and_then(|f| f.build_id.as_ref()) {
            let _ = writeln!(out, "  build id  {}", escape::line(id));
        }
        for note in &target.detected.notes {
            let _ = writeln!(out, "  note      {}", escape::line(note));
        }
        for (index, probe) in (0..).zip(&target.detected.probes) {
            if let Some(other) = broker::not_needed(&target.detected, &target.answer, probe) {
                let group = probe.group.as_deref().unwrap_or_default();
                let text = format!("{} ({:?}) of {group}: not needed beside {other}", probe.program, probe.kind);
                let _ = writeln!(out, "  {}", escape::line(&text));
                continue;
            }
            let _ = writeln!(out, "  {} ({:?})", escape::line(&probe.program), probe.kind);
            match target.answer.placed.iter().find(|p| p.index == index) {
                Some(place) => {
                    let offsets: Vec<String> = place.points.iter().map(|p| format!("{:#x}", p.offset)).collect();
                    let _ = writeln!(
                        out,
                        "    at      {} +{:#x}, file offset {}",
                        escape::line(&place.function),
                        place.delta,
                        offsets.join(", ")
                    );
                    if let Some(found) = &place.found {
                        let _ = writeln!(out, "    found   {}", escape::line(found));
                    }
                    let _ = writeln!(out, "    on      {} ({:?})", escape::line(&place.instruction), place.cost);
                    let _ = writeln!(out, "    why     {}", escape::line(&place.why));
                }
                None => {
                    let why = target.answer.failed.iter().find(|f| f.index == index).map_or("", |f| f.why.as_str());
                    let _ = writeln!(out, "    not placed: {}", escape::line(why));
                }
            }
        }
    }
    out
}

fn plan_json(prepared: &Prepared) -> Result<Exit, Failure> {
    let targets: Vec<_> = prepared
        .targets
        .iter()
        .map(|t| json!({ "path": t.found.path, "detected": t.detected, "scout": t.answer }))
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "schema": 1, "targets": targets })).map_err(internal)?;
    print(&(text + "\n"))
}
