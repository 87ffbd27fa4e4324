//! One module file, every version of the servers: each from its suite's packages, in a container of its own.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules, read_events};
use ecapture_tests::mysql::{Answer, Client};
use ecapture_tests::server::{MARIADB_10_5, MARIADB_10_11, MARIADB_11_8, MYSQL_9_7, Server, Version};
use ecapture_tests::workload::Said;
use ecapture_tests::{needs, or_skip, skip_if, workload};
use serde_json::Value;

/// The module's answer about a server's program, as `ecapture module plan` shows it.
fn plan(server: &Server) -> String {
    let modules = Modules::with(&["mysql"]);
    let binary = server.binary();
    let output = modules.run(&["module", "plan", "mysql", "--target", binary.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn start(server: &Server, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let capture = Capture::start(&modules, &[&["mysql", "--pid", &pid, "-o", "json"], more].concat());
    (modules, capture)
}

/// A server, or the reason why there is none.
macro_rules! server {
    ($test:expr, $version:expr $(, $option:expr)*) => {{
        skip_if!($test, needs::capture());
        or_skip!($test, Server::start_with($version, &[$($option),*]))
    }};
}

/// What statements can come to: rows changed, refused, executed again, several at once, sent byte by byte.
fn outcomes(mut client: Client, product: &str) -> workload::Script {
    let mut said = Vec::new();

    let mut ask = |client: &mut Client, text: &[u8]| {
        let answer = client.query(text).unwrap();
        said.push(Said { event: "mysql.query", text: text.to_vec(), answer: answer.clone() });
        answer
    };
    ask(&mut client, b"create database shop");
    ask(&mut client, b"create table shop.t (a int primary key, b varbinary(300)) engine=innodb");
    assert_eq!(ask(&mut client, b"insert into shop.t values (1, 'x'), (2, 'y')").affected, 2);
    assert_eq!(ask(&mut client, b"insert into shop.t values (1, 'z')").error.unwrap().0, 1062);
    assert!(ask(&mut client, b"select nothing from nowhere.at_all").error.is_some());
    assert_eq!(ask(&mut client, b"update shop.t set b = 'w'").affected, 2);
    let every: Vec<u8> = (0..=255).filter(|b| *b != b'*').collect();
    ask(&mut client, &[b"select 1 /* ".to_vec(), every.clone(), b" */".to_vec()].concat());
    let two = ask(&mut client, b"insert into shop.t values (7, ''), (8, ''), (9, ''); select a from shop.t");
    assert_eq!((two.affected, two.rows), (3, 5));
    assert_eq!(ask(&mut client, b"select a from shop.t where a > 100").rows, 0);
    // MariaDB keeps procedures in a table that it is not given here; then both are errors.
    let made = ask(&mut client, b"create procedure shop.p() begin select 1; select a from shop.t; end");
    let called = ask(&mut client, b"call shop.p()");
    assert_eq!((called.rows, called.error.is_some()), if made.error.is_none() { (6, false) } else { (0, true) });
    assert_eq!(made.error.is_none(), product == "mysql");
    assert!(ask(&mut client, b"show warnings").error.is_none());
    assert_eq!(ask(&mut client, b"show databases like 'shop'").rows, 1);

    // Ids that the server makes, and warnings: of the last result.
    ask(&mut client, b"create table shop.i (a int auto_increment primary key, b int)");
    assert_eq!(ask(&mut client, b"insert into shop.i (b) values (1), (2)").insert_id, 1);
    let three = ask(
        &mut client,
        b"insert into shop.i (b) values (3); update shop.i set b = 0; insert into shop.i (a) values (17)",
    );
    assert_eq!((three.affected, three.insert_id, three.results), (5, 17, 3));
    assert_eq!(ask(&mut client, b"select cast('x' as signed), cast('y' as signed)").warnings, 2);
    assert_eq!(ask(&mut client, b"select 1; select cast('x' as signed)").warnings, 1);
    assert_eq!(ask(&mut client, b"drop table if exists shop.nothing").warnings, 1);
    let text = b"insert into shop.t values (?, ?)";
    let insert = client.prepare(text).unwrap().unwrap();
    said.push(Said { event: "mysql.prepare", text: text.to_vec(), answer: Answer::default() });
    for (key, affected) in [(&b"3"[..], 1), (b"4", 1), (b"3", 0)] {
        let answer = client.execute(insert, &[key, &every]).unwrap();
        assert_eq!(answer.affected, affected);
        said.push(Said { event: "mysql.execute", text: text.to_vec(), answer });
    }
    let text = b"select ? from nowhere.at_all";
    let answer = client.prepare(text).unwrap().unwrap_err();
    said.push(Said { event: "mysql.prepare", text: text.to_vec(), answer });
    // Two statements side by side, executed the other way round.
    let texts = [&b"select ?, 'first'"[..], b"select a, ? from shop.t"];
    let both = texts.map(|text| client.prepare(text).unwrap().unwrap());
    said.extend(texts.map(|t| Said { event: "mysql.prepare", text: t.to_vec(), answer: Answer::default() }));
    for n in [1, 0, 1] {
        let answer = client.execute(both[n], &[b"v"]).unwrap();
        assert_eq!(answer.rows, [1, 7][n]);
        said.push(Said { event: "mysql.execute", text: texts[n].to_vec(), answer });
    }
    let text = b"drop database shop";
    let answer = client.query(text).unwrap();
    assert!(answer.error.is_none(), "{answer:?}");
    said.push(Said { event: "mysql.query", text: text.to_vec(), answer });
    let id = u64::from(client.id);
    client.quit().unwrap();
    [(id, said)].into()
}

/// The load of `exact.rs`, smaller: what was said is what is captured, to the byte.
fn exactly(server: &Server) {
    let began = Instant::now();
    let Version { product, series, .. } = server.version();
    let plan = plan(server);
    let version =
        plan.lines().find(|line| line.trim_start().starts_with("version")).unwrap_or_else(|| panic!("{plan}"));
    let name = if product == "mysql" { "MySQL" } else { "MariaDB" };
    assert!(version.contains(&format!("{name} {series}.")), "{version}");
    assert!(version.contains("in .rodata"), "how it was found: {version}");
    assert!(!plan.contains("no function") && !plan.contains("not what was expected"), "{plan}");

    let out = server.dir().join("events");
    let (_modules, capture) = start(server, &["--ring-size", "64MiB", "-w", out.to_str().unwrap()]);
    let mut script = workload::run(&server.socket(), 8, 500, 64 << 10);
    script.extend(workload::run(&server.socket(), 2, 8, 1 << 20));
    for connect in [Client::connect, Client::connect_without_eof] {
        script.extend(outcomes(connect(&server.socket()).unwrap(), product));
    }
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    workload::compare(&script, &finished.events);
    let said: usize = script.values().map(Vec::len).sum();
    let statements: Vec<_> = finished.events.iter().filter(|e| workload::is_statement(e)).collect();
    assert_eq!(statements.len(), said);
    assert_eq!(finished.named("mysql.quit").count(), script.len());
    for event in statements {
        if event["event.name"] == "mysql.execute" && event["db.query.text"] == "select ?, 'first'" {
            let known = (event["db.query.parameters"].as_str(), event["ecapture.parameters.unknown"] == true);
            assert_eq!(known, (Some("[\"v\"]"), false));
        }
        assert_eq!(event["db.system.name"], product, "{event}");
        assert_eq!(event["process.pid"], server.pid());
        assert_eq!(event["process.user.id"], 65534);
        // As its container calls it.
        assert_eq!(event["process.executable.path"], server.version().program);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(server.dir().to_str().unwrap()), "{mounts}");
    let totals = &finished.end()["ecapture.session.modules"][0];
    let seconds = began.elapsed().as_secs_f64();
    println!("{name} {series}: {said} statements, {} bytes, {seconds:.1} s; {totals}", bytes(&script));
}

fn bytes(script: &workload::Script) -> usize {
    script.values().flatten().map(|said| said.text.len()).sum()
}

/// Rows that a client takes out of a cursor, a few at a time, are counted at each fetch and not at the execution.
fn cursors(server: &Server) {
    let mut client = Client::connect(&server.socket()).unwrap();
    for text in ["create database pieces", "create table pieces.t (a int)", "insert into pieces.t values (1), (2)"] {
        assert!(client.query(text.as_bytes()).unwrap().error.is_none(), "{text}");
    }
    for _ in 0..3 {
        client.query(b"insert into pieces.t select a from pieces.t").unwrap();
    }
    let (_modules, capture) = start(server, &[]);
    let mut fetched = Vec::new();
    for connect in [Client::connect, Client::connect_without_eof] {
        let mut client = connect(&server.socket()).unwrap();
        let statement = client.prepare(b"select a from pieces.t").unwrap().unwrap();
        let rows = client.fetch_all(statement, 5).unwrap();
        assert_eq!(rows.iter().sum::<u64>(), 16);
        assert!(rows.len() >= 4, "{rows:?}");
        client.quit().unwrap();
        fetched.extend(rows);
    }
    let finished = capture.stop();
    finished.assert_whole();
    let executed: Vec<&Value> = finished.named("mysql.execute").collect();
    assert_eq!(executed.len(), 2);
    for event in executed {
        assert_eq!(event["db.query.text"], "select a from pieces.t");
        assert!(event.get("db.response.returned_rows").is_none_or(|rows| *rows == 0), "{event}");
    }
    let fetches = finished.named("mysql.command").filter(|event| event["ecapture.command.name"] == "stmt_fetch");
    let rows: Vec<u64> = fetches.map(|event| event["db.response.returned_rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, fetched);
}

#[test]
fn mariadb_10_5_counts_rows_of_cursors() {
    cursors(&server!("mariadb_10_5_counts_rows_of_cursors", MARIADB_10_5));
}

#[test]
fn mariadb_10_11_counts_rows_of_cursors() {
    cursors(&server!("mariadb_10_11_counts_rows_of_cursors", MARIADB_10_11));
}

#[test]
fn mariadb_11_8_counts_rows_of_cursors() {
    cursors(&server!("mariadb_11_8_counts_rows_of_cursors", MARIADB_11_8));
}

#[test]
fn mysql_9_7_counts_rows_of_cursors() {
    cursors(&server!("mysql_9_7_counts_rows_of_cursors", MYSQL_9_7));
}

/// What a statement selects, user, database and client.
type Who<T> = (T, Option<T>, Option<T>, Option<SocketAddr>);

/// User, database and client address are those of the connection, or absent: never another's.
fn who(server: &Server) {
    let mut old = Client::connect_as(&server.socket(), "test", "").unwrap();
    old.query(b"create database shop").unwrap();
    old.query(b"create database `other one`").unwrap();
    let (_modules, capture) = start(server, &[]);
    let mut expected: Vec<Who<&str>> = Vec::new();
    old.query(b"select 'older than the capture'").unwrap();
    expected.push(("older than the capture", None, None, None));

    let (mut tcp, address) = Client::connect_tcp(server.address(), "test", "shop").unwrap();
    let mut unix = Client::connect_as(&server.socket(), "other", "").unwrap();
    tcp.query(b"select 'over the network'").unwrap();
    expected.push(("over the network", Some("test"), Some("shop"), Some(address)));
    unix.query(b"select 'over a socket'").unwrap();
    expected.push(("over a socket", Some("other"), None, None));
    assert!(tcp.init_db("other one").unwrap().error.is_none());
    tcp.query(b"select 'another database'").unwrap();
    expected.push(("another database", Some("test"), Some("other one"), Some(address)));
    assert!(tcp.init_db("nowhere").unwrap().error.is_some());
    tcp.query(b"select 'no such database'").unwrap();
    expected.push(("no such database", Some("test"), Some("other one"), Some(address)));
    unix.query(b"use shop").unwrap();
    unix.query(b"select 'used'").unwrap();
    expected.push(("used", Some("other"), Some("shop"), None));
    let prepared = unix.prepare(b"select 'prepared'").unwrap().unwrap();
    expected.push(("prepared", Some("other"), Some("shop"), None));
    unix.execute(prepared, &[]).unwrap();
    expected.push(("prepared", Some("other"), Some("shop"), None));
    tcp.change_user("other", "").unwrap();
    tcp.query(b"select 'another user'").unwrap();
    expected.push(("another user", Some("other"), None, Some(address)));
    tcp.change_user("test", "shop").unwrap();
    tcp.query(b"select 'the first user again'").unwrap();
    expected.push(("the first user again", Some("test"), Some("shop"), Some(address)));
    // MySQL closes the connection; MariaDB goes on, and as whom is its secret.
    assert!(tcp.change_user("other", "nowhere").is_err());
    if tcp.query(b"select 'a user who could not come in'").is_ok() {
        expected.push(("a user who could not come in", None, None, Some(address)));
    }
    // Threads are used again; what was known of one connection is not of the next.
    drop(tcp);
    for round in 0..3 {
        let mut again = Client::connect_as(&server.socket(), "test", "shop").unwrap();
        again.query(b"select 'on a thread that is used again'").unwrap();
        expected.push(("on a thread that is used again", Some("test"), Some("shop"), None));
        again.quit().unwrap();
        let (mut far, address) = Client::connect_tcp(server.address(), "other", "").unwrap();
        if round == 1 {
            far.query(b"select 'far'").unwrap();
            expected.push(("far", Some("other"), None, Some(address)));
        }
        far.quit().unwrap();
    }
    unix.quit().unwrap();
    let finished = capture.stop();
    finished.assert_whole();
    let text = |event: &Value, column: &str| event[column].as_str().map(str::to_owned);
    let mut seen: Vec<Who<String>> = finished
        .events
        .iter()
        .filter(|event| event["db.query.text"].as_str().is_some_and(|text| text.starts_with("select")))
        .map(|event| {
            let mark = event["db.query.text"].as_str().unwrap().split('\'').nth(1).unwrap().to_owned();
            let peer = event["network.peer.address"].as_str().map(|address| {
                let port = event["network.peer.port"].as_u64().unwrap();
                SocketAddr::new(address.parse().unwrap(), u16::try_from(port).unwrap())
            });
            (mark, text(event, "user.name"), text(event, "db.namespace"), peer)
        })
        .collect();
    let mut expected: Vec<Who<String>> = expected
        .into_iter()
        .map(|(mark, user, database, peer)| {
            (mark.to_owned(), user.map(str::to_owned), database.map(str::to_owned), peer)
        })
        .collect();
    // A connection's own are in order; of two connections the one whose command is done with first comes first.
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    // The good-bye is still theirs.
    assert_eq!(finished.named("mysql.quit").filter(|quit| quit["user.name"] == "test").count(), 3);
}

#[test]
fn mariadb_10_5_knows_who_asks() {
    who(&server!("mariadb_10_5_knows_who_asks", MARIADB_10_5));
}

#[test]
fn mariadb_10_11_knows_who_asks() {
    who(&server!("mariadb_10_11_knows_who_asks", MARIADB_10_11));
}

#[test]
fn mariadb_11_8_knows_who_asks() {
    who(&server!("mariadb_11_8_knows_who_asks", MARIADB_11_8));
}

/// Where threads serve many connections, and a connection many threads.
#[test]
fn a_pool_of_threads_knows_who_asks() {
    who(&server!(
        "a_pool_of_threads_knows_who_asks",
        MARIADB_11_8,
        "--thread-handling=pool-of-threads",
        "--thread-pool-size=2"
    ));
}

/// The client's address in the form of the network that it came over.
#[test]
fn clients_over_ipv6() {
    for version in [MARIADB_11_8, MYSQL_9_7] {
        let loopback = Ipv6Addr::LOCALHOST;
        skip_if!("clients_over_ipv6", TcpListener::bind((loopback, 0)).err().map(|e| format!("needs IPv6: {e}")));
        let server = server!("clients_over_ipv6", version, "--bind-address=::1");
        let (_modules, capture) = start(&server, &[]);
        let address = (loopback, server.address().port()).into();
        let (mut client, own) = Client::connect_tcp(address, "test", "").unwrap();
        client.query(b"select 6").unwrap();
        client.quit().unwrap();
        let finished = capture.stop();
        let event = finished.named("mysql.query").next().unwrap_or_else(|| panic!("{}", finished.said));
        assert_eq!(event["network.peer.address"], "::1", "{event}");
        assert_eq!(event["network.peer.port"], own.port(), "{event}");
        finished.assert_whole();
    }
}

#[test]
fn mysql_9_7_knows_who_asks() {
    who(&server!("mysql_9_7_knows_who_asks", MYSQL_9_7));
}

#[test]
fn mariadb_10_5_to_the_byte() {
    exactly(&server!("mariadb_10_5_to_the_byte", MARIADB_10_5));
}

#[test]
fn mariadb_10_11_to_the_byte() {
    exactly(&server!("mariadb_10_11_to_the_byte", MARIADB_10_11));
}

#[test]
fn mariadb_11_8_to_the_byte() {
    exactly(&server!("mariadb_11_8_to_the_byte", MARIADB_11_8));
}

#[test]
fn mysql_9_7_to_the_byte() {
    exactly(&server!("mysql_9_7_to_the_byte", MYSQL_9_7));
}
