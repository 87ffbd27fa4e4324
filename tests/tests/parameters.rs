//! What prepared statements are executed with: the values that were sent, and those that the server's own log has.

use std::path::Path;
use std::process::Command;

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::{Client, Value};
use ecapture_tests::server::{MYSQL_9_7, Server};
use ecapture_tests::{needs, or_skip, skip_if};
use serde_json::json;

fn start(pid: u32, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["mysql"]);
    let pid = pid.to_string();
    let capture = Capture::start(&modules, &[&["mysql", "--pid", &pid, "-o", "json"], more].concat());
    (modules, capture)
}

fn logging(dir: &Path) -> Mariadb {
    let log = format!("--general-log-file={}", dir.join("general").display());
    Mariadb::start_with(&["--general-log", &log, "--log-output=FILE"])
}

/// What the server's log has of one kind of command, of all connections, in order.
fn logged(dir: &Path, kind: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&std::fs::read(dir.join("general")).unwrap()).into_owned();
    let entry = |line: &str| {
        let (_, rest) = line.rsplit_once("\t\t").or_else(|| line.split_once('\t'))?;
        let (head, text) = rest.split_once('\t')?;
        let (id, name) = head.trim().split_once(' ')?;
        (id.parse::<u64>().is_ok() && name == kind).then(|| text.to_owned())
    };
    text.lines().filter_map(entry).collect()
}

fn writable() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    dir
}

/// Parameters of all executions, and whether they are unknown.
fn parameters(finished: &Finished) -> Vec<(serde_json::Value, bool)> {
    let of = |event: &serde_json::Value| {
        let text = event["db.query.parameters"].as_str().unwrap_or("null");
        (serde_json::from_str(text).unwrap(), event["ecapture.parameters.unknown"] == true)
    };
    finished.named("mysql.execute").map(of).collect()
}

const DATE: &[u8] = &[4, 0xe8, 7, 2, 29];
const DATETIME: &[u8] = &[11, 0xe8, 7, 2, 29, 23, 59, 58, 0x40, 0xe2, 1, 0];
const TIME: &[u8] = &[8, 1, 1, 0, 0, 0, 2, 3, 4];

