//! What is lost is counted, exactly, and said where it is missing.

use std::collections::HashMap;
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, text_bytes};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::workload::{self, connection, is_statement};
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

/// Largest packet that the kernel side sends.
const PACKET_MAX: usize = 1 << 20;

#[test]
fn a_ring_that_is_too_small_loses_only_what_it_counts() {
    skip_if!(
        "a_ring_that_is_too_small_loses_only_what_it_counts",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let capture = Capture::start(&modules, &["mysql", "--pid", &pid, "-o", "json", "--ring-size", "128KiB"]);
    let script = workload::run(&server.socket(), 16, 150, 256 << 10);
    let finished = capture.stop();
    let totals = &finished.end()["ecapture.session.modules"][0];
    let count = |key: &str| totals[key].as_u64().unwrap_or_else(|| panic!("{key} in {totals}"));
    assert!(count("lost") + count("partial") > 0, "the ring was not too small: {totals}");
    assert_eq!(count("produced"), count("seen") + count("lost"), "{totals}");
    assert_eq!(count("undecodable"), 0, "{totals}");
    assert!(finished.said.contains("--ring-size"), "{}", finished.said);

    // Each statement that was captured is one that was sent, and lacks exactly what it says.
    let mut captured: HashMap<u64, Vec<&Value>> = HashMap::new();
    for event in finished.events.iter().filter(|e| is_statement(e)) {
        captured.entry(connection(event)).or_default().push(event);
    }
    let (mut partial, mut textless, mut with_text, mut said_missing) = (0, 0, 0, 0);
    for (id, said) in &script {
        let mut said = said.iter();
        for event in captured.remove(id).unwrap_or_default() {
            let Some(_) = event["db.query.text"].as_str() else {
                textless += 1;
                assert_eq!(event["ecapture.state_lost"], true, "{event}");
                continue;
            };
            let text = text_bytes(event, "db.query.text");
            let missing = usize::try_from(event["ecapture.truncated_bytes"].as_u64().unwrap_or(0)).unwrap();
            with_text += 1;
            said_missing += missing as u64;
            partial += u64::from(missing > 0);
            // What the text of a prepared statement lacks was counted when it was prepared; an execution says that it lacks it.
            let of_prepared = event["event.name"] == "mysql.execute" && event["ecapture.partial"] == true;
            assert!(!of_prepared || missing == 0, "{event}");
            // Events of a connection come in the order in which it spoke, so the one meant is further on.
            let meant = said.find(|s| {
                let lacks = s.text.len().saturating_sub(text.len());
                s.event == event["event.name"]
                    && s.text.starts_with(&text)
                    && if of_prepared { lacks > 0 } else { lacks == missing }
            });
            assert!(meant.is_some(), "connection {id}: {} bytes and {missing} missing fit no statement", text.len());
        }
    }
    // And each that was sent is there, or among the messages that are counted as lost: as its text, or as its end.
    let sent: u64 = script.values().map(|said| said.len() as u64).sum();
    let absent = sent - with_text;
    assert!(absent <= count("lost"), "{absent} of {sent} statements have no event with their text; {totals}");
    // What events say is missing is what the totals say, and comes from messages that the ring cut short.
    assert_eq!(said_missing, count("truncated_bytes"), "{totals}");
    assert!(partial <= count("partial"), "{partial} events with missing bytes; {totals}");
    assert!(said_missing <= count("lost_bytes"), "{totals}");
    // Each lost message is said on the event that came next, except those after the last record.
    let events_say: u64 = finished.events.iter().filter_map(|e| e["ecapture.lost"].as_u64()).sum();
    assert!(events_say <= count("lost"), "{events_say} said; {totals}");
    println!("{partial} partial statements, {textless} without their text; {totals}");
    assert!(captured.is_empty(), "connections that nobody made: {:?}", captured.keys());
}

#[test]
fn a_statement_over_the_limit_is_cut_and_says_by_how_much() {
    skip_if!(
        "a_statement_over_the_limit_is_cut_and_says_by_how_much",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let mut capture = Capture::start(&modules, &["mysql", "--pid", &pid, "-o", "json", "--ring-size", "64MiB"]);
    let mut client = Client::connect(&server.socket()).unwrap();
    for length in [PACKET_MAX - 1, PACKET_MAX, PACKET_MAX + 1, 3 << 20] {
        let mut text = b"select 1 /* ".to_vec();
        text.resize(length - 3, b'x');
        text.extend(b" */");
        client.query(&text).unwrap();
        let cut = length.saturating_sub(PACKET_MAX);
        let event = capture.wait_for("the statement", Duration::from_secs(10), |e| {
            e["event.name"] == "mysql.query"
                && e["ecapture.truncated_bytes"].as_u64().unwrap_or(0) == cut as u64
                && e["db.query.text"].as_str().is_some_and(|t| t.len() == length - cut)
        });
        assert!(text.starts_with(&text_bytes(&event, "db.query.text")), "{length} bytes");
        assert_eq!(event["ecapture.partial"] == true, cut > 0, "{length} bytes");
    }
    let finished = capture.stop();
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!(totals["cut"], 2, "{totals}");
    assert_eq!(totals["cut_bytes"], 1 + (2 << 20), "{totals}");
    assert_eq!(totals["lost"], 0, "{totals}");
}
