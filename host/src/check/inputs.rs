//! What a module is given to chew on: files that are targets and files that are not, values at the edge of what is allowed,
//! recordings.

use std::fs::File;
use std::io::{BufReader, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::{ConfigOption, Manifest, OptionType};
use ecapture_plugin_api::plan::{Config, Value};

use super::Options;
use super::finding::Level;
use crate::failure::Failure;
use crate::recording::{self, Block, Reader};
use crate::sandbox;
use crate::target::discover;

/// Records of the recordings that are kept as seeds.
const SEEDS: usize = 5_000;

/// Opened while there may be rights to.
pub struct Files {
    pub recordings: Vec<(PathBuf, File)>,
    /// Those given, and those in the usual places.
    pub targets: Vec<(String, File)>,
}

/// Opens what is named, and what is in the manifest's usual places.
pub fn open(options: &Options, manifest: &Manifest) -> Result<Files, Failure> {
    let file = |path: &PathBuf, code| {
        File::open(path).map_err(|e| Failure::new(code, format!("cannot read {}: {e}", path.display())))
    };
    let recordings: Result<_, _> =
        options.recordings.iter().map(|path| Ok((path.clone(), file(path, "E-RECORDING")?))).collect();
    let targets: Result<Vec<_>, Failure> =
        options.targets.iter().map(|path| Ok((path.display().to_string(), file(path, "E-TARGET")?))).collect();
    let mut targets: Vec<(String, File)> = targets?;
    if options.level >= Level::Behaviour {
        let usual = discover::in_usual_places(&manifest.targets).into_iter();
        targets.extend(usual.map(|found| (found.path.display().to_string(), found.file)));
    }
    Ok(Files { recordings: recordings?, targets })
}

/// Files that are nobody's target, made out of the module's own.
pub fn hostile(image: &[u8]) -> Result<Vec<(String, File)>, Failure> {
    let mut all = Vec::new();
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

/// A file in memory.
pub fn memory(bytes: &[u8]) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::new("E-CHILD", format!("cannot make a file in memory: {e}"));
    let mut file = sandbox::memfd::scratch("check").map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    Ok(file)
}

/// Values that are allowed, and as far out as that goes.
pub fn edges(option: &ConfigOption) -> Vec<Value> {
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

/// A recording of the module: its number there, and what it ran with. `given`: options that hold in any case.
pub fn recorded(path: &Path, file: &File, manifest: &Manifest, given: &Config) -> Result<(u8, Config), Failure> {
    let unusable = |why: &dyn std::fmt::Display| Failure::new("E-RECORDING", format!("{}: {why}", path.display()));
    let (_, header) = read(file).map_err(|e| unusable(&e))?;
    let (number, then) = recording::number(&header, &manifest.module.name).map_err(|e| unusable(&e))?;
    let (mut config, _) = recording::config(manifest, then).map_err(|e| unusable(&e))?;
    config.options.extend(given.options.clone());
    Ok((number, config))
}

/// Records of a recording, to be changed.
pub fn collect(file: &File, module: u8, seeds: &mut Vec<Vec<u8>>) {
    let Ok((mut reader, _)) = read(file) else { return };
    while seeds.len() < SEEDS {
        match reader.block() {
            Ok(Block::Record { module: of, bytes, .. }) if of == module => seeds.push(bytes.to_vec()),
            Ok(Block::Record { .. } | Block::Gap { .. }) => {}
            Ok(Block::End(_)) | Err(_) => break,
        }
    }
}

fn read(file: &File) -> Result<(Reader<BufReader<File>>, recording::Header), recording::Damage> {
    let mut file = rustix::io::dup(file.as_fd()).map(File::from).map_err(std::io::Error::from)?;
    file.rewind()?;
    Reader::new(BufReader::new(file))
}
