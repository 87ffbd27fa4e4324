//! Only what was asked for.

use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};

fn start(server: &Mariadb, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["mysql"]);
    let binary = server.binary();
    let args = [&["mysql", "--mysqld", binary.to_str().unwrap(), "-o", "json"][..], more].concat();
    let capture = Capture::start(&modules, &args);
    (modules, capture)
}

/// How many of the server's statements a capture with these options sees.
fn seen(server: &Mariadb, more: &[&str]) -> usize {
    let (_modules, capture) = start(server, more);
    Client::connect(&server.socket()).unwrap().query(b"select 1").unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{more:?}: {}", finished.said);
    finished.named("mysql.query").count()
}

#[test]
fn by_user_and_root_is_a_user_like_any_other() {
    skip_if!(
        "by_user_and_root_is_a_user_like_any_other",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    assert_eq!(seen(&server, &["--uid", "65534"]), 1);
    assert_eq!(seen(&server, &["--uid", "0"]), 0);
    assert_eq!(seen(&server, &["--uid", "0,65534"]), 1);
}

#[test]
fn by_process_with_and_without_its_children() {
    skip_if!(
        "by_process_with_and_without_its_children",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (own, me) = (server.pid().to_string(), std::process::id().to_string());
    assert_eq!(seen(&server, &["--pid", &own]), 1);
    assert_eq!(seen(&server, &["--pid", &own, "--no-children"]), 1);
    // This test is the server's parent.
    assert_eq!(seen(&server, &["--pid", &me]), 1);
    assert_eq!(seen(&server, &["--pid", &me, "--no-children"]), 0);
    let other = Mariadb::start();
    assert_eq!(seen(&server, &["--pid", &other.pid().to_string()]), 0);
}

#[test]
fn children_that_are_born_later_count_as_well() {
    skip_if!(
        "children_that_are_born_later_count_as_well",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let data = server.dir().join("second");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).unwrap();
    // A shell that waits for a line and then starts a server: born when the capture is running.
    let script = format!(
        "read line; {} --no-defaults --datadir={data} --socket={data}/socket --skip-networking --skip-grant-tables --user=nobody \
         --lc-messages-dir=/usr/share/mysql --innodb-buffer-pool-size=16M & wait $!",
        server.binary().display(),
        data = data.display()
    );
    let mut shell =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (_modules, mut capture) = start(&server, &["--pid", &shell.id().to_string()]);
    drop(shell.stdin.take());
    let mut client = loop {
        match Client::connect(&data.join("socket")) {
            Ok(client) => break client,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    client.query(b"select 'late'").unwrap();
    let event =
        capture.wait_for("the late server's statement", Duration::from_secs(10), |e| e["event.name"] == "mysql.query");
    assert_eq!(event["db.query.text"], "select 'late'");
    let late = i32::try_from(event["process.pid"].as_u64().unwrap()).unwrap();
    // Its parent waits for it, and then ends.
    rustix::process::kill_process(rustix::process::Pid::from_raw(late).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    shell.wait().unwrap();
    assert_eq!(capture.stop().code, Some(0));
}
