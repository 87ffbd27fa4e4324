//! `--view digest`, `--errors-only` and `--min-duration` of real statements, and of a recording of them.

use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Finished, Modules, bin_dir, children, pid};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::memory::Peak;
use ecapture_tests::million::{STATEMENTS, make};
use ecapture_tests::mysql::Client;
use ecapture_tests::postgres::wire::{EXECUTE, SYNC, Wire, bind, message};
use ecapture_tests::postgres::{Postgres, installed};
use ecapture_tests::{needs, skip_if};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

fn run(server: &Mariadb, more: &[&str]) -> Finished {
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let json = if more.contains(&"-o") { &[][..] } else { &["-o", "json"] };
    let capture = Capture::start(&modules, &[&["mysql", "--pid", &pid], json, more].concat());
    let mut client = Client::connect(&server.socket()).unwrap();
    for number in 0..100 {
        client.query(format!("SELECT {number}, 'x{number}'").as_bytes()).unwrap();
    }
    for number in 0..10 {
        client.query(format!("select *  from nowhere.t{} where id in ({number}, 2)", 1).as_bytes()).unwrap();
    }
    client.query(b"select sleep(0.2)").unwrap();
    client.quit().unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    finished
}

fn summaries(finished: &Finished) -> Vec<&Value> {
    finished.named("mysql.digest").collect()
}

