//! What of a request and its response is no column: headers, trailers, bodies, as keys of a line of JSON.

use crate::stream::exchange::{Exchange, Header, Message};
use crate::stream::options::Bodies;

use super::encode::base64;
use super::escape;
use super::grpc;
use super::json::{flag, key, number, string, text};

/// Appends the keys of both halves.
pub fn json(exchange: &Exchange, bodies: Bodies, out: &mut Vec<u8>) {
    if let Some(request) = &exchange.request {
        message("request", &request.message, bodies, out);
    }
    if let Some(response) = &exchange.response {
        message("response", &response.message, bodies, out);
    }
}

fn message(half: &str, message: &Message, bodies: Bodies, out: &mut Vec<u8>) {
    headers(&format!("http.{half}.header."), &message.headers, out);
    headers(&format!("ecapture.http.{half}.trailer."), &message.trailers, out);
    let own = |name: &str| format!("ecapture.http.{half}.{name}");
    if !message.complete {
        flag(&own("incomplete"), true, out);
    }
    if message.missing > 0 {
        number(&own("missing_bytes"), message.missing, out);
    }
    if grpc::shows(message, bodies) {
        grpc::json(half, message, out);
    }
    let body = &message.body;
    if let Some(problem) = &body.problem {
        text(&own("body.problem"), problem.as_bytes(), out);
    }
    if !bodies.shows(&body.bytes) {
        return;
    }
    if body.decoded != body.wire {
        number(&own("body.decoded_size"), body.decoded, out);
    }
    if body.is_cut() {
        flag(&own("body.cut"), true, out);
    }
    if std::str::from_utf8(&body.bytes).is_ok() {
        text(&own("body.text"), &body.bytes, out);
    } else {
        key(&own("body.base64"), out);
        out.push(b'"');
        base64(&body.bytes, out);
        out.push(b'"');
    }
}

/// A key for each name in lower case, an array of the values in their order; `null`: a value that is not known. Names that are
/// not known are under `?`.
fn headers(prefix: &str, headers: &[Header], out: &mut Vec<u8>) {
    let name = |header: &Header| header.name.as_ref().map_or_else(|| b"?".to_vec(), |name| name.to_ascii_lowercase());
    let mut sorted: Vec<(Vec<u8>, &Header)> = headers.iter().map(|header| (name(header), header)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        let name = same.first().map(|(name, _)| name.as_slice()).unwrap_or_default();
        out.extend_from_slice(b",\"");
        out.extend_from_slice(prefix.as_bytes());
        escape::json(name, out);
        out.extend_from_slice(b"\":");
        let mut exact = true;
        array(same, out, |value, out| exact &= string(value, out));
        if !exact {
            out.extend_from_slice(b",\"ecapture.base64.");
            out.extend_from_slice(prefix.as_bytes());
            escape::json(name, out);
            out.extend_from_slice(b"\":");
            array(same, out, |value, out| {
                out.push(b'"');
                base64(value, out);
                out.push(b'"');
            });
        }
    }
}

fn array(headers: &[(Vec<u8>, &Header)], out: &mut Vec<u8>, mut write: impl FnMut(&[u8], &mut Vec<u8>)) {
    out.push(b'[');
    for (number, (_, header)) in headers.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        match &header.value {
            Some(value) => write(value, out),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b']');
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
pub mod tests;
