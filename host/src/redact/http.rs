//! Headers of HTTP: which hold secrets, and what of their values is one.

use super::inline;
use super::spans::{Kinds, Spans};

/// Headers that say who somebody is, and prove it.
const SECRET: [&str; 14] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-amz-security-token",
    "x-vault-token",
    "private-token",
    "x-goog-api-key",
    "authentication-info",
];

/// Whether the value of this header is a secret.
#[must_use]
pub fn is_secret_header(name: &[u8]) -> bool {
    SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()))
}

/// What of a secret header's value is secret: names of cookies and of schemes are none.
pub fn value(name: &[u8], value: &[u8], base: usize, spans: &mut Spans) {
    let blank = value.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let end = value.len() - value.iter().rev().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
    let from = blank.min(end);
    let own = value.get(from..end).unwrap_or_default();
    if name.eq_ignore_ascii_case(b"cookie") {
        let mut at = from;
        for part in own.split(|b| *b == b';') {
            cookie(part, base + at, spans);
            at += part.len() + 1;
        }
        return;
    }
    if name.eq_ignore_ascii_case(b"set-cookie") {
        return cookie(own.split(|b| *b == b';').next().unwrap_or_default(), base + from, spans);
    }
    // `Bearer abc`: the scheme stays. A value that is one word is the secret itself.
    let scheme = memchr::memchr(b' ', own)
        .filter(|n| own.get(..*n).is_some_and(|s| s.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')));
    let known = name.eq_ignore_ascii_case(b"authorization") || name.eq_ignore_ascii_case(b"proxy-authorization");
    let skip = scheme.filter(|_| known).map_or(0, |n| n + 1);
    spans.add(base + from + skip, base + end, Kinds::AUTHORIZATION);
}

/// `name=value`; without a name, all of it.
fn cookie(part: &[u8], base: usize, spans: &mut Spans) {
    let blank = part.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let from = memchr::memchr(b'=', part).map_or(blank, |sign| sign + 1);
    spans.add(base + from, base + part.len(), Kinds::COOKIE);
}

/// Any header's value: a secret one, or one with a URL in it.
pub fn header(name: &[u8], bytes: &[u8], spans: &mut Spans) {
    if is_secret_header(name) {
        value(name, bytes, 0, spans);
    } else if inline::suspicious(bytes) {
        inline::scan(bytes, 0, spans);
        if memchr::memchr(b'?', bytes).is_some() {
            inline::query(bytes, spans);
        }
    }
}

/// Bytes of a connection as they came: lines that are secret headers, wherever a line begins, and the target of a request that they
/// begin with. What the calls cut in the middle of a name is not seen.
pub fn plaintext(bytes: &[u8], spans: &mut Spans) {
    if !inline::suspicious(bytes) {
        return;
    }
    let first = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let line = bytes.get(..first).unwrap_or_default();
    if let Some(at) = request_target(line) {
        let rest = line.get(at..).unwrap_or_default();
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        let target = rest.get(..end).unwrap_or_default();
        let mut own = Spans::default();
        inline::scan(target, 0, &mut own);
        if memchr::memchr(b'?', target).is_some() {
            inline::query(target, &mut own);
        }
        own.iter().for_each(|(from, to, kind)| spans.add(at + from, at + to, kind));
    }
    let mut at = 0;
    for line in bytes.split(|b| *b == b'\n') {
        // No secret header has a longer name.
        let head = line.get(..line.len().min(24)).unwrap_or_default();
        if let Some(colon) = memchr::memchr(b':', head)
            && is_secret_header(line.get(..colon).unwrap_or_default())
        {
            let text = line.get(colon + 1..).unwrap_or_default();
            value(line.get(..colon).unwrap_or_default(), text, at + colon + 1, spans);
        }
        at += line.len() + 1;
    }
}

fn request_target(line: &[u8]) -> Option<usize> {
    let space = memchr::memchr(b' ', line.get(..line.len().min(24))?)?;
    line.get(..space)?.iter().all(u8::is_ascii_uppercase).then_some(space + 1)
}
