//! Statements of SQLite: the detector and the plan. What the kernel side sends is decoded in `decode`.

mod decode;

use std::collections::BTreeMap;

use ecapture_plugin_api::plan::{Configured, Detected, DetectedVersion, Hex, Locator, Object, Probe, ProbeKind};
use ecapture_plugin_api::sdk::{Config, Error, Host, Module, Target, elf::Elf};

pub use decode::Decoder;

/// The module.
pub struct Sqlite;

/// Program, kind, function, argument of the probe (bpf/module.h: `enum type`; for `leave` whether the statement is gone).
const PROBES: [(&str, ProbeKind, &str, u32); 10] = [
    ("step", ProbeKind::Entry, "sqlite3_step", 0),
    ("stepped", ProbeKind::Return, "sqlite3_step", 0),
    ("leave", ProbeKind::Entry, "sqlite3_reset", 0),
    ("leave", ProbeKind::Entry, "sqlite3_finalize", 1),
    ("bind", ProbeKind::Entry, "sqlite3_bind_null", 0),
    ("bind", ProbeKind::Entry, "sqlite3_bind_int64", 1),
    ("bind", ProbeKind::Entry, "sqlite3_bind_double", 2),
    ("bind", ProbeKind::Entry, "sqlite3_bind_text", 3),
    ("bind_string", ProbeKind::Entry, "sqlite3_bind_text", 3),
    ("bind", ProbeKind::Entry, "sqlite3_bind_blob", 4),
];

impl Module for Sqlite {
    type Decoder = Decoder;

    fn configure(_: &Host, _: &Config) -> Result<Configured, Error> {
        let object = Object { id: "module".into(), programs: Vec::new(), globals: BTreeMap::new() };
        Ok(Configured { objects: vec![object], ..Configured::default() })
    }

    /// Everything is read from the file itself: no table of versions.
    fn detect(_: &Host, target: &Target<'_>, config: &Config) -> Result<Detected, Error> {
        let elf = match Elf::parse(target.bytes()) {
            Ok(elf) => elf,
            Err(why) => return Ok(Detected::unsupported(format!("not a program or library: {why}"))),
        };
        let Some(text) = text_offset(&elf) else {
            return Ok(Detected::unsupported(
                "no function sqlite3_sql that tells where statements keep their text: is this a build of SQLite that exports its functions?",
            ));
        };
        let wanted = |program: &str| !program.starts_with("bind") || config.bool("parameters");
        let probes = PROBES.iter().filter(|p| wanted(p.0)).map(|(program, kind, function, arg)| Probe {
            object: "module".into(),
            program: (*program).into(),
            kind: *kind,
            at: Locator::Symbol((*function).into()),
            args: 4,
            arg: *arg,
            // Without the kinds of values that a build leaves out there is still something to capture.
            required: !program.starts_with("bind"),
            group: None,
        });
        let layout = [1_u32.to_le_bytes(), text.to_le_bytes()].concat();
        Ok(Detected { probes: probes.collect(), layout: Hex(layout), ..Detected::supported(version(&elf)) })
    }

    fn decoder(_: &Host, config: &Config) -> Result<Decoder, Error> {
        Ok(Decoder::new(config.bool("parameters")))
    }
}

/// `sqlite3_sql(statement)` returns the text: its own code says where that is (`mov 0xf8(%rdi),%rax`).
fn text_offset(elf: &Elf<'_>) -> Option<u32> {
    let code = elf.code(&elf.symbol("sqlite3_sql")?)?;
    let code = code.get(..32).unwrap_or(code);
    let at = code.windows(3).position(|w| w == [0x48, 0x8b, 0x87])? + 3;
    let offset = u32::from_le_bytes(code.get(at..at + 4)?.try_into().ok()?);
    (offset < 4096).then_some(offset)
}

fn version(elf: &Elf<'_>) -> DetectedVersion {
    let text = elf.symbol("sqlite3_version").and_then(|symbol| elf.string_at(symbol.address));
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).filter(|t| t.len() < 32);
    DetectedVersion {
        product: "SQLite".into(),
        text: text.unwrap_or("unknown").into(),
        how: if text.is_some() { "its variable sqlite3_version" } else { "it has no variable sqlite3_version" }.into(),
    }
}

ecapture_plugin_api::export_module!(
    Sqlite,
    manifest = "module.toml",
    objects = { "module" => include_bytes!(concat!(env!("OUT_DIR"), "/module.bpf.o")) },
);
