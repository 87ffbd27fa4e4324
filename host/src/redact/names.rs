//! Names that say that their value is a secret, and the words without which a text holds none. The words are made of the names, so that no name
//! is known that the first look at a text does not let through.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

/// Longest name that is looked at.
pub const MAX_NAME: usize = 128;

/// What such names end with, whatever their case, with `-` as well as with `_`.
const ENDINGS: [&str; 23] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pass",
    "pwd",
    "pw",
    "psk",
    "secret",
    "token",
    "jwt",
    "api_key",
    "apikey",
    "access_key",
    "accesskey",
    "secret_key",
    "secretkey",
    "private_key",
    "auth_key",
    "authkey",
    "encryption_key",
    "account_key",
    "accountkey",
];

/// What may stand behind, and numbers: `password_hash`, `SECRET_KEY_BASE`, `PASSWORD1`.
const TAILS: [&str; 14] = [
    "_hash",
    "_digest",
    "_md",
    "_sha",
    "_base",
    "_b",
    "_enc",
    "_encrypted",
    "_plain",
    "_string",
    "_value",
    "_old",
    "_new",
    "_confirmation",
];

/// What ends so and is none.
const OTHERS: [&str; 7] = ["bypass", "compass", "trespass", "surpass", "overpass", "underpass", "multipass"];

/// Of headers alone; and all that ends as other names do.
const HEADERS: [&str; 8] = [
    "authorization",
    "cookie",
    "_auth",
    "application_key",
    "subscription_key",
    "jwt_assertion",
    "authentication_info",
    "x_amzn_oidc_data",
];

/// Of parameters in a URL alone, which are named more shortly.
const PARAMETERS: [&str; 9] = [
    "auth",
    "sig",
    "signature",
    "x_amz_signature",
    "x_goog_signature",
    "session",
    "sessionid",
    "jsessionid",
    "phpsessid",
];

/// The same if the value looks like one: `code=200` and `key=name` are no secrets.
const LONG_PARAMETERS: [&str; 2] = ["key", "code"];
/// Shortest value that does.
const LONG: usize = 16;

/// What else is looked for: URLs, words of SQL, functions that are given a key.
const WORDS: [&str; 9] = ["://", "identified", "crypt", "hmac", "md5", "sha1", "sha2", "program", "xp_cmdshell"];

/// One pass over the bytes, and most texts are through.
static PREFILTER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let names = ENDINGS.iter().chain(&HEADERS).chain(PARAMETERS.iter().filter(|name| name.ends_with("id")));
    let both = names.flat_map(|name| [(*name).to_owned(), name.replace('_', "-")]);
    let words = WORDS.iter().map(|word| (*word).to_owned()).chain(both);
    let mut builder = AhoCorasick::builder();
    builder.ascii_case_insensitive(true).match_kind(MatchKind::LeftmostFirst).build(words).ok()
});

/// Where a text may hold a secret.
pub fn find(text: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    PREFILTER.as_ref().into_iter().flat_map(move |words| words.find_iter(text)).map(|found| found.range())
}

/// Whether a text may hold a secret at all.
#[must_use]
pub fn suspicious(text: &[u8]) -> bool {
    PREFILTER.as_ref().is_none_or(|words| words.is_match(text))
}

/// A name as those of the lists are written, byte by byte.
fn plain(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() }
}

fn is(name: &[u8], known: &str) -> bool {
    name.len() == known.len() && ends(name, known)
}

/// Whether a name ends so. From the last byte on: most names differ there.
#[must_use]
pub fn ends(name: &[u8], end: &str) -> bool {
    let tail = name.len().checked_sub(end.len()).and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.iter().zip(end.bytes()).rev().all(|(byte, known)| plain(*byte) == known))
}

/// A name whose value is a secret.
#[must_use]
pub fn is_secret_name(name: &[u8]) -> bool {
    if name.len() > MAX_NAME || matches!(name, b"PWD" | b"OLDPWD" | b"--no-password") {
        return false;
    }
    let digits = name.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let name = name.get(..name.len() - digits).unwrap_or_default();
    let known =
        |name: &[u8]| ENDINGS.iter().any(|end| ends(name, end)) && !OTHERS.iter().any(|other| ends(name, other));
    let tail = TAILS.iter().find(|tail| ends(name, tail));
    known(name) || tail.is_some_and(|tail| known(name.get(..name.len() - tail.len()).unwrap_or_default()))
}

/// The same of a header.
#[must_use]
pub fn is_secret_header(name: &[u8]) -> bool {
    name.len() <= MAX_NAME && (HEADERS.iter().any(|end| ends(name, end)) || is_secret_name(name))
}

/// The same of a parameter in a URL.
#[must_use]
pub fn is_secret_parameter(name: &[u8], value: &[u8]) -> bool {
    is_secret_name(name)
        || PARAMETERS.iter().any(|known| is(name, known))
        || value.len() >= LONG && LONG_PARAMETERS.iter().any(|known| is(name, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is known as a name, the first look lets through.
    #[test]
    fn no_name_is_known_that_is_not_looked_for() {
        for end in ENDINGS {
            for tail in TAILS.iter().copied().chain(["", "1"]) {
                for name in [format!("{end}{tail}"), format!("DB_{end}{tail}"), format!("{end}{tail}").to_uppercase()] {
                    for name in [name.replace('_', "-"), name] {
                        let known = is_secret_name(name.as_bytes()) || name == "PWD";
                        assert!(known && suspicious(name.as_bytes()), "{name}");
                    }
                }
            }
        }
        for name in HEADERS {
            for name in [format!("x_{name}"), name.replace('_', "-").to_uppercase()] {
                assert!(is_secret_header(name.as_bytes()) && suspicious(name.as_bytes()), "{name}");
            }
        }
        // The others are known in a URL, which is looked at for its `://` or its `?`. These stand before it.
        assert!(suspicious(b"/cart;jsessionid=17"));
    }

    #[test]
    fn what_only_resembles_a_name_is_none() {
        for name in [
            "PWD",
            "bypass",
            "compass",
            "passenger",
            "password_file",
            "token_type",
            "secretary",
            "api_key_id",
            "keyword",
        ] {
            assert!(!is_secret_name(name.as_bytes()), "{name}");
        }
        for name in
            ["Sec-WebSocket-Key", "Idempotency-Key", "Accept", "Access-Control-Allow-Origin", "WWW-Authenticate"]
        {
            assert!(!is_secret_header(name.as_bytes()), "{name}");
        }
        assert!(!is_secret_parameter(b"code", b"200") && is_secret_parameter(b"code", b"4/0AX4XfWhxxxxxxxx"));
    }
}
