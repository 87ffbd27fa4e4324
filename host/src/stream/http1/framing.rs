//! Where a body ends, as its headers and its chunks say it (RFC 9112, 6 and 7.1).

use super::super::exchange::Message;

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Codings but the last, which is the framing.
pub(super) fn without_chunked(value: &[u8]) -> &[u8] {
    let at = value.len().saturating_sub(b"chunked".len());
    match value.split_at_checked(at) {
        Some((before, last)) if last.eq_ignore_ascii_case(b"chunked") => before.trim_ascii_end(),
        _ => value,
    }
}

/// What its headers say.
pub(super) fn framing(message: &Message, response: bool) -> Framing {
    let mut transfer = message.headers_named("transfer-encoding").peekable();
    if transfer.peek().is_some() {
        let last = transfer.last().unwrap_or_default();
        let chunked = without_chunked(last).len() < last.len() || last.eq_ignore_ascii_case(b"chunked");
        return match chunked {
            true => Framing::Chunked,
            false if response => Framing::UntilClose,
            false => Framing::None,
        };
    }
    // Several equal ones are allowed, even in one line.
    let length = message.headers_named("content-length").flat_map(|value| value.split(|b| *b == b',')).find_map(|v| {
        let text = std::str::from_utf8(v.trim_ascii()).ok()?;
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
    });
    match length {
        Some(length) => Framing::Length(length),
        None if response => Framing::UntilClose,
        None => Framing::None,
    }
}

/// The number in the line before a chunk.
pub(super) fn chunk_length(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| matches!(b, b';' | b' ' | b'\t' | b'\r')).next()?;
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
