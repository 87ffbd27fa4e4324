//! `ecapture module info NAME`: what one file says of itself and what the host thinks of it, without running it.

use std::fmt::{Display, Write as _};

use ecapture_plugin_api::manifest::elf::BuildFacts;
use ecapture_plugin_api::manifest::{
    ConfigOption, Manifest, OptionType, Target, TargetKind, format_duration, format_size,
};
use serde::Serialize;

use super::catalog::ModuleEntry;
use super::escape;
use super::list::RefusalRow;

/// The text, with a newline at the end. Everything that comes from the file is escaped.
pub fn text(entry: &ModuleEntry) -> String {
    let mut page = Page::default();
    if let Some(manifest) = &entry.manifest {
        let module = &manifest.module;
        page.field("module", format_args!("{} {}", module.name, module.version));
        page.field("title", &module.title);
        page.field("licence", &module.license);
        page.optional("contact", module.contact.as_deref());
        page.field("command", &module.command);
        page.list("aliases", entry.aliases.iter());
        page.field("module API", module.api);
        page.list("features", module.features.iter());
        page.field("kernel", kernel(manifest));
    }
    page.field("file", entry.file.display());
    page.field("trust", entry.trust);
    page.optional("", entry.trust_problem.as_deref());
    page.field("status", entry.status());
    if let Some(refusal) = &entry.refusal {
        page.field("refused", refusal);
        page.field("do", &refusal.remedy);
    }
    page.optional("build id", entry.build_id.as_deref());
    if let Some(build) = &entry.build {
        page.field("built with", built(build));
    }
    if let Some(manifest) = &entry.manifest {
        sections(&mut page, manifest);
    }
    page.out
}

/// The same as one JSON object: `manifest` holds the whole manifest (null if it could not be understood).
///
/// # Errors
/// None that can happen with these types; serde's is passed on.
pub fn json(entry: &ModuleEntry) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Info<'a> {
        file: String,
        trust: &'static str,
        trust_problem: Option<&'a str>,
        status: &'static str,
        refusal: Option<RefusalRow<'a>>,
        build_id: Option<&'a str>,
        build: Option<&'a BuildFacts>,
        manifest: Option<&'a Manifest>,
    }
    let info = Info {
        file: entry.file.to_string_lossy().into_owned(),
        trust: entry.trust.as_str(),
        trust_problem: entry.trust_problem.as_deref(),
        status: entry.status(),
        refusal: entry.refusal.as_ref().map(RefusalRow::of),
        build_id: entry.build_id.as_deref(),
        build: entry.build.as_ref(),
        manifest: entry.manifest.as_ref(),
    };
    serde_json::to_string_pretty(&info).map(|text| text + "\n")
}

fn sections(page: &mut Page, manifest: &Manifest) {
    page.section("targets", manifest.targets.iter().map(|target| ("", target_line(target))));
    page.section(
        "modes",
        manifest.modes.iter().map(|mode| {
            let default = if mode.default { " (default)" } else { "" };
            (mode.name.as_str(), format!("{}{default}", mode.help))
        }),
    );
    let options: Vec<_> = manifest.config.iter().map(|option| (flag(option), option_line(option))).collect();
    page.section("options", options.iter().map(|(flag, line)| (flag.as_str(), line.clone())));
    page.section(
        "streams",
        manifest.streams.iter().map(|stream| {
            let ring = format_size(i64::try_from(stream.ring).unwrap_or(i64::MAX));
            let most = format_size(i64::try_from(stream.join_max).unwrap_or(i64::MAX));
            let join = if stream.join { format!(", messages joined up to {most}") } else { String::new() };
            (stream.name.as_str(), format!("map {}, ring {ring}{join}", stream.map))
        }),
    );
    for event in &manifest.events {
        let help = if event.help.is_empty() { String::new() } else { format!(": {}", event.help) };
        page.section(
            &format!("event {}.{}{help}", manifest.module.name, event.name),
            event
                .columns
                .iter()
                .map(|column| (column.name.as_str(), format!("{}  {}", word(&column.kind), column.help))),
        );
    }
    page.section("eBPF objects", manifest.bpf.iter().map(|object| (object.id.as_str(), String::new())));
    let permissions = &manifest.permissions;
    let memory = format_size(i64::try_from(permissions.map_memory).unwrap_or(i64::MAX));
    let lists =
        [("programs", &permissions.programs), ("attach", &permissions.attach), ("helpers", &permissions.helpers)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name, list.join(", ")));
    page.section("permissions", lists.chain([("map memory", memory)]));
}

