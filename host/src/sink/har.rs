//! HAR 1.2 (HTTP Archive): one JSON document of all requests with their responses, as browsers export and import it.
//! Written as it comes: the end of the run closes it. Events that are no exchanges pass it by.
//!
//! What the format has no place for is in fields that begin with `_`, which it allows, and in comments.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;
use std::{io, mem};

use crate::event::{Event, Value};
use crate::stream::exchange::{Exchange, Message};
use crate::stream::options::Bodies;

use super::encode::{base64, decimal, float, hex_byte};
use super::fd::{FdDestination, Sharing};
use super::json::{key, number, string, text};
use super::output::{Limits, Output};
use super::session::{Gap, Render, SessionEnd, SessionStart};
use super::set::{Notice, Sink, SinkReport};
use super::time::Rfc3339;

/// The format.
#[derive(Debug, Default)]
struct Document {
    bodies: Bodies,
    times: Rfc3339,
    /// An entry has been written.
    begun: bool,
    /// Exchanges that could not be written.
    lost: u64,
}

impl Render for Document {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let Some(exchange) = event.exchange else { return };
        out.extend_from_slice(if mem::replace(&mut self.begun, true) { b",\n" } else { b"\n" });
        let began_ns = [
            exchange.request.as_ref().map(|request| request.message.began_ns),
            exchange.response.as_ref().map(|response| response.message.began_ns),
        ];
        let began_ns = began_ns.into_iter().flatten().next().unwrap_or(event.time_ns);
        out.extend_from_slice(b"{\"startedDateTime\":\"");
        self.times.write(event.wall_ns.saturating_sub(event.time_ns.saturating_sub(began_ns)), out);
        out.push(b'"');
        let times = timings(exchange);
        milliseconds("time", times.iter().sum(), out);
        self.request(event, exchange, out);
        self.response(exchange, out);
        out.extend_from_slice(b",\"cache\":{},\"timings\":{\"blocked\":-1");
        for (name, ns) in ["send", "wait", "receive"].into_iter().zip(times) {
            milliseconds(name, ns, out);
        }
        out.push(b'}');
        let server = if exchange.client == Some(false) { "network.local.address" } else { "network.peer.address" };
        if let Some(Value::Text(address)) = column(event, server) {
            text("serverIPAddress", address, out);
        }
        if let Some(stream) = event.stream {
            text("connection", stream.id.to_string().as_bytes(), out);
        }
        text("_process", event.program(), out);
        number("_pid", event.pid.into(), out);
        if let Some(client) = exchange.client {
            text("_side", if client { b"client" } else { b"server" }, out);
        }
        let mut comment = exchange.notes.join("; ");
        if event.missing > 0 {
            let sep = if comment.is_empty() { "" } else { "; " };
            comment += &format!("{sep}{} bytes were never captured", event.missing);
        }
        if !comment.is_empty() {
            text("comment", comment.as_bytes(), out);
        }
        out.push(b'}');
    }

    fn session_start(&mut self, start: &SessionStart, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"log\":{\"version\":\"1.2\",\"creator\":{\"name\":\"ecapture\"");
        text("version", start.version.as_bytes(), out);
        out.extend_from_slice(b"},\"entries\":[");
    }

    fn session_end(&mut self, _: &SessionEnd<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\n]");
        if self.lost > 0 {
            text("comment", format!("{} requests could not be written here", self.lost).as_bytes(), out);
        }
        out.extend_from_slice(b"}}\n");
    }

    /// There is no place for it in the middle: it is said at the end.
    fn gap(&mut self, gap: &Gap, _: &mut Vec<u8>) {
        self.lost += gap.lost;
    }
}

impl Document {
    fn request(&self, event: &Event<'_>, exchange: &Exchange, out: &mut Vec<u8>) {
        let none = Message::default();
        let request = exchange.request.as_ref();
        let message = request.map_or(&none, |request| &request.message);
        out.extend_from_slice(b",\"request\":{\"method\":");
        string(request.map_or(b"", |request| request.method.as_slice()), out);
        let full = match column(event, "url.full") {
            Some(Value::Text(url)) => url,
            _ => b"",
        };
        key("url", out);
        url(full, out);
        version(exchange, out);
        let cookies = message.headers_named("cookie").flat_map(|value| value.split(|b| *b == b';'));
        pairs("cookies", cookies.map(|cookie| split(cookie.trim_ascii(), b'=')), out);
        headers(message, out);
        let query = match column(event, "url.query") {
            Some(Value::Text(query)) if !query.is_empty() => query.split(|b| *b == b'&').collect(),
            _ => Vec::new(),
        };
        pairs("queryString", query.into_iter().map(|part| split(part, b'=')), out);
        let body = &message.body;
        if self.bodies.shows(&body.bytes) {
            out.extend_from_slice(b",\"postData\":{\"mimeType\":");
            string(message.header("content-type").unwrap_or_default(), out);
            if std::str::from_utf8(&body.bytes).is_ok() {
                text("text", &body.bytes, out);
            } else {
                // The format has no encoding for what is sent.
                text("text", b"", out);
                key("_base64", out);
                quoted_base64(&body.bytes, out);
            }
            body_comment(message, out);
            out.push(b'}');
        }
        out.extend_from_slice(b",\"headersSize\":-1");
        number("bodySize", body.wire, out);
        if request.is_none() {
            text("comment", b"the request was not seen", out);
        }
        out.push(b'}');
    }

