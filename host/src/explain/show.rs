//! The verdicts as text and as JSON.

use std::fmt::Write as _;

use ecapture_plugin_api::plan::Probe;
use serde_json::{Value, json as value};

use super::verdict::Verdict;
use super::{File, Told};
use crate::broker::not_needed;
use crate::module::escape;

/// Processes of one file that are listed one by one; the causes of more are counted.
const MAX_LISTED: usize = 200;
/// Processes that are listed at the end of a run.
const MAX_BRIEF: usize = 10;

/// For people: a block for each process that was named, else one for each file.
#[must_use]
pub fn text(told: &Told) -> String {
    let mut out = String::new();
    if told.named {
        for verdict in &told.verdicts {
            process(&mut out, told, verdict);
        }
    } else {
        by_file(&mut out, told);
    }
    if !told.lacks.is_empty() {
        let _ = writeln!(out, "capturing needs privileges that this process does not have: {}", told.lacks.join(", "));
        let _ = writeln!(out, "  do        run it as root, for example with sudo");
    }
    out
}

/// The verdicts alone, for the end of a run that saw nothing: what would not be captured first, since it is what somebody misses.
#[must_use]
pub fn brief(told: &Told) -> Vec<String> {
    let (captured, others): (Vec<&Verdict>, Vec<&Verdict>) = told.verdicts.iter().partition(|v| v.is_captured());
    let mut lines = Vec::new();
    for verdict in others.iter().chain(&captured).take(MAX_BRIEF) {
        let uses = verdict.files.iter().filter_map(|at| told.files.get(*at));
        let uses: Vec<String> = uses.map(|file| escape::os(file.path.as_os_str())).collect();
        let uses = if uses.is_empty() { String::new() } else { format!(" (uses {})", uses.join(", ")) };
        match verdict.causes.first() {
            None => {
                let pid = verdict.process.pid;
                let comm = escape::line(&verdict.process.comm);
                lines.push(format!("process {pid} ({comm}): it would have been captured, and called nothing{uses}"));
            }
            Some(cause) => {
                let step = cause.step.as_ref().map_or(String::new(), |step| format!("; {step}"));
                lines.push(format!("{}{uses}: {}{step}", headline(verdict), cause.why));
            }
        }
    }
    let more = told.verdicts.len().saturating_sub(MAX_BRIEF);
    if more > 0 {
        lines.push(format!("and {more} more processes"));
    }
    if told.verdicts.is_empty() {
        lines.push(format!("no process uses any of: {}", escape::line(&told.wanted)));
    }
    lines
}

fn process(out: &mut String, told: &Told, verdict: &Verdict) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", headline(verdict));
    if let Ok((exe, deleted)) = &verdict.process.exe {
        let mark = if *deleted { " (deleted)" } else { "" };
        let _ = writeln!(out, "  runs      {}{mark}", escape::os(exe.as_os_str()));
    }
    for at in &verdict.files {
        if let Some(file) = told.files.get(*at) {
            let _ = writeln!(out, "  uses      {} ({})", escape::os(file.path.as_os_str()), kind(file));
            facts(out, file, true);
        }
    }
    for path in &verdict.process.similar {
        let _ = writeln!(out, "  similar   {}", escape::os(path.as_os_str()));
    }
    reasons(out, verdict, "  ");
}

fn headline(verdict: &Verdict) -> String {
    let word = if verdict.is_captured() { "captured" } else { "not captured" };
    format!("process {} ({}): {word}", verdict.process.pid, escape::line(&verdict.process.comm))
}

fn reasons(out: &mut String, verdict: &Verdict, indent: &str) {
    for note in &verdict.notes {
        let _ = writeln!(out, "{indent}note      {note}");
    }
    for cause in &verdict.causes {
        let _ = writeln!(out, "{indent}why       {}", cause.why);
        if let Some(step) = &cause.step {
            let _ = writeln!(out, "{indent}do        {step}");
        }
    }
}

