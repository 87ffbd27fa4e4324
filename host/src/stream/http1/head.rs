//! Heads of HTTP/1.x messages: does one begin here, where does it end, what does it say.

use super::super::exchange::Header;

/// Longest head that is read; a longer one is cut.
pub const MAX_HEAD: usize = 256 << 10;
/// Header lines that are read of a head; more are cut.
pub const MAX_HEADERS: usize = 1000;
/// Longest method that begins a message.
const MAX_METHOD: usize = 24;
/// Longest request line of what is not yet known to be HTTP.
const MAX_LINE: usize = 32 << 10;

/// What a direction of a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It asks.
    Requests,
    /// It answers.
    Responses,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// A message of this kind.
    With(Kind),
    /// No message.
    Not,
    /// Not enough bytes to say.
    Open,
}

/// Whether a message begins here. A request is one when its first line is there up to the version.
pub fn begins(bytes: &[u8]) -> Begins {
    let status = b"HTTP/1.";
    if bytes.len() < status.len() && status.starts_with(bytes) {
        return Begins::Open;
    }
    if let Some(rest) = bytes.strip_prefix(status) {
        let pattern: [fn(u8) -> bool; 5] = [is_digit, |b| b == b' ', is_digit, is_digit, is_digit];
        let fits = rest.iter().zip(pattern).all(|(byte, good)| good(*byte));
        return match fits {
            false => Begins::Not,
            true if rest.len() < pattern.len() => Begins::Open,
            true => Begins::With(Kind::Responses),
        };
    }
    let method = bytes.iter().take(MAX_METHOD + 1).take_while(|b| is_method(**b)).count();
    if method == 0 || method > MAX_METHOD {
        return Begins::Not;
    }
    let Some(rest) = bytes.get(method..).filter(|rest| !rest.is_empty()) else { return Begins::Open };
    let Some(rest) = rest.strip_prefix(b" ") else { return Begins::Not };
    let target = rest.iter().take(MAX_LINE).take_while(|b| **b > b' ' && **b != 0x7f).count();
    let Some(after) = rest.get(target..).filter(|after| !after.is_empty()) else {
        return Begins::Open;
    };
    let version = b" HTTP/1.";
    match after.get(..version.len()) {
        _ if target == 0 => Begins::Not,
        Some(begin) if begin == version => Begins::With(Kind::Requests),
        None if version.starts_with(after) => Begins::Open,
        _ => Begins::Not,
    }
}

/// Methods are tokens; all that are in use are of upper-case letters and hyphens.
fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

/// Bytes up to the end of a head, the empty line included. Nothing before `from` ends it.
pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    let rest = bytes.get(from..)?;
    memchr::memchr_iter(b'\n', rest).find_map(|at| match rest.get(at + 1..)? {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// A head, read.
#[derive(Debug, Default, PartialEq)]
pub struct Head {
    /// The first line, of either kind.
    pub first: First,
    /// `1.0` or `1.1`.
    pub version: &'static str,
    /// Headers in their order.
    pub headers: Vec<Header>,
    /// What is wrong with it.
    pub note: Option<&'static str>,
}

/// A first line.
#[derive(Debug, PartialEq)]
pub enum First {
    /// Method and target.
    Request(Vec<u8>, Vec<u8>),
    /// Status and reason.
    Response(u16, Vec<u8>),
}

impl Default for First {
    fn default() -> Self {
        Self::Response(0, Vec::new())
    }
}

/// Reads a whole head.
pub fn parse(bytes: &[u8]) -> Option<Head> {
    strict(bytes).or_else(|| lines(bytes, "the header is not as the standard has it"))
}

/// As the standard has it.
fn strict(bytes: &[u8]) -> Option<Head> {
    // More lines than most heads have, and still cheap to clear.
    let mut own = [httparse::EMPTY_HEADER; 64];
    let mut many = Vec::new();
    let room = if memchr::memchr_iter(b'\n', bytes).nth(own.len()).is_none() {
        &mut own[..]
    } else {
        many.resize(MAX_HEADERS, httparse::EMPTY_HEADER);
        &mut many[..]
    };
    if bytes.starts_with(b"HTTP/") {
        let mut response = httparse::Response::new(room);
        response.parse(bytes).ok().filter(httparse::Status::is_complete)?;
        let first = First::Response(response.code?, response.reason.unwrap_or_default().as_bytes().to_vec());
        return Some(Head { first, version: version(response.version?), headers: owned(response.headers), note: None });
    }
    let mut request = httparse::Request::new(room);
    request.parse(bytes).ok().filter(httparse::Status::is_complete)?;
    let first = First::Request(request.method?.as_bytes().to_vec(), request.path?.as_bytes().to_vec());
    Some(Head { first, version: version(request.version?), headers: owned(request.headers), note: None })
}

fn owned(headers: &[httparse::Header<'_>]) -> Vec<Header> {
    headers.iter().map(|h| Header { name: Some(h.name.as_bytes().to_vec()), value: Some(h.value.to_vec()) }).collect()
}

fn version(minor: u8) -> &'static str {
    if minor == 0 { "1.0" } else { "1.1" }
}

/// Reads what is there of a head, line by line: one that was cut, has gaps behind it, or is not well-formed. Only whole lines
/// count. `note` says why.
pub fn lines(bytes: &[u8], note: &'static str) -> Option<Head> {
    let mut lines = memchr::memchr_iter(b'\n', bytes).scan(0, |from, at| {
        let line = bytes.get(*from..at).unwrap_or_default();
        *from = at + 1;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    });
    let (first, version) = first_line(lines.next()?)?;
    let mut head = Head { first, version, headers: Vec::new(), note: Some(note) };
    for line in lines.take_while(|line| !line.is_empty()) {
        if head.headers.len() >= MAX_HEADERS {
            head.note = Some("more than 1000 header lines: the rest was left out");
            break;
        }
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        match (memchr::memchr(b':', line), head.headers.last_mut().and_then(|last| last.value.as_mut())) {
            (_, Some(value)) if folded => {
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
            }
            (Some(colon), _) => {
                let (name, value) = line.split_at(colon);
                let value = value.get(1..).unwrap_or_default().trim_ascii().to_vec();
                head.headers.push(Header { name: Some(name.trim_ascii().to_vec()), value: Some(value) });
            }
            (None, _) => head.headers.push(Header { name: Some(line.to_vec()), value: Some(Vec::new()) }),
        }
    }
    Some(head)
}

fn first_line(line: &[u8]) -> Option<(First, &'static str)> {
    match begins(line) {
        Begins::With(Kind::Responses) => {
            let (head, reason) = line.split_at_checked(12)?;
            let code = std::str::from_utf8(head.get(9..)?).ok()?.parse().ok()?;
            Some((First::Response(code, reason.trim_ascii().to_vec()), version(head.get(7)?.wrapping_sub(b'0'))))
        }
        Begins::With(Kind::Requests) => {
            let mut words = line.split(|b| *b == b' ');
            let (method, target) = (words.next()?, words.next()?);
            let minor = line.trim_ascii_end().last()?.wrapping_sub(b'0');
            Some((First::Request(method.to_vec(), target.to_vec()), version(minor)))
        }
        _ => None,
    }
}

/// Trailers, up to and without the empty line.
pub fn trailers(bytes: &[u8]) -> Vec<Header> {
    let fake = [b"HTTP/1.1 200\n", bytes].concat();
    lines(&fake, "").map(|head| head.headers).unwrap_or_default()
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
