//! What a database server loses by being captured from: mariadb-slap with nothing, ecapture, the server's own general log, bpftrace
//! in turn.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::mariadb::Mariadb;
use ecapture_tests::mysql::Client;

use crate::memory;
use crate::peer::{Bpftrace, Place, first_probe, lines};
use crate::stats::Rounds;

const ROUNDS: usize = 5;
const CLIENTS: u32 = 8;
/// The function that both tools look at.
const FUNCTION: &str = "_Z16dispatch_command19enum_server_commandP3THDPcjb";
const QUERY: &str = "select id, item, price from orders where id = 17";
const CREATE: &str = "create table orders (id int primary key, item varchar(40), price decimal(8,2)); \
                      insert into orders values (17, 'kettle', 39.90), (18, 'teapot', 24.50)";

/// Statements a second.
fn slap(socket: &Path, query: &str, queries: u32) -> f64 {
    let output = Command::new("mariadb-slap")
        .args(["--no-defaults", "--user=root", "--create-schema=bench", "--delimiter=;"])
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--concurrency={CLIENTS}"))
        .arg(format!("--number-of-queries={queries}"))
        .arg(format!("--create={CREATE}"))
        .arg(format!("--query={query}"))
        .output()
        .expect("mariadb-slap (package mariadb-client)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let seconds = said
        .lines()
        .find_map(|l| l.trim().strip_prefix("Average number of seconds to run all queries: ")?.split(' ').next())
        .unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    f64::from(queries) / seconds.parse::<f64>().expect("seconds")
}

/// Switches the server's log of all statements: on with nowhere to go it writes nothing, and to switch it off takes tables that the
/// server has none of here.
fn log(server: &Mariadb, on: bool) {
    let mut client = Client::connect(&server.socket()).expect("a connection");
    let answer = client
        .query(format!("set global log_output = '{}'", if on { "FILE" } else { "NONE" }).as_bytes())
        .expect("an answer");
    assert_eq!(answer.error, None);
    client.quit().expect("a connection");
}

pub fn run() {
    let logged = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(logged.path(), PermissionsExt::from_mode(0o777)).expect("permissions");
    let general = logged.path().join("general");
    let file = format!("--general-log-file={}", general.display());
    let server = Mariadb::start_with(&["--innodb-buffer-pool-size=64M", "--general-log", &file, "--log-output=NONE"]);
    let modules = Modules::with(&["mysql"]);
    let place = Place::new(server.pid(), &server.binary(), first_probe(&modules, "mysql", &server.binary()));
    let (ours, theirs) = (server.dir().join("ecapture.txt"), server.dir().join("bpftrace.txt"));
    let program =
        format!("uprobe:{}:{FUNCTION} {{ printf(\"%d %s\\n\", tid, str(arg2, 200)) }}", server.binary().display());
    slap(&server.socket(), QUERY, 40_000);
    let heavier = "select a.id, count(*) from orders a, orders b, orders c, orders d, orders e, orders f, orders g \
                   where a.item < 'zzz' group by a.id order by 2";
    // Each run takes some seconds: what a capture does when it begins is not what is measured here.
    for (name, query, queries) in [("point query", QUERY, 200_000), ("seven-way join", heavier, 100_000)] {
        let mark = &query[..20];
        let (mut nothing, mut captured, mut traced) = (Rounds::default(), Rounds::default(), Rounds::default());
        let (mut kept, mut kept_log, mut kept_peer) = (Rounds::default(), Rounds::default(), Rounds::default());
        let (mut seen, mut seen_log, mut seen_peer) = (Rounds::default(), Rounds::default(), Rounds::default());
        let mut logging = Rounds::default();
        let mut memory = memory::Samples::default();
        for _ in 0..ROUNDS {
            let before = slap(&server.socket(), query, queries);

            let (pid, file) = (server.pid().to_string(), ours.display().to_string());
            let capture = Capture::start(&modules, &["mysql", "--pid", &pid, "-o", "text", "-w", &file]);
            let with = slap(&server.socket(), query, queries);
            memory.take(capture.pid());
            let finished = capture.stop();
            if !finished.said.contains("none lost") {
                println!("  {}", finished.said.trim_end().lines().last().unwrap_or_default());
            }
            seen.push(100.0 * lines(&ours, mark) as f64 / f64::from(queries));
            place.wait(false);

            let before_log = lines(&general, mark);
            log(&server, true);
            let with_log = slap(&server.socket(), query, queries);
            log(&server, false);
            seen_log.push(100.0 * (lines(&general, mark) - before_log) as f64 / f64::from(queries));

            let mut peer = Bpftrace::start(&program, &theirs);
            place.wait(true);
            let with_peer = slap(&server.socket(), query, queries);
            memory.peer(peer.pid());
            seen_peer.push(100.0 * peer.stop(mark) as f64 / f64::from(queries));
            place.wait(false);

            // What the machine can do at this moment: once before and once after.
            let base = (before + slap(&server.socket(), query, queries)) / 2.0;
            nothing.push(base);
            captured.push(with);
            logging.push(with_log);
            kept_log.push(100.0 * with_log / base);
            traced.push(with_peer);
            kept.push(100.0 * with / base);
            kept_peer.push(100.0 * with_peer / base);
        }
        println!("{name}, {CLIENTS} clients, {queries} statements a round, {ROUNDS} rounds; statements/s");
        println!("  nothing   {nothing}");
        println!("  ecapture  {captured}   kept {kept} %   statements seen {seen} %");
        println!("  the server's log {logging}   kept {kept_log} %   statements seen {seen_log} %");
        println!("  bpftrace  {traced}   kept {kept_peer} %   statements seen {seen_peer} %");
        memory.print();
    }
}
