//! Recordings of real sessions, kept in `tests/golden/MODULE/`, decoded by the module of today: every event is the one that was
//! agreed on. Needs no kernel, no root and no server.
//!
//! With `ECAPTURE_BLESS=1` the expected events are written anew; with `ECAPTURE_BLESS=record` the sessions whose recording is not
//! there are recorded before (that needs the servers and root). Look at the difference before it is committed.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_tests::bash::Bash;
use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::mariadb::Mariadb;
use ecapture_tests::mysql::{Client, Value};
use ecapture_tests::postgres::{PGBENCH, Postgres};
use ecapture_tests::server::{MARIADB_11_8, MYSQL_9_7, Server};
use ecapture_tests::tls::{self, Library};
use ecapture_tests::zsh::Zsh;

fn golden(module: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(module)
}

fn bless() -> Option<String> {
    std::env::var("ECAPTURE_BLESS").ok()
}

/// Decodes every recording of a module and compares.
fn compare(module: &str) {
    let file = bin_dir().join(format!("libecap_{module}.so"));
    let mut compared = 0;
    for recording in std::fs::read_dir(golden(module)).unwrap().map(|e| e.unwrap().path()) {
        if recording.extension().is_none_or(|e| e != "ecaprec") {
            continue;
        }
        let output = Command::new(bin_dir().join("ecapture"))
            .args(["module", "replay", "-q", "-o", "json", "--view", "raw"])
            .args([&file, &recording])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let events = String::from_utf8(output.stdout).unwrap();
        let expected = recording.with_extension("jsonl");
        if bless().is_some() {
            std::fs::write(&expected, &events).unwrap();
        }
        let expected = std::fs::read_to_string(expected).unwrap();
        for (number, (now, then)) in events.lines().zip(expected.lines()).enumerate() {
            assert_eq!(now, then, "{}: line {}", recording.display(), number + 1);
        }
        assert_eq!(events.lines().count(), expected.lines().count(), "{}", recording.display());
        assert!(events.lines().count() > 10, "{} is no session", recording.display());
        compared += 1;
    }
    assert!(compared > 0, "no recording of {module}");
}

#[test]
fn mysql() {
    if bless().as_deref() == Some("record") {
        record_mysql("mariadb-10.11", || {
            let server = Mariadb::start();
            (server.pid(), server.socket(), Box::new(server))
        });
        for (name, version) in [("mariadb-11.8", MARIADB_11_8), ("mysql-9.7", MYSQL_9_7)] {
            record_mysql(name, || {
                let server = Server::start(version).unwrap();
                (server.pid(), server.socket(), Box::new(server))
            });
        }
    }
    if bless().as_deref() == Some("record") {
        record_parameters();
    }
    compare("mysql");
}