    fn response(&self, exchange: &Exchange, out: &mut Vec<u8>) {
        let none = Message::default();
        let response = exchange.response.as_ref();
        let message = response.map_or(&none, |response| &response.message);
        out.extend_from_slice(b",\"response\":{\"status\":");
        decimal(response.and_then(|response| response.status).unwrap_or(0).into(), out);
        text("statusText", response.map_or(b"", |response| response.reason.as_slice()), out);
        version(exchange, out);
        let cookies = message.headers_named("set-cookie").filter_map(|value| value.split(|b| *b == b';').next());
        pairs("cookies", cookies.map(|cookie| split(cookie.trim_ascii(), b'=')), out);
        headers(message, out);
        let body = &message.body;
        out.extend_from_slice(b",\"content\":{\"size\":");
        decimal(if body.decoded > 0 { body.decoded } else { body.wire }, out);
        text("mimeType", message.header("content-type").unwrap_or_default(), out);
        if self.bodies.shows(&body.bytes) {
            if std::str::from_utf8(&body.bytes).is_ok() {
                text("text", &body.bytes, out);
            } else {
                key("text", out);
                quoted_base64(&body.bytes, out);
                text("encoding", b"base64", out);
            }
        }
        body_comment(message, out);
        out.push(b'}');
        text("redirectURL", message.header("location").unwrap_or_default(), out);
        out.extend_from_slice(b",\"headersSize\":-1");
        number("bodySize", body.wire, out);
        if response.is_none() {
            text("comment", b"no response was seen", out);
        }
        out.push(b'}');
    }
}

/// Send, wait, receive: ns.
fn timings(exchange: &Exchange) -> [u64; 3] {
    let times = |message: &Message| (message.began_ns, message.ended_ns.max(message.began_ns));
    let request = exchange.request.as_ref().map(|request| times(&request.message));
    let response = exchange.response.as_ref().map(|response| times(&response.message));
    let spent = |(from, to): (u64, u64)| to.saturating_sub(from);
    let wait = request.zip(response).map_or(0, |(request, response)| response.0.saturating_sub(request.1));
    [request.map_or(0, spent), wait, response.map_or(0, spent)]
}

fn milliseconds(name: &str, ns: u64, out: &mut Vec<u8>) {
    key(name, out);
    float(ns as f64 / 1e6, out);
}

fn column<'a>(event: &Event<'a>, name: &str) -> Option<Value<'a>> {
    event.columns().find(|(column, _)| column.name() == name).map(|(_, value)| value)
}

fn version(exchange: &Exchange, out: &mut Vec<u8>) {
    text("httpVersion", format!("HTTP/{}", exchange.version).as_bytes(), out);
}

fn headers(message: &Message, out: &mut Vec<u8>) {
    let unknown = |part: &Option<Vec<u8>>| part.clone().unwrap_or_else(|| b"?".to_vec());
    pairs("headers", message.headers.iter().map(|header| (unknown(&header.name), unknown(&header.value))), out);
}

/// `,"name":[{"name":...,"value":...}]`
fn pairs(name: &str, pairs: impl Iterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>, out: &mut Vec<u8>) {
    key(name, out);
    out.push(b'[');
    for (number, (name, value)) in pairs.enumerate() {
        out.extend_from_slice(if number > 0 { b",{\"name\":" } else { b"{\"name\":" });
        string(name.as_ref(), out);
        text_value(value.as_ref(), out);
    }
    out.push(b']');
}

fn text_value(value: &[u8], out: &mut Vec<u8>) {
    key("value", out);
    string(value, out);
    out.push(b'}');
}

fn split(pair: &[u8], at: u8) -> (&[u8], &[u8]) {
    let place = memchr::memchr(at, pair).unwrap_or(pair.len());
    let (name, value) = pair.split_at(place);
    (name, value.get(1..).unwrap_or_default())
}

fn quoted_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    base64(bytes, out);
    out.push(b'"');
}

