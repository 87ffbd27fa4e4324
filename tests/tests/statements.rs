//! `--view digest`, `--errors-only` and `--min-duration` of real statements, and of a recording of them.

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};
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
    let numbers =
        |text: &str| ["count", "errors", "rows"].map(|key| row(text)[format!("ecapture.digest.{key}")].as_u64());
    assert_eq!(numbers("select ?, ?"), [Some(100), Some(0), Some(100)]);
    assert_eq!(numbers("select * from nowhere.t1 where id in (...)"), [Some(10), Some(10), Some(0)]);
    assert_eq!(numbers("select sleep (?)"), [Some(1), Some(0), Some(1)]);
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
