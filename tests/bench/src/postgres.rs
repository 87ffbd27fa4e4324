//! What a PostgreSQL server loses by being captured from: pgbench with nothing, ecapture, the server's own full log, bpftrace in
//! turn.

use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::postgres::{PGBENCH, Postgres};

use crate::peer::{Bpftrace, Place, first_probe, lines};
use crate::stats::Rounds;

const ROUNDS: usize = 5;
const CLIENTS: &str = "32";
const SECONDS: &str = "2";
/// What the server's own log needs to say as much.
const LOG: &[&str] = &["log_statement = 'all'", "log_min_duration_statement = 0", "log_connections = on"];
const NO_LOG: &[&str] = &["log_statement = 'none'", "log_min_duration_statement = -1", "log_connections = off"];

/// Transactions a second, and how many there were.
fn pgbench(server: &Postgres, mode: &[&str]) -> (f64, f64) {
    let output = server
        .client(PGBENCH)
        .env("PGHOST", server.dir().join("data"))
        .args(["-n", "-c", CLIENTS, "-j", "2", "-T", SECONDS])
        .args(mode)
        .output()
        .expect("pgbench (package postgresql-15)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |mark: &str| -> f64 {
        let word = said.lines().find_map(|line| line.strip_prefix(mark)?.split([' ', '/']).next());
        let word = word.unwrap_or_else(|| panic!("no {mark:?}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        word.parse().expect("a number")
    };
    (number("tps = "), number("number of transactions actually processed: "))
}

fn set(server: &Postgres, settings: &[&str]) {
    let statements: Vec<String> = settings.iter().map(|setting| format!("alter system set {setting}")).collect();
    let mut args: Vec<&str> = statements.iter().flat_map(|statement| ["-c", statement]).collect();
    args.extend(["-c", "select pg_reload_conf()"]);
    assert!(server.psql(&args).status.success());
    std::thread::sleep(Duration::from_millis(300));
}

pub fn run() {
    let server = Postgres::start_with(&["shared_buffers=128MB"]);
    assert!(server.client(PGBENCH).args(["-i", "-q", "-s", "5"]).output().expect("pgbench").status.success());
    let modules = Modules::with(&["postgres"]);
    let binary = server.binary();
    let place = Place::new(server.pid(), &binary, first_probe(&modules, "postgres", &binary));
    let (ours, theirs) = (server.dir().join("ecapture.txt"), server.dir().join("bpftrace.txt"));
    let program = format!(
        "uprobe:{}:pgstat_report_activity /arg1/ {{ printf(\"%d %s\\n\", pid, str(arg1, 200)) }}",
        binary.display()
    );
    let log = server.dir().join("log");
    // Statements of a transaction, and how a line of each begins: of ecapture, of the server's log.
    for (name, mode, statements, marks) in [
        ("select only, simple", &["-S", "-M", "simple"][..], 1.0, ["query ok", "LOG:  statement: "]),
        ("select only, prepared", &["-S", "-M", "prepared"], 1.0, ["execute", "LOG:  execute "]),
        ("TPC-B, extended", &["-M", "extended"], 7.0, ["execute", "LOG:  execute "]),
    ] {
        let (mut nothing, mut captured) = (Rounds::default(), Rounds::default());
        let (mut logged, mut traced) = (Rounds::default(), Rounds::default());
        let (mut kept, mut kept_log, mut kept_peer) = (Rounds::default(), Rounds::default(), Rounds::default());
        let (mut seen, mut seen_log) = (Rounds::default(), Rounds::default());
        pgbench(&server, mode);
        for _ in 0..ROUNDS {
            let (before, _) = pgbench(&server, mode);
            let (target, file) = (binary.display().to_string(), ours.display().to_string());
            let capture = Capture::start(&modules, &["postgres", "--postgres", &target, "-o", "text", "-w", &file]);
            let (with, transactions) = pgbench(&server, mode);
            let finished = capture.stop();
            if !finished.said.contains("none lost") {
                println!("  {}", finished.said.trim_end().lines().last().unwrap_or_default());
            }
            seen.push(100.0 * lines(&ours, &format!("  {}", marks[0])) as f64 / (transactions * statements));
            place.wait(false);

            set(&server, LOG);
            let before_log = lines(&log, marks[1]);
            let (with_log, transactions) = pgbench(&server, mode);
            seen_log.push(100.0 * (lines(&log, marks[1]) - before_log) as f64 / (transactions * statements));
            set(&server, NO_LOG);

            let mut peer = Bpftrace::start(&program, &theirs);
            std::thread::sleep(Duration::from_secs(2));
            let (with_peer, _) = pgbench(&server, mode);
            peer.stop("SELECT");

            // What the machine can do at this moment: once before and once after.
            let base = f64::midpoint(before, pgbench(&server, mode).0);
            nothing.push(base);
            captured.push(with);
            logged.push(with_log);
            traced.push(with_peer);
            kept.push(100.0 * with / base);
            kept_log.push(100.0 * with_log / base);
            kept_peer.push(100.0 * with_peer / base);
        }
        println!("{name}, {CLIENTS} clients, {SECONDS} s a run, {ROUNDS} rounds; transactions/s");
        println!("  nothing         {nothing}");
        println!("  ecapture        {captured}   kept {kept} %   statements seen {seen} %");
        println!("  the server's log {logged}   kept {kept_log} %   statements seen {seen_log} %");
        println!("  bpftrace        {traced}   kept {kept_peer} %");
    }
}
