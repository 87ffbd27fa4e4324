//! The detector: from the bytes of one server binary to its version and the functions to probe. Everything is read from the
//! file itself; there is no table of versions, since nothing of what is used has changed from 13 to 18.

use ecapture_plugin_api::sdk::ProbeKind;
use ecapture_plugin_api::sdk::elf::Elf;

/// Where a program belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub program: &'static str,
    /// The exported function.
    pub symbol: &'static str,
    /// What of it.
    pub kind: ProbeKind,
    /// Arguments that the program looks at.
    pub args: u8,
    /// The probes that it is attached with, or none.
    pub group: Option<&'static str>,
}

impl Hook {
    /// Only with `--nested`.
    pub fn nested(&self) -> bool {
        self.group.is_none()
    }
}

const fn hook(
    program: &'static str,
    symbol: &'static str,
    kind: ProbeKind,
    args: u8,
    group: Option<&'static str>,
) -> Hook {
    Hook { program, symbol, kind, args, group }
}

/// One probe for each call, where the function's exits still have its arguments.
pub const WHOLE: &str = "whole calls";
/// Two, which stand in for it.
pub const PARTS: &str = "entries and returns";

/// All of them.
pub const HOOKS: &[Hook] = &[
    hook("pg_read_whole", "secure_read", ProbeKind::Exit, 2, Some(WHOLE)),
    hook("pg_write_whole", "secure_write", ProbeKind::Exit, 2, Some(WHOLE)),
    hook("pg_read", "secure_read", ProbeKind::Entry, 2, Some(PARTS)),
    hook("pg_read_end", "secure_read", ProbeKind::Return, 0, Some(PARTS)),
    hook("pg_write", "secure_write", ProbeKind::Entry, 2, Some(PARTS)),
    hook("pg_write_end", "secure_write", ProbeKind::Return, 0, Some(PARTS)),
    hook("pg_nested_query", "ExecutorStart", ProbeKind::Entry, 2, None),
    hook("pg_nested_utility", "ProcessUtility", ProbeKind::Entry, 2, None),
];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// `15.18 (Debian 15.18-0+deb12u1)`, or `unknown`.
    pub version: String,
    /// How it was found.
    pub how: String,
}

const REMEDY: &str = "give the server binary itself with --postgres, or install the distribution's or vendor's own build, \
                      which exports its functions for extensions";

/// Looks at one file.
///
/// # Errors
/// Why the file can't be captured from, and what to do: a sentence for the user.
pub fn detect(bytes: &[u8], nested: bool) -> Result<Detection, String> {
    let elf = Elf::parse(bytes).map_err(|why| format!("not a program that can be read: {why}"))?;
    let missing: Vec<&str> = HOOKS
        .iter()
        .filter(|hook| nested || !hook.nested())
        .map(|hook| hook.symbol)
        .filter(|symbol| !elf.has_function(symbol))
        .collect();
    if let Some(first) = missing.first() {
        return Err(format!(
            "the file exports no function {first}, so it is no PostgreSQL server that can be looked into: {REMEDY}"
        ));
    }
    let text = elf.section(".rodata").and_then(|section| version(section.bytes));
    Ok(match text {
        Some(text) => Detection { how: format!("string \"PostgreSQL {text} on …\" in .rodata"), version: text },
        None => Detection { version: "unknown".to_owned(), how: "no string of the file says it".to_owned() },
    })
}

/// What `select version()` says between the product and the platform: `PostgreSQL 15.18 (Debian …) on x86_64-…`.
fn version(bytes: &[u8]) -> Option<String> {
    const PRODUCT: &[u8] = b"PostgreSQL ";
    let strings = bytes.split(|byte| *byte == 0).filter_map(|text| text.strip_prefix(PRODUCT));
    strings.filter_map(|text| std::str::from_utf8(text).ok()).find_map(|text| {
        let (version, _) = text.split_once(" on ")?;
        let digit = version.starts_with(|c: char| c.is_ascii_digit());
        (digit && version.len() < 80 && version.chars().all(|c| c.is_ascii_graphic() || c == ' '))
            .then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_server_says_itself() {
        let strings =
            b"x\0PostgreSQL does\0PostgreSQL on x\0PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu\0";
        assert_eq!(version(strings).as_deref(), Some("15.18 (Debian 15.18-0+deb12u1)"));
        assert_eq!(version(b"PostgreSQL 18beta1 on riscv64, compiled\0").as_deref(), Some("18beta1"));
        assert_eq!(version(b"PostgreSQL 15"), None);
        assert_eq!(version(b""), None);
    }

    #[test]
    fn a_file_that_is_no_server_is_refused_with_a_remedy() {
        assert!(detect(b"", false).unwrap_err().contains("not a program"));
        let own = std::fs::read("/proc/self/exe").unwrap();
        let refused = detect(&own, false).unwrap_err();
        assert!(refused.contains("secure_read") && refused.contains("--postgres"), "{refused}");
    }
}
