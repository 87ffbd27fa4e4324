//! Commands that have begun and not ended, by process and THD: a connection runs one command at a time, while a thread may
//! run one inside of another (server plugins have sessions of their own), and MariaDB's thread pool may end a command on
//! another thread than it began on.
//!
//! No time-out: a query may run for hours. The bound is by count and by bytes: over the bytes, the text of the oldest is
//! dropped (and said to be missing); over the count, the oldest is given back to be reported as it is.

use crate::event::{ErrorText, Thread};
use crate::parameters::Parameters;
use crate::record::{End, Head, end_flag};
use crate::session::{Client, Limits, Text};
use std::collections::HashMap;
use std::sync::Arc;

/// One command in flight.
#[derive(Debug)]
pub struct Flight {
    /// Head of its START (or of the message that came instead).
    pub head: Head,
    /// Entry of the first dispatch: differs from `head.start_ns` once it was put aside and taken up again.
    pub first_ns: u64,
    /// Where it was seen last.
    pub thread: Thread,
    /// Whether its START was seen.
    pub started: bool,
    /// See `Finished`.
    pub system: Option<&'static str>,
    /// See `Finished`.
    pub text: Option<Text>,
    /// See `Finished`.
    pub truncated: u64,
    /// See `Finished`.
    pub namespace: Option<Arc<[u8]>>,
    /// See `Finished`.
    pub client: Client,
    /// See `Finished`.
    pub statement: Option<u32>,
    /// See `Finished`.
    pub statement_unknown: bool,
    /// See `Finished`.
    pub parameters: Parameters,
    /// Values of an execution whose array of parameters has not come yet.
    pub values: Option<Text>,
    /// See `Finished`.
    pub request: Option<u32>,
    /// The last error's text so far.
    pub error: Option<ErrorText>,
    /// Totals of the dispatches that ended in "put aside".
    pub totals: Option<End>,
}

impl Flight {
    /// A command of which only `head` is known.
    pub fn new(thread: Thread, head: Head) -> Self {
        Self {
            head,
            first_ns: head.start_ns,
            thread,
            started: false,
            system: None,
            text: None,
            truncated: 0,
            namespace: None,
            client: Client::default(),
            statement: None,
            statement_unknown: false,
            parameters: Parameters::default(),
            values: None,
            request: None,
            error: None,
            totals: None,
        }
    }

    /// Bytes of text that this command alone holds. Texts of prepared statements are the sessions'.
    fn weight(&self) -> usize {
        let parameters = self.parameters.json.as_ref().map_or(0, |json| json.len());
        let parameters = parameters + self.values.as_ref().map_or(0, |values| values.bytes.len());
        match &self.text {
            Some(text) if self.statement.is_none() => text.bytes.len() + parameters,
            _ => parameters,
        }
    }

    fn drop_text(&mut self) {
        self.values = None;
        if let Some(json) = self.parameters.json.take() {
            let lacks = u64::try_from(json.len()).unwrap_or(u64::MAX);
            self.parameters = Parameters { json: None, unknown: true, missing: lacks };
        }
        if self.statement.is_some() {
            return;
        }
        if let Some(text) = self.text.take() {
            self.truncated = self.truncated.saturating_add(u64::try_from(text.bytes.len()).unwrap_or(u64::MAX));
        }
    }
}

/// Adds a dispatch's totals to those of the dispatches before it.
pub fn sum(before: Option<End>, last: End) -> End {
    let Some(before) = before else { return last };
    // "No status" holds for the whole only if it holds for every part.
    let all = end_flag::NO_STATUS;
    let any = (before.flags | last.flags) & !(all | end_flag::SUSPENDED);
    let failed = last.flags & end_flag::FAILED != 0;
    let prepared = last.flags & end_flag::PREPARED != 0;
    End {
        flags: any | (before.flags & last.flags & all),
        statement: if prepared { last.statement } else { before.statement },
        rows: before.rows.saturating_add(last.rows),
        affected_rows: before.affected_rows.saturating_add(last.affected_rows),
        insert_id: if last.insert_id != 0 { last.insert_id } else { before.insert_id },
        results: before.results.saturating_add(last.results),
        result_sets: before.result_sets.saturating_add(last.result_sets),
        errors: before.errors.saturating_add(last.errors),
        warnings: if last.flags & end_flag::NO_STATUS == 0 { last.warnings } else { before.warnings },
        error: if failed { last.error } else { before.error },
        sqlstate: if failed { last.sqlstate } else { before.sqlstate },
        returned: last.returned,
        parameters: if prepared { last.parameters } else { before.parameters },
    }
}

