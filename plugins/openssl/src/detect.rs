//! The version detector: from the bytes of one file to the library that it is or has inside, its version, and the functions
//! to probe. Nothing depends on the version; it is for the user. No offset into any structure is needed.

use super::stripped::{self, Found};
use ecapture_plugin_api::sdk::elf::Elf;
use std::collections::HashSet;

/// A function that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// The function; only a name for people if it is at an address.
    pub symbol: &'static str,
    /// How many arguments the program reads.
    pub args: u8,
    /// At its return.
    pub at_return: bool,
    /// `enum openssl_call`; 0: none of these.
    pub call: u32,
    /// Without it there is nothing to capture.
    pub required: bool,
    /// What it and others are attached together for.
    pub group: Option<&'static str>,
    /// Where it is.
    pub at: Place,
}

/// Where a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the file has this name.
    Named,
    /// It is not this function that is probed but the one behind it and this other, which puts the number of bytes where its
    /// argument 3 says.
    Behind(&'static str),
    /// At this virtual address.
    At(u64),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// `OpenSSL`, `BoringSSL` or `AWS-LC`.
    pub product: &'static str,
    /// Its version.
    pub version: String,
    /// How that was found.
    pub how: String,
    /// The functions to probe that the file has.
    pub hooks: Vec<Hook>,
    /// Groups that are attached only if another one can't be.
    pub fallbacks: Vec<(&'static str, &'static str)>,
    /// What will be missing.
    pub notes: Vec<String>,
}

/// Older versions do not have it, so nobody calls it.
const ABSENT: &str = "nothing is missing: nobody can call it";

/// Functions that do nothing but to call one and the same; its group; its number.
const BEHIND: [(&str, &str, &str, u32); 3] = [
    ("SSL_read", "SSL_read_ex", "read", 12),
    ("SSL_peek", "SSL_peek_ex", "peek", 13),
    ("SSL_write", "SSL_write_ex", "write", 14),
];

/// The group that does without this function: it calls the one that is probed there. (Early data is written to the socket by
/// SSL_write_early_data itself, when that one has returned.)
fn served_by(symbol: &str) -> Option<&'static str> {
    match symbol {
        "SSL_read" | "SSL_read_ex" => Some("read"),
        "SSL_peek" | "SSL_peek_ex" => Some("peek"),
        "SSL_write" | "SSL_write_ex" | "SSL_write_ex2" => Some("write"),
        _ => None,
    }
}

/// Function, arguments that are read, and what is missing without it (nothing: it is required).
const CALLS: [(&str, u8, &str); 11] = [
    ("SSL_read", 3, ""),
    ("SSL_read_ex", 4, ABSENT),
    ("SSL_peek", 3, ABSENT),
    ("SSL_peek_ex", 4, ABSENT),
    ("SSL_read_early_data", 4, ABSENT),
    ("SSL_write", 3, ""),
    ("SSL_write_ex", 4, ABSENT),
    ("SSL_write_early_data", 4, ABSENT),
    ("SSL_sendfile", 4, ABSENT),
    ("SSL_do_handshake", 1, "addresses are known from the first call that uses the socket on"),
    ("SSL_write_ex2", 5, ABSENT),
];

/// Functions after which an object is another connection: program, name, arguments, at its return.
const REUSE: [(&str, &str, u8, bool); 2] =
    [("openssl_new", "SSL_new", 0, true), ("openssl_clear", "SSL_clear", 1, false)];
/// The function that ends a connection.
const END: Hook = Hook { program: "openssl_free", symbol: "SSL_free", args: 1, ..HOOK };
/// What is missing without it.
const NO_END: &str =
    "no SSL_free: what ends with its connection is told after a minute of silence or when the process ends";

const REMEDY: &str = "a build that exports SSL_read and SSL_write, or one with symbols, can be captured from";

/// Nothing in particular, for what differs from it.
const HOOK: Hook = Hook {
    program: "openssl_enter",
    symbol: "",
    args: 0,
    at_return: false,
    call: 0,
    required: false,
    group: None,
    at: Place::Named,
};

