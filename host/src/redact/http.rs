//! Headers of HTTP: which hold secrets, and what of their values is one.

use super::inline;
use super::login;
use super::names::{self, MAX_NAME, ends, is_secret_header};
use super::spans::{Kinds, Spans};

/// Longest line of a request that is looked at.
const TARGET: usize = 16 << 10;

/// Whether what looks like a header within any text is a secret one: `token: str` is none, `X-Token: …` is.
#[must_use]
pub fn is_header_in_text(name: &[u8]) -> bool {
    let dashes = name.iter().take_while(|b| **b == b'-').count();
    let name = name.get(dashes..).unwrap_or_default();
    (name.contains(&b'-') || ends(name, "authorization") || ends(name, "cookie")) && is_secret_header(name)
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
    let skip = scheme.filter(|_| ends(name, "authorization")).map_or(0, |n| n + 1);
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
        return;
    }
    if names::suspicious(bytes) {
        inline::scan(bytes, 0, spans);
    }
    if memchr::memchr(b'?', bytes).is_some() {
        inline::query(bytes, spans);
    }
}

/// Bytes of a connection as they came: lines that are secret headers, wherever a line begins, and the target of a request that they
/// begin with; logins of other protocols. What the calls cut in the middle of a name is not seen.
pub fn plaintext(bytes: &[u8], spans: &mut Spans) {
    login::scan(bytes, spans);
    target(bytes, spans);
    if !names::suspicious(bytes) {
        return;
    }
    let mut at = 0;
    for line in bytes.split(|b| *b == b'\n') {
        let head = line.get(..line.len().min(MAX_NAME)).unwrap_or_default();
        if let Some(colon) = memchr::memchr(b':', head) {
            let (name, text) = (head.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
            if name.iter().all(|b| inline::is_name(*b)) && is_secret_header(name) {
                value(name, text, at + colon + 1, spans);
            }
        }
        at += line.len() + 1;
    }
}

/// The target of a request.
fn target(bytes: &[u8], spans: &mut Spans) {
    let head = bytes.get(..bytes.len().min(TARGET)).unwrap_or_default();
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(space) = memchr::memchr(b' ', line.get(..line.len().min(24)).unwrap_or_default()) else { return };
    if !line.get(..space).unwrap_or_default().iter().all(u8::is_ascii_uppercase) {
        return;
    }
    let rest = line.get(space + 1..).unwrap_or_default();
    let target = rest.split(|b| *b == b' ').next().unwrap_or_default();
    let mut own = Spans::default();
    header(b"location", target, &mut own);
    own.iter().for_each(|(from, to, kind)| spans.add(space + 1 + from, space + 1 + to, kind));
}
