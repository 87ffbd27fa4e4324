//! The state machine: messages of the kernel side in, commands that are over out. Pure: no module interface, no clock.
//!
//! What a lost message does: START lost: the command is reported without its text; END lost: it is reported as
//! "unknown" when its connection begins another command; both lost: it is in the host's count of lost records only.
//!
//! Not here: bytes of messages (`record`), columns (`output`).

use crate::command::{Command, statement_id};
use crate::event::{ErrorText, Finished, Outcome, Thread};
use crate::flight::{self, Flight, Flights, Key};
use crate::parameters::{self, Packet, Parameters};
use crate::record::{self, Array, Body, End, Failure, Head, RecordError, Start, end_flag, product, start_flag};
use crate::session::{Connection, Limits, Sessions, Text};
use std::collections::HashMap;

/// One joined message with what the host says about it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Number of the stream.
    pub stream: u16,
    /// Number of the target file.
    pub target: u32,
    /// Where the probe fired.
    pub thread: Thread,
    /// When.
    pub time_ns: u64,
    /// Records lost since the one before.
    pub lost_before: u64,
    /// First record of a decoder that was made anew.
    pub restarted: bool,
    /// Bytes that the message lacks at its end.
    pub missing: u64,
    /// The message.
    pub data: &'a [u8],
}

/// Targets whose product is remembered. The host gives 64 by default; the number comes from a record, so it is bounded.
const MOST_TARGETS: usize = 4096;

/// Takes what is over.
pub trait Output {
    /// One command.
    fn finished(&mut self, finished: Finished);
}

impl<F: FnMut(Finished)> Output for F {
    fn finished(&mut self, finished: Finished) {
        self(finished);
    }
}

/// The decoder's state.
#[derive(Debug)]
pub struct Machine {
    flights: Flights,
    sessions: Sessions,
    systems: HashMap<u32, &'static str>,
}

impl Machine {
    /// Nothing seen yet.
    pub fn new(limits: &Limits) -> Self {
        Self { flights: Flights::new(limits), sessions: Sessions::new(limits), systems: HashMap::new() }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// [`RecordError`] if it makes no sense; the state is then as before, but for what the host says was lost.
    pub fn message(&mut self, message: &Message<'_>, out: &mut impl Output) -> Result<(), RecordError> {
        if message.lost_before > 0 || message.restarted {
            self.sessions.lost_records();
        }
        if message.stream != 0 {
            return Err(RecordError::Stream(message.stream));
        }
        let (head, body) = record::parse(message.data)?;
        match body {
            Body::Start(start) => self.start(message, head, &start, out),
            Body::Parameters(array) => self.parameters(message, head, &array, out),
            Body::Error(failure) => self.error(message, head, &failure, out),
            Body::End(end) => self.end(message, head, end, out),
            Body::Login(login) => {
                let connection = Connection::new(message.thread.process, &head);
                self.sessions.logs_in(connection, head.command == Command::CONNECT, &login);
            }
        }
        Ok(())
    }

    /// The run is over: what is in flight is still running.
    pub fn finish(&mut self, out: &mut impl Output) {
        for flight in self.flights.drain() {
            out.finished(finished(flight, Outcome::Running, None));
        }
    }

    /// Commands in flight.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn start(&mut self, message: &Message<'_>, head: Head, start: &Start<'_>, out: &mut impl Output) {
        let thread = message.thread;
        let key = Key { process: thread.process, thd: head.thd };
        let system = self.learn_system(message.target, start.product);
        let connection = Connection::new(thread.process, &head);
        let missing = u64::from(start.length).saturating_sub(u64::try_from(start.packet.len()).unwrap_or(u64::MAX));

        if let Some(mut flight) = self.flights.take(key) {
            let put_aside = flight.totals.is_some();
            if put_aside && flight.head.command == head.command && flight.head.connection == head.connection {
                // The same packet again. The first copy stays, unless this one is better.
                if flight.truncated > missing {
                    self.read_packet(&mut flight, connection, start, missing);
                }
                return self.put(key, Flight { head, thread, ..flight }, out);
            }
            self.lost_end(flight, out);
        }

        let (client, namespace) = self.sessions.who(connection);
        // Values are not the whole packet.
        let request = (start.flags & start_flag::VALUES == 0).then_some(start.length);
        let mut flight = Flight { started: true, system, request, client, namespace, ..Flight::new(thread, head) };
        self.read_packet(&mut flight, connection, start, missing);
        // These can't fail or leave nothing to come back to; done now, they hold even if END is lost.
        match head.command {
            Command::STMT_CLOSE => {
                if let Some(id) = start.statement.or_else(|| statement_id(start.packet)) {
                    self.sessions.closed(connection, id);
                }
            }
            Command::QUIT => self.sessions.ended(connection),
            Command::CHANGE_USER => self.sessions.leaves_user(connection),
            Command::RESET_CONNECTION => self.sessions.reset(connection),
            _ => {}
        }
        self.put(key, flight, out);
    }