fn by_file(out: &mut String, told: &Told) {
    for (at, file) in told.files.iter().enumerate() {
        let _ = writeln!(out, "{} ({}, {})", escape::os(file.path.as_os_str()), kind(file), file.how);
        facts(out, file, false);
        if let Err(failure) = &file.examined.target {
            let _ = writeln!(out, "  unusable  {}: {}", failure.code, escape::line(&failure.message));
        }
        let users: Vec<&Verdict> = told.verdicts.iter().filter(|v| v.files.contains(&at)).collect();
        if users.is_empty() {
            let _ = writeln!(out, "  no process uses it now");
        }
        list(out, &users);
    }
    let nearly: Vec<&Verdict> = told.verdicts.iter().filter(|v| v.files.is_empty()).collect();
    if !nearly.is_empty() {
        let _ = writeln!(out, "nearly:");
        list(out, &nearly);
    }
    let (others, unseen) = told.others;
    let verb = if others == 1 { "process uses" } else { "processes use" };
    let closed = if unseen == 0 { String::new() } else { format!(" ({unseen} of them cannot be looked at)") };
    let _ = writeln!(out, "{others} other {verb} none of: {}{closed}", escape::line(&told.wanted));
}

fn list(out: &mut String, users: &[&Verdict]) {
    for verdict in users.iter().take(MAX_LISTED) {
        let _ = writeln!(out, "  {}", headline(verdict));
        reasons(out, verdict, "    ");
    }
    if users.len() > MAX_LISTED {
        let _ = writeln!(out, "  and {} more", users.len() - MAX_LISTED);
    }
}

fn kind(file: &File) -> &'static str {
    if file.program { "program" } else { "library" }
}

/// Version, build id, and how the functions were found.
fn facts(out: &mut String, file: &File, all: bool) {
    if let Ok(target) = &file.examined.target
        && let Some(id) = target.answer.file.as_ref().and_then(|f| f.build_id.as_ref())
    {
        let _ = writeln!(out, "  build id  {}", escape::line(id));
    }
    let Some(detected) = &file.examined.detected else { return };
    if let Some(version) = &detected.version {
        let text = format!("{} {} ({})", version.product, version.text, version.how);
        let _ = writeln!(out, "  version   {}", escape::line(&text));
    }
    for note in detected.notes.iter().filter(|_| all) {
        let _ = writeln!(out, "  note      {}", escape::line(note));
    }
    let Ok(target) = &file.examined.target else { return };
    let needed = |probe: &&Probe| not_needed(detected, &target.answer, probe).is_none();
    let wanted = detected.probes.iter().filter(needed).count();
    let is_placed = |index: u32| target.answer.placed.iter().any(|p| p.index == index);
    let placed = (0..).zip(&detected.probes).filter(|(index, probe)| needed(probe) && is_placed(*index)).count();
    let _ = writeln!(out, "  probes    {placed} of {wanted} placed");
    for (index, probe) in (0..).zip(&detected.probes).filter(|(_, probe)| needed(probe)) {
        let place = target.answer.placed.iter().find(|p| p.index == index);
        let said = match place {
            Some(place) if all => format!("in {}: {}", place.function, place.why),
            Some(_) => continue,
            None => {
                let why = target.answer.failed.iter().find(|f| f.index == index).map_or("", |f| f.why.as_str());
                format!("not placed: {why}")
            }
        };
        let _ = writeln!(out, "    {} {}", escape::line(&probe.program), escape::line(&said));
    }
}

/// One object; keys may be added, never renamed or removed.
///
/// # Errors
/// Of `serde_json`; not seen.
pub fn json(told: &Told) -> serde_json::Result<String> {
    let files: Vec<Value> = told
        .files
        .iter()
        .map(|f| {
            let target = f.examined.target.as_ref();
            let why = target.err().map(|e| value!({ "code": e.code, "text": e.message, "do": e.remedy }));
            value!({
                "path": f.path.to_string_lossy(), "kind": kind(f), "found": f.how, "usable": target.is_ok(), "why": why,
                "detected": f.examined.detected, "scout": target.ok().map(|t| &t.answer),
            })
        })
        .collect();
    let all = value!({
        "schema": 1, "module": told.command, "looks_for": told.wanted, "missing_privileges": told.lacks,
        "processes": told.verdicts.iter().map(of_process).collect::<Vec<_>>(), "files": files,
        "other_processes": told.others.0, "closed_processes": told.others.1,
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn of_process(verdict: &Verdict) -> Value {
    let process = &verdict.process;
    let causes: Vec<Value> =
        verdict.causes.iter().map(|c| value!({ "kind": c.kind, "why": c.why, "do": c.step })).collect();
    let exe = process.exe.as_ref().ok();
    value!({
        "pid": process.pid, "name": process.comm, "executable": exe.map(|e| e.0.to_string_lossy()),
        "deleted": exe.is_some_and(|e| e.1), "captured": verdict.is_captured(), "files": verdict.files,
        "causes": causes, "notes": verdict.notes,
        "similar": process.similar.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>(),
    })
}
