//! A small client of the MySQL protocol that says exactly what it sent and what it was answered.
//!
//! Of our own because a test must know every byte: libraries add statements of their own and hide what the server said.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

const COM_QUIT: u8 = 1;
const COM_INIT_DB: u8 = 2;
const COM_QUERY: u8 = 3;
const COM_CHANGE_USER: u8 = 0x11;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const COM_STMT_SEND_LONG_DATA: u8 = 0x18;
const COM_STMT_CLOSE: u8 = 0x19;
const COM_STMT_RESET: u8 = 0x1a;
const COM_STMT_FETCH: u8 = 0x1c;
const COM_STMT_BULK_EXECUTE: u8 = 0xfa;

/// PROTOCOL_41, CONNECT_WITH_DB off, SECURE_CONNECTION, MULTI_STATEMENTS, MULTI_RESULTS, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x0000_0200 | 0x0000_8000 | 0x0001_0000 | 0x0002_0000 | 0x0008_0000;
const CONNECT_WITH_DB: u32 = 8;
const DEPRECATE_EOF: u32 = 0x0100_0000;
/// MySQL: statements may have attributes, which have names.
const QUERY_ATTRIBUTES: u32 = 0x0800_0000;
/// Flag of an execution of such a client: it says how many parameters there are, with the attributes.
const PARAMETER_COUNT: u8 = 8;
/// In the last four bytes of the login's filler, by which MariaDB's own clients say more of themselves.
const MARIADB_BULK: u32 = 4;
const MORE_RESULTS: u16 = 8;
const LAST_ROW_SENT: u16 = 0x80;
const MAX_PACKET: usize = 0xff_ffff;

/// A way to the server.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(from),
            Self::Tcp(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection.
pub struct Client {
    reader: BufReader<Stream>,
    writer: Stream,
    /// Connection id, as the server gave it.
    pub id: u32,
    /// No packet of its own ends the columns, and an OK packet ends the rows: what clients of today ask for.
    without_eof: bool,
}

/// What a statement was answered. Numbers of a statement with several results are sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Error number, SQLSTATE and message.
    pub error: Option<(u16, String, String)>,
    /// Rows of result sets.
    pub rows: u64,
    /// Rows that the statement changed.
    pub affected: u64,
    /// The last id that was made and is not 0.
    pub insert_id: u64,
    /// Warnings of the last result.
    pub warnings: u16,
    /// Results: sets of rows, and words that something is done.
    pub results: u64,
}

/// A prepared statement of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Its id.
    pub id: u32,
    /// Number of its parameters.
    pub parameters: u16,
}

/// A parameter as the binary protocol has it.
#[derive(Debug, Clone)]
pub struct Value {
    code: u8,
    flag: u8,
    bytes: Option<Vec<u8>>,
}

impl Value {
    /// NULL, of a type.
    #[must_use]
    pub fn null(code: u8) -> Self {
        Self { code, flag: 0, bytes: None }
    }

    /// Bytes as they are in the packet, of a type with or without a sign.
    #[must_use]
    pub fn raw(code: u8, unsigned: bool, bytes: &[u8]) -> Self {
        Self { code, flag: u8::from(unsigned) << 7, bytes: Some(bytes.to_vec()) }
    }

    /// Bytes with their length before them.
    #[must_use]
    pub fn string(code: u8, bytes: &[u8]) -> Self {
        let mut out = Vec::new();
        put_length(&mut out, bytes.len());
        out.extend_from_slice(bytes);
        Self { code, flag: 0, bytes: Some(out) }
    }
}

/// Packet of COM_STMT_EXECUTE.
fn execution(id: u32, values: &[Value], typed: bool) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.push(0); // no cursor
    body.extend(1u32.to_le_bytes());
    let mut nulls = vec![0; values.len().div_ceil(8)];
    for (number, value) in values.iter().enumerate() {
        nulls[number / 8] |= u8::from(value.bytes.is_none()) << (number % 8);
    }
    body.extend(nulls);
    body.push(u8::from(typed));
    if typed {
        body.extend(values.iter().flat_map(|value| [value.code, value.flag]));
    }
    body.extend(values.iter().filter_map(|value| value.bytes.as_ref()).flatten());
    body
}