/// A call is seen to begin and to end.
fn entry_and_return(entry: Hook) -> [Hook; 2] {
    [entry, Hook { program: "openssl_leave", args: 0, at_return: true, ..entry }]
}

/// Looks at one file.
///
/// # Errors
/// Why the file can't be captured from, and what to do: a sentence for the user.
pub fn detect(bytes: &[u8]) -> Result<Detection, String> {
    let elf = Elf::parse(bytes).map_err(|why| format!("not a program or library that can be read: {why}"))?;
    let mut functions: HashSet<&[u8]> = HashSet::new();
    functions.extend(elf.symbols().filter(|s| s.is_function && s.address != 0).map(|s| s.name));
    let has = |name: &str| functions.contains(name.as_bytes());
    let missing: Vec<&str> = CALLS.iter().filter(|c| c.2.is_empty() && !has(c.0)).map(|c| c.0).collect();
    if !missing.is_empty() {
        let without_names = |why| {
            let missing = missing.join(" and no function ");
            format!("it has no function {missing} by name, and none was found without: {why}; {REMEDY}")
        };
        return stripped::find(&elf).map(|found| without_symbols(&elf, &found)).map_err(without_names);
    }
    let (mut hooks, mut fallbacks, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for (symbol, other, group, call) in BEHIND.into_iter().filter(|b| has(b.0) && has(b.1)) {
        hooks.extend(entry_and_return(Hook {
            symbol,
            args: 3,
            call,
            group: Some(group),
            at: Place::Behind(other),
            ..HOOK
        }));
    }
    for (call, (symbol, args, without)) in (1_u32..).zip(CALLS) {
        if !has(symbol) {
            notes.extend((without != ABSENT).then(|| format!("no {symbol}: {without}")));
            continue;
        }
        // From 3.3 on SSL_write_ex is a jump to SSL_write_ex2: the same call would begin twice.
        if symbol == "SSL_write_ex" && has("SSL_write_ex2") {
            continue;
        }
        let required = without.is_empty();
        hooks.extend(entry_and_return(Hook { symbol, args, call, required, group: Some(symbol), ..HOOK }));
        let group = served_by(symbol)
            .filter(|group| hooks.iter().any(|h| matches!(h.at, Place::Behind(_)) && h.group == Some(group)));
        fallbacks.extend(group.map(|group| (symbol, group)));
    }
    for (program, symbol, args, at_return) in REUSE {
        if has(symbol) {
            hooks.push(Hook { program, symbol, args, at_return, ..HOOK });
        } else {
            notes.push(no_reuse(symbol));
        }
    }
    if has(END.symbol) {
        hooks.push(END);
    } else {
        notes.push(NO_END.to_owned());
    }
    let (product, version, how) = version(&elf);
    Ok(Detection { product, version, how, hooks, fallbacks, notes })
}

/// The plan for a file whose functions have no names.
fn without_symbols(elf: &Elf<'_>, found: &Found) -> Detection {
    let (mut hooks, mut notes) = (Vec::new(), Vec::new());
    let places: Vec<String> = found.functions.iter().map(|(name, at)| format!("{name} at {at:#x}")).collect();
    notes.push(format!("its functions have no names; found by {}: {}", found.how, places.join(", ")));
    let at = |name: &str| found.functions.get(name).map(|address| Place::At(*address));
    let internals = [
        ("ssl_read_internal", "SSL_read", 3, 12, true),
        ("ssl_peek_internal", "SSL_peek", 3, 13, false),
        ("ssl_write_internal", "SSL_write", found.written, 14, true),
    ];
    for (symbol, wrapper, out, call, required) in internals {
        if let Some(at) = at(symbol) {
            // What a place behind wrappers would say in the top byte.
            let call = call | u32::from(out) << 24;
            hooks.extend(entry_and_return(Hook {
                symbol,
                args: out + 1,
                call,
                required,
                group: Some(symbol),
                at,
                ..HOOK
            }));
        } else if let Some(at) = at(wrapper) {
            let call = number_of(wrapper);
            hooks.extend(entry_and_return(Hook {
                symbol: wrapper,
                args: 3,
                call,
                required,
                group: Some(wrapper),
                at,
                ..HOOK
            }));
            if !found.boring {
                notes.push(format!("calls of {wrapper}_ex are not seen: nothing tells where it is"));
            }
        }
    }
    for (call, (symbol, args, _)) in (1_u32..).zip(CALLS) {
        let alone = ["SSL_read_early_data", "SSL_write_early_data", "SSL_sendfile", "SSL_do_handshake"];
        if let Some(at) = at(symbol).filter(|_| alone.contains(&symbol)) {
            hooks.extend(entry_and_return(Hook { symbol, args, call, group: Some(symbol), at, ..HOOK }));
        }
    }
    for (program, symbol, args, at_return) in REUSE {
        match at(symbol) {
            Some(at) => hooks.push(Hook { program, symbol, args, at_return, at, ..HOOK }),
            None => notes.push(no_reuse(symbol)),
        }
    }
    // It reports no error by which it could be found.
    notes.push(NO_END.to_owned());
    let (product, version, how) = version(elf);
    let (product, version, how) = match product {
        "OpenSSL" if found.boring => {
            ("BoringSSL", "unknown".to_owned(), "how it reports errors; it has no version of its own".to_owned())
        }
        _ => (product, version, how),
    };
    Detection { product, version, how, hooks, fallbacks: Vec::new(), notes }
}

/// Place of a function in [`CALLS`]: its `enum openssl_call`.
fn number_of(symbol: &str) -> u32 {
    (1..).zip(CALLS).find(|(_, call)| call.0 == symbol).map_or(0, |(number, _)| number)
}

fn no_reuse(symbol: &str) -> String {
    format!("no {symbol}: two connections, one after the other, may be shown as one")
}

/// Product, version, and how that was found.
pub(crate) fn version(elf: &Elf<'_>) -> (&'static str, String, String) {
    // `OpenSSL 3.5.7 9 Jun 2026`: in libcrypto, and in a program that has both inside.
    for text in elf.strings_with(b"OpenSSL ").take(4096) {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let Some(rest) = text.strip_prefix("OpenSSL ") else { continue };
        let number = rest.split(' ').next().unwrap_or_default();
        if number.starts_with(|c: char| c.is_ascii_digit()) && number.matches('.').count() == 2 && number.len() < 32 {
            return ("OpenSSL", number.to_owned(), format!("the text {:?} in it", text.get(..64).unwrap_or(text)));
        }
    }
    for (mark, product) in [("AWS-LC", "AWS-LC"), ("BoringSSL", "BoringSSL")] {
        if elf.strings_with(mark.as_bytes()).next().is_some() {
            return (product, "unknown".to_owned(), format!("the text {mark:?} in it; it has no version of its own"));
        }
    }
    // A libssl.so says which interfaces it has, the newest of them is that of its version or a little older.
    let names = elf.section(".dynstr").map_or(&[][..], |section| section.bytes);
    let newest = names.split(|byte| *byte == 0).filter_map(interface).max();
    if let Some(number) = newest {
        let text = format!("{}.{}.{} or later", number[0], number[1], number[2]);
        return ("OpenSSL", text, "the newest version of its symbols".to_owned());
    }
    let soname = elf.soname().unwrap_or_default();
    match soname.strip_prefix("libssl.so.") {
        Some(number) if number.len() < 16 => ("OpenSSL", number.to_owned(), format!("its name {soname:?}")),
        _ => ("OpenSSL", "unknown".to_owned(), "its functions; nothing in it names a version".to_owned()),
    }
}

/// `OPENSSL_3.0.3`, `OPENSSL_1_1_1`.
fn interface(text: &[u8]) -> Option<[u32; 3]> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix("OPENSSL_")?;
    let mut parts = text.split(['.', '_']).map(|part| part.parse::<u32>().ok());
    let number = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(number)
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
