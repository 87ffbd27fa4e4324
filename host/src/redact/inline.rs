//! Secrets that say themselves what they are, wherever they stand: `password=…`, `"token": "…"`, `https://user:…@host`,
//! `Authorization: …`.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use super::http;
use super::spans::{Kinds, Spans};

/// Without one of these there is nothing to look for: one pass over the bytes, and most texts are through.
const WORDS: [&str; 16] = [
    "://",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "identified",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access",
    "authorization",
    "cookie",
    "crypt",
    "pgp_sym_",
];

static PREFILTER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let mut builder = AhoCorasick::builder();
    builder.ascii_case_insensitive(true).match_kind(MatchKind::LeftmostFirst).build(WORDS).ok()
});

/// Longest name that is looked at.
const MAX_NAME: usize = 128;

/// Whether a text may hold a secret at all.
#[must_use]
pub fn suspicious(text: &[u8]) -> bool {
    PREFILTER.as_ref().is_none_or(|words| words.is_match(text))
}

/// A name whose value is a secret.
#[must_use]
pub fn is_secret_name(name: &[u8]) -> bool {
    if name.len() > MAX_NAME || name == b"PWD" || name == b"OLDPWD" {
        return false;
    }
    let lower: Vec<u8> = name.iter().map(|b| if *b == b'-' { b'_' } else { b.to_ascii_lowercase() }).collect();
    [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "api_key",
        "apikey",
        "access_key",
        "secret_key",
        "private_key",
        "pgpassword",
        "mysql_pwd",
        "_pass",
        "accesskey",
        "secretkey",
    ]
    .iter()
    .any(|end| lower.ends_with(end.as_bytes()))
}