    /// What the packet says, into the flight.
    fn read_packet(&mut self, flight: &mut Flight, connection: Connection, start: &Start<'_>, missing: u64) {
        let command = flight.head.command;
        match command {
            Command::QUERY | Command::STMT_PREPARE => {
                flight.text = Some(Text { bytes: start.packet.into(), missing });
                flight.truncated = missing;
            }
            Command::INIT_DB => {
                flight.namespace = Some(start.packet.into());
                flight.truncated = missing;
            }
            _ if command.names_statement() => {
                let id = start.statement.or_else(|| statement_id(start.packet));
                self.read_statement(flight, connection, id);
                if start.flags & start_flag::VALUES != 0 {
                    flight.values = Some(Text { bytes: start.packet.into(), missing });
                    flight.parameters = Parameters::unknown();
                    return;
                }
                self.read_parameters(flight, connection, Packet { bytes: start.packet, missing });
            }
            _ => {}
        }
    }

    /// What the packet of a command that names a statement says about the parameters. Told at the begin, since an execution
    /// uses up what was sent ahead of it, however it ends.
    fn read_parameters(&mut self, flight: &mut Flight, connection: Connection, packet: Packet<'_>) {
        let command = flight.head.command;
        let executes = matches!(command, Command::STMT_EXECUTE | Command::STMT_BULK_EXECUTE);
        let Some(id) = flight.statement else {
            flight.parameters.unknown = executes;
            return;
        };
        match command {
            _ if executes => {
                let bulk = command == Command::STMT_BULK_EXECUTE;
                let read = if bulk { parameters::bulk_execute } else { parameters::execute };
                flight.parameters = self.sessions.executes(connection, id, bulk, |known| read(packet, known));
            }
            Command::STMT_SEND_LONG_DATA => {
                // Statement, number of the parameter, and all the rest.
                let parameter = packet.bytes.get(4..).and_then(|rest| rest.split_first_chunk::<2>());
                if let Some((number, piece)) = parameter {
                    let number = u16::from_le_bytes(*number);
                    self.sessions.sends_long(connection, id, number, piece, packet.missing);
                }
            }
            Command::STMT_RESET => self.sessions.resets(connection, id),
            _ => {}
        }
    }

    /// Where the values are of the execution that began right before. Without that there is nothing to tell.
    fn parameters(&mut self, message: &Message<'_>, head: Head, array: &Array<'_>, out: &mut impl Output) {
        let process = message.thread.process;
        let key = Key { process, thd: head.thd };
        let Some(mut flight) = self.flights.take(key) else { return };
        if flight.head.start_ns == head.start_ns
            && let (Some(values), Some(id)) = (flight.values.take(), flight.statement)
        {
            let packet = Packet { bytes: &values.bytes, missing: values.missing };
            let connection = Connection::new(process, &flight.head);
            let read = |known: parameters::Known<'_>| parameters::execute_array(array, packet, known);
            flight.parameters = self.sessions.executes(connection, id, false, read);
        }
        self.put(key, flight, out);
    }

    /// What is known of the prepared statement that a command names.
    fn read_statement(&mut self, flight: &mut Flight, connection: Connection, id: Option<u32>) {
        flight.statement = id.and_then(|id| self.sessions.resolve(connection, id));
        if matches!(flight.head.command, Command::STMT_EXECUTE | Command::STMT_BULK_EXECUTE) {
            flight.text = flight.statement.and_then(|id| self.sessions.statement(connection, id));
            flight.statement_unknown = flight.text.is_none();
        }
    }

    fn put(&mut self, key: Key, flight: Flight, out: &mut impl Output) {
        if let Some(flight) = self.flights.put(key, flight) {
            self.lost_end(flight, out);
        }
    }

    fn error(&mut self, message: &Message<'_>, head: Head, failure: &Failure<'_>, out: &mut impl Output) {
        let mut flight = self.running(message, head, out);
        flight.error = Some(ErrorText { bytes: failure.text.to_vec(), missing: message.missing });
        self.put(Key { process: message.thread.process, thd: head.thd }, flight, out);
    }

    fn end(&mut self, message: &Message<'_>, head: Head, end: End, out: &mut impl Output) {
        let mut flight = self.running(message, head, out);
        if !flight.started {
            self.read_end(&mut flight, &end);
        }
        if end.flags & end_flag::SUSPENDED != 0 {
            flight.totals = Some(flight::sum(flight.totals, end));
            return self.put(Key { process: message.thread.process, thd: head.thd }, flight, out);
        }
        let end = flight::sum(flight.totals, end);
        let outcome = Outcome::of(head.command, &end);
        self.learn(&flight, outcome, Some(&end));
        if head.command == Command::CHANGE_USER && outcome == Outcome::Ok {
            (flight.client, _) = self.sessions.who(Connection::new(flight.thread.process, &flight.head));
        }
        let duration = message.time_ns.checked_sub(flight.first_ns);
        out.finished(Finished { duration_ns: duration, ..finished(flight, outcome, Some(end)) });
    }

