//! From TOML to [`Manifest`]: every rule of the schema, in the order of the text.

mod options;
mod parts;

use super::{
    ApiVersion, Kernel, KernelVersion, MAX_LIST, MAX_MANIFEST, MAX_PARTS, MAX_TEXT, Manifest, ManifestError, Mode,
    ModeOutput, ModuleInfo, OptionType, Permissions, RESERVED_NAMES, SCHEMA, Target, TargetKind, Version, names,
    reader::{Field, Section, line, quote},
};
use toml::de::DeTable;

type Result<T> = std::result::Result<T, ManifestError>;

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its line and key.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_MANIFEST {
            let message = format!("{} bytes; at most {MAX_MANIFEST} are allowed", text.len());
            return Err(ManifestError { line: 0, key: String::new(), message });
        }
        let document = DeTable::parse(text).map_err(|e| ManifestError {
            line: e.span().map_or(1, |span| line(text, span.start)),
            key: String::new(),
            message: format!("not TOML: {}", e.message().lines().collect::<Vec<_>>().join("; ")),
        })?;
        read(&Section::root(text, &document))
    }
}

fn read(root: &Section<'_>) -> Result<Manifest> {
    // Before the keys: a manifest of another schema is told so, not that its keys are unknown.
    let schema = root.need("schema")?;
    if schema.int()? != SCHEMA {
        return Err(schema.error(format!("{} is not a schema that is known here (known: {SCHEMA})", schema.int()?)));
    }
    root.only(&["schema", "module", "kernel", "target", "mode", "bpf", "config", "stream", "event", "permissions"])?;
    let module = root.need("module")?;
    let module = root.table("module")?.ok_or_else(|| module.error("missing"))?;
    let manifest = Manifest {
        schema: 1,
        module: read_module(&module)?,
        kernel: read_kernel(root)?,
        config: options::read_options(root)?,
        targets: read_targets(root)?,
        modes: read_modes(root)?,
        bpf: parts::read_bpf(root)?,
        streams: parts::read_streams(root)?,
        events: parts::read_events(root)?,
        permissions: read_permissions(root)?,
    };
    for (i, target) in root.tables("target", MAX_PARTS)?.iter().enumerate() {
        let Some(name) = manifest.targets.get(i).and_then(|t| t.option.as_deref()) else { continue };
        if !manifest.option(name).is_some_and(|o| o.kind == OptionType::Path) {
            return Err(
                target.error_at("option", format!("{} is not a [[config]] option of type \"path\"", quote(name)))
            );
        }
    }
    Ok(manifest)
}

fn read_module(section: &Section<'_>) -> Result<ModuleInfo> {
    section.only(&["name", "version", "title", "license", "contact", "command", "aliases", "api", "features"])?;
    let name = command(&section.need("name")?)?;
    let own_command = section.get("command").map(|f| command(&f)).transpose()?;
    let aliases = section.list("aliases", MAX_LIST, command)?;
    let own_command = own_command.unwrap_or_else(|| name.clone());
    if aliases.contains(&own_command) {
        return Err(section.error_at("aliases", format!("{} is the command itself", quote(&own_command))));
    }
    Ok(ModuleInfo {
        version: version(&section.need("version")?)?,
        title: section.need("title")?.line_of_text(MAX_TEXT)?,
        license: section.need("license")?.line_of_text(MAX_TEXT)?,
        contact: section.get("contact").map(|f| f.line_of_text(MAX_TEXT)).transpose()?,
        api: {
            let field = section.need("api")?;
            let (major, minor) = pair(&field, "a version of the module API, as \"1.0\"")?;
            ApiVersion { major, minor }
        },
        features: section.list("features", MAX_LIST, Field::name)?,
        command: own_command,
        aliases,
        name,
    })
}

/// A name that becomes a command.
fn command(field: &Field<'_>) -> Result<String> {
    let name = field.name()?;
    if RESERVED_NAMES.contains(&name.as_str()) {
        return Err(field.error(format!("{name:?} is reserved for the host ({})", RESERVED_NAMES.join(", "))));
    }
    Ok(name)
}

