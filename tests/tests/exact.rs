//! What is captured is what was said: every statement, every byte, every outcome, in order.

use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, read_events, text_bytes};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::{Answer, Client};
use ecapture_tests::workload::Said;
use ecapture_tests::{needs, skip_if, workload};
use serde_json::Value;

/// Bytes of a statement that are captured.
const CAPTURED: usize = 1 << 20;

fn start(server: &Mariadb, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let mut args = vec!["mysql", "--pid", &pid, "-o", "json"];
    args.extend(more);
    let capture = Capture::start(&modules, &args);
    (modules, capture)
}

#[test]
fn sixty_four_connections_at_once_to_the_byte() {
    skip_if!(
        "sixty_four_connections_at_once_to_the_byte",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    // Into a file: what a reader on the other side of a pipe gets of the processors is not what is tested here.
    let out = server.dir().join("events");
    let (_modules, capture) = start(&server, &["--ring-size", "256MiB", "-w", out.to_str().unwrap()]);
    let mut script = workload::run(&server.socket(), 64, 2_000, 4 << 10);
    script.extend(workload::run(&server.socket(), 64, 10, 1 << 20));
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    workload::compare(&script, &finished.events);
    // Nothing but what was said, and each client's quit.
    let said: usize = script.values().map(Vec::len).sum();
    let statements = finished.events.iter().filter(|e| workload::is_statement(e)).count();
    assert_eq!(statements, said);
    assert_eq!(finished.named("mysql.quit").count(), script.len());
    println!("{said} statements of {} connections; {}", script.len(), finished.end()["ecapture.session.modules"][0]);
}

#[test]
fn statements_that_change_rows_fail_or_are_executed_again() {
    skip_if!(
        "statements_that_change_rows_fail_or_are_executed_again",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (_modules, capture) = start(&server, &[]);
    let mut client = Client::connect(&server.socket()).unwrap();
    let mut said = Vec::new();
    let mut ask = |client: &mut Client, text: &[u8]| {
        let answer = client.query(text).unwrap();
        said.push(Said { event: "mysql.query", text: text.to_vec(), answer: answer.clone() });
        answer
    };
    ask(&mut client, b"create database shop");
    ask(&mut client, b"create table shop.t (a int primary key, b varbinary(300))");
    assert_eq!(ask(&mut client, b"insert into shop.t values (1, 'x'), (2, 'y')").affected, 2);
    assert_eq!(ask(&mut client, b"insert into shop.t values (1, 'z')").error.unwrap().0, 1062);
    assert_eq!(ask(&mut client, b"select nothing from nowhere.at_all").error.unwrap().0, 1146);
    assert_eq!(ask(&mut client, b"update shop.t set b = 'w'").affected, 2);

    // One text, executed with bytes that are no text, then with a key that is taken.
    let text = b"insert into shop.t values (?, ?)";
    let insert = client.prepare(text).unwrap().unwrap();
    let every: Vec<u8> = (0..=255).collect();
    let mut executed = vec![Said { event: "mysql.prepare", text: text.to_vec(), answer: Answer::default() }];
    for key in [&b"3"[..], b"4", b"3"] {
        let answer = client.execute(insert, &[key, &every]).unwrap();
        executed.push(Said { event: "mysql.execute", text: text.to_vec(), answer });
    }
    let affected: Vec<u64> = executed.iter().map(|e| e.answer.affected).collect();
    assert_eq!(affected, [0, 1, 1, 0]);
    said.extend(executed);
    // One that cannot be prepared.
    let text = b"select ? from nowhere.at_all";
    let answer = client.prepare(text).unwrap().unwrap_err();
    said.push(Said { event: "mysql.prepare", text: text.to_vec(), answer });
    // Two statements of the same connection side by side, executed the other way round.
    let texts = [&b"select ?, 'first'"[..], b"select ?, 'second'"];
    let both = texts.map(|text| client.prepare(text).unwrap().unwrap());
    said.extend(texts.map(|t| Said { event: "mysql.prepare", text: t.to_vec(), answer: Answer::default() }));
    for n in [1, 0, 1] {
        let answer = client.execute(both[n], &[b"v"]).unwrap();
        said.push(Said { event: "mysql.execute", text: texts[n].to_vec(), answer });
    }
    let id = u64::from(client.id);
    client.quit().unwrap();
    let finished = capture.stop();
    finished.assert_whole();
    workload::compare(&[(id, said)].into(), &finished.events);
    // Executions name the statement they are of.
    let of = |event: &Value| event["ecapture.statement.id"].clone();
    let ids: Vec<_> = finished.named("mysql.execute").map(of).collect();
    assert!(ids.iter().all(|id| !id.is_null()), "{ids:?}");
    assert_eq!((&ids[0], &ids[0], &ids[3]), (&ids[1], &ids[2], &ids[5]));
    assert_ne!(ids[3], ids[4]);
}

#[test]
fn bytes_that_are_no_text_arrive_as_they_are() {
    skip_if!(
        "bytes_that_are_no_text_arrive_as_they_are",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (_modules, mut capture) = start(&server, &[]);
    let mut client = Client::connect(&server.socket()).unwrap();
    let every: Vec<u8> = (0..=255).filter(|b| *b != b'*').collect();
    let text = [b"select 1 /* ".to_vec(), every, b" */".to_vec()].concat();
    client.query(&text).unwrap();
    let event = capture.wait_for("the query", Duration::from_secs(10), |e| e["event.name"] == "mysql.query");
    assert_eq!(text_bytes(&event, "db.query.text"), text);
    capture.stop().assert_whole();
}

#[test]
fn sessions_are_told_from_hello_to_quit() {
    skip_if!("sessions_are_told_from_hello_to_quit", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let (_modules, capture) = start(&server, &[]);
    let mut client = Client::connect(&server.socket()).unwrap();
    client.query(b"create database shop").unwrap();
    client.init_db("shop").unwrap();
    client.query(b"create table t (a int)").unwrap();
    let two = client.query(b"insert into t values (1), (2), (3); select a from t").unwrap();
    assert_eq!((two.affected, two.rows), (3, 3));
    let refused = client.init_db("nowhere").unwrap();
    assert!(refused.error.is_some());
    let id = client.id.to_string();
    client.quit().unwrap();
    let finished = capture.stop();
    finished.assert_whole();
    assert_eq!(finished.events[0]["event.name"], "ecapture.session.start");
    let mine: Vec<&Value> = finished.events.iter().filter(|e| e["ecapture.connection.id"] == *id).collect();
    let names: Vec<&str> = mine.iter().filter_map(|e| e["event.name"].as_str()).collect();
    let expected = ["query", "init_db", "query", "query", "init_db", "quit"].map(|n| format!("mysql.{n}"));
    assert_eq!(names, expected);
    assert_eq!(mine[1]["db.namespace"], "shop");
    assert_eq!(mine[3]["ecapture.rows_affected"], 3);
    assert_eq!(mine[3]["db.response.returned_rows"], 3);
    assert_eq!(mine[4]["ecapture.outcome"], "error");
    assert_eq!(mine[4]["db.response.status_code"], "1049");
    for event in mine {
        assert_eq!(event["process.pid"], server.pid());
        assert_eq!(event["process.executable.path"], *server.binary().display().to_string());
        assert_eq!(event["db.system.name"], "mariadb");
    }
}

#[test]
fn an_answer_out_of_the_query_cache_is_a_success() {
    skip_if!(
        "an_answer_out_of_the_query_cache_is_a_success",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start_with(&["--query-cache-type=1", "--query-cache-size=16M"]);
    let (_modules, capture) = start(&server, &[]);
    let mut client = Client::connect(&server.socket()).unwrap();
    client.query(b"create database cache").unwrap();
    client.query(b"create table cache.t (a int) engine=myisam").unwrap();
    client.query(b"insert into cache.t values (1), (2)").unwrap();
    for _ in 0..2 {
        assert_eq!(client.query(b"select a from cache.t").unwrap().rows, 2);
    }
    client.query(b"show status like 'Qcache_hits'").unwrap();
    client.quit().unwrap();
    let finished = capture.stop();
    let selects: Vec<&Value> =
        finished.named("mysql.query").filter(|e| e["db.query.text"] == "select a from cache.t").collect();
    assert_eq!(selects.len(), 2);
    assert!(selects.iter().all(|e| e["ecapture.outcome"] == "ok"), "{selects:?}");
    assert_eq!(selects[0]["db.response.returned_rows"], 2);
    // The cache sends what it has kept, past the code that counts: no number is better than a wrong one.
    assert!(selects[1].get("db.response.returned_rows").is_none_or(|rows| *rows == 2), "{}", selects[1]);
}

#[test]
fn a_statement_of_64_mib_is_cut_and_says_so() {
    skip_if!(
        "a_statement_of_64_mib_is_cut_and_says_so",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start_with(&["--max-allowed-packet=256M"]);
    let (_modules, capture) = start(&server, &[]);
    let mut client = Client::connect(&server.socket()).unwrap();
    let size = 64 << 20;
    let text = [&b"select 1 /* "[..], &vec![b'x'; size], b" */"].concat();
    for text in [&text[..], b"select 2", &text[..CAPTURED], &text[..CAPTURED + 1]] {
        client.query(text).unwrap();
    }
    client.quit().unwrap();
    let finished = capture.stop();
    let events: Vec<&Value> = finished.named("mysql.query").collect();
    assert_eq!(events.len(), 4, "{}", finished.said);
    // A comment that is cut off is none: what the server makes of it is not what is tested.
    for (event, whole) in events.iter().zip([text.len(), 8, CAPTURED, CAPTURED + 1]) {
        let kept = text_bytes(event, "db.query.text");
        let missing = event["ecapture.truncated_bytes"].as_u64().unwrap_or(0);
        assert_eq!((kept.len(), kept.len() as u64 + missing), (whole.min(CAPTURED), whole as u64));
        assert!(text.starts_with(&kept) || kept == b"select 2");
        assert_eq!(event["ecapture.partial"] == true, missing > 0, "{missing}");
    }
    assert_eq!(events[0]["ecapture.outcome"], "ok");
    assert_eq!(events[0]["db.response.returned_rows"], 1);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!((&totals["cut"], &totals["lost"]), (&2.into(), &0.into()), "{totals}");
    assert_eq!(totals["truncated_bytes"], (text.len() - CAPTURED + 1) as u64, "{totals}");
}