/// What there is to say of a body.
fn body_comment(message: &Message, out: &mut Vec<u8>) {
    let body = &message.body;
    if let Some(problem) = &body.problem {
        text("comment", problem.as_bytes(), out);
    } else if body.is_cut() && !body.bytes.is_empty() {
        text("comment", format!("the first {} bytes of {}", body.bytes.len(), body.decoded).as_bytes(), out);
    }
}

/// An absolute URL of allowed characters, whatever was sent.
fn url(full: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if memchr::memmem::find(full, b"://").is_none() {
        out.extend_from_slice(b"https://unknown/");
    }
    for byte in full {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            hex_byte(*byte, out);
        }
    }
    out.push(b'"');
}

/// An output in this format.
pub struct Har(Output);

impl Har {
    /// Into this file or pipe.
    ///
    /// # Errors
    /// The descriptor cannot be looked at.
    pub fn new(name: &str, bodies: Bodies, fd: OwnedFd, shared: bool, quiet: bool) -> io::Result<Self> {
        let destination = FdDestination::new(fd, if shared { Sharing::Shared } else { Sharing::Own })?;
        let render = Box::new(Document { bodies, ..Document::default() });
        Ok(Self(Output::new(name, quiet, render, Box::new(destination), Limits::default())))
    }
}

impl Sink for Har {
    fn event(&mut self, event: &Event<'_>) {
        if event.exchange.is_some() {
            self.0.event(event);
        }
    }

    fn session_start(&mut self, start: &SessionStart) {
        self.0.session_start(start);
    }

    fn session_end(&mut self, end: &SessionEnd<'_>) {
        self.0.session_end(end);
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant> {
        self.0.tick(now, notices)
    }

    fn finish(&mut self, deadline: Instant) {
        self.0.finish(deadline);
    }

    fn report(&self) -> SinkReport {
        self.0.report()
    }

    fn blocked(&self) -> Option<BorrowedFd<'_>> {
        self.0.blocked()
    }

    fn congested(&self) -> bool {
        self.0.congested()
    }

    fn ended(&self) -> bool {
        self.0.ended()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;
    use crate::event::Summary;
    use crate::sink::exchange::tests::exchange;
    use crate::sink::samples;

    fn written(exchanges: &[Exchange]) -> serde_json::Value {
        let mut file = tempfile::tempfile().unwrap();
        let mut har = Har::new("x", Bodies::All, file.try_clone().unwrap().into(), false, false).unwrap();
        let schema = samples::schema();
        har.session_start(&SessionStart { version: "1.\"2".into(), ..SessionStart::default() });
        for exchange in exchanges {
            let mut event = samples::event(&schema, &[]);
            har.event(&event);
            event.exchange = Some(exchange);
            har.event(&event);
        }
        har.session_end(&SessionEnd { wall_ns: 0, duration_ns: 0, summary: &Summary::default(), segment: None });
        har.finish(Instant::now());
        assert_eq!(har.report().written, exchanges.len() as u64);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[test]
    fn a_document_without_entries_is_one() {
        assert_eq!(written(&[])["log"]["entries"], serde_json::json!([]));
    }

    #[test]
    fn an_entry_has_everything() {
        let mut first = exchange();
        first.notes.push("a \"note\"\n".into());
        let log = &written(&[first, Exchange::default()])["log"];
        assert_eq!((&log["version"], &log["creator"]["version"]), (&"1.2".into(), &"1.\"2".into()));
        let [entry, nothing] = &log["entries"].as_array().unwrap()[..] else { panic!("{log}") };
        assert_eq!(entry["request"]["method"], "POST");
        assert_eq!(entry["request"]["postData"]["text"], "a=1\nb\u{1b}");
        assert_eq!(entry["request"]["headers"][0], serde_json::json!({"name": "Host", "value": "h"}));
        assert_eq!(
            (&entry["response"]["status"], &entry["response"]["content"]["encoding"]),
            (&200.into(), &"base64".into())
        );
        assert_eq!(entry["response"]["cookies"].as_array().unwrap().len(), 2);
        assert_eq!(entry["response"]["content"]["comment"], "broken gzip data");
        assert_eq!(entry["comment"], "a \"note\"\n");
        assert_eq!(nothing["response"]["comment"], "no response was seen");
        assert_eq!(nothing["request"]["url"], "https://unknown/");
    }

    #[test]
    fn urls_are_of_allowed_characters() {
        let of = |bytes: &[u8]| {
            let mut out = Vec::new();
            url(bytes, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(of(b"https://h/a?b=c"), "\"https://h/a?b=c\"");
        assert_eq!(of(b"https://h/\x00 \"\xff"), "\"https://h/%00%20%22%ff\"");
    }
}