/// The same of parameters in a URL, which are named more shortly.
fn is_secret_parameter(name: &[u8]) -> bool {
    let short = ["pass", "auth", "sig", "signature", "x-amz-signature", "x-goog-signature", "jwt", "session"];
    is_secret_name(name) || short.iter().any(|short| name.eq_ignore_ascii_case(short.as_bytes()))
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// Adds what is found in `text`, whose first byte is at `base`. Each byte is looked at a bounded number of times.
pub fn scan(text: &[u8], base: usize, spans: &mut Spans) {
    let Some(words) = PREFILTER.as_ref() else { return };
    let mut done = 0;
    for found in words.find_iter(text) {
        if found.start() < done {
            continue;
        }
        if text.get(found.range()) == Some(b"://") {
            done = url(text, found.end(), base, spans);
            continue;
        }
        let back = text.get(..found.start()).unwrap_or_default().iter().rev().take(MAX_NAME);
        let start = found.start() - back.take_while(|b| is_name(**b)).count();
        let ahead = text.get(found.end()..).unwrap_or_default().iter().take(MAX_NAME);
        let end = found.end() + ahead.take_while(|b| is_name(**b)).count();
        let name = text.get(start..end).unwrap_or_default();
        done = end.max(pair(text, (start, end), name, base, spans));
    }
}

/// `name=value`, `"name": "value"`, `Name: value`. Returns up to where it has been looked at.
fn pair(text: &[u8], (start, end): (usize, usize), name: &[u8], base: usize, spans: &mut Spans) -> usize {
    let blank = |at: usize| {
        at + text.get(at..).unwrap_or_default().iter().take(8).take_while(|b| matches!(b, b' ' | b'\t')).count()
    };
    let mut at = end;
    let escaped = byte(text, at) == b'\\' && matches!(byte(text, at + 1), b'"' | b'\'');
    let quoted = escaped || matches!(byte(text, at), b'"' | b'\'');
    at += usize::from(quoted) + usize::from(escaped);
    at = blank(at);
    let sign = byte(text, at);
    if sign == b':' && !quoted && http::is_secret_header(name) {
        // Up to the end of the line, or of the quotes that the header stands in.
        let quote = start.checked_sub(1).map(|before| byte(text, before)).filter(|b| matches!(b, b'"' | b'\''));
        let rest = text.get(at + 1..).unwrap_or_default();
        let len = rest.iter().position(|b| matches!(b, b'\r' | b'\n' | 0) || Some(*b) == quote).unwrap_or(rest.len());
        http::value(name, rest.get(..len).unwrap_or_default(), base + at + 1, spans);
        return at + 1 + len;
    }
    let in_url = matches!(start.checked_sub(1).map(|before| byte(text, before)), Some(b'?' | b'&'));
    let secret = if in_url { is_secret_parameter(name) } else { is_secret_name(name) };
    if !secret || !(sign == b'=' || sign == b':' && quoted) {
        return end;
    }
    at = blank(at + 1);
    let escaped = byte(text, at) == b'\\';
    let quote = byte(text, at + usize::from(escaped));
    let (from, to) = if matches!(quote, b'"' | b'\'') {
        let from = at + 1 + usize::from(escaped);
        (from, closing(text, from, quote, escaped))
    } else {
        let stops = |b: &u8| {
            b.is_ascii_whitespace() || matches!(b, b'&' | b';' | b',' | b'\'' | b'"' | b'`' | b')' | b'}' | b'#' | 0)
        };
        let rest = text.get(at..).unwrap_or_default();
        // `#` is part of a value but in a URL.
        let stops = |b: &u8| stops(b) && (*b != b'#' || in_url);
        (at, at + rest.iter().position(stops).unwrap_or(rest.len()))
    };
    spans.add(base + from, base + to, if in_url { Kinds::URL } else { Kinds::PASSWORD });
    to
}

/// Where the quoted value ends: before its quote, or at the end of what there is.
fn closing(text: &[u8], from: usize, quote: u8, escaped: bool) -> usize {
    let mut at = from;
    while let Some(found) = memchr::memchr2(quote, b'\\', text.get(at..).unwrap_or_default()) {
        at += found;
        match byte(text, at) {
            b'\\' if escaped && byte(text, at + 1) == quote => return at,
            b'\\' => at = (at + 2).min(text.len()),
            _ => return at,
        }
    }
    text.len()
}

/// What stands between `//` and the host. Returns up to where it has been looked at.
fn url(text: &[u8], from: usize, base: usize, spans: &mut Spans) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let stops =
        |b: &u8| b.is_ascii_whitespace() || matches!(b, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'`' | 0);
    let len = rest.iter().position(stops).unwrap_or(rest.len());
    let authority = rest.get(..len).unwrap_or_default();
    let user = memchr::memrchr(b'@', authority);
    let password = memchr::memchr(b':', authority.get(..user.unwrap_or(len)).unwrap_or_default());
    match (user, password) {
        (Some(at), Some(colon)) => spans.add(base + from + colon + 1, base + from + at, Kinds::URL),
        // A token in place of a name.
        (Some(at), None) if at >= 20 => spans.add(base + from, base + from + at, Kinds::URL),
        // Cut before the `@`, or else a port.
        (None, Some(colon)) if len == rest.len() && !authority.starts_with(b"[") => {
            let port = authority.get(colon + 1..).unwrap_or_default();
            if !port.iter().all(u8::is_ascii_digit) {
                spans.add(base + from + colon + 1, base + from + len, Kinds::URL);
            }
        }
        _ => {}
    }
    from + len
}

/// The parameters of a URL, or a part of one, that begins anywhere: `a=1&token=2`.
pub fn query(text: &[u8], spans: &mut Spans) {
    let mut at = text.iter().position(|b| *b == b'?').map_or(0, |n| n + 1);
    for part in text.get(at..).unwrap_or_default().split(|b| matches!(b, b'&' | b';')) {
        let fragment = memchr::memchr(b'#', part).unwrap_or(part.len());
        if let Some(sign) = memchr::memchr(b'=', part)
            && is_secret_parameter(part.get(..sign).unwrap_or_default())
        {
            spans.add(at + sign + 1, at + fragment.max(sign + 1), Kinds::URL);
        }
        at += part.len() + 1;
    }
}