/// What statements are executed with: types sent and not sent again, values in pieces, many rows at once.
fn record_parameters() {
    let recording = golden("mysql").join("mariadb-10.11-parameters.ecaprec");
    if recording.exists() {
        return;
    }
    let server = Mariadb::start();
    let mut early = Client::connect(&server.socket()).unwrap();
    let before = early.prepare(b"select ?").unwrap().unwrap();
    let modules = Modules::with(&["mysql"]);
    let args = ["mysql", "--pid", &server.pid().to_string(), "-o", "none", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    early.execute_typed(before, &[Value::string(253, b"early")], true).unwrap();
    let mut client = Client::connect(&server.socket()).unwrap();
    let number = |n: i32| Value::raw(3, false, &n.to_le_bytes());
    let one = client.prepare(b"select ?").unwrap().unwrap();
    for (n, typed) in [(-1, true), (2, false), (3, false)] {
        client.execute_typed(one, &[number(n)], typed).unwrap();
    }
    let three = client.prepare(b"select ?, ?, ?").unwrap().unwrap();
    let date = Value::raw(12, false, &[7, 0xe8, 7, 2, 29, 23, 59, 58]);
    client.execute_typed(three, &[Value::null(6), date, Value::string(252, b"\xff\0")], true).unwrap();
    client.send_long(three, 1, b"in ").unwrap();
    client.send_long(three, 1, b"pieces").unwrap();
    client
        .execute_typed(three, &[number(1), Value::raw(252, false, b""), Value::string(253, b"\xc3\xa4")], true)
        .unwrap();
    client.reset(three).unwrap();
    client.query(b"create database shop").unwrap();
    client.query(b"create table shop.t (a int, b varchar(20))").unwrap();
    let insert = client.prepare(b"insert into shop.t values (?, ?)").unwrap().unwrap();
    let row = |n: i32, b: &[u8]| vec![number(n), Value::string(253, b)];
    client.bulk_execute(insert, &[row(1, b"x"), row(2, b"y"), vec![number(3), Value::null(253)]]).unwrap();
    client.execute_typed(insert, &row(4, b"z"), true).unwrap();
    client.close(insert).unwrap();
    client.quit().unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
}

#[test]
fn postgres() {
    if bless().as_deref() == Some("record") && !golden("postgres").join("postgresql-15.ecaprec").exists() {
        record_postgres();
    }
    compare("postgres");
}

/// Both protocols, errors, copies, a function's statements.
fn record_postgres() {
    std::fs::create_dir_all(golden("postgres")).unwrap();
    let recording = golden("postgres").join("postgresql-15.ecaprec");
    let (modules, server) = (Modules::with(&["postgres"]), Postgres::start());
    let binary = server.binary().display().to_string();
    let recording = recording.to_str().unwrap();
    let args = ["postgres", "--postgres", &binary, "--nested", "-o", "none", "--record", recording];
    let capture = Capture::start(&modules, &args);
    let statements = [
        "create table orders (id int primary key, item text)",
        "insert into orders values (1, 'kettle'), (2, 'teapot') returning id",
        "select * from orders; select 'two'",
        "insert into orders values (1, 'again')",
        "selec nonsense",
        "select 'a line\n and another', '\u{fc}ml\u{e4}ut'",
        "copy orders to stdout",
        "create function f() returns int language plpgsql as $$ begin perform 'inner'; return 1; end $$",
        "select f()",
        "create table many as select n from generate_series(1, 5000) n",
        "select n from many",
    ];
    for statement in statements {
        let _failed_or_not = server.psql(&["-c", statement]);
    }
    for args in [&["-i", "-q"][..], &["-n", "-M", "extended", "-t", "3"], &["-n", "-M", "prepared", "-t", "3"]] {
        let output = server.client(PGBENCH).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
}

#[test]
fn bash() {
    if bless().as_deref() == Some("record") && !golden("bash").join("bash-5.2.ecaprec").exists() {
        record_bash();
    }
    compare("bash");
}

#[test]
fn openssl() {
    if bless().as_deref() == Some("record") && !golden("openssl").join("openssl-3.0.ecaprec").exists() {
        record_openssl();
    }
    compare("openssl");
}

#[test]
fn zsh() {
    if bless().as_deref() == Some("record") && !golden("zsh").join("zsh-5.9.ecaprec").exists() {
        record_zsh();
    }
    compare("zsh");
}

/// The script of the tests, what it leaves out, and the ways to start a shell.
fn record_zsh() {
    std::fs::create_dir_all(golden("zsh")).unwrap();
    let recording = golden("zsh").join("zsh-5.9.ecaprec");
    let (modules, shell) = (Modules::with(&["zsh"]), Zsh::installed());
    for file in ["script.zsh", "sourced.zsh"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zsh").join(file);
        std::fs::copy(fixture, shell.home().join(file)).unwrap();
    }
    let binary = shell.text();
    let args = ["zsh", "--zsh", &binary, "-o", "none", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    let _status = shell.command().arg("script.zsh").status().unwrap();
    for script in [
        "/bin/sh -c 'exit 4'",
        "exec /bin/false",
        "kill -KILL $$",
        "zcompile sourced.zsh; . ./sourced.zsh",
        ": \u{fc} *~x#",
    ] {
        let _status = shell.command().args(["-c", script]).status().unwrap();
    }
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
}

/// Every way to read and write, short and long, with and without a socket.
fn record_openssl() {
    std::fs::create_dir_all(golden("openssl")).unwrap();
    let recording = golden("openssl").join("openssl-3.0.ecaprec");
    let (modules, library, calls) = (Modules::with(&["openssl"]), Library::installed(), tls::calls());
    let path = library.text();
    let args = ["tls", "--libssl", &path, "-o", "none", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    for (scenario, number) in [("lengths", 9), ("memory", 5), ("early", 2), ("reuse", 3)] {
        assert!(!library.run(&calls, scenario, number).is_empty());
    }
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
}

/// One of everything that a shell does with a command.
fn record_bash() {
    std::fs::create_dir_all(golden("bash")).unwrap();
    let recording = golden("bash").join("bash-5.2.ecaprec");
    let (modules, shell) = (Modules::with(&["bash"]), Bash::installed());
    let binary = shell.text();
    let args = ["bash", "--bash", &binary, "-o", "none", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    shell.run_script(
        b"name=world; echo \"hello $name\"\nf() { local x=1; return 3; }\nf a b\n! false\n/bin/echo one 'two words' | cat\n\
          (exit 4)\nsleep 0.01 &\nwait\ncat <<END > /dev/null\nfirst $name\nlast\nEND\nno-such-program\n\
          echo $(/bin/echo inner)\ntrue \xff\xfe\n/bin/sh -c 'kill -TERM $$'\nexit 5\n",
    );
    shell.run(&["-c", "/bin/echo the last one"]);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
}

/// One of everything that the module tells apart.
fn record_mysql(name: &str, start: impl FnOnce() -> (u32, PathBuf, Box<dyn Any>)) {
    let recording = golden("mysql").join(name).with_added_extension("ecaprec");
    if recording.exists() {
        return;
    }
    let (pid, socket, _server) = start();
    let modules = Modules::with(&["mysql"]);
    let args = ["mysql", "--pid", &pid.to_string(), "-o", "none", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    let mut one = Client::connect(&socket).unwrap();
    for text in [
        "create database shop",
        "create table shop.orders (id int primary key, item varbinary(300))",
        "insert into shop.orders values (1, 'kettle'), (2, 'teapot')",
        "select * from shop.orders",
        "insert into shop.orders values (1, 'again')",
        "selec nonsense",
        "select 'a line\n and another', \"\u{fc}ml\u{e4}ut\"",
    ] {
        one.query(text.as_bytes()).unwrap();
    }
    one.query(b"select 1 /* \xff\xfe\0 */").unwrap();
    let mut two = Client::connect(&socket).unwrap();
    let insert = two.prepare(b"insert into shop.orders values (?, ?)").unwrap().unwrap();
    two.execute(insert, &[b"3", b"cups"]).unwrap();
    two.execute(insert, &[b"3", b"twice"]).unwrap();
    two.close(insert).unwrap();
    assert!(two.prepare(b"select ? from nowhere.at_all").unwrap().is_err());
    // In chunks.
    one.query(&[b"select 2 /* ".to_vec(), vec![b'x'; 100_000], b" */".to_vec()].concat()).unwrap();
    two.quit().unwrap();
    one.quit().unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
}
