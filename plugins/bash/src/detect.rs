//! The version detector: from the bytes of one shell, or of one libreadline, to its version, the functions to probe, and
//! one row for the kernel side. Everything is read from the file itself; there is no table of versions.

use ecapture_plugin_api::sdk::elf::{Elf, Symbol};
use std::collections::HashMap;

/// Bytes of `struct bash_layout`.
#[cfg(test)]
pub const LAYOUT: usize = 48;

/// A function that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// The function.
    pub symbol: &'static str,
    /// How many arguments the program reads.
    pub args: u8,
    /// At its return.
    pub at_return: bool,
    /// Without it nothing is exact.
    pub required: bool,
    /// What is missing without it.
    pub without: &'static str,
}

const fn required(program: &'static str, symbol: &'static str, args: u8) -> Hook {
    Hook { program, symbol, args, at_return: false, required: true, without: "" }
}

const fn wanted(program: &'static str, symbol: &'static str, args: u8, without: &'static str) -> Hook {
    Hook { program, symbol, args, at_return: false, required: false, without }
}

const fn at_return(program: &'static str, symbol: &'static str, without: &'static str) -> Hook {
    Hook { program, symbol, args: 0, at_return: true, required: false, without }
}

/// What is probed in a shell.
pub const SHELL: &[Hook] = &[
    required("bash_command", "execute_command_internal", 4),
    Hook { at_return: true, ..required("bash_text", "print_simple_command", 0) },
    required("bash_status", "set_pipestatus_array", 2),
    required("bash_fork_wanted", "make_child", 2),
    required("bash_exec_wanted", "shell_execve", 0),
    wanted("bash_jump", "jump_to_top_level", 1, "commands that an error or an interrupt ends have no status"),
    wanted("bash_exit_shell", "exit_shell", 1, "commands that end the shell have no status"),
    at_return("bash_exit_status", "get_exitstat", "`return` and `exit` have no status"),
    wanted("bash_parse", "parse_command", 0, "lines are shown from the first command on"),
    LINE,
];

/// What is probed in libreadline, and in a shell that brings its own.
pub const LINE: Hook = at_return(
    "bash_line",
    "readline",
    "lines typed are taken from libreadline, if the shell is linked to it, else not at all",
);

const VARIABLES: [&str; 3] = ["the_printed_command", "command_string_index", "last_command_exit_value"];

const REMEDY: &str = "install the distribution's own bash package (not bash-static), or name a shell that exports its \
                      functions with --bash: one for which `nm -D` lists execute_command_internal";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// `bash` or `readline`.
    pub product: &'static str,
    /// Its version.
    pub version: String,
    /// How that was found.
    pub how: String,
    /// The functions to probe that the file has.
    pub hooks: Vec<Hook>,
    /// The row for `ecap_layouts`; none for a library.
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
    if elf.soname().is_some_and(|name| name.starts_with("libreadline.so.")) {
        return library(&elf, address("readline").is_some());
    }
    let version = version(&elf);
    if symbols.is_empty() {
        let what = if version.is_some() { "this bash" } else { "this file" };
        return Err(format!(
            "{what} has no symbols, not even exported ones: it is linked statically and stripped, so its functions can't \
             be found; {REMEDY}"
        ));
    }
    let missing: Vec<&str> = SHELL
        .iter()
        .filter(|hook| hook.required)
        .map(|hook| hook.symbol)
        .chain(VARIABLES)
        .filter(|name| address(name).is_none())
        .collect();
    if !missing.is_empty() {
        let what = if version.is_some() { "this bash does not export" } else { "this is no bash: it has no" };
        return Err(format!("{what} {}; {REMEDY}", missing.join(", ")));
    }

    let mut notes = Vec::new();
    let mut hooks = Vec::new();
    for hook in SHELL {
        if address(hook.symbol).is_some() {
            hooks.push(*hook);
        } else {
            notes.push(format!("no function {}: {}", hook.symbol, hook.without));
        }
    }
    let (text, how) = version
        .unwrap_or_else(|| ("unknown".to_owned(), "no string \"@(#)Bash version\" in the file's constants".to_owned()));
    let null_forks = at_least_5_1(&text);
    if !null_forks {
        notes.push("before 5.1: the status of a command that is a redirection only (`< file`) is not exact".to_owned());
    }
    notes.push(format!("version {text}: {how}"));
    let row = [
        1,
        address("execute_command_internal").unwrap_or(0),
        address("the_printed_command").unwrap_or(0),
        address("command_string_index").unwrap_or(0),
        address("last_command_exit_value").unwrap_or(0),
        u64::from(null_forks),
    ];
    let layout = row.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    Ok(Detection { product: "bash", version: text, how, hooks, layout, notes })
}

fn library(elf: &Elf<'_>, has_readline: bool) -> Result<Detection, String> {
    if !has_readline {
        return Err(
            "this libreadline does not export readline; name the shell's own library with --readline".to_owned()
        );
    }
    let soname = elf.soname().unwrap_or_default();
    Ok(Detection {
        product: "readline",
        version: soname.strip_prefix("libreadline.so.").unwrap_or(soname).to_owned(),
        how: format!("soname {soname}"),
        hooks: vec![LINE],
        layout: Vec::new(),
        notes: vec!["lines of bash only; other programs that use the library are passed by".to_owned()],
    })
}

/// The version, out of the string that `what` and `ident` look for.
fn version(elf: &Elf<'_>) -> Option<(String, String)> {
    const MARK: &str = "@(#)Bash version ";
    let found = elf.strings_with(MARK.as_bytes()).next()?;
    let text = std::str::from_utf8(found).ok()?.strip_prefix(MARK)?;
    let version = text.split_whitespace().next()?.trim_end_matches(" release");
    let shown = version.chars().all(|c| c.is_ascii_graphic()) && version.len() <= 64;
    shown.then(|| (version.to_owned(), format!("string {:?} in .rodata", format!("{MARK}{version}"))))
}

fn at_least_5_1(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= (5, 1),
        _ => false,
    }
}
