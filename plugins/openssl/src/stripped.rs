//! The functions of a library without names, found by what their code says of itself when something goes wrong.
//!
//! Every report of an error names its place. OpenSSL 3 and later: the function, as text. OpenSSL 1.1.1: the function, as a
//! number. BoringSSL and AWS-LC: the cause, as a number, with file and line. So the function whose code refers to
//! `ssl_read_internal` is that one, whatever its version. What more than one function could be is none of them: nothing is
//! guessed.
//!
//! Here is only which function is where; that it begins there, and where in it a probe changes nothing, is for the host to
//! prove.

use super::code::{Code, Site};
use ecapture_plugin_api::sdk::elf::Elf;
use std::collections::{BTreeMap, BTreeSet};

/// The functions that are looked for, with the numbers that 1.1.1 has for them (`SSL_F_...` in its sslerr.h).
const NAMES: [(&str, u64); 12] = [
    ("SSL_read", 223),
    ("SSL_peek", 270),
    ("SSL_write", 208),
    ("ssl_read_internal", 523),
    ("ssl_peek_internal", 522),
    ("ssl_write_internal", 524),
    ("SSL_read_early_data", 529),
    ("SSL_write_early_data", 526),
    ("SSL_do_handshake", 180),
    ("SSL_new", 186),
    ("SSL_clear", 164),
    ("SSL_sendfile", 639),
];

/// Where the report of an error comes from.
const FILE: &[u8] = b"ssl_lib.c";
/// Number of the library in both families' reports.
const LIBRARY: u64 = 20;
const LIBRARY_OF_BORINGSSL: u64 = 16;
/// Causes, in BoringSSL and AWS-LC: ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED, SSL_R_BAD_LENGTH, SSL_R_UNINITIALIZED.
const NOT_WITH_QUIC: u64 = 66;
const BAD_LENGTH: u64 = 111;
const UNINITIALIZED: u64 = 226;

/// Calls by function.
type Reports = BTreeMap<u64, BTreeSet<Site>>;
/// Functions by name.
type Owners = BTreeMap<&'static str, BTreeSet<u64>>;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name and virtual address.
    pub functions: BTreeMap<&'static str, u64>,
    /// Position of the argument of `ssl_write_internal` that says where the number of bytes goes.
    pub written: u8,
    /// It is BoringSSL or what was made from it.
    pub boring: bool,
    /// How they were found, for people.
    pub how: &'static str,
}

/// Looks for the functions.
///
/// # Errors
/// Why they are not there or not told apart.
pub fn find(elf: &Elf<'_>) -> Result<Found, String> {
    // The whole path, of which this is the end (`.cc` in BoringSSL): a build's own directory may come first.
    let files: BTreeSet<u64> = elf.find(FILE).map(|at| elf.string_start(at).unwrap_or(at)).collect();
    if files.is_empty() {
        return Err("nothing in it reports errors as a TLS library of this kind does".to_owned());
    }
    let code = Code::new(elf)?;
    // By function, those in the part of it that rarely runs included.
    let mut reports: Reports = BTreeMap::new();
    for (piece, function) in code.functions_of(code.references(&files)?.into_iter())? {
        reports.entry(function).or_default().extend(code.sites(piece));
    }
    let from_file = |arg: Option<u64>| arg.is_some_and(|at| files.contains(&at));
    // ERR_set_debug(file, line, function)
    let named = owners(&reports, |site, name, _| {
        from_file(site.args[0]) && site.args[2].and_then(|at| elf.string_at(at)) == Some(name.as_bytes())
    });
    if !named.is_empty() {
        return settle(&code, named, "the names in its reports of errors");
    }
    // ERR_put_error(library, function, cause, file, line)
    reports.values_mut().for_each(|sites| sites.retain(|site| from_file(site.args[3])));
    let named = owners(&reports, |site, _, number| site.args[0] == Some(LIBRARY) && site.args[1] == Some(number));
    if !named.is_empty() {
        return settle(&code, named, "the numbers of functions in its reports of errors");
    }
    boring(&code, &reports)
}

/// Functions by the name that their reports have.
fn owners(reports: &Reports, is: impl Fn(&Site, &str, u64) -> bool) -> Owners {
    let mut owners: Owners = BTreeMap::new();
    for (function, sites) in reports {
        for (name, number) in NAMES {
            if sites.iter().any(|site| is(site, name, number)) {
                owners.entry(name).or_default().insert(*function);
            }
        }
    }
    owners
}