#[test]
fn numbers_of_statements_are_right() {
    skip_if!("numbers_of_statements_are_right", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let finished = run(&server, &["--view", "digest"]);
    let rows = summaries(&finished);
    assert!(finished.named("mysql.query").next().is_none());
    let row = |text: &str| {
        let found = rows.iter().find(|row| row["db.query.summary"] == text);
        *found.unwrap_or_else(|| panic!("no {text} in {rows:?}"))
    };
    assert_eq!(numbers(row("select ?, ?")), [100, 0, 100]);
    assert_eq!(numbers(row("select * from nowhere.t1 where id in (...)")), [10, 10, 0]);
    assert_eq!(numbers(row("select sleep (?)")), [1, 0, 1]);
    for key in ["p50", "p95", "p99", "max"] {
        let ns = row("select sleep (?)")[format!("ecapture.digest.{key}_ns")].as_u64().unwrap();
        assert!((200_000_000..5_000_000_000).contains(&ns), "{key}: {ns}");
    }
    assert_eq!(rows[0]["db.query.summary"], "select ?, ?", "the most frequent first");

    // As text a table, whose columns are below their headings.
    let out = server.dir().join("table");
    run(&server, &["--view", "digest", "-o", "text", "-w", out.to_str().unwrap()]);
    let text = std::fs::read_to_string(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with(" mysql, the most frequent first"), "{text}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[1])[..3], ["count", "errors", "rows"], "{text}");
    assert_eq!(words(lines[2])[..3], ["100", "0", "100"], "{text}");
    let statement = lines[1].find("statement").unwrap();
    assert_eq!(lines[2].get(statement..), Some("select ?, ?"), "{text}");
}

#[test]
fn only_what_failed_or_was_slow() {
    skip_if!("only_what_failed_or_was_slow", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let failed = run(&server, &["--errors-only"]);
    let texts: Vec<&Value> = failed.named("mysql.query").map(|e| &e["ecapture.outcome"]).collect();
    assert_eq!(texts, vec!["error"; 10]);
    assert!(failed.end()["ecapture.session.modules"][0]["filtered"].as_u64() >= Some(101), "{}", failed.end());
    let slow = run(&server, &["--min-duration", "150ms"]);
    let texts: Vec<&Value> = slow.named("mysql.query").map(|e| &e["db.query.text"]).collect();
    assert_eq!(texts, ["select sleep(0.2)"]);
    assert_eq!(slow.end()["ecapture.session.modules"][0]["filtered"], 110, "{}", slow.end());
    // Told again and again, from 0 each time: the sum is the same.
    let often = run(&server, &["--view", "digest", "--interval", "100ms"]);
    let count = |row: &&Value| row["ecapture.digest.count"].as_u64().unwrap();
    let queries = summaries(&often).into_iter().filter(|row| row["ecapture.digest.event"] == "query");
    assert_eq!(queries.collect::<Vec<_>>().iter().map(count).sum::<u64>(), 111);
}

/// Numbers of a row: how many, how many failed, rows.
fn numbers(row: &Value) -> [u64; 3] {
    ["count", "errors", "rows"].map(|key| row[format!("ecapture.digest.{key}")].as_u64().unwrap())
}

/// What the clients of a PostgreSQL server say in these tests: 100 simple statements, 50 prepared ones, rows in lists of several
/// lengths, a batch with an error in it, a slow one, and one whose backend is killed.
fn say(server: &Postgres) {
    let mut wire = Wire::connect(server);
    wire.ask("CREATE TABLE Notes (id int, at timestamptz)");
    for number in 0..100 {
        wire.ask(&format!("SELECT {number},  'x{number}' -- {number}"));
    }
    for number in 0..50 {
        let value = number.to_string();
        let bound = bind(false, &[value.as_bytes()]);
        wire.say(&[(b'P', b"\0select $1::int from generate_series(1, 2)\0\0\0"), (b'B', &bound), EXECUTE, SYNC]);
        wire.answer();
    }
    for rows in 1..=8 {
        let rows: Vec<String> = (0..rows).map(|n| format!("({n}, now())")).collect();
        wire.ask(&format!("insert into notes values {}", rows.join(", ")));
    }
    let mut batch = Vec::new();
    for value in ["1", "0", "1", "1"] {
        batch.extend(message(b'P', b"\0select 1/$1::int\0\0\0"));
        batch.extend([message(b'B', &bind(false, &[value.as_bytes()])), message(b'E', EXECUTE.1)].concat());
    }
    batch.extend(message(b'S', b""));
    wire.send(&batch);
    wire.answer();
    wire.ask("select pg_sleep(0.3)");
    wire.query("select pg_sleep(60), 'killed'");
    std::thread::sleep(Duration::from_millis(300));
    kill_process(pid(wire.backend), Signal::KILL).unwrap();
    let recovered = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        server.psql(&["-c", "select 'recovered'"]).status.success()
    });
    assert!(recovered, "{}", server.log());
}

fn of_postgres(server: &Postgres, more: &[&str]) -> Finished {
    let (_modules, capture) = server.capture(more);
    say(server);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    finished
}

const CRASHES: &[&str] = &["restart_after_crash=on"];

#[test]
fn numbers_of_postgres_are_right() {
    installed("numbers_of_postgres_are_right", CRASHES, |server| {
        let finished = of_postgres(server, &["--view", "digest"]);
        let rows: Vec<&Value> = finished.named("postgres.digest").collect();
        assert!(finished.named("postgres.query").chain(finished.named("postgres.execute")).next().is_none());
        for (event, text, expected) in [
            ("query", "select ?, ?", [100, 0, 100]),
            ("execute", "select ? :: int from generate_series (...)", [50, 0, 100]),
            ("query", "create table notes (id int, at timestamptz)", [1, 0, 0]),
            // Of one to eight rows.
            ("query", "insert into notes values (?, now ())", [8, 0, 0]),
            // Bound to 0 it is an error; three are skipped, which is none.
            ("execute", "select ? / ? :: int", [4, 0, 1]),
            ("bind", "select ? / ? :: int", [1, 1, 0]),
            ("query", "select pg_sleep (?)", [1, 0, 1]),
            ("query", "select pg_sleep (?), ?", [1, 1, 0]),
        ] {
            let row = rows.iter().find(|r| r["ecapture.digest.event"] == event && r["db.query.summary"] == text);
            let row = row.unwrap_or_else(|| panic!("no {event} {text:?} in {rows:#?}"));
            assert_eq!(numbers(row), expected, "{row}");
            assert_eq!(row["db.namespace"], "postgres", "{row}");
        }
        let slow = rows.iter().find(|row| row["db.query.summary"] == "select pg_sleep (?)").unwrap();
        let longest = slow["ecapture.digest.max_ns"].as_u64().unwrap();
        assert!((300_000_000..20_000_000_000).contains(&longest), "{longest}");
    });
}

#[test]
fn only_what_failed_or_was_slow_of_postgres() {
    installed("only_what_failed_or_was_slow_of_postgres", CRASHES, |server| {
        let failed = of_postgres(server, &["--errors-only"]);
        let shown = |finished: &Finished, key: &str| -> Vec<(String, String)> {
            // One that asked whether the server is back may have asked one that was about to go.
            let events = finished.events.iter().filter(|e| e["db.query.text"].is_string());
            let events = events.filter(|e| e["db.query.text"] != "select 'recovered'");
            events
                .map(|e| (e["db.query.text"].as_str().unwrap().into(), e[key].to_string().trim_matches('"').into()))
                .collect()
        };
        let division = "select 1/$1::int".to_owned();
        let expected = [
            (division.clone(), "error"),
            (division.clone(), "skipped"),
            (division.clone(), "skipped"),
            (division, "skipped"),
            ("select pg_sleep(60), 'killed'".to_owned(), "aborted"),
        ];
        let expected: Vec<(String, String)> =
            expected.into_iter().map(|(text, outcome)| (text, outcome.into())).collect();
        let got = shown(&failed, "ecapture.outcome");
        assert_eq!(got, expected);
        // The connection of the killed backend ended as badly.
        assert!(failed.named("postgres.quit").any(|e| e["ecapture.outcome"] == "aborted"), "{:?}", failed.events);
        assert!(failed.end()["ecapture.session.modules"][0]["filtered"].as_u64() > Some(160), "{}", failed.end());

        assert!(server.psql(&["-c", "drop table notes"]).status.success());
        let slow = of_postgres(server, &["--min-duration", "250ms"]);
        let texts: Vec<String> = shown(&slow, "db.query.text").into_iter().map(|(text, _)| text).collect();
        assert_eq!(texts, ["select pg_sleep(0.3)", "select pg_sleep(60), 'killed'"]);
    });
}

/// Far more statements that differ than are told apart: all are counted, and memory stays where it is said to.
#[test]
fn a_million_statements_are_counted_in_bounded_memory() {
    let file = make();
    let (mut memory, out) = (Peak::default(), tempfile::NamedTempFile::new().unwrap());
    let mut command = Command::new(bin_dir().join("ecapture"));
    command.args(["module", "replay", "-q", "--view", "digest", "-o", "json", "-w"]).arg(out.path());
    command.arg(bin_dir().join("libecap_mysql.so")).arg(file.path()).stdout(Stdio::null());
    let mut replay = command.spawn().unwrap();
    let status = loop {
        if let Some(status) = replay.try_wait().unwrap() {
            break status;
        }
        memory.take(std::iter::once(replay.id()).chain(children(replay.id()).into_values()));
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    let events = ecapture_tests::capture::read_events(out.path());
    let rows: Vec<&Value> = events.iter().filter(|e| e["event.name"] == "mysql.digest").collect();
    let sums = rows.iter().map(|row| numbers(row)).fold([0; 3], |sums, row| [0, 1, 2].map(|n| sums[n] + row[n]));
    assert_eq!(sums, [STATEMENTS, STATEMENTS / 100, STATEMENTS / 10 * 45]);
    // As many as are told apart, and the others together.
    assert_eq!(rows.len(), 10_001);
    let others = rows.last().unwrap();
    assert_eq!(
        (&others["ecapture.digest.event"], numbers(others)[0]),
        (&"others".into(), others["ecapture.digest.others"].as_u64().unwrap())
    );
    let totals = &events.last().unwrap()["ecapture.session.modules"][0];
    assert_eq!((&totals["seen"], &totals["undecodable"]), (&(2 * STATEMENTS).into(), &0.into()), "{totals}");
    assert!((1..64 << 10).contains(&memory.without_rings), "{memory}");
    println!("{memory}");
}

#[test]
fn commands_that_the_documents_show_are_understood() {
    let modules = Modules::with(&["mysql"]);
    let mut seen = 0;
    for document in ["docs/statements.md", "docs/redaction.md"] {
        for command in ecapture_tests::document::commands(document) {
            let words: Vec<&str> = ["config", "--show"].into_iter().chain(command.split(' ').skip(1)).collect();
            let output = modules.run(&words);
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
    for wrong in [&["--interval", "5s"][..], &["--view", "digest", "--interval", "1ms"], &["--redact-pattern", "("]] {
        let output = modules.run(&[&["mysql"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // For root, everything above has to be root's alone.
    let dir = tempfile::tempdir_in("/var/lib").or_else(|_| tempfile::tempdir()).unwrap();
    let file = dir.path().join("ecapture.toml");
    let refused =
        [("patterns = ['(']", "redact-pattern"), ("pattern = 'x'", "unknown key"), ("patterns = ['']", "everywhere")];
    for (text, said) in refused {
        std::fs::write(&file, format!("[redact]\n{text}\n")).unwrap();
        let output = modules.run(&["config", "--show", "--config", file.to_str().unwrap()]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}: {words}");
        assert!(words.contains("E-CONFIG") && words.contains(said) && words.contains(":2:"), "{text}: {words}");
    }
    std::fs::write(&file, "[redact]\npatterns = ['acct-[0-9]{8}', 'x(y)']\n").unwrap();
    let output = modules.run(&["config", "--show", "--config", file.to_str().unwrap()]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("acct-[0-9]{8}") && shown.contains("x(y)"), "{shown}");
}
