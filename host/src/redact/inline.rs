//! Secrets that say themselves what they are, wherever they stand: `password=…`, `"token": "…"`, `https://user:…@host`,
//! `Authorization: …`.

use super::http;
use super::names::{self, MAX_NAME, is_secret_name, is_secret_parameter};
use super::spans::{Kinds, Spans};

/// A byte of a name.
#[must_use]
pub fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// Adds what is found in `text`, whose first byte is at `base`. Each byte is looked at a bounded number of times.
pub fn scan(text: &[u8], base: usize, spans: &mut Spans) {
    let (mut done, mut around) = (0, Url::default());
    for found in names::find(text) {
        if found.start < done {
            continue;
        }
        if text.get(found.clone()) == Some(b"://") {
            // A URL within another one ends where that does.
            let first = found.end >= around.end;
            if first {
                around = Url::from(text, found.end);
            }
            done = url(text, found.end, around, base, spans);
            if first {
                query_of_url(text.get(done..around.end).unwrap_or_default(), base + done, spans);
            }
            continue;
        }
        let back = text.get(..found.start).unwrap_or_default().iter().rev().take(MAX_NAME);
        let start = found.start - back.take_while(|b| is_name(**b)).count();
        let ahead = text.get(found.end..).unwrap_or_default().iter().take(MAX_NAME);
        let end = found.end + ahead.take_while(|b| is_name(**b)).count();
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
    if sign == b':' && !quoted && http::is_header_in_text(name) {
        // Up to the end of the line, or of the quotes that the header stands in.
        let quote = start.checked_sub(1).map(|before| byte(text, before)).filter(|b| matches!(b, b'"' | b'\''));
        let rest = text.get(at + 1..).unwrap_or_default();
        let len = rest.iter().position(|b| matches!(b, b'\r' | b'\n' | 0) || Some(*b) == quote).unwrap_or(rest.len());
        http::value(name, rest.get(..len).unwrap_or_default(), base + at + 1, spans);
        return at + 1 + len;
    }
    let before = text.get(..start).unwrap_or_default().iter().rev().take(8).find(|b| !matches!(b, b' ' | b'\t'));
    let in_url = matches!(start.checked_sub(1).map(|at| byte(text, at)), Some(b'?' | b'&'))
        || before == Some(&b';') && is_secret_parameter(name, b"") && !is_secret_name(name);
    let secret = if in_url { is_secret_parameter(name, b"") } else { is_secret_name(name) };
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
        // What stands before the name separates all of the list; else blanks do. No other sign ends a value: passwords are made of them.
        let separator = if in_url { Some(&b'&') } else { before.filter(|b| matches!(b, b',' | b';' | b'&' | b'|')) };
        (at, bare(text, at, separator.copied(), in_url))
    };
    spans.add(base + from, base + to, if in_url { Kinds::URL } else { Kinds::PASSWORD });
    to
}

/// Where a value without quotes ends.
fn bare(text: &[u8], from: usize, separator: Option<u8>, in_url: bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let mut escaped = false;
    let ends = |b: &u8| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        escaped = *b == b'\\';
        b.is_ascii_whitespace()
            || matches!(b, b'\'' | b'"' | 0)
            || Some(*b) == separator
            || in_url && matches!(b, b'#' | b';' | b'?' | b'`' | b'<' | b'>')
    };
    from + rest.iter().position(ends).unwrap_or(rest.len())
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

/// A URL, and what stands within it.
#[derive(Clone, Copy, Default)]
struct Url {
    end: usize,
    /// Its last `@`.
    at: Option<usize>,
}

impl Url {
    fn from(text: &[u8], from: usize) -> Self {
        let rest = text.get(from..).unwrap_or_default();
        let stops = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'<' | b'>' | b'`' | 0);
        let len = rest.iter().position(stops).unwrap_or(rest.len());
        let at = memchr::memrchr(b'@', rest.get(..len).unwrap_or_default());
        Self { end: from + len, at: at.map(|at| from + at) }
    }
}

/// What stands between `//` and the host. Returns up to where it has been looked at.
fn url(text: &[u8], from: usize, around: Url, base: usize, spans: &mut Spans) -> usize {
    let whole = text.get(from..around.end).unwrap_or_default();
    let mut len = whole.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(whole.len());
    let mut authority = whole.get(..len).unwrap_or_default();
    // A password that nobody has escaped: what would end the host ends no port. It goes on to the `@`, wherever that is.
    if let Some(colon) = memchr::memchr(b':', authority)
        && !authority.contains(&b'@')
        && !authority.starts_with(b"[")
        && !is_port(authority.get(colon + 1..).unwrap_or_default())
        && let Some(at) = around.at.filter(|at| *at > from)
    {
        len = at + 1 - from;
        authority = whole.get(..len).unwrap_or_default();
    }
    let user = memchr::memrchr(b'@', authority);
    let password = memchr::memchr(b':', authority.get(..user.unwrap_or(len)).unwrap_or_default());
    match (user, password) {
        (Some(at), Some(colon)) => spans.add(base + from + colon + 1, base + from + at, Kinds::URL),
        // A token in place of a name.
        (Some(at), None) if at >= 20 => spans.add(base + from, base + from + at, Kinds::URL),
        // Cut before the `@`, or else a port.
        (None, Some(colon))
            if from + len == text.len()
                && !authority.starts_with(b"[")
                && !is_port(authority.get(colon + 1..).unwrap_or_default()) =>
        {
            spans.add(base + from + colon + 1, base + from + len, Kinds::URL);
        }
        _ => {}
    }
    from + len
}

fn is_port(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit)
}

fn query_of_url(path: &[u8], base: usize, spans: &mut Spans) {
    if let Some(sign) = memchr::memchr(b'?', path) {
        let mut own = Spans::default();
        query(path.get(sign..).unwrap_or_default(), &mut own);
        own.iter().for_each(|(from, to, kind)| spans.add(base + sign + from, base + sign + to, kind));
    }
}

/// The parameters of a URL, or a part of one, that begins anywhere: `a=1&token=2`.
pub fn query(text: &[u8], spans: &mut Spans) {
    let mut at = text.iter().position(|b| *b == b'?').map_or(0, |n| n + 1);
    for part in text.get(at..).unwrap_or_default().split(|b| matches!(b, b'&' | b';')) {
        let fragment = memchr::memchr(b'#', part).unwrap_or(part.len());
        if let Some(sign) = memchr::memchr(b'=', part) {
            let value = part.get(sign + 1..fragment.max(sign + 1)).unwrap_or_default();
            if is_secret_parameter(part.get(..sign).unwrap_or_default(), value) {
                spans.add(at + sign + 1, at + sign + 1 + value.len(), Kinds::URL);
            }
        }
        at += part.len() + 1;
    }
}
