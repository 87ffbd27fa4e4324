//! The version detector: from the bytes of one shell to its version, the functions to probe, and one row for the kernel
//! side. Everything is read from the file itself; there is no table of versions.

use crate::record::format;
use ecapture_plugin_api::sdk::elf::{Elf, Symbol};
use std::collections::HashMap;

/// Bytes of `struct zsh_layout`.
#[cfg(test)]
pub const LAYOUT: usize = 32;

/// A function that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// The function.
    pub symbol: &'static str,
    /// How many arguments the program reads.
    pub args: u8,
    /// Without it nothing is exact.
    pub required: bool,
    /// What is missing without it.
    pub without: &'static str,
}

/// What is probed.
pub const HOOKS: [Hook; 3] = [
    Hook { program: "zsh_run", symbol: "execode", args: 4, required: true, without: "" },
    Hook { program: "zsh_release", symbol: "freeeprog", args: 1, required: true, without: "" },
    Hook {
        program: "zsh_editor",
        symbol: "zleentry",
        args: 1,
        required: false,
        without: "what the line editor evaluates for itself is shown as well",
    },
];

const STATUS: &str = "lastval";

const REMEDY: &str = "install the distribution's own zsh package (not zsh-static), or name a shell that exports its \
                      functions with --zsh: one for which `nm -D` lists execode";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// Its version.
    pub version: String,
    /// How that was found.
    pub how: String,
    /// The functions to probe that the file has.
    pub hooks: Vec<Hook>,
    /// The row for `ecap_layouts`.
    pub layout: Vec<u8>,
    /// How each thing was found, and what will be missing.
    pub notes: Vec<String>,
}

/// Looks at one file.
///
/// # Errors
/// Why the file can't be captured from, and what to do: a sentence for the user.
pub fn detect(bytes: &[u8]) -> Result<Detection, String> {
    let elf = Elf::parse(bytes).map_err(|why| format!("not a program that can be read: {why}"))?;
    let mut symbols: HashMap<&[u8], Symbol<'_>> = HashMap::new();
    for symbol in elf.symbols() {
        symbols.entry(symbol.name).or_insert(symbol);
    }
    let address = |name: &str| symbols.get(name.as_bytes()).map(|symbol| symbol.address).filter(|at| *at != 0);
    let version = version(&elf);
    if symbols.is_empty() {
        let what = if version.is_some() { "this zsh" } else { "this file" };
        return Err(format!(
            "{what} has no symbols, not even exported ones: it is linked statically and stripped, so its functions can't \
             be found; {REMEDY}"
        ));
    }
    let required = HOOKS.iter().filter(|hook| hook.required).map(|hook| hook.symbol);
    let missing: Vec<&str> = required.chain([STATUS]).filter(|name| address(name).is_none()).collect();
    if !missing.is_empty() {
        let what = if version.is_some() { "this zsh does not export" } else { "this is no zsh: it has no" };
        return Err(format!("{what} {}; {REMEDY}", missing.join(", ")));
    }
    // Without a version the code's form would be a guess, and texts of functions with it.
    let Some((text, how, number)) = version else {
        return Err(format!("the version of this zsh is not in its constants (as .../zsh/5.9); {REMEDY}"));
    };
    if number < (5, 8) {
        return Err(format!("zsh {text} is older than 5.8, the oldest that this module knows; use zsh 5.8 or later"));
    }
    let form = if number < (5, 9) { format::V5_8 } else { format::V5_9 };
    let mut notes = vec![format!("version {text}: {how}")];
    let mut hooks = Vec::new();
    for hook in HOOKS {
        if address(hook.symbol).is_some() {
            hooks.push(hook);
        } else {
            notes.push(format!("no function {}: {}", hook.symbol, hook.without));
        }
    }
    let row = [1, address("freeeprog").unwrap_or(0), address(STATUS).unwrap_or(0), u64::from(form)];
    let layout = row.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    Ok(Detection { version: text, how, hooks, layout, notes })
}

type Version = (String, String, (u32, u32));

/// The directory of the shell's modules ends in its version: `/usr/lib/x86_64-linux-gnu/zsh/5.9`.
fn version(elf: &Elf<'_>) -> Option<Version> {
    const MARK: &str = "/zsh/";
    for found in elf.strings_with(MARK.as_bytes()) {
        let Some(text) = std::str::from_utf8(found).ok().and_then(|text| text.rsplit_once(MARK)) else { continue };
        let (_, text) = text;
        let mut numbers = text.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { continue };
        if numbers.all(|number| number.is_ok()) && text.len() <= 16 {
            let how = format!("string \"/zsh/{text}\" in .rodata");
            return Some((text.to_owned(), how, (major, minor)));
        }
    }
    None
}