/// From who refers to which names to which function is which.
fn settle(code: &Code<'_>, owners: BTreeMap<&'static str, BTreeSet<u64>>, how: &'static str) -> Result<Found, String> {
    let one = |name: &str| match owners.get(name).map(|all| all.iter().copied().collect::<Vec<u64>>()) {
        Some(all) if all.len() == 1 => all.first().copied(),
        _ => None,
    };
    let mut found = Found { functions: BTreeMap::new(), written: 0, boring: false, how };
    for (name, _) in NAMES {
        found.functions.extend(one(name).map(|at| (name, at)));
    }
    for (wrapper, internal) in
        [("SSL_read", "ssl_read_internal"), ("SSL_peek", "ssl_peek_internal"), ("SSL_write", "ssl_write_internal")]
    {
        let (outer, inner) = (found.functions.get(wrapper).copied(), found.functions.get(internal).copied());
        let calls = match (outer, inner) {
            // One function has both names: the inner one was put into it.
            (Some(outer), Some(inner)) if outer != inner => code.calls(outer, inner)?,
            _ => None,
        };
        match calls {
            Some(call) if internal == "ssl_write_internal" => match code.address_argument(outer.unwrap_or(0), call) {
                Some(position @ (3 | 4)) => found.written = position,
                _ => _ = found.functions.remove(internal),
            },
            Some(_) => {}
            None => _ = found.functions.remove(internal),
        }
    }
    let missing: Vec<&str> = [("SSL_read", "ssl_read_internal"), ("SSL_write", "ssl_write_internal")]
        .into_iter()
        .filter(|(outer, inner)| !found.functions.contains_key(outer) && !found.functions.contains_key(inner))
        .map(|(outer, _)| outer)
        .collect();
    if !missing.is_empty() {
        return Err(format!("{how} do not show which function is {}", missing.join(" and which is ")));
    }
    Ok(found)
}

/// BoringSSL and AWS-LC.
///
/// `SSL_write` alone reports a bad length and that the connection is not initialized. `SSL_peek` reports that it is not for
/// QUIC, `SSL_read` is `SSL_peek` and then takes the bytes off: either it has a copy of it inside, so that both report the
/// same line, or it calls it. `SSL_peek` writes nothing to memory itself.
fn boring(code: &Code<'_>, reports: &Reports) -> Result<Found, String> {
    let mut functions: BTreeMap<u64, BTreeSet<(u64, u64)>> = BTreeMap::new();
    for (function, sites) in reports {
        let causes = sites.iter().filter(|s| s.args[0] == Some(LIBRARY_OF_BORINGSSL) && s.args[1] == Some(0));
        functions.insert(*function, causes.filter_map(|s| Some((s.args[2]?, s.args[4]?))).collect());
    }
    let has = |causes: &BTreeSet<(u64, u64)>, cause: u64| causes.iter().any(|c| c.0 == cause);
    let writes: Vec<u64> = functions
        .iter()
        .filter(|(_, causes)| has(causes, BAD_LENGTH) && has(causes, UNINITIALIZED))
        .map(|(at, _)| *at)
        .collect();
    let [write] = writes.as_slice() else {
        return Err(format!("{} functions report errors as SSL_write does", writes.len()));
    };
    // Functions that report this and nothing else, by the line.
    let mut lines: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (function, causes) in &functions {
        if let Some((NOT_WITH_QUIC, line)) = causes.first()
            && causes.len() == 1
        {
            lines.entry(*line).or_default().push(*function);
        }
    }
    let mut pairs = Vec::new();
    for both in lines.values() {
        let (pure, other): (Vec<u64>, Vec<u64>) = both.iter().partition(|at| code.writes_nothing(**at));
        match (pure.as_slice(), other.as_slice()) {
            ([peek], [read]) => pairs.push((*peek, *read)),
            ([peek], []) => {
                let callers: Vec<u64> =
                    code.callers(*peek)?.into_iter().filter(|at| !code.writes_nothing(*at)).collect();
                // Next to it in the source, and so in the file.
                let near = callers.iter().filter(|at| at.abs_diff(*peek) < NEAR).collect::<Vec<_>>();
                if let [read] = near.as_slice() {
                    pairs.push((*peek, **read));
                }
            }
            _ => {}
        }
    }
    let [(peek, read)] = pairs.as_slice() else {
        return Err(format!("{} pairs of functions report errors as SSL_peek and SSL_read do", pairs.len()));
    };
    let functions = BTreeMap::from([("SSL_read", *read), ("SSL_peek", *peek), ("SSL_write", *write)]);
    Ok(Found { functions, written: 0, boring: true, how: "the causes in its reports of errors" })
}

/// `SSL_read` follows `SSL_peek` in the source, or is followed by it.
const NEAR: u64 = 4096;

#[cfg(test)]
#[path = "stripped_tests.rs"]
mod tests;