/// Whose command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Process id.
    pub process: u32,
    /// Address of the THD.
    pub thd: u64,
}

/// All commands in flight.
#[derive(Debug)]
pub struct Flights {
    flights: HashMap<Key, Flight>,
    bytes: usize,
    limits: Limits,
}

impl Flights {
    /// None.
    pub fn new(limits: &Limits) -> Self {
        Self { flights: HashMap::new(), bytes: 0, limits: *limits }
    }

    /// Takes out the connection's command.
    pub fn take(&mut self, key: Key) -> Option<Flight> {
        let flight = self.flights.remove(&key)?;
        self.bytes = self.bytes.saturating_sub(flight.weight());
        Some(flight)
    }

    /// The connection (whose place the caller has emptied by [`Flights::take`]) has a command. Returns one that had to
    /// give way.
    pub fn put(&mut self, key: Key, flight: Flight) -> Option<Flight> {
        let out = self.make_room();
        self.bytes = self.bytes.saturating_add(flight.weight());
        if let Some(replaced) = self.flights.insert(key, flight) {
            self.bytes = self.bytes.saturating_sub(replaced.weight());
        }
        self.shed_text();
        out
    }

    /// Takes out everything, in the order in which the commands began.
    pub fn drain(&mut self) -> Vec<Flight> {
        self.bytes = 0;
        let mut all: Vec<_> = std::mem::take(&mut self.flights).into_iter().collect();
        all.sort_by_key(|(key, flight)| (flight.first_ns, *key));
        all.into_iter().map(|(_, flight)| flight).collect()
    }

    /// Commands in flight.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Bytes of text held.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes room for one more. A full table means thousands of commands whose process was killed: rare enough for a
    /// search through all of them.
    fn make_room(&mut self) -> Option<Flight> {
        if self.flights.len() < self.limits.flights {
            return None;
        }
        let (_, key) = self.flights.iter().map(|(key, flight)| (flight.first_ns, *key)).min()?;
        self.take(key)
    }

    fn shed_text(&mut self) {
        while self.bytes > self.limits.flight_bytes {
            let all = self.flights.values_mut().filter(|flight| flight.weight() > 0);
            let Some(oldest) = all.min_by_key(|flight| flight.first_ns) else { return };
            self.bytes = self.bytes.saturating_sub(oldest.weight());
            oldest.drop_text();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn flight(start_ns: u64, text: &str) -> Flight {
        let head = Head { command: Command::QUERY, thd: start_ns, connection: Some(1), start_ns };
        let text = Text { bytes: text.as_bytes().into(), missing: 0 };
        Flight { text: Some(text), ..Flight::new(Thread { process: 1, thread: 1 }, head) }
    }

    fn key(thd: u64) -> Key {
        Key { process: 1, thd }
    }

    #[test]
    fn over_the_bytes_the_oldest_text_goes_and_is_counted() {
        let mut flights = Flights::new(&Limits { flight_bytes: 10, ..Limits::default() });
        assert!(flights.put(key(1), flight(1, "12345678")).is_none());
        assert!(flights.put(key(2), flight(2, "1234")).is_none());
        assert_eq!((flights.len(), flights.bytes()), (2, 4));
        let first = flights.take(key(1)).unwrap();
        assert_eq!((first.text, first.truncated), (None, 8));
        assert_eq!(flights.take(key(2)).unwrap().truncated, 0);
        assert_eq!(flights.bytes(), 0);
    }

    #[test]
    fn over_the_count_the_oldest_is_given_back() {
        let mut flights = Flights::new(&Limits { flights: 2, ..Limits::default() });
        flights.put(key(1), flight(1, "a"));
        flights.put(key(2), flight(2, "b"));
        assert_eq!(flights.put(key(3), flight(3, "c")).unwrap().first_ns, 1);
        assert_eq!(flights.put(key(4), flight(4, "d")).unwrap().first_ns, 2);
        let left: Vec<_> = flights.drain().iter().map(|flight| flight.first_ns).collect();
        assert_eq!((left, flights.bytes()), (vec![3, 4], 0));
    }

    #[test]
    fn totals_add_up() {
        let first =
            End { flags: end_flag::OK | end_flag::ROWS | end_flag::SUSPENDED, rows: 2, warnings: 1, ..End::default() };
        let last = End { flags: end_flag::NO_STATUS | end_flag::ROWS, rows: 3, returned: 0, ..End::default() };
        let all = sum(Some(first), last);
        assert_eq!(all.flags, end_flag::OK | end_flag::ROWS);
        assert_eq!((all.rows, all.warnings), (5, 1));
        assert_eq!(sum(None, last), last);
    }
}
