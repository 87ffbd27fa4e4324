//! A load of statements whose every byte, outcome and order is known, and the comparison with what was captured.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::capture::text_bytes;
use crate::mysql::{Answer, Client};

/// One thing that a client told the server, and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `mysql.query`, `mysql.prepare`, `mysql.execute`, ...
    pub event: &'static str,
    /// Text of the statement; of an execution, the text it was prepared with.
    pub text: Vec<u8>,
    /// The server's answer.
    pub answer: Answer,
}

/// What each connection said, in order.
pub type Script = HashMap<u64, Vec<Said>>;

/// A small generator of numbers, the same on every machine (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_number() % end
    }
}

/// Runs `connections` clients side by side, each with `statements` statements of at most `longest` bytes, about half of
/// them prepared and executed once, some of the others wrong.
///
/// # Panics
/// If the server does not answer as the protocol says.
#[must_use]
pub fn run(socket: &Path, connections: u64, statements: u64, longest: u64) -> Script {
    let threads: Vec<_> = (0..connections)
        .map(|number| {
            let socket = socket.to_owned();
            std::thread::spawn(move || talk(&socket, number, statements, longest))
        })
        .collect();
    threads.into_iter().map(|t| t.join().expect("a client")).collect()
}

fn talk(socket: &Path, number: u64, statements: u64, longest: u64) -> (u64, Vec<Said>) {
    // Half of the clients are of today, half as they were before MySQL 5.7.
    let connect = if number.is_multiple_of(2) { Client::connect_without_eof } else { Client::connect };
    let mut client = connect(socket).expect("connect");
    let mut numbers = Numbers(number + longest);
    let mut said = Vec::new();
    for count in 0..statements {
        let filler = filler(&mut numbers, longest);
        let mark = format!("{number}.{count}");
        match numbers.below(8) {
            0..4 => {
                let text = [format!("select '{mark}', ? /* ").into_bytes(), filler, b" */".to_vec()].concat();
                let prepared = client.prepare(&text).expect("prepare").expect("prepared");
                said.push(Said { event: "mysql.prepare", text: text.clone(), answer: Answer::default() });
                let answer = client.execute(prepared, &[mark.as_bytes()]).expect("execute");
                assert_eq!(answer.rows, 1, "{answer:?}");
                said.push(Said { event: "mysql.execute", text, answer });
                client.close(prepared).expect("close");
            }
            4 => {
                let text = [format!("selec '{mark}' /* ").into_bytes(), filler, b" */".to_vec()].concat();
                let answer = client.query(&text).expect("query");
                assert!(answer.error.is_some(), "{answer:?}");
                said.push(Said { event: "mysql.query", text, answer });
            }
            _ => {
                let rows = 1 + numbers.below(3);
                let more = " union all select 1".repeat(usize::try_from(rows - 1).unwrap_or(0));
                let text = [format!("select '{mark}'{more} /* ").into_bytes(), filler, b" */".to_vec()].concat();
                let answer = client.query(&text).expect("query");
                assert_eq!(answer.rows, rows, "{answer:?}");
                said.push(Said { event: "mysql.query", text, answer });
            }
        }
    }
    let id = u64::from(client.id);
    client.quit().expect("quit");
    (id, said)
}

/// Bytes for a comment: any but the two that would end it, lengths spread evenly over the orders of magnitude.
fn filler(numbers: &mut Numbers, longest: u64) -> Vec<u8> {
    let orders = 64 - longest.leading_zeros();
    let order = numbers.below(u64::from(orders));
    let length = numbers.below(1 << order).min(longest.saturating_sub(200));
    (0..length)
        .map(|_| u8::try_from(32 + numbers.below(10)).unwrap_or(b' '))
        .map(|b| if b == b'*' { b'+' } else { b })
        .collect()
}

/// Compares what was captured with what was said: the same statements of each connection, in the same order, byte for
/// byte, with the same outcome.
///
/// # Panics
/// With the first difference.
pub fn compare(script: &Script, events: &[Value]) {
    let mut captured: HashMap<u64, Vec<&Value>> = HashMap::new();
    for event in events.iter().filter(|e| is_statement(e)) {
        captured.entry(connection(event)).or_default().push(event);
    }
    for (id, said) in script {
        let got = captured.remove(id).unwrap_or_default();
        for (number, (said, got)) in said.iter().zip(&got).enumerate() {
            let place = format!("connection {id}, statement {number}");
            assert_eq!(got["event.name"], said.event, "{place}");
            assert!(
                text_bytes(got, "db.query.text") == said.text,
                "{place}: another text than the {} bytes sent",
                said.text.len()
            );
            compare_outcome(&said.answer, got, &place);
        }
        assert_eq!(got.len(), said.len(), "connection {id}: number of statements");
    }
    assert!(captured.is_empty(), "connections that nobody made: {:?}", captured.keys());
}

fn compare_outcome(answer: &Answer, event: &Value, place: &str) {
    match &answer.error {
        Some((number, state, text)) => {
            assert_eq!(event["ecapture.outcome"], "error", "{place}");
            assert_eq!(event["db.response.status_code"], number.to_string(), "{place}");
            assert_eq!(event["ecapture.sqlstate"], **state, "{place}");
            assert_eq!(event["ecapture.error.message"], **text, "{place}");
        }
        None => {
            assert_eq!(event["ecapture.outcome"], "ok", "{place}");
            let number = |column: &str| event[column].as_u64().unwrap_or(0);
            let insert_id: u64 = event["ecapture.last_insert_id"].as_str().map_or(0, |id| id.parse().unwrap());
            assert_eq!(number("db.response.returned_rows"), answer.rows, "{place}");
            assert_eq!(number("ecapture.rows_affected"), answer.affected, "{place}");
            assert_eq!(insert_id, answer.insert_id, "{place}");
            assert_eq!(number("ecapture.warnings"), u64::from(answer.warnings), "{place}: {event}");
            if event["event.name"] != "mysql.prepare" {
                assert_eq!(event["ecapture.results"].as_u64().unwrap_or(1), answer.results, "{place}: {event}");
            }
        }
    }
}

/// Whether an event is one that a [`Script`] has.
#[must_use]
pub fn is_statement(event: &Value) -> bool {
    ["mysql.query", "mysql.prepare", "mysql.execute"].iter().any(|name| event["event.name"] == *name)
}

/// Connection id of an event.
///
/// # Panics
/// If it has none.
#[must_use]
pub fn connection(event: &Value) -> u64 {
    let id = event["ecapture.connection.id"].as_str().unwrap_or_else(|| panic!("no connection id in {event}"));
    id.parse().expect("a number")
}
