//! The server's own log, and what was captured held against it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Postgres;

/// A statement as the server's log has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logged {
    /// The backend.
    pub pid: u64,
    /// Its text.
    pub text: String,
    /// What was bound, between the quotes of the log: `None` is NULL.
    pub parameters: Vec<Option<String>>,
}

/// The statements in a log written with `log_line_prefix='%p|'` and `log_statement=all`, in the order of each backend. Texts
/// are to be of one line.
#[must_use]
pub fn logged(log: &str) -> Vec<Logged> {
    let mut found: Vec<Logged> = Vec::new();
    for line in log.lines() {
        let Some((pid, said)) = line.split_once('|') else { continue };
        let Ok(pid) = pid.parse() else { continue };
        if let Some(text) = said.strip_prefix("LOG:  statement: ") {
            found.push(Logged { pid, text: text.into(), parameters: Vec::new() });
        } else if let Some(executed) = said.strip_prefix("LOG:  execute ") {
            let text = executed.split_once(": ").map_or("", |(_, text)| text);
            found.push(Logged { pid, text: text.into(), parameters: Vec::new() });
        } else if let Some(detail) =
            said.strip_prefix("DETAIL:  ").and_then(|d| d.split_once("arameters: ")).map(|d| d.1)
            && let Some(last) = found.iter_mut().rev().find(|statement| statement.pid == pid)
        {
            last.parameters = parameters(detail);
        }
    }
    found
}

/// `$1 = '5', $2 = NULL`, with `''` for a quote.
fn parameters(mut detail: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    while let Some((_, rest)) = detail.split_once(" = ") {
        let Some(quoted) = rest.strip_prefix('\'') else {
            values.push(None);
            detail = rest;
            continue;
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices().peekable();
        let mut end = quoted.len();
        while let Some((at, c)) = chars.next() {
            if c == '\'' && chars.next_if(|next| next.1 == '\'').is_none() {
                end = at + 1;
                break;
            }
            value.push(c);
        }
        values.push(Some(value));
        detail = quoted.get(end..).unwrap_or_default();
    }
    values
}

/// Text and bound values.
pub type Statement = (String, Vec<Option<String>>);

/// Statements of each backend in their order, with what was bound.
///
/// # Panics
/// On an event without a text, or with nonsense for values.
#[must_use]
pub fn captured(events: &[Value]) -> BTreeMap<u64, Vec<Statement>> {
    let mut all: BTreeMap<u64, Vec<Statement>> = BTreeMap::new();
    for event in events {
        if !matches!(event["event.name"].as_str(), Some("postgres.query" | "postgres.execute")) {
            continue;
        }
        assert!(event["ecapture.server.pid"].is_null(), "{event}");
        let text = event["db.query.text"].as_str().unwrap_or_else(|| panic!("no text in {event}")).to_owned();
        let values = event["db.query.parameters"].as_str().unwrap_or("[]");
        let values: Vec<Option<String>> = serde_json::from_str(values).expect("values");
        all.entry(event["process.pid"].as_u64().expect("a process")).or_default().push((text, values));
    }
    all
}

/// The same from a log written with `log_line_prefix='%p|'` and `log_statement=all`.
#[must_use]
pub fn said(log: &str) -> BTreeMap<u64, Vec<Statement>> {
    let mut all: BTreeMap<u64, Vec<Statement>> = BTreeMap::new();
    for statement in logged(log) {
        all.entry(statement.pid).or_default().push((statement.text, statement.parameters));
    }
    all
}

/// Every backend's statements are those of the log from `before` bytes on. How many they are.
///
/// # Panics
/// With the first difference.
#[must_use]
pub fn compare(server: &Postgres, before: usize, events: &[Value]) -> usize {
    let (expected, found) = (said(&server.log()[before..]), captured(events));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (pid, expected) in &expected {
        for (number, (expected, found)) in expected.iter().zip(&found[pid]).enumerate() {
            assert_eq!(found, expected, "statement {number} of {pid}");
        }
        assert_eq!(found[pid].len(), expected.len(), "{pid}");
    }
    expected.values().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_log_is_read() {
        let log = "7|LOG:  statement: select 1\n8|LOG:  execute s1: select $1, $2\n7|LOG:  statement: x\n\
                   8|DETAIL:  parameters: $1 = 'it''s', $2 = NULL, $3 = ''\n";
        let found = logged(log);
        assert_eq!(found.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["select 1", "select $1, $2", "x"]);
        assert_eq!(found[1].parameters, [Some("it's".into()), None, Some(String::new())]);
    }
}
