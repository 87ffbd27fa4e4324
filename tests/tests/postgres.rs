//! PostgreSQL: what clients say is what the module tells, held against the server's own log and against what clients were told.

use std::collections::BTreeMap;
use std::time::Duration;

use ecapture_tests::capture::{read_events, text_bytes};
use ecapture_tests::postgres::log::compare;
use ecapture_tests::postgres::wire::{Answer, EXECUTE, SYNC, Wire, bind, message};
use ecapture_tests::postgres::{
    PGBENCH, POSTGRESQL_13, POSTGRESQL_17, POSTGRESQL_18, Postgres, SERVER, Scenario, USER, installed, of_suite,
};
use ecapture_tests::wheels::wheel;
use ecapture_tests::{needs, or_skip, skip_if};
use serde_json::Value;

const LOGGED: &[&str] = &["log_statement=all", "log_line_prefix=%p|", "max_connections=100"];

/// Each is a test of the installed server, and all together are one of each other version.
const SCENARIOS: &[Scenario] = &[load, typed, answers, portals];

/// Transactions of each of the clients.
const TRANSACTIONS: usize = 30;

/// pgbench: each statement is the one in the server's log, with what it came to.
fn load(server: &mut Postgres) {
    let before = server.log().len();
    let out = server.dir().join("events");
    // Nothing of it is nested: the option must not make an event of what a client sent.
    let (_modules, capture) = server.capture(&["--ring-size", "64MiB", "-w", out.to_str().unwrap(), "--nested"]);
    let run = |args: &[&str]| {
        let output = server.client(PGBENCH).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["-i", "-q", "-s", "1"]);
    let transactions = TRANSACTIONS.to_string();
    for mode in ["simple", "extended", "prepared"] {
        run(&["-n", "-M", mode, "-c", "32", "-j", "2", "-t", &transactions]);
    }
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    let statements = compare(server, before, &finished.events);
    assert!(statements > 3 * 32 * TRANSACTIONS * 7, "{statements}");
    assert_eq!(finished.named("postgres.nested").count(), 0);
    let failed = finished.events.iter().filter(|e| e["ecapture.outcome"] == "error").count();
    assert_eq!(failed, 0);
    // Of each transaction one row of one select, and four changes of a row.
    let own = |e: &&Value, words: &[&str]| {
        let text = e["db.query.text"].as_str().unwrap_or_default();
        e["event.name"] != "postgres.prepare" && words.iter().any(|word| text.starts_with(word))
    };
    let selects: Vec<&Value> = finished.events.iter().filter(|e| own(e, &["SELECT abalance"])).collect();
    assert_eq!(selects.len(), 3 * 32 * TRANSACTIONS);
    assert!(selects.iter().all(|e| e["db.response.returned_rows"] == 1 && e["ecapture.outcome"] == "ok"));
    let changes = ["UPDATE pgbench", "INSERT INTO pgbench_history"];
    let changes: Vec<&Value> = finished.events.iter().filter(|e| own(e, &changes)).collect();
    assert_eq!(changes.len(), 4 * 3 * 32 * TRANSACTIONS);
    assert!(changes.iter().all(|e| e["ecapture.rows_affected"] == 1 && e["ecapture.outcome"] == "ok"));
    let copy = finished.named("postgres.query").find(|e| e["ecapture.copy.direction"] == "in").unwrap();
    assert_eq!((&copy["ecapture.copy.rows"], &copy["ecapture.rows_affected"]), (&100_000.into(), &100_000.into()));
    assert!(copy["ecapture.copy.bytes"].as_u64().unwrap() > 1_000_000, "{copy}");
    assert_eq!(finished.named("postgres.connect").count(), finished.named("postgres.quit").count());
    let connect = finished.named("postgres.connect").next().unwrap();
    assert_eq!((&connect["user.name"], &connect["network.peer.address"]), (&USER.into(), &"127.0.0.1".into()));
    println!("{statements} statements; {}", finished.end()["ecapture.session.modules"][0]);
}

#[test]
fn every_statement_of_pgbench_is_the_one_in_the_servers_log() {
    installed("every_statement_of_pgbench_is_the_one_in_the_servers_log", LOGGED, load);
}

const TYPED: &str = r#"
import datetime, decimal, sys, uuid, psycopg
c = psycopg.connect(f"host=127.0.0.1 port={sys.argv[1]} user=test dbname=postgres application_name=typed", autocommit=True)
values = [True, False, 5, -70000, 5000000000, 1.5, 1e300, decimal.Decimal("12.50"), decimal.Decimal("-0.00012"), "it's \u00e4",
    b"\x00\xff", datetime.date(2020, 2, 29), datetime.time(1, 2, 3, 4000), datetime.datetime(2020, 1, 2, 3, 4, 5, 678),
    datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc), datetime.timedelta(days=3, seconds=5),
    uuid.UUID(int=7), None, [1, 2, None], ["a", "b c", ""]]