/// `MAJOR.MINOR`.
fn pair(field: &Field<'_>, what: &str) -> Result<(u32, u32)> {
    let text = field.str()?;
    let parts = text.split_once('.').and_then(|(a, b)| Some((number(a)?, number(b)?)));
    parts.ok_or_else(|| field.error(format!("{} is not {what}", quote(text))))
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

fn version(field: &Field<'_>) -> Result<Version> {
    let text = field.str()?;
    let read = || {
        let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.split('.').map(number);
        let version = [parts.next()??, parts.next()??, parts.next()??];
        let pre_ok = pre.len() <= 32 && pre.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
        let whole = parts.next().is_none() && pre_ok && (text.contains('-') != pre.is_empty());
        whole.then(|| Version { parts: version, pre: pre.to_owned() })
    };
    read().ok_or_else(|| field.error(format!("{} is not a version, as \"1.2.3\" or \"1.2.3-rc.1\"", quote(text))))
}

fn read_kernel(root: &Section<'_>) -> Result<Kernel> {
    let Some(section) = root.table("kernel")? else {
        return Ok(Kernel { min: None, btf: true, arch: Vec::new() });
    };
    section.only(&["min", "btf", "arch"])?;
    let min = section.get("min").map(|f| pair(&f, "a kernel release, as \"5.15\"")).transpose()?;
    Ok(Kernel {
        min: min.map(|(major, minor)| KernelVersion { major, minor }),
        btf: section.get("btf").map_or(Ok(true), |f| f.bool())?,
        arch: section
            .list("arch", MAX_LIST, |f| f.one_of(&[("x86_64", "x86_64"), ("aarch64", "aarch64")]).map(str::to_owned))?,
    })
}

/// Texts of one `contains`, and the length of one in bytes: each costs a pass over every file.
const MAX_CONTAINED: usize = 8;
const MIN_CONTAINED: usize = 6;

fn read_targets(root: &Section<'_>) -> Result<Vec<Target>> {
    root.tables("target", MAX_PARTS)?.iter().map(read_target).collect()
}

fn read_target(section: &Section<'_>) -> Result<Target> {
    section.only(&["kind", "names", "sonames", "contains", "paths", "option"])?;
    let kind =
        section.need("kind")?.one_of(&[("executable", TargetKind::Executable), ("library", TargetKind::Library)])?;
    let file_name = |f: &Field<'_>| {
        let name = f.line_of_text(MAX_TEXT)?;
        if name.contains('/') {
            Err(f.error(format!("{} is a path; a file name is expected", quote(&name))))
        } else {
            Ok(name)
        }
    };
    let target = Target {
        kind,
        names: section.list("names", MAX_LIST, file_name)?,
        sonames: section.list("sonames", MAX_LIST, |f| {
            let name = file_name(f)?;
            if name.trim_end_matches('*').contains('*') || name.ends_with("**") || name == "*" {
                return Err(f.error("a * may only stand once, at the end of a name"));
            }
            Ok(name)
        })?,
        contains: section.list("contains", MAX_CONTAINED, |f| {
            let text = f.line_of_text(MAX_TEXT)?;
            let short = text.len() < MIN_CONTAINED;
            if short { Err(f.error(format!("{} is too short to tell anything", quote(&text)))) } else { Ok(text) }
        })?,
        paths: section.list("paths", MAX_LIST, |f| {
            let path = f.line_of_text(super::MAX_HELP)?;
            let plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
            if plain { Ok(path) } else { Err(f.error(format!("{} is not an absolute path without ..", quote(&path)))) }
        })?,
        option: section.get("option").map(|f| f.name()).transpose()?,
    };
    if kind == TargetKind::Executable && !target.sonames.is_empty() {
        return Err(section.error_at("sonames", "an executable has none; use names"));
    }
    let by_name = !target.names.is_empty() || !target.sonames.is_empty() || !target.paths.is_empty();
    if !by_name && target.contains.is_empty() && target.option.is_none() {
        return Err(section.error("one of names, sonames, contains, paths and option must be given"));
    }
    Ok(target)
}

fn read_modes(root: &Section<'_>) -> Result<Vec<Mode>> {
    let sections = root.tables("mode", MAX_PARTS)?;
    let mut modes: Vec<Mode> = Vec::new();
    for section in &sections {
        section.only(&["name", "help", "default", "output"])?;
        let name = section.need("name")?;
        let default = section.get("default").map_or(Ok(sections.len() == 1), |f| f.bool())?;
        let help = section.need("help")?.line_of_text(super::MAX_HELP)?;
        let output = section.get("output").map(|f| mode_output(&f)).transpose()?;
        let mode = Mode { name: name.name()?, help, default, output };
        if modes.iter().any(|m| m.name == mode.name) {
            return Err(name.error(format!("{} is there twice", quote(&mode.name))));
        }
        if default && modes.iter().any(|m| m.default) {
            return Err(section.error_at("default", "a second default mode"));
        }
        modes.push(mode);
    }
    if modes.is_empty() {
        let help = "Events as they come".to_owned();
        modes.push(Mode { name: "text".to_owned(), help, default: true, output: None });
    }
    match (modes.iter().any(|m| m.default), sections.first()) {
        (false, Some(section)) => Err(section.error_at("default", "no mode is the default one")),
        _ => Ok(modes),
    }
}

fn mode_output(field: &Field<'_>) -> Result<ModeOutput> {
    field.one_of(&[
        ("text", ModeOutput::Text),
        ("json", ModeOutput::Json),
        ("hex", ModeOutput::Hex),
        ("keylog", ModeOutput::Keylog),
        ("pcapng", ModeOutput::Pcapng),
    ])
}

fn read_permissions(root: &Section<'_>) -> Result<Permissions> {
    const MAP_MEMORY: u64 = 64 << 20;
    let Some(section) = root.table("permissions")? else {
        return Ok(Permissions { map_memory: MAP_MEMORY, ..Permissions::default() });
    };
    section.only(&["programs", "attach", "helpers", "map_memory"])?;
    let place = |c: char| c.is_ascii_alphanumeric() || "_/.:-".contains(c);
    let identifier = |f: &Field<'_>| f.matching(names::is_identifier, "a name of letters, digits and _");
    Ok(Permissions {
        programs: section.list("programs", MAX_LIST, identifier)?,
        attach: section.list("attach", MAX_LIST, |f| {
            f.matching(
                |t| !t.is_empty() && t.len() <= MAX_TEXT && t.chars().all(place),
                "a place, as \"tp_btf/sched_process_fork\"",
            )
        })?,
        helpers: section.list("helpers", MAX_LIST, |f| {
            f.matching(
                |t| names::is_identifier(t) && t.starts_with("bpf_"),
                "the name of a helper, as \"bpf_get_stack\"",
            )
        })?,
        map_memory: section.get("map_memory").map_or(Ok(MAP_MEMORY), |f| parts::size(&f, 4096, 16 << 30))?,
    })
}

#[cfg(test)]
mod tests;