/// Parameters and attributes of a client that has the latter: how many (fewer than 251), NULLs, types and names, values.
fn attributed(values: &[Value], attributes: &[(&str, Value)], typed: bool) -> Vec<u8> {
    let plain = values.iter().map(|value| ("", value));
    let all: Vec<(&str, &Value)> = plain.chain(attributes.iter().map(|(name, value)| (*name, value))).collect();
    let mut body = Vec::new();
    put_length(&mut body, all.len());
    if all.is_empty() {
        return body;
    }
    let mut nulls = vec![0; all.len().div_ceil(8)];
    for (number, (_, value)) in all.iter().enumerate() {
        nulls[number / 8] |= u8::from(value.bytes.is_none()) << (number % 8);
    }
    body.extend(nulls);
    body.push(u8::from(typed));
    for (name, value) in all.iter().filter(|_| typed) {
        body.extend([value.code, value.flag]);
        put_length(&mut body, name.len());
        body.extend_from_slice(name.as_bytes());
    }
    body.extend(all.iter().filter_map(|(_, value)| value.bytes.as_ref()).flatten());
    body
}

impl Client {
    /// Connects as `test`, who needs no password.
    ///
    /// # Errors
    /// Of the socket, or what the server refused.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        Self::connect_as(socket, "test", "")
    }

    /// Connects as a user without a password, with a current database if it has a name.
    ///
    /// # Errors
    /// Of the socket, or what the server refused.
    pub fn connect_as(socket: &Path, user: &str, database: &str) -> io::Result<Self> {
        Self::log_in(Stream::Unix(UnixStream::connect(socket)?), user, database, 0)
    }

    /// Connects as `test` and has results sent as clients of today do: without packets of their own that end columns and rows.
    ///
    /// # Errors
    /// Of the socket, or what the server refused.
    pub fn connect_without_eof(socket: &Path) -> io::Result<Self> {
        Self::log_in(Stream::Unix(UnixStream::connect(socket)?), "test", "", DEPRECATE_EOF)
    }

    /// Connects to MySQL as `test`, with attributes of statements.
    ///
    /// # Errors
    /// Of the socket, or what the server refused.
    pub fn connect_with_attributes(socket: &Path) -> io::Result<Self> {
        Self::log_in(Stream::Unix(UnixStream::connect(socket)?), "test", "", QUERY_ATTRIBUTES | DEPRECATE_EOF)
    }

    /// The same over the network. Gives the client's own address as well.
    ///
    /// # Errors
    /// Of the socket, or what the server refused.
    pub fn connect_tcp(server: SocketAddr, user: &str, database: &str) -> io::Result<(Self, SocketAddr)> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let own = stream.local_addr()?;
        Ok((Self::log_in(Stream::Tcp(stream), user, database, 0)?, own))
    }

    fn log_in(writer: Stream, user: &str, database: &str, more: u32) -> io::Result<Self> {
        let without_eof = more & DEPRECATE_EOF != 0;
        let mut client = Self { reader: BufReader::new(writer.try_clone()?), writer, id: 0, without_eof };
        let (_, hello) = client.read_packet()?;
        // Protocol version, server version (NUL-terminated), connection id.
        let id_at = 1 + hello[1..].iter().position(|b| *b == 0).ok_or_else(|| io::Error::other("no greeting"))? + 1;
        client.id = u32::from_le_bytes(hello[id_at..id_at + 4].try_into().map_err(io::Error::other)?);
        let mut login = Vec::new();
        let with_database = if database.is_empty() { 0 } else { CONNECT_WITH_DB };
        login.extend((CAPABILITIES | with_database | more).to_le_bytes());
        login.extend(0x0100_0000u32.to_le_bytes());
        login.push(45); // utf8mb4
        login.extend([0; 19]);
        login.extend(MARIADB_BULK.to_le_bytes());
        login.extend(credentials(user, database, !database.is_empty()));
        login.extend(plugin_of(&hello));
        login.push(0);
        client.write_packet(1, &login)?;
        client.authenticate()?;
        Ok(client)
    }

    /// What follows the login: the server may want another way of proving who one is. There is no password, so there is
    /// nothing to prove.
    fn authenticate(&mut self) -> io::Result<()> {
        loop {
            let (sequence, answer) = self.read_packet()?;
            match answer.first() {
                Some(0) => return Ok(()),
                Some(0xfe) => {
                    let native = answer[1..].starts_with(b"mysql_native_password\0");
                    self.write_packet(sequence.wrapping_add(1), if native { &[] } else { &[0] })?;
                }
                // Fast authentication did it; OK follows.
                Some(1) if answer.get(1) == Some(&3) => {}
                _ => {
                    let answer = String::from_utf8_lossy(&answer).into_owned();
                    return Err(io::Error::other(format!("login refused: {answer}")));
                }
            }
        }
    }

    /// COM_CHANGE_USER.
    ///
    /// # Errors
    /// Of the socket, or what the server refused.
    pub fn change_user(&mut self, user: &str, database: &str) -> io::Result<()> {
        let body = [&credentials(user, database, true)[..], &[45, 0], b"mysql_native_password\0"].concat();
        self.command(COM_CHANGE_USER, &[&body])?;
        self.authenticate()
    }

    /// COM_QUERY.
    ///
    /// # Errors
    /// Of the socket.
    pub fn query(&mut self, text: &[u8]) -> io::Result<Answer> {
        self.command(COM_QUERY, &[text])?;
        self.results()
    }

    /// COM_INIT_DB.
    ///
    /// # Errors
    /// Of the socket.
    pub fn init_db(&mut self, name: &str) -> io::Result<Answer> {
        self.command(COM_INIT_DB, &[name.as_bytes()])?;
        self.results()
    }

    /// COM_STMT_PREPARE.
    ///
    /// # Errors
    /// Of the socket, or the server's refusal.
    pub fn prepare(&mut self, text: &[u8]) -> io::Result<Result<Prepared, Answer>> {
        self.command(COM_STMT_PREPARE, &[text])?;
        let (_, packet) = self.read_packet()?;
        if packet.first() != Some(&0) {
            return Ok(Err(Answer { error: Some(error(&packet)), ..Answer::default() }));
        }
        let id = u32::from_le_bytes([packet[1], packet[2], packet[3], packet[4]]);
        let columns = u16::from_le_bytes([packet[5], packet[6]]);
        let parameters = u16::from_le_bytes([packet[7], packet[8]]);
        for definitions in [parameters, columns] {
            self.definitions(definitions.into())?;
        }
        Ok(Ok(Prepared { id, parameters }))
    }

    /// COM_STMT_EXECUTE with each parameter as a string.
    ///
    /// # Errors
    /// Of the socket.
    pub fn execute(&mut self, statement: Prepared, parameters: &[&[u8]]) -> io::Result<Answer> {
        let mut head = Vec::new();
        head.extend(statement.id.to_le_bytes());
        head.push(0); // no cursor
        head.extend(1u32.to_le_bytes());
        if statement.parameters > 0 {
            head.extend(vec![0; usize::from(statement.parameters).div_ceil(8)]);
            head.push(1); // types follow
            for _ in 0..statement.parameters {
                head.extend([0xfd, 0]); // VAR_STRING
            }
            for parameter in parameters {
                put_length(&mut head, parameter.len());
                head.extend_from_slice(parameter);
            }
        }
        self.command(COM_STMT_EXECUTE, &[&head])?;
        self.results()
    }

    /// COM_STMT_EXECUTE with parameters of all types; `typed`: the types are sent as well.
    ///
    /// # Errors
    /// Of the socket.
    pub fn execute_typed(&mut self, statement: Prepared, values: &[Value], typed: bool) -> io::Result<Answer> {
        self.command(COM_STMT_EXECUTE, &[&execution(statement.id, values, typed)])?;
        self.results()
    }

    /// COM_STMT_EXECUTE of a connection with attributes: parameters, and the attributes behind them.
    ///
    /// # Errors
    /// Of the socket.
    pub fn execute_attributed(
        &mut self,
        statement: Prepared,
        values: &[Value],
        attributes: &[(&str, Value)],
        typed: bool,
    ) -> io::Result<Answer> {
        let all = attributed(values, attributes, typed);
        let flags = if attributes.is_empty() { 0 } else { PARAMETER_COUNT };
        self.command(COM_STMT_EXECUTE, &[&statement.id.to_le_bytes(), &[flags], &1u32.to_le_bytes(), &all])?;
        self.results()
    }

    /// COM_QUERY of such a connection.
    ///
    /// # Errors
    /// Of the socket.
    pub fn query_attributed(&mut self, text: &[u8], attributes: &[(&str, Value)]) -> io::Result<Answer> {
        let all = attributed(&[], attributes, true);
        // One set of them.
        let (count, rest) = all.split_at(1);
        self.command(COM_QUERY, &[count, &[1], rest, text])?;
        self.results()
    }

    /// MariaDB's COM_STMT_BULK_EXECUTE: rows of values, all of the first one's types.
    ///
    /// # Errors
    /// Of the socket.
    pub fn bulk_execute(&mut self, statement: Prepared, rows: &[Vec<Value>]) -> io::Result<Answer> {
        let mut body = [&statement.id.to_le_bytes()[..], &128u16.to_le_bytes()].concat();
        body.extend(rows.first().into_iter().flatten().flat_map(|value| [value.code, value.flag]));
        for value in rows.iter().flatten() {
            body.push(u8::from(value.bytes.is_none()));
            body.extend(value.bytes.iter().flatten());
        }
        self.command(COM_STMT_BULK_EXECUTE, &[&body])?;
        self.results()
    }

    /// COM_STMT_SEND_LONG_DATA; the server does not answer.
    ///
    /// # Errors
    /// Of the socket.
    pub fn send_long(&mut self, statement: Prepared, parameter: u16, piece: &[u8]) -> io::Result<()> {
        self.command(COM_STMT_SEND_LONG_DATA, &[&statement.id.to_le_bytes(), &parameter.to_le_bytes(), piece])
    }

    /// COM_STMT_RESET.
    ///
    /// # Errors
    /// Of the socket.
    pub fn reset(&mut self, statement: Prepared) -> io::Result<Answer> {
        self.command(COM_STMT_RESET, &[&statement.id.to_le_bytes()])?;
        self.results()
    }

    /// COM_STMT_EXECUTE of a statement without parameters that opens a cursor, then COM_STMT_FETCH of so many rows at a time until
    /// there are no more. The number of rows that each fetch brought.
    ///
    /// # Errors
    /// Of the socket.
    pub fn fetch_all(&mut self, statement: Prepared, at_a_time: u32) -> io::Result<Vec<u64>> {
        let id = statement.id.to_le_bytes();
        self.command(COM_STMT_EXECUTE, &[&id, &[1], &1u32.to_le_bytes()])?;
        // How many columns, the columns; the rows stay where they are.
        let (_, columns) = self.read_packet()?;
        self.definitions(length(&columns).0)?;
        if self.without_eof {
            let (_, end) = self.read_packet()?;
            assert!(self.end_of_rows(&end).is_some(), "{end:?}");
        }
        let mut fetched = Vec::new();
        loop {
            self.command(COM_STMT_FETCH, &[&id, &at_a_time.to_le_bytes()])?;
            let mut rows = 0;
            let last = loop {
                let (_, row) = self.read_packet()?;
                if row.first() == Some(&0xff) {
                    return Err(io::Error::other(format!("{:?}", error(&row))));
                }
                if let Some((status, _)) = self.end_of_rows(&row) {
                    break status & LAST_ROW_SENT != 0;
                }
                rows += 1;
            };
            fetched.push(rows);
            if last {
                return Ok(fetched);
            }
        }
    }

    /// COM_STMT_CLOSE; the server does not answer.
    ///
    /// # Errors
    /// Of the socket.
    pub fn close(&mut self, statement: Prepared) -> io::Result<()> {
        self.command(COM_STMT_CLOSE, &[&statement.id.to_le_bytes()])
    }

    /// COM_QUIT.
    ///
    /// # Errors
    /// Of the socket.
    pub fn quit(mut self) -> io::Result<()> {
        self.command(COM_QUIT, &[])?;
        // The server closes; what it was told is then done with.
        let _ = self.reader.read(&mut [0]);
        Ok(())
    }

    fn command(&mut self, command: u8, parts: &[&[u8]]) -> io::Result<()> {
        let mut packet = vec![command];
        for part in parts {
            packet.extend_from_slice(part);
        }
        self.write_packet(0, &packet)
    }

    /// All results of one command.
    fn results(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let (_, packet) = self.read_packet()?;
            answer.results += 1;
            let (status, warnings) = match packet.first() {
                Some(0xff) => {
                    answer.error = Some(error(&packet));
                    return Ok(answer);
                }
                Some(0) => {
                    let (affected, rest) = length(&packet[1..]);
                    let (insert_id, rest) = length(rest);
                    answer.affected += affected;
                    answer.insert_id = if insert_id > 0 { insert_id } else { answer.insert_id };
                    two_words(rest)
                }
                _ => {
                    self.definitions(length(&packet).0)?;
                    loop {
                        let (_, row) = self.read_packet()?;
                        if row.first() == Some(&0xff) {
                            answer.error = Some(error(&row));
                            return Ok(answer);
                        }
                        if let Some(end) = self.end_of_rows(&row) {
                            break end;
                        }
                        answer.rows += 1;
                    }
                }
            };
            answer.warnings = warnings;
            if status & MORE_RESULTS == 0 {
                return Ok(answer);
            }
        }
    }

    /// Descriptions of columns or parameters, and what ends them.
    fn definitions(&mut self, count: u64) -> io::Result<()> {
        for _ in 0..count {
            self.read_packet()?;
        }
        if count > 0 && !self.without_eof {
            let (_, end) = self.read_packet()?;
            assert!(is_eof(&end), "{end:?}");
        }
        Ok(())
    }

    /// The server's status and the number of warnings, if the packet is the end of rows and not a row.
    fn end_of_rows(&self, packet: &[u8]) -> Option<(u16, u16)> {
        if self.without_eof && packet.first() == Some(&0xfe) {
            // An OK packet: rows affected, insert id, status.
            let (_, rest) = length(&packet[1..]);
            let (_, rest) = length(rest);
            return Some(two_words(rest));
        }
        is_eof(packet).then(|| two_words(&packet[1..])).map(|(warnings, status)| (status, warnings))
    }

    fn write_packet(&mut self, mut sequence: u8, body: &[u8]) -> io::Result<()> {
        let mut chunks: Vec<&[u8]> = body.chunks(MAX_PACKET).collect();
        if body.len().is_multiple_of(MAX_PACKET) {
            chunks.push(&[]);
        }
        for chunk in chunks {
            let mut packet = Vec::with_capacity(chunk.len() + 4);
            packet.extend(&u32::try_from(chunk.len()).unwrap_or_default().to_le_bytes()[..3]);
            packet.push(sequence);
            packet.extend_from_slice(chunk);
            self.writer.write_all(&packet)?;
            sequence = sequence.wrapping_add(1);
        }
        Ok(())
    }

    fn read_packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 4];
        self.reader.read_exact(&mut head)?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        let mut body = vec![0; len];
        self.reader.read_exact(&mut body)?;
        Ok((head[3], body))
    }
}