own = (datetime.time, datetime.datetime, datetime.timedelta, uuid.UUID, list)
for value in values:
    c.execute("select %b", (value,))
    # Of these psycopg's own text differs from the server's.
    if not isinstance(value, own):
        c.execute("select %t", (value,))
for n in range(8):
    c.execute("select %s::int + 1", (n,), prepare=True)
try:
    c.execute("select 1 / %s::int", (0,))
except psycopg.errors.DivisionByZero:
    pass
with c.pipeline():
    for n in range(20):
        c.execute("select %s::int * 2", (n,))
c.close()
"#;

/// Values as a Python client sends them, most of them binary: as the server's log has them.
fn typed(server: &mut Postgres) {
    let packages = ["psycopg", "psycopg-binary", "typing_extensions"].map(wheel);
    let packages: Result<Vec<_>, String> = packages.into_iter().collect();
    let packages = or_skip!("typed_parameters_are_what_the_server_takes_them_for", packages);
    let path: Vec<String> = packages.iter().map(|package| package.display().to_string()).collect();
    let before = server.log().len();
    let (_modules, capture) = server.capture(&[]);
    let output = server
        .client("/usr/bin/python3")
        .env("PYTHONPATH", path.join(":"))
        .args(["-c", TYPED, &server.port().to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.assert_whole();
    // A statement that fails as its value is bound has no line of its own in the log.
    finished.events.retain(|e| e["ecapture.outcome"] != "skipped");
    let statements = compare(server, before, &finished.events);
    assert!(statements >= 20 + 13 + 8 + 20, "{statements}");
    let failed: Vec<&Value> = finished.events.iter().filter(|e| e["ecapture.outcome"] == "error").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["db.response.status_code"], "22012");
    assert_eq!(failed[0]["db.query.parameters"], "[\"0\"]");
    // One that was asked to be, and one that was executed often.
    let prepared: Vec<&Value> = finished.named("postgres.prepare").map(|e| &e["db.query.text"]).collect();
    assert_eq!(prepared, ["select $1::int + 1", "select $1::int * 2"]);
    assert!(
        finished
            .named("postgres.execute")
            .filter(|e| e["ecapture.outcome"] == "ok")
            .all(|e| e["db.response.returned_rows"] == 1)
    );
    let connect = finished.named("postgres.connect").next().unwrap();
    assert_eq!((&connect["user.name"], &connect["db.namespace"]), (&USER.into(), &"postgres".into()));
    assert_eq!(
        (&connect["ecapture.application.name"], &connect["network.peer.address"]),
        (&"typed".into(), &"127.0.0.1".into())
    );
}

#[test]
fn typed_parameters_are_what_the_server_takes_them_for() {
    installed("typed_parameters_are_what_the_server_takes_them_for", LOGGED, typed);
}

/// What statements can come to.
const ASKED: &[&str] = &[
    "create table shop (a int primary key, b text)",
    "insert into shop select n, 'x' from generate_series(1, 7) n",
    "insert into shop values (1, 'again')",
    "select * from shop",
    "select * from shop where a > 100",
    "update shop set b = 'y' where a < 4",
    "update shop set b = 'y' where a > 100",
    "delete from shop where a = 7 returning a",
    "select 1; update shop set b = 'z'; select a from shop",
    "select 1; select 1 / (a - a) from shop; select 2",
    "selec nothing",
    "select * from nowhere",
    "",
    ";",
    "begin; insert into shop values (8, 'x')",
    "rollback",
    "copy shop to stdout",
    "do $$ begin raise notice 'told'; raise exception 'own' using errcode = 'ZZ123'; end $$",
    "set statement_timeout = 50; select pg_sleep(5)",
    "show server_version",
    "create table copies as select * from shop",
    "explain select * from shop",
];

/// What each statement came to is what its client was told: rows, what was done, the error.
fn answers(server: &mut Postgres) {
    let (_modules, capture) = server.capture(&[]);
    let mut wire = Wire::connect(server);
    let mut told: Vec<(&str, Answer)> = ASKED.iter().map(|text| (*text, wire.ask(text))).collect();
    let codes: Vec<&str> = told.iter().filter_map(|(_, answer)| Some(answer.error.as_ref()?.0.as_str())).collect();
    assert_eq!(codes, ["23505", "22012", "42601", "42P01", "ZZ123", "57014"]);
    // The same by Parse, Bind and Execute, of those that are one statement and that can be prepared.
    let prepared = |text: &&&str| !matches!(**text, "selec nothing" | "select * from nowhere") && !text.contains("; ");
    for text in ASKED[3..].iter().filter(prepared) {
        let text = text.trim_end_matches(';');
        wire.say(&[(b'P', format!("\0{text}\0\0\0").as_bytes()), (b'B', &bind(false, &[])), EXECUTE, SYNC]);
        told.push((text, wire.answer()));
    }
    wire.say(&[(b'X', b"")]);
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let finished = capture.stop();
    finished.assert_whole();
    let events: Vec<&Value> = finished.events.iter().filter(|e| is_statement(e)).collect();
    assert_eq!(events.len(), told.len(), "{events:#?}");
    for ((text, answer), event) in told.iter().zip(events) {
        assert_eq!(event["db.query.text"], *text);
        let error = answer.error.as_ref();
        let outcome = if error.is_some() { "error" } else { "ok" };
        assert_eq!(event["ecapture.outcome"], outcome, "{event}");
        let said = |column: &str| event[column].as_str();
        assert_eq!(said("db.response.status_code"), error.map(|(code, _)| code.as_str()), "{event}");
        assert_eq!(said("ecapture.error.message"), error.map(|(_, message)| message.as_str()), "{event}");
        assert_eq!(said("ecapture.command.tag"), answer.tags.last().map(String::as_str), "{event}");
        assert_eq!(event["db.response.returned_rows"].as_u64().unwrap_or(0), answer.rows, "{event}");
        let results = event["ecapture.results"].as_u64().unwrap_or(u64::from(!answer.tags.is_empty()));
        assert_eq!(results, answer.tags.len() as u64, "{event}");
        // INSERT says an object id before the number.
        let changed =
            answer.tags.iter().filter(|tag| ["INSERT", "UPDATE", "DELETE"].contains(&tag.split(' ').next().unwrap()));
        let changed: u64 = changed.map(|tag| tag.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        if !text.starts_with("create table") {
            assert_eq!(event["ecapture.rows_affected"].as_u64().unwrap_or(0), changed, "{event}");
        }
    }
    println!("{} answers", told.len());
}

fn is_statement(event: &Value) -> bool {
    matches!(event["event.name"].as_str(), Some("postgres.query" | "postgres.execute"))
}

#[test]
fn what_statements_came_to_is_what_their_client_was_told() {
    installed("what_statements_came_to_is_what_their_client_was_told", LOGGED, answers);
}

/// Portals in pieces, batches with an error in the middle, values that are no text.
fn portals(server: &mut Postgres) {
    let (_modules, capture) = server.capture(&[]);
    let mut wire = Wire::connect(server);
    // A portal in pieces.
    let none = bind(false, &[]);
    let three: (u8, &[u8]) = (b'E', b"\0\0\0\0\x03");
    wire.say(&[(b'P', b"\0select generate_series(1, 7)\0\0\0"), (b'B', &none), three, three, three, SYNC]);
    assert_eq!(wire.until(b'Z').0.iter().filter(|kind| **kind == b's').count(), 2);
    // A thousand parameters.
    let numbers: Vec<String> = (1..=1000).map(|n| n.to_string()).collect();
    let text = format!("\0select ${}::text\0\0\0", numbers.join("::text || $"));
    let values: Vec<&[u8]> = numbers.iter().map(|n| n.as_bytes()).collect();
    wire.say(&[(b'P', text.as_bytes()), (b'B', &bind(false, &values)), EXECUTE, SYNC]);
    wire.until(b'Z');
    // A type that is not decoded, and one whose type is the server's to say.
    let point = [1.5_f64.to_be_bytes(), 2.0_f64.to_be_bytes()].concat();
    wire.say(&[(b'P', b"\0select $1\0\0\x01\0\0\x02\x58"), (b'B', &bind(true, &[&point])), EXECUTE, SYNC]);
    wire.until(b'Z');
    wire.say(&[(b'P', b"open\0select $1::int8\0\0\0"), (b'D', b"Sopen\0"), SYNC]);
    wire.until(b'Z');
    let mut named = bind(true, &[&[0, 0, 0, 0, 0, 0, 1, 0]]);
    named.splice(1..2, *b"open\0");
    wire.say(&[(b'B', &named), EXECUTE, SYNC]);
    wire.until(b'Z');
    // Bytes that are no text in the server's encoding.
    wire.say(&[(b'Q', b"select '\xff\xfe'\0")]);
    wire.until(b'Z');
    wire.say(&[(b'P', b"\0select $1::text\0\0\0"), (b'B', &bind(false, &[b"\xff"])), EXECUTE, SYNC]);
    wire.until(b'Z');
    // 500 executions in one go, one of which fails, and with it the rest of its batch.
    let mut many = Vec::new();
    for n in 0..500 {
        let value = if n == 400 { "0" } else { "1" };
        many.extend(message(b'P', b"\0select 1/$1::int\0\0\0"));
        many.extend(message(b'B', &bind(false, &[value.as_bytes()])));
        many.extend(message(b'E', EXECUTE.1));
        if n == 299 {
            many.extend(message(b'S', b""));
        }
    }
    many.extend(message(b'S', b""));
    wire.send(&many);
    wire.until(b'Z');
    wire.until(b'Z');
    wire.say(&[(b'X', b"")]);
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let finished = capture.stop();
    finished.assert_whole();
    let executed: Vec<&Value> = finished.named("postgres.execute").collect();
    let rows: Vec<_> = executed[..3]
        .iter()
        .map(|e| (e["ecapture.outcome"].as_str(), e["db.response.returned_rows"].as_u64()))
        .collect();
    assert_eq!(rows, [(Some("suspended"), Some(3)), (Some("suspended"), Some(3)), (Some("ok"), Some(1))]);
    assert_eq!(executed[1]["ecapture.portal.limit"], 3);
    let thousand: Vec<String> = serde_json::from_str(executed[3]["db.query.parameters"].as_str().unwrap()).unwrap();
    assert_eq!(thousand, numbers);
    assert_eq!(executed[4]["db.query.parameters"], r#"["oid 600 \\x3ff80000000000004000000000000000"]"#);
    assert_eq!(
        (&executed[5]["db.query.parameters"], &executed[5]["ecapture.statement.name"]),
        (&r#"["256"]"#.into(), &"open".into())
    );
    let bad = finished.named("postgres.query").next().unwrap();
    assert_eq!(
        (text_bytes(bad, "db.query.text"), &bad["db.response.status_code"]),
        (b"select '\xff\xfe'".to_vec(), &"22021".into())
    );
    let bound = finished.named("postgres.bind").next().unwrap();
    assert_eq!(
        (&bound["db.response.status_code"], &bound["db.query.parameters"]),
        (&"22021".into(), &r#"["\\xff"]"#.into())
    );
    let batch = executed.iter().filter(|e| e["db.query.text"] == "select 1/$1::int");
    let outcomes = batch.fold(BTreeMap::new(), |mut all, e| {
        *all.entry(e["ecapture.outcome"].as_str().unwrap()).or_insert(0) += 1;
        all
    });
    // The server folds the constant as it binds it: the error is the Bind's, and the Execute of the 401st is skipped.
    assert_eq!(outcomes, [("ok", 400), ("skipped", 100)].into());
}

#[test]
fn portals_batches_and_odd_values_are_told_apart() {
    installed("portals_batches_and_odd_values_are_told_apart", LOGGED, portals);
}

#[test]
fn a_statement_of_64_mib_is_cut_and_says_so() {
    skip_if!("a_statement_of_64_mib_is_cut_and_says_so", needs::capture(), needs::program(SERVER, "postgresql-15"));
    let server = Postgres::start_with(&[]);
    let (_modules, capture) = server.capture(&[]);
    let mut wire = Wire::connect(&server);
    let size = 64 << 20;
    let text = [&b"select 1 /* "[..], &vec![b'x'; size], b" */\0"].concat();
    wire.say(&[(b'Q', &text)]);
    wire.until(b'Z');
    wire.say(&[(b'Q', b"select 2\0")]);
    wire.until(b'Z');
    let finished = capture.stop();
    let queries: Vec<&Value> = finished.named("postgres.query").collect();
    assert_eq!(queries.len(), 2, "{}", finished.said);
    let kept = text_bytes(queries[0], "db.query.text");
    let missing = queries[0]["ecapture.truncated_bytes"].as_u64().unwrap();
    assert!(text.starts_with(&kept) && kept.len() >= 1 << 20 && kept.len() < (1 << 20) + 8192, "{}", kept.len());
    assert_eq!(u64::try_from(kept.len()).unwrap() + missing, u64::try_from(text.len()).unwrap());
    assert_eq!((&queries[0]["ecapture.partial"], &queries[0]["ecapture.outcome"]), (&true.into(), &"ok".into()));
    assert_eq!(
        (&queries[1]["db.query.text"], &queries[1]["ecapture.truncated_bytes"]),
        (&"select 2".into(), &Value::Null)
    );
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn postgresql_13() {
    of_suite("postgresql_13", POSTGRESQL_13, LOGGED, SCENARIOS);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn postgresql_17() {
    of_suite("postgresql_17", POSTGRESQL_17, LOGGED, SCENARIOS);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn postgresql_18() {
    of_suite("postgresql_18", POSTGRESQL_18, LOGGED, SCENARIOS);
}