fn kernel(manifest: &Manifest) -> String {
    let kernel = &manifest.kernel;
    let min = kernel.min.map_or_else(|| "any supported".to_owned(), |min| format!("{min} or newer"));
    let btf = if kernel.btf { ", with BTF" } else { "" };
    let arch = if kernel.arch.is_empty() { String::new() } else { format!(", {}", kernel.arch.join(", ")) };
    format!("{min}{btf}{arch}")
}

fn built(build: &BuildFacts) -> String {
    format!(
        "{}, {}, {}, panic = {}, ecapture-plugin-api {}",
        build.rustc, build.target, build.profile, build.panic, build.api
    )
}

fn target_line(target: &Target) -> String {
    let mut parts = vec![match target.kind {
        TargetKind::Executable => "executable".to_owned(),
        TargetKind::Library => "library".to_owned(),
    }];
    for (what, list) in [("", &target.names), ("soname ", &target.sonames), ("at ", &target.paths)] {
        if !list.is_empty() {
            parts.push(format!("{what}{}", list.join(", ")));
        }
    }
    parts.extend(target.option.as_ref().map(|option| format!("or --{option} FILE")));
    parts.join("; ")
}

fn flag(option: &ConfigOption) -> String {
    let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    format!("{short}--{}", option.name)
}

fn option_line(option: &ConfigOption) -> String {
    let number = |value: i64| match option.kind {
        OptionType::Duration => format_duration(value),
        OptionType::Size => format_size(value),
        _ => value.to_string(),
    };
    let mut line = format!("{}  {}", word(&option.kind), option.help);
    let mut extra = Vec::new();
    match (option.min, option.max) {
        (Some(min), Some(max)) => extra.push(format!("{} to {}", number(min), number(max))),
        (Some(min), None) => extra.push(format!("at least {}", number(min))),
        (None, Some(max)) => extra.push(format!("at most {}", number(max))),
        (None, None) => {}
    }
    if !option.values.is_empty() {
        extra.push(option.values.join(", "));
    }
    if let Some(default) = &option.default {
        let default = match default {
            ecapture_plugin_api::plan::Value::Int(value) => number(*value),
            other => other.to_string(),
        };
        extra.push(format!("default {default}"));
    }
    if !extra.is_empty() {
        let _ = write!(line, " [{}]", extra.join("; "));
    }
    line
}

/// The word that the manifest uses for a value of one of its enumerations.
fn word(kind: &impl Serialize) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[derive(Default)]
struct Page {
    out: String,
}

impl Page {
    fn field(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.out, "{name:<12}{}", escape::line(&value.to_string()));
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    fn list<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a String>) {
        let values: Vec<&str> = values.map(String::as_str).collect();
        if !values.is_empty() {
            self.field(name, values.join(", "));
        }
    }

    fn section<'a>(&mut self, title: &str, lines: impl Iterator<Item = (&'a str, String)>) {
        let lines: Vec<(String, String)> =
            lines.map(|(name, text)| (escape::line(name), escape::line(&text))).collect();
        if lines.is_empty() {
            return;
        }
        let _ = writeln!(self.out, "\n{}", escape::line(title));
        let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, text) in lines {
            let gap = if width == 0 || text.is_empty() { "" } else { "  " };
            let line = if width == 0 { format!("  {text}") } else { format!("  {name:<width$}{gap}{text}") };
            let _ = writeln!(self.out, "{}", line.trim_end());
        }
    }
}
