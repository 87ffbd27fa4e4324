//! What the user asked for: the view, what of bodies is wanted, which exchanges.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::body::BodyLimits;
use super::exchange::Exchange;
use crate::redact::RedactOptions;
use crate::statements::StatementOptions;

/// What is shown of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// Requests with their responses where HTTP is spoken, calls elsewhere.
    Auto,
    /// Calls, as they come.
    #[default]
    Raw,
    /// Requests with their responses, nothing else.
    Http,
    /// The bytes of each connection, in their order.
    Stream,
}

impl View {
    /// The view of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "raw" => Self::Raw,
            "http" => Self::Http,
            "stream" => Self::Stream,
            _ => return None,
        })
    }
}

/// Which bodies an output shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bodies {
    /// None.
    #[default]
    None,
    /// Those that are text.
    Text,
    /// All.
    All,
}

impl Bodies {
    /// The choice of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "text" => Self::Text,
            "all" => Self::All,
            _ => return None,
        })
    }

    /// Whether these bytes of a body are to be shown.
    #[must_use]
    pub fn shows(self, bytes: &[u8]) -> bool {
        match self {
            _ if bytes.is_empty() => false,
            Self::None => false,
            Self::Text => is_text(bytes),
            Self::All => true,
        }
    }
}

/// UTF-8, but for a character that was cut at the end.
#[must_use]
pub fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// What is done with connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamOptions {
    /// What is shown.
    pub view: View,
    /// Bytes that are kept of a body, decoded; 0: none.
    pub max_body: u64,
    /// Bytes that may be held of all connections together.
    pub memory: u64,
    /// Which exchanges are shown.
    pub filter: Filter,
    /// What is taken out of events.
    #[serde(default)]
    pub redact: RedactOptions,
    /// What is done with statements.
    #[serde(default)]
    pub statements: StatementOptions,
}

impl StreamOptions {
    /// What bodies may cost: beyond what is kept, nothing is decoded.
    #[must_use]
    pub fn bodies(&self) -> BodyLimits {
        BodyLimits { keep: self.max_body, decode: self.max_body }
    }
}

/// Status codes from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRange(pub u16, pub u16);

impl FromStr for StatusRange {
    type Err = String;

    /// `404`, `5xx`, `400-499`.
    fn from_str(text: &str) -> Result<Self, String> {
        let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=999).contains(code));
        let lower = text.to_ascii_lowercase();
        let range = match (lower.strip_suffix("xx"), lower.split_once('-')) {
            (Some(digit), _) => code(&format!("{digit}00")).filter(|_| digit.len() == 1).map(|low| Self(low, low + 99)),
            (None, Some((from, to))) => {
                code(from).zip(code(to)).map(|(from, to)| Self(from, to)).filter(|r| r.0 <= r.1)
            }
            (None, None) => code(text).map(|code| Self(code, code)),
        };
        range.ok_or_else(|| "expected a status such as 404, 5xx or 400-499".into())
    }
}

/// Which exchanges are shown: those that fit everything that is given. What is not known of an exchange fits nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Hosts: `example.org`, `*.example.org`; any of them.
    pub hosts: Vec<String>,
    /// Paths: `/api` and what is below it, or a pattern with `*`; any of them.
    pub paths: Vec<String>,
    /// Status codes; any of them.
    pub status: Vec<StatusRange>,
    /// Methods; any of them.
    pub methods: Vec<String>,
    /// At least so long, ns.
    pub min_duration_ns: u64,
}

