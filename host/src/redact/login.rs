//! Logins of protocols that are lines of text (SMTP, IMAP, POP3, FTP, Redis), and of PostgreSQL, in what a call wrote. Only where it begins: that
//! is where such commands stand, and whatever comes later may be anything.

use super::spans::{Kinds, Spans};

/// Most lines that are looked at: `USER` and `PASS` may come at once.
const LINES: usize = 8;
/// Most words of a Redis command that are looked at.
const ARGUMENTS: usize = 8;
/// Longest line.
const LINE: usize = 4096;

/// Ways to log in: what follows them is the secret, and they are none.
const MECHANISMS: [&[u8]; 10] = [
    b"PLAIN",
    b"LOGIN",
    b"CRAM-MD5",
    b"DIGEST-MD5",
    b"NTLM",
    b"GSSAPI",
    b"XOAUTH2",
    b"OAUTHBEARER",
    b"SCRAM-SHA-1",
    b"SCRAM-SHA-256",
];

fn is(word: &[u8], known: &[u8]) -> bool {
    word.eq_ignore_ascii_case(known)
}

/// Finds what proves who somebody is.
pub fn scan(bytes: &[u8], spans: &mut Spans) {
    match bytes.first() {
        Some(b'*') => redis(bytes, spans),
        Some(b'p') => postgres(bytes, spans),
        _ => {}
    }
    let mut at = 0;
    for line in bytes.split(|b| *b == b'\n').take(LINES) {
        if line.len() > LINE || !command(line, at, spans) {
            return;
        }
        at += line.len() + 1;
    }
}

/// One line. False: it is none of these protocols, nor is what follows.
fn command(line: &[u8], base: usize, spans: &mut Spans) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut at = 0;
    let mut word = || {
        let rest = line.get(at..).unwrap_or_default();
        let blank = rest.iter().take_while(|b| **b == b' ').count();
        let len = rest.iter().skip(blank).take_while(|b| **b != b' ').count();
        at += blank + len;
        (at - len, line.get(at - len..at).unwrap_or_default())
    };
    let (first, second, third) = (word(), word(), word());
    let from = match (first.1, second.1) {
        (name, _)
            if ["EHLO", "HELO", "USER", "CAPA", "NOOP", "STLS"].iter().any(|known| is(name, known.as_bytes())) =>
        {
            return true;
        }
        (name, _) if is(name, b"PASS") => second.0,
        (name, way) if is(name, b"AUTH") && MECHANISMS.iter().any(|known| is(way, known)) => third.0,
        (name, _) if is(name, b"AUTH") => second.0,
        // Behind the number of a command in IMAP.
        (_, name) if is(name, b"LOGIN") => {
            let (from, _) = word();
            from
        }
        (_, name) if is(name, b"AUTHENTICATE") => {
            let (from, _) = word();
            from
        }
        _ => return false,
    };
    spans.add(base + from, base + line.len(), Kinds::PASSWORD);
    true
}

/// `*2 $4 AUTH $6 S3cret`, and `AUTH` within `HELLO`.
fn redis(bytes: &[u8], spans: &mut Spans) {
    let line = |at: usize| {
        let rest = bytes.get(at..)?;
        let len = memchr::memchr(b'\r', rest.get(..rest.len().min(16))?)?;
        Some((rest.get(..len)?, at + len + 2))
    };
    let Some((_, mut at)) = line(0) else { return };
    let mut secret = false;
    for _ in 0..ARGUMENTS {
        let Some((length, from)) = line(at) else { return };
        let length = length.strip_prefix(b"$").and_then(|n| std::str::from_utf8(n).ok()).and_then(|n| n.parse().ok());
        let Some(length) = length.filter(|length: &usize| *length <= bytes.len()) else {
            // Cut in its length: nothing of it is here.
            return;
        };
        let to = (from + length).min(bytes.len());
        if secret {
            spans.add(from, to, Kinds::PASSWORD);
        }
        let word = bytes.get(from..to).unwrap_or_default();
        secret |= is(word, b"AUTH") || is(word, b"requirepass") || is(word, b"masterauth");
        at = to + 2;
    }
}

/// `PasswordMessage`: its letter, its length without that, and a text that ends with NUL.
fn postgres(bytes: &[u8], spans: &mut Spans) {
    let length = bytes.get(1..5).and_then(|length| <[u8; 4]>::try_from(length).ok()).map(u32::from_be_bytes);
    if length.is_some_and(|length| length as usize + 1 == bytes.len()) && bytes.last() == Some(&0) {
        spans.add(5, bytes.len() - 1, Kinds::PASSWORD);
    }
}
