//! Only what was asked for.

use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::engine::Group;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::target::Program;
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

const COMPILER: &str = "/usr/bin/gcc";

/// What a capture with these options sees of a program that runs once as `run` says.
fn said(program: &Program, more: &[&str], run: impl FnOnce()) -> Finished {
    let modules = Modules::with(&["evil"]);
    let path = program.text();
    let capture = Capture::start(&modules, &[&["evil", "--target", &path, "-o", "json"][..], more].concat());
    run();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{more:?}: {}", finished.said);
    finished
}

fn count(finished: &Finished) -> usize {
    finished.named("evil.said").count()
}

#[test]
fn by_name_of_the_thread() {
    skip_if!("by_name_of_the_thread", needs::capture(), needs::program(COMPILER, "gcc"));
    let program = Program::compile("evil-target.c", "evil-target");
    let run = || program.run(&["3", "0"]);
    assert_eq!(count(&said(&program, &["--comm", "evil-target"], run)), 3);
    assert_eq!(count(&said(&program, &["--comm", "mariadbd,evil-target"], run)), 3);
    assert_eq!(count(&said(&program, &["--comm", "evil", "--comm", "evil-targe"], run)), 0);
    // The kernel keeps 15 bytes of a name, and so many count.
    let long = Program::compile("evil-target.c", "evil-target-with-a-long-name");
    let run = || long.run(&["3", "0"]);
    assert_eq!(count(&said(&long, &["--comm", "evil-target-with-a-long-name"], run)), 3);
    assert_eq!(count(&said(&long, &["--comm", "evil-target-wit"], run)), 3);
    // Every filter that is given must agree.
    assert_eq!(count(&said(&long, &["--comm", "evil-target-wit", "--uid", "65534"], run)), 0);
}

#[test]
fn by_control_group_with_all_below_it_also_when_it_is_made_anew() {
    let name = "by_control_group_with_all_below_it_also_when_it_is_made_anew";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"), Group::missing());
    let program = Program::compile("evil-target.c", "evil-target");
    let (group, other) = (Group::new("wanted"), Group::new("other"));
    let below = group.below("below");
    let run = || {
        for place in [&group, &below, &other] {
            place.run(&program.path(), &["3", "0"]);
        }
        program.run(&["3", "0"]);
    };
    // By path, by the path from the top of the hierarchy, by number.
    let number = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(group.path()).unwrap()).to_string();
    let from_top = format!("/{}", group.path().file_name().unwrap().to_str().unwrap());
    for wanted in [group.text(), from_top, number] {
        assert_eq!(count(&said(&program, &["--cgroup", &wanted], run)), 6, "{wanted}");
    }
    assert_eq!(count(&said(&program, &["--cgroup", &below.text(), "--cgroup", &other.text()], run)), 6);
    // As a service manager does it at a restart: another group under the old path.
    let path = other.path().to_owned();
    let finished = said(&program, &["--cgroup", &path.display().to_string()], || {
        other.run(&program.path(), &["3", "0"]);
        std::fs::remove_dir(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        other.run(&program.path(), &["4", "0"]);
    });
    assert_eq!(count(&finished), 7);

    let modules = Modules::with(&["evil"]);
    for wanted in ["/no/such/group", "/tmp", "18446744073709551615"] {
        let output = modules.run(&["evil", "--target", &program.text(), "--cgroup", wanted]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{wanted}: {words}");
        assert!(words.contains("E-TARGET") && words.contains(wanted), "{wanted}: {words}");
    }
}