    /// What END repeats of a START that never came: the statement's id, and by it the text.
    fn read_end(&mut self, flight: &mut Flight, end: &End) {
        let command = flight.head.command;
        if !command.names_statement() || end.statement == 0 {
            return;
        }
        let connection = Connection::new(flight.thread.process, &flight.head);
        if command == Command::STMT_CLOSE {
            flight.statement = Some(end.statement);
            self.sessions.closed(connection, end.statement);
            return;
        }
        self.read_statement(flight, connection, Some(end.statement));
    }

    /// The command that an ERROR or END belongs to: the connection's, or one whose START never came.
    fn running(&mut self, message: &Message<'_>, head: Head, out: &mut impl Output) -> Flight {
        let thread = message.thread;
        let Some(flight) = self.flights.take(Key { process: thread.process, thd: head.thd }) else {
            return self.orphan(message, head);
        };
        // Put aside, and the second START was lost: the first told all.
        let again = flight.totals.is_some() && flight.head.command == head.command;
        if flight.head.start_ns == head.start_ns || again {
            return Flight { head, thread, ..flight };
        }
        self.lost_end(flight, out);
        self.orphan(message, head)
    }

    fn lost_end(&mut self, flight: Flight, out: &mut impl Output) {
        self.learn(&flight, Outcome::Unknown, None);
        out.finished(finished(flight, Outcome::Unknown, None));
    }

    /// A command whose START never came.
    fn orphan(&mut self, message: &Message<'_>, head: Head) -> Flight {
        let system = self.systems.get(&message.target).copied();
        let (client, namespace) = self.sessions.who(Connection::new(message.thread.process, &head));
        let executes = matches!(head.command, Command::STMT_EXECUTE | Command::STMT_BULK_EXECUTE);
        let parameters = Parameters { unknown: executes, ..Parameters::default() };
        let flight = Flight::new(message.thread, head);
        Flight { system, client, namespace, statement_unknown: executes, parameters, ..flight }
    }

    /// What a command that is over says about the connection.
    fn learn(&mut self, flight: &Flight, outcome: Outcome, end: Option<&End>) {
        let connection = Connection::new(flight.thread.process, &flight.head);
        let ok = outcome == Outcome::Ok;
        match flight.head.command {
            Command::STMT_PREPARE => match (outcome, end) {
                (_, Some(end)) if end.flags & end_flag::PREPARED != 0 => {
                    let told = end.flags & end_flag::PARAMETERS != 0;
                    let parameters = u16::try_from(end.parameters).ok().filter(|_| told);
                    self.sessions.prepared(connection, end.statement, flight.text.clone(), parameters);
                }
                (Outcome::Error, _) => self.sessions.not_prepared(connection),
                _ => self.sessions.last_unknown(connection),
            },
            Command::QUERY | Command::STMT_EXECUTE | Command::STMT_BULK_EXECUTE => {
                self.sessions.ran(connection, flight.namespace.is_some(), flight.text.as_ref(), ok);
            }
            Command::INIT_DB if outcome == Outcome::Error => {}
            Command::INIT_DB => {
                let name = flight.namespace.clone().filter(|_| ok && flight.truncated == 0);
                self.sessions.set_namespace(connection, name);
            }
            // It may have been the current one.
            Command::DROP_DB => self.sessions.set_namespace(connection, None),
            Command::QUIT => self.sessions.ended(connection),
            // The login came between START and END.
            Command::CHANGE_USER if ok => {}
            Command::CHANGE_USER => self.sessions.leaves_user(connection),
            Command::RESET_CONNECTION => self.sessions.reset(connection),
            _ => {}
        }
    }

    fn learn_system(&mut self, target: u32, product: u32) -> Option<&'static str> {
        let system = match product {
            product::MARIADB => "mariadb",
            product::MYSQL => "mysql",
            _ => return None,
        };
        if self.systems.len() < MOST_TARGETS || self.systems.contains_key(&target) {
            self.systems.insert(target, system);
        }
        Some(system)
    }
}

fn finished(flight: Flight, outcome: Outcome, end: Option<End>) -> Finished {
    Finished {
        thread: flight.thread,
        head: flight.head,
        system: flight.system,
        text: flight.text,
        truncated: flight.truncated,
        namespace: flight.namespace,
        client: flight.client,
        statement: match end {
            Some(end) if end.flags & end_flag::PREPARED != 0 => Some(end.statement),
            _ => flight.statement,
        },
        state_lost: !flight.started || flight.statement_unknown || outcome == Outcome::Unknown,
        statement_unknown: flight.statement_unknown,
        parameters: flight.parameters,
        request: flight.request,
        outcome,
        duration_ns: None,
        end,
        error: flight.error,
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