impl Filter {
    /// Nothing is given: everything is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this exchange, with its host and path, is shown.
    #[must_use]
    pub fn wants(&self, exchange: &Exchange, host: Option<&str>, path: Option<&str>) -> bool {
        let fits =
            |patterns: &[String], test: &dyn Fn(&String) -> bool| patterns.is_empty() || patterns.iter().any(test);
        let method = exchange.request.as_ref().map(|request| request.method.as_slice());
        let status = exchange.response.as_ref().and_then(|response| response.status);
        fits(&self.hosts, &|p| host.is_some_and(|host| glob(&p.to_ascii_lowercase(), &host.to_ascii_lowercase())))
            && fits(&self.paths, &|p| path.is_some_and(|path| path_fits(p, path)))
            && fits(&self.methods, &|p| method.is_some_and(|method| method.eq_ignore_ascii_case(p.as_bytes())))
            && (self.status.is_empty() || status.is_some_and(|s| self.status.iter().any(|r| (r.0..=r.1).contains(&s))))
            && (self.min_duration_ns == 0 || exchange.duration_ns().is_some_and(|ns| ns >= self.min_duration_ns))
    }
}

fn path_fits(pattern: &str, path: &str) -> bool {
    if pattern.contains('*') {
        return glob(pattern, path);
    }
    let rest = path.strip_prefix(pattern.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `*` stands for any number of any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::exchange::{Message, Request, Response};

    fn exchange() -> Exchange {
        let message = |began_ns, ended_ns| Message { began_ns, ended_ns, ..Message::default() };
        Exchange {
            request: Some(Request { method: b"GET".to_vec(), message: message(1000, 2000), ..Request::default() }),
            response: Some(Response { status: Some(404), message: message(3000, 5000), ..Response::default() }),
            ..Exchange::default()
        }
    }

    #[test]
    fn status_codes_are_read() {
        for (text, range) in [("404", (404, 404)), ("5xx", (500, 599)), ("2XX", (200, 299)), ("400-499", (400, 499))] {
            assert_eq!(text.parse(), Ok(StatusRange(range.0, range.1)));
        }
        for text in ["", "xx", "40", "4x", "500-400", "12xx", "1000", "-"] {
            assert!(text.parse::<StatusRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn everything_that_is_given_has_to_fit() {
        let fits = |filter: &Filter| filter.wants(&exchange(), Some("www.Example.org"), Some("/api/v1"));
        assert!(Filter::default().is_empty() && fits(&Filter::default()));
        let cases = [
            (Filter { hosts: vec!["x".into(), "*.example.ORG".into()], ..Filter::default() }, true),
            (Filter { hosts: vec!["example.org".into()], ..Filter::default() }, false),
            (Filter { paths: vec!["/api".into()], ..Filter::default() }, true),
            (Filter { paths: vec!["/api/".into()], ..Filter::default() }, true),
            (Filter { paths: vec!["/ap".into(), "/v1".into()], ..Filter::default() }, false),
            (Filter { paths: vec!["*/v1".into()], ..Filter::default() }, true),
            (Filter { methods: vec!["get".into()], ..Filter::default() }, true),
            (Filter { methods: vec!["POST".into()], ..Filter::default() }, false),
            (Filter { status: vec![StatusRange(500, 599), StatusRange(404, 404)], ..Filter::default() }, true),
            (Filter { status: vec![StatusRange(200, 299)], ..Filter::default() }, false),
            (Filter { min_duration_ns: 4000, ..Filter::default() }, true),
            (Filter { min_duration_ns: 4001, ..Filter::default() }, false),
            (Filter { methods: vec!["GET".into()], min_duration_ns: 4001, ..Filter::default() }, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(fits(&filter), expected, "{filter:?}");
        }
        let unknown = Filter { hosts: vec!["*".into()], ..Filter::default() };
        assert!(!unknown.wants(&exchange(), None, None));
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c", false),
            ("a*", "ba", false),
            ("*a", "aa", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn bodies_are_chosen_by_what_they_are() {
        assert!(Bodies::Text.shows("ä".as_bytes()) && Bodies::Text.shows(b"x\xc3") && !Bodies::Text.shows(b"\xff"));
        assert!(Bodies::All.shows(b"\xff") && !Bodies::All.shows(b"") && !Bodies::None.shows(b"x"));
        assert_eq!(Bodies::from_name("text"), Some(Bodies::Text));
        assert_eq!(View::from_name("auto"), Some(View::Auto));
    }
}
