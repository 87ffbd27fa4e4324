//! Finds the next message behind bytes that were lost or make no sense.

use super::head::{Begins, Kind, begins};

/// Bytes kept of a search that has found nothing: a request line may have begun in them.
pub const KEPT: usize = 8 << 10;
/// Methods that a request found in the middle of other bytes may have: its first letter may follow any other byte.
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];

/// Outcome of a search.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A message begins at this byte.
    At(usize),
    /// None; one may begin at this byte or later when more comes.
    Nothing(usize),
}

/// The first byte at which a message of this kind (`None`: of any) begins.
pub fn next_message(bytes: &[u8], kind: Option<Kind>) -> Found {
    if let Begins::With(found) = begins(bytes)
        && kind.is_none_or(|kind| kind == found)
    {
        return Found::At(0);
    }
    for at in memchr::memmem::find_iter(bytes, b"HTTP/1.") {
        let rest = bytes.get(at..).unwrap_or_default();
        let asked = bytes.get(..at).and_then(|before| request_before(before, rest));
        let candidate = match (asked, begins(rest)) {
            (Some(begin), _) if kind != Some(Kind::Responses) => Some(begin),
            (None, Begins::With(Kind::Responses)) if kind != Some(Kind::Requests) => Some(at),
            // Cut in the middle of its version or status.
            _ if rest.len() < 13 => return Found::Nothing(at.saturating_sub(KEPT)),
            _ => None,
        };
        // What comes before the version may still be no request line.
        let fits = |at: usize| matches!(bytes.get(at..).map(begins), Some(Begins::With(_)));
        if let Some(at) = candidate.filter(|at| fits(*at)) {
            return Found::At(at);
        }
    }
    Found::Nothing(bytes.len().saturating_sub(KEPT))
}

/// Where the request begins whose first line ends with `rest`.
fn request_before(before: &[u8], rest: &[u8]) -> Option<usize> {
    matches!(rest.get(8), Some(b'\r' | b'\n')).then_some(())?;
    let before = before.strip_suffix(b" ")?;
    let line = before.get(before.len().saturating_sub(KEPT)..)?;
    let space = memchr::memrchr(b' ', line)?;
    let method = line.get(..space)?;
    let known = METHODS.iter().filter(|known| method.ends_with(known)).map(|known| known.len()).max()?;
    (space + 1 < line.len()).then(|| before.len() - line.len() + space - known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_behind_anything() {
        let cases: [(&[u8], Option<Kind>, Found); 9] = [
            (b"GET / HTTP/1.1\r\n", None, Found::At(0)),
            (b"xyz}GET /a?b HTTP/1.0\r\n", None, Found::At(4)),
            (b"xABCPOST /a HTTP/1.1\n", Some(Kind::Requests), Found::At(4)),
            (b"tail HTTP/1.1 20", None, Found::Nothing(0)),
            (b"tailHTTP/1.1 204 No", Some(Kind::Responses), Found::At(4)),
            (b"tailHTTP/1.1 204 No", Some(Kind::Requests), Found::Nothing(0)),
            (b"GET / HTTP/1.1\r\nHTTP/1.1 200 OK\r\n", Some(Kind::Responses), Found::At(16)),
            (b"the text GET HTTP/1.1 is no request", None, Found::Nothing(0)),
            (b"cut HTTP/1.", None, Found::Nothing(0)),
        ];
        for (bytes, kind, found) in cases {
            assert_eq!(next_message(bytes, kind), found, "{}", String::from_utf8_lossy(bytes));
        }
        let long = [vec![b'x'; 100_000], b"HTTP/1.1 200 OK\r\n".to_vec()].concat();
        assert_eq!(next_message(&long, None), Found::At(100_000));
        assert_eq!(next_message(&long[..90_000], None), Found::Nothing(90_000 - KEPT));
    }
}
