//! The protocol, byte for byte: a client that says exactly what it sent and what it was told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Postgres, USER};

/// A connection.
pub struct Wire {
    stream: TcpStream,
    port: u16,
    /// Process id of its backend.
    pub backend: u32,
    key: [u8; 4],
}

/// What a client was told up to the next ReadyForQuery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Rows that it was sent.
    pub rows: u64,
    /// What the server says it has done, one text for each result.
    pub tags: Vec<String>,
    /// SQLSTATE and text of the error.
    pub error: Option<(String, String)>,
}

/// Ends a batch.
pub const SYNC: (u8, &[u8]) = (b'S', b"");
/// Executes the unnamed portal.
pub const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
const CANCEL: u32 = 80_877_102;

impl Wire {
    /// Logs in and waits until the server is ready.
    ///
    /// # Panics
    /// If it is not within 20 s, or refuses.
    #[must_use]
    pub fn connect(server: &Postgres) -> Self {
        let mut wire = Self::connect_saying(server, &[]);
        wire.answer();
        wire
    }

    /// Sends these bytes in the same write as the first packet of the connection, and waits for the login alone.
    ///
    /// # Panics
    /// As [`Wire::connect`].
    #[must_use]
    pub fn connect_saying(server: &Postgres, more: &[u8]) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let mut wire = Self { stream, port: server.port(), backend: 0, key: [0; 4] };
        let body = format!("\0\u{3}\0\0user\0{USER}\0database\0postgres\0\0");
        wire.send(&[&length(body.len())[..], body.as_bytes(), more].concat());
        let key = wire.until(b'K').1;
        let (backend, key) = key.split_first_chunk::<4>().expect("a process");
        (wire.backend, wire.key) = (u32::from_be_bytes(*backend), *key.first_chunk().expect("a key"));
        wire
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("a connection");
    }

    /// Sends messages, all in one write.
    pub fn say(&mut self, messages: &[(u8, &[u8])]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
        self.send(&bytes);
    }

    /// Sends a text statement.
    pub fn query(&mut self, text: &str) {
        self.say(&[(b'Q', format!("{text}\0").as_bytes())]);
    }

    /// Sends a text statement and waits for its end.
    pub fn ask(&mut self, text: &str) -> Answer {
        self.query(text);
        self.answer()
    }

    /// The next message: its type and body.
    ///
    /// # Panics
    /// If none comes.
    pub fn read(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).expect("a message");
        let [kind, length @ ..] = header;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length) - 4).expect("a length")];
        self.stream.read_exact(&mut body).expect("a message");
        (kind, body)
    }

    /// Types of the messages up to one of this type, and the last body.
    pub fn until(&mut self, wanted: u8) -> (Vec<u8>, Vec<u8>) {
        let mut kinds = Vec::new();
        loop {
            let (kind, body) = self.read();
            kinds.push(kind);
            if kind == wanted {
                return (kinds, body);
            }
        }
    }

    /// All up to the next ReadyForQuery.
    pub fn answer(&mut self) -> Answer {
        let mut answer = Answer::default();
        loop {
            let (kind, body) = self.read();
            match kind {
                b'D' => answer.rows += 1,
                b'C' => answer.tags.push(String::from_utf8_lossy(&body[..body.len() - 1]).into_owned()),
                b'E' => {
                    let fields = body.split(|byte| *byte == 0);
                    let field = |wanted: u8| {
                        let field = fields.clone().find_map(|field| field.strip_prefix(&[wanted])).unwrap_or_default();
                        String::from_utf8_lossy(field).into_owned()
                    };
                    answer.error = Some((field(b'C'), field(b'M')));
                }
                b'Z' => return answer,
                _ => {}
            }
        }
    }

    /// Asks the server, on a connection of its own as the protocol wants it, to end what this one runs.
    ///
    /// # Panics
    /// If the server does not take it.
    pub fn cancel(&self) {
        let request = [&length(12)[..], &CANCEL.to_be_bytes(), &self.backend.to_be_bytes(), &self.key].concat();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.write_all(&request).expect("a connection");
        // It closes the connection when it has done it.
        let _ = stream.read(&mut [0]);
    }

    /// Goes away without a word.
    ///
    /// # Panics
    /// If the connection is gone already.
    pub fn vanish(self) {
        self.stream.shutdown(std::net::Shutdown::Both).expect("a connection");
    }
}

fn length(body: usize) -> [u8; 4] {
    u32::try_from(body + 4).expect("a short message").to_be_bytes()
}

/// A message.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &length(body.len()), body].concat()
}

/// A Bind of unnamed portal and statement.
///
/// # Panics
/// On more values than fit.
#[must_use]
pub fn bind(binary: bool, values: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 1, 0, u8::from(binary)];
    body.extend(u16::try_from(values.len()).expect("few values").to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("a short value").to_be_bytes());
        body.extend(*value);
    }
    body.extend([0, 0]);
    body
}