/// A value, how it is shown, and how the server's log writes it.
fn all_types() -> Vec<(Value, serde_json::Value, &'static str)> {
    vec![
        (Value::raw(1, false, &[0x80]), json!(-128), "-128"),
        (Value::raw(1, true, &[0xff]), json!(255), "255"),
        (Value::raw(2, false, &(-2_i16).to_le_bytes()), json!(-2), "-2"),
        (Value::raw(2, true, &[0xff; 2]), json!(65535), "65535"),
        (Value::raw(3, false, &(-3_i32).to_le_bytes()), json!(-3), "-3"),
        (Value::raw(3, true, &[0xff; 4]), json!(4_294_967_295_u32), "4294967295"),
        (Value::raw(8, false, &i64::MIN.to_le_bytes()), json!(i64::MIN), "-9223372036854775808"),
        (Value::raw(8, true, &[0xff; 8]), json!(u64::MAX), "18446744073709551615"),
        (Value::raw(4, false, &1.5_f32.to_le_bytes()), json!(1.5), "1.5"),
        (Value::raw(5, false, &0.1_f64.to_le_bytes()), json!(0.1), "0.1"),
        (
            Value::string(246, b"123456789012345678901234567890.5"),
            json!("123456789012345678901234567890.5"),
            "123456789012345678901234567890.5",
        ),
        (Value::raw(10, false, DATE), json!("2024-02-29"), "DATE'2024-02-29'"),
        (Value::raw(12, false, DATETIME), json!("2024-02-29 23:59:58.123456"), "TIMESTAMP'2024-02-29 23:59:58.123456'"),
        (Value::raw(7, false, &[0]), json!("0000-00-00 00:00:00"), "TIMESTAMP'0000-00-00 00:00:00'"),
        (Value::raw(11, false, TIME), json!("-26:03:04"), "TIME'-26:03:04'"),
        (Value::string(253, "it's \"ä\"".as_bytes()), json!("it's \"ä\""), r#"'it\'s \"ä\"'"#),
        (Value::string(254, b""), json!(""), "''"),
        (Value::string(252, &[0, 0xff, 0x80]), json!({"hex": "00ff80"}), ""),
        (Value::null(6), json!(null), "NULL"),
        (Value::null(3), json!(null), "NULL"),
    ]
}

#[test]
fn values_of_all_types_are_those_that_were_sent() {
    skip_if!(
        "values_of_all_types_are_those_that_were_sent",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let dir = writable();
    let server = logging(dir.path());
    let mut early = Client::connect(&server.socket()).unwrap();
    let before = early.prepare(b"select ?").unwrap().unwrap();
    let (_modules, capture) = start(server.pid(), &[]);
    let mut expected = Vec::new();
    let text = |n: usize| json!([n.to_string()]);

    // Prepared before the capture: not known, and said to be so.
    early.execute_typed(before, &[Value::string(253, b"early")], true).unwrap();
    expected.push((json!(null), true));
    let mut client = Client::connect(&server.socket()).unwrap();
    let types = all_types();
    for (value, shown, _) in &types {
        let select = client.prepare(b"select ?").unwrap().unwrap();
        for typed in [true, false] {
            let answer = client.execute_typed(select, std::slice::from_ref(value), typed).unwrap();
            assert_eq!((answer.error, answer.rows), (None, 1), "{value:?}");
            expected.push((json!([shown]), false));
        }
        client.close(select).unwrap();
    }
    // All in one.
    let marks = vec!["?"; types.len()].join(",");
    let select = client.prepare(format!("select {marks}").as_bytes()).unwrap().unwrap();
    let values: Vec<Value> = types.iter().map(|(value, ..)| value.clone()).collect();
    assert_eq!(client.execute_typed(select, &values, true).unwrap().error, None);
    expected.push((types.iter().map(|(_, shown, _)| shown.clone()).collect(), false));

    // A thousand, whose descriptions do not fit into the server's buffer at once.
    let marks = vec!["?"; 1000].join(",");
    let thousand = client.prepare(format!("select {marks}").as_bytes()).unwrap().unwrap();
    assert_eq!(thousand.parameters, 1000);
    let values: Vec<_> = (0..1000_u32).map(|n| Value::raw(3, false, &n.to_le_bytes())).collect();
    assert_eq!(client.execute_typed(thousand, &values, true).unwrap().error, None);
    expected.push(((0..1000).collect(), false));

    // None at all, with columns, with more columns than the server's buffer has room for, and without.
    let wide = format!("select {}", vec!["1 as a_rather_long_name_of_a_column"; 1500].join(","));
    for none in [&b"select 1, 2, 3"[..], wide.as_bytes(), b"set @a = 1"] {
        let none = client.prepare(none).unwrap().unwrap();
        assert_eq!(client.execute_typed(none, &[], false).unwrap().error, None);
        expected.push((json!(null), false));
    }
    // In pieces; after a reset; NULL before and a number behind.
    let three = client.prepare(b"select ?, ?, ?").unwrap().unwrap();
    let ends = [Value::null(3), Value::string(252, b""), Value::raw(3, false, &[7, 0, 0, 0])];
    for piece in [&b"one "[..], b"", b"two ", &[0xff; 3]] {
        client.send_long(three, 1, piece).unwrap();
    }
    let without = [Value::null(3), Value::raw(252, false, b""), ends[2].clone()];
    client.execute_typed(three, &without, true).unwrap();
    expected.push((json!([null, {"hex": "6f6e652074776f20ffffff"}, 7]), false));
    client.send_long(three, 1, b"forgotten").unwrap();
    client.reset(three).unwrap();
    client.execute_typed(three, &ends, false).unwrap();
    expected.push((json!([null, "", 7]), false));
    client.send_long(three, 1, &vec![b'x'; 300_000]).unwrap();
    client.execute_typed(three, &without, false).unwrap();
    expected.push((json!([null, "x".repeat(300_000), 7]), false));

    // MariaDB's way of inserting many rows.
    client.query(b"create database shop").unwrap();
    client.query(b"create table shop.t (a int auto_increment primary key, b varchar(20))").unwrap();
    let insert = client.prepare(b"insert into shop.t values (?, ?)").unwrap().unwrap();
    let row = |n: i32, b: &[u8]| vec![Value::raw(3, false, &n.to_le_bytes()), Value::string(253, b)];
    let rows = [row(1, b"x"), row(2, b"y"), vec![Value::raw(3, false, &[3, 0, 0, 0]), Value::null(253)]];
    assert_eq!(client.bulk_execute(insert, &rows).unwrap().affected, 3);
    expected.push((json!([[1, "x"], [2, "y"], [3, null]]), false));
    // The same, one at a time, with the outcome.
    assert_eq!(client.execute_typed(insert, &[Value::null(3), Value::string(253, b"z")], true).unwrap().affected, 1);
    expected.push((json!([null, "z"]), false));
    assert_eq!(client.execute_typed(insert, &row(4, b"again"), true).unwrap().error.unwrap().0, 1062);
    expected.push((json!([4, "again"]), false));
    // The connection is given to another user: its statements are gone, the numbers of new ones are not.
    client.change_user("other", "shop").unwrap();
    assert!(client.execute_typed(insert, &row(5, b"gone"), true).unwrap().error.is_some());
    expected.push((json!(null), true));
    for n in 0..3 {
        let select = client.prepare(b"select ?").unwrap().unwrap();
        client.execute(select, &[n.to_string().as_bytes()]).unwrap();
        expected.push((text(n), false));
    }
    client.quit().unwrap();

    let finished = capture.stop();
    finished.assert_whole();
    let got = parameters(&finished);
    assert_eq!(got.len(), expected.len());
    for (number, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "execution {number}");
    }
    let insert_id = finished.named("mysql.execute").find(|e| e["db.query.parameters"] == "[null,\"z\"]").unwrap();
    assert_eq!((&insert_id["ecapture.last_insert_id"], &insert_id["ecapture.rows_affected"]), (&json!("4"), &json!(1)));

    // What the server understood.
    let log = logged(dir.path(), "Execute");
    let mut lines = log.iter().skip(1);
    for (value, _, text) in types.iter().filter(|(.., text)| !text.is_empty()) {
        let want = format!("select {text}");
        let line = lines.by_ref().find(|line| **line == want);
        assert!(line.is_some(), "{value:?}: no line {want:?} in the log");
        assert_eq!(lines.next(), Some(&want), "executed again");
    }
    println!("{} executions", expected.len());
}

/// MySQL takes the packet apart before it can be seen: what it made of it is what was sent.
#[test]
fn values_of_mysql_are_those_that_were_sent() {
    const NAME: &str = "values_of_mysql_are_those_that_were_sent";
    skip_if!(NAME, needs::capture());
    let log = ["--general-log", "--general-log-file=/run/general", "--log-output=FILE"];
    let server = or_skip!(NAME, Server::start_with(MYSQL_9_7, &log));
    let mut early = Client::connect(&server.socket()).unwrap();
    let before = early.prepare(b"select ?").unwrap().unwrap();
    let (_modules, capture) = start(server.pid(), &[]);
    let mut expected = Vec::new();
    early.execute_typed(before, &[Value::string(253, b"early")], true).unwrap();
    expected.push((json!(null), true));

    let mut client = Client::connect(&server.socket()).unwrap();
    let mut types = all_types();
    // A vector of two numbers: text to nobody.
    types.push((Value::string(242, &[0, 0, 0x80, 0xbf, 0, 0, 0, 0x40]), json!({"hex": "000080bf00000040"}), ""));
    types.push((Value::string(245, br#"{"a": 1}"#), json!(r#"{"a": 1}"#), ""));
    types.push((
        Value::raw(12, false, &[13, 0xe8, 7, 2, 29, 23, 59, 58, 0, 0, 0, 0, 60, 0]),
        json!("2024-02-29 23:59:58.000000+01:00"),
        "",
    ));
    for (value, shown, _) in &types {
        let select = client.prepare(b"select ?").unwrap().unwrap();
        for typed in [true, false] {
            let answer = client.execute_typed(select, std::slice::from_ref(value), typed).unwrap();
            assert_eq!((answer.error, answer.rows), (None, 1), "{value:?}");
            expected.push((json!([shown]), false));
        }
        client.close(select).unwrap();
    }
    // All in one; a thousand; none.
    let marks = |count| format!("select {}", vec!["?"; count].join(","));
    let select = client.prepare(marks(types.len()).as_bytes()).unwrap().unwrap();
    let values: Vec<Value> = types.iter().map(|(value, ..)| value.clone()).collect();
    assert_eq!(client.execute_typed(select, &values, true).unwrap().error, None);
    expected.push((types.iter().map(|(_, shown, _)| shown.clone()).collect(), false));
    let thousand = client.prepare(marks(1000).as_bytes()).unwrap().unwrap();
    let int = |n: u32| Value::raw(3, false, &n.to_le_bytes());
    let values: Vec<_> = (0..1000_u32).map(int).collect();
    assert_eq!(client.execute_typed(thousand, &values, true).unwrap().error, None);
    expected.push(((0..1000).collect(), false));
    // NULLs around the values, and nothing but NULLs. So many that no value is found from an end, which is then said.
    for (from, known) in [(60_u32, true), (1000, true), (500, false)] {
        let is_null = |n: u32| n < from || n >= 1000 - from.min(60);
        let values: Vec<_> = (0..1000).map(|n| if is_null(n) { Value::null(3) } else { int(n) }).collect();
        assert_eq!(client.execute_typed(thousand, &values, false).unwrap().error, None);
        let shown: Vec<_> = (0..1000).map(|n| if is_null(n) { json!(null) } else { json!(n) }).collect();
        let shown = if known { shown } else { vec![json!(null); 500] };
        expected.push((json!(shown), !known));
    }
    let none = client.prepare(b"set @a = 1").unwrap().unwrap();
    assert_eq!(client.execute_typed(none, &[], false).unwrap().error, None);
    expected.push((json!(null), false));
    // In pieces; after a reset; in a packet of more than 16 MiB, of which one MiB is captured.
    let three = client.prepare(b"select ?, length(?), ?").unwrap().unwrap();
    let without = [Value::null(3), Value::raw(252, false, b""), int(7)];
    for piece in [&b"one "[..], b"", b"two ", &[0xff; 3]] {
        client.send_long(three, 1, piece).unwrap();
    }
    client.execute_typed(three, &without, true).unwrap();
    expected.push((json!([null, {"hex": "6f6e652074776f20ffffff"}, 7]), false));
    client.send_long(three, 1, b"forgotten").unwrap();
    client.reset(three).unwrap();
    let ends = [Value::null(3), Value::string(252, b""), int(7)];
    client.execute_typed(three, &ends, false).unwrap();
    expected.push((json!([null, "", 7]), false));
    client.send_long(three, 1, &vec![b'x'; 300_000]).unwrap();
    client.execute_typed(three, &without, false).unwrap();
    expected.push((json!([null, "x".repeat(300_000), 7]), false));
    let huge = [int(1), Value::string(252, &vec![b'y'; 17 << 20]), int(2)];
    assert_eq!(client.execute_typed(three, &huge, true).unwrap().error, None);
    client.quit().unwrap();

    // Attributes of the query are none of its parameters, nor of its text.
    let mut client = Client::connect_with_attributes(&server.socket()).unwrap();
    let one = client.prepare(b"select ?, 'attributed'").unwrap().unwrap();
    let trace = [("trace", Value::string(253, b"abc")), ("", int(9))];
    let value = [Value::string(253, b"v")];
    for (attributes, typed) in [(&trace[..], true), (&trace[..1], true), (&[], true), (&[], false)] {
        let answer = client.execute_attributed(one, &value, attributes, typed).unwrap();
        assert_eq!((answer.error, answer.rows), (None, 1));
        expected.push((json!(["v"]), false));
    }
    let none = client.prepare(b"select 'attributes only'").unwrap().unwrap();
    assert_eq!(client.execute_attributed(none, &[], &trace, true).unwrap().error, None);
    expected.push((json!(null), false));
    assert_eq!(client.query_attributed(b"select 'a query with attributes'", &trace).unwrap().rows, 1);
    client.quit().unwrap();

    let finished = capture.stop();
    assert_eq!(finished.end()["ecapture.session.modules"][0]["lost"], 0, "{}", finished.said);
    let mut got = parameters(&finished);
    let huge = got.iter().position(|(shown, _)| shown[0] == 1 && shown.as_array().unwrap().len() < 3).unwrap();
    let (huge, _) = got.remove(huge);
    let text = huge[1]["text"].as_str().unwrap();
    assert_eq!(text.trim_matches('y'), "");
    assert_eq!(text.len() as u64 + huge[1]["missing"].as_u64().unwrap(), 17 << 20);
    assert_eq!(got.len(), expected.len());
    for (number, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "execution {number}");
    }
    let query = finished.named("mysql.query").next().unwrap();
    assert_eq!(query["db.query.text"], "select 'a query with attributes'");
    let log = logged(&server.dir().join("run"), "Execute");
    let mut lines = log.iter();
    for (value, _, text) in types.iter().filter(|(.., text)| !text.is_empty()) {
        // MySQL writes texts where MariaDB has literals of a type, and a fraction always.
        let kind = ["DATE'", "TIMESTAMP'", "TIME'"].into_iter().find(|kind| text.starts_with(kind));
        let mut text = kind.map_or((*text).to_owned(), |kind| text[kind.len() - 1..].to_owned());
        if kind.is_some_and(|kind| kind.starts_with("TIME")) && !text.contains('.') {
            text.insert_str(text.len() - 1, ".000000");
        }
        let want = format!("select {text}");
        assert!(lines.by_ref().any(|line| *line == want), "{value:?}: no line {want:?} in the log");
        assert_eq!(lines.next(), Some(&want), "executed again");
    }
    println!("{} executions", expected.len());
}

/// The statements of a load are those of the server's own log in `dir`, each as often.
fn load(pid: u32, socket: &Path, dir: &Path) {
    let before = logged(dir, "Query").len();
    let (_modules, capture) = start(pid, &["--ring-size", "64MiB"]);
    let output = Command::new("/usr/bin/mysqlslap")
        .args(["--no-defaults", "--user=test", "--concurrency=16", "--number-of-queries=8000", "--auto-generate-sql"])
        .arg("--auto-generate-sql-load-type=mixed")
        .arg(format!("--socket={}", socket.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let finished = capture.stop();
    finished.assert_whole();
    let mut captured: Vec<&str> =
        finished.named("mysql.query").map(|event| event["db.query.text"].as_str().unwrap()).collect();
    let log = logged(dir, "Query");
    let mut log: Vec<&str> = log[before..].iter().map(String::as_str).collect();
    captured.sort_unstable();
    log.sort_unstable();
    assert!(captured.len() > 8000, "{}", captured.len());
    assert_eq!(captured.len(), log.len());
    assert!(captured == log, "other statements than the server's log has");
    println!("{} statements; {}", log.len(), finished.end()["ecapture.session.modules"][0]);
}

const SLAP: (&str, &str) = ("/usr/bin/mysqlslap", "mariadb-client");

#[test]
fn a_load_is_what_the_general_log_says() {
    skip_if!(
        "a_load_is_what_the_general_log_says",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core"),
        needs::program(SLAP.0, SLAP.1)
    );
    let dir = writable();
    let server = logging(dir.path());
    load(server.pid(), &server.socket(), dir.path());
}

#[test]
fn a_load_of_mysql_is_what_its_general_log_says() {
    const NAME: &str = "a_load_of_mysql_is_what_its_general_log_says";
    skip_if!(NAME, needs::capture(), needs::program(SLAP.0, SLAP.1));
    let log = ["--general-log", "--general-log-file=/run/general", "--log-output=FILE"];
    let server = or_skip!(NAME, Server::start_with(MYSQL_9_7, &log));
    load(server.pid(), &server.socket(), &server.dir().join("run"));
}

/// All results of a command are one event's: several statements, and what a procedure selects, called as text and prepared.
#[test]
fn results_of_procedures_and_of_several_statements_are_counted() {
    const TABLES: &str = "/usr/share/mysql/mysql_system_tables.sql";
    skip_if!(
        "results_of_procedures_and_of_several_statements_are_counted",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core"),
        needs::program(TABLES, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let mut client = Client::connect_without_eof(&server.socket()).unwrap();
    // Where the server keeps procedures; nothing else of its system tables is needed.
    let tables = std::fs::read_to_string(TABLES).unwrap();
    let proc = tables.lines().find(|line| line.starts_with("CREATE TABLE IF NOT EXISTS proc (")).unwrap();
    let proc = proc.split(';').next().unwrap();
    for text in ["create database if not exists mysql", "use mysql", proc, "create database shop", "use shop"] {
        let answer = client.query(text.as_bytes()).unwrap();
        assert_eq!(answer.error, None, "{text}");
    }
    client.query(b"create table t (a int auto_increment primary key, b int)").unwrap();
    let body = "create procedure p(n int) begin select 1; insert into t (b) values (n), (n); select a from t; \
                select cast('x' as int); end";
    assert_eq!(client.query(body.as_bytes()).unwrap().error, None);

    let (_modules, capture) = start(server.pid(), &[]);
    let called = client.query(b"call p(7)").unwrap();
    assert_eq!((called.error, called.rows), (None, 4));
    let call = client.prepare(b"call p(?)").unwrap().unwrap();
    let again = client.execute_typed(call, &[Value::raw(3, false, &[9, 0, 0, 0])], true).unwrap();
    assert_eq!((again.error, again.rows), (None, 6));
    let several = client.query(b"insert into t (b) values (1); update t set b = 2; select * from t; select 1").unwrap();
    assert_eq!((several.affected, several.rows), (6, 6));
    // The third of four fails: what came before it was sent.
    let failed = client.query(b"select 1; insert into t values (1, 1); select 2").unwrap();
    assert_eq!(failed.error.unwrap().0, 1062);
    client.quit().unwrap();
    let finished = capture.stop();
    finished.assert_whole();

    let results = |event: &serde_json::Value| {
        ["db.response.returned_rows", "ecapture.results", "ecapture.rows_affected", "ecapture.warnings"]
            .map(|column| event[column].as_u64().unwrap_or(0))
    };
    let queries: Vec<_> = finished.named("mysql.query").collect();
    // Two result sets of the procedure, one with a warning, and its own status.
    assert_eq!(queries.len(), 3);
    assert_eq!(results(queries[0])[..2], [4, 4]);
    assert_eq!(results(queries[0])[3], u64::from(called.warnings), "{}", queries[0]);
    assert_eq!(results(queries[1]), [6, 4, 6, 0]);
    assert_eq!(queries[1]["ecapture.last_insert_id"], "5");
    assert_eq!(results(queries[2])[..2], [1, 2]);
    assert_eq!(queries[2]["db.response.status_code"], "1062");
    let executed: Vec<_> = finished.named("mysql.execute").collect();
    assert_eq!(executed.len(), 1);
    assert_eq!(results(executed[0])[..2], [6, 4]);
    assert_eq!(executed[0]["db.query.parameters"], "[9]");
}