/// User, no password, and a database if the packet is to have one.
fn credentials(user: &str, database: &str, with_database: bool) -> Vec<u8> {
    let mut out = [user.as_bytes(), &[0, 0]].concat();
    if with_database {
        out.extend([database.as_bytes(), &[0]].concat());
    }
    out
}

/// The way of authentication that a greeting proposes: its last string.
fn plugin_of(hello: &[u8]) -> &[u8] {
    let hello = hello.strip_suffix(&[0]).unwrap_or(hello);
    let at = hello.iter().rposition(|b| *b == 0).map_or(0, |nul| nul + 1);
    &hello[at..]
}

fn two_words(bytes: &[u8]) -> (u16, u16) {
    (u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[2], bytes[3]]))
}

fn is_eof(packet: &[u8]) -> bool {
    packet.first() == Some(&0xfe) && packet.len() < 9
}

fn error(packet: &[u8]) -> (u16, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (u16::from_le_bytes([packet[1], packet[2]]), text(&packet[4..9]), text(&packet[9..]))
}

/// A length-encoded integer and what follows it.
fn length(bytes: &[u8]) -> (u64, &[u8]) {
    let wide = |n: usize| {
        let mut word = [0; 8];
        word[..n].copy_from_slice(&bytes[1..=n]);
        (u64::from_le_bytes(word), &bytes[n + 1..])
    };
    match bytes[0] {
        0xfc => wide(2),
        0xfd => wide(3),
        0xfe => wide(8),
        small => (small.into(), &bytes[1..]),
    }
}

fn put_length(out: &mut Vec<u8>, len: usize) {
    match len {
        0..=250 => out.push(u8::try_from(len).unwrap_or_default()),
        251..=0xffff => {
            out.push(0xfc);
            out.extend(&(len as u64).to_le_bytes()[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend(&(len as u64).to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend((len as u64).to_le_bytes());
        }
    }
}
