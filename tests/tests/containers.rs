//! Targets in containers: other roots, other process ids, one file under several devices, control groups with an id.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::engine::{Group, Root, start_over};
use ecapture_tests::mariadb::SERVER;
use ecapture_tests::mysql::Client;
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};

const COMPILER: &str = "/usr/bin/gcc";
const UNSHARE: &str = "/usr/bin/unshare";
const ID: &str = "5eed0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab";

/// The reason why containers cannot be made here, if there is one.
fn containers() -> Option<String> {
    needs::program(UNSHARE, "util-linux").or_else(|| {
        let made = Command::new(UNSHARE).args(["--mount", "--pid", "--fork", "true"]).stderr(Stdio::null()).status();
        (!made.is_ok_and(|status| status.success())).then(|| "needs mount and pid namespaces".into())
    })
}

fn whole(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!((&totals["lost"], &totals["unaccounted"]), (&0.into(), &0.into()), "{totals}");
}

/// What each process said, in order.
fn numbers(finished: &Finished) -> BTreeMap<u64, Vec<u64>> {
    let mut all: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for event in finished.named("evil.said") {
        let number = event["ecapture.number"].as_u64().expect("a number");
        all.entry(event["process.pid"].as_u64().expect("a process")).or_default().push(number);
    }
    all
}

#[test]
fn a_server_in_a_container_that_starts_later_is_captured() {
    let name = "a_server_in_a_container_that_starts_later_is_captured";
    skip_if!(name, needs::capture(), containers(), needs::program(SERVER, "mariadb-server-core"));
    let modules = Modules::with(&["mysql"]);
    let root = Root::with(Path::new(SERVER), "/usr/sbin/mariadbd");
    std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n").unwrap();
    for file in ["usr/share/mysql/english/errmsg.sys", "usr/share/mysql/charsets/Index.xml"] {
        root.copy(&Path::new("/").join(file), file);
    }
    let data = root.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).unwrap();
    let mut capture = Capture::start(&modules, &["mysql", "-o", "json", "--uid", "65534"]);
    let mut server = root.start([
        "/usr/sbin/mariadbd",
        "--no-defaults",
        "--datadir=/data",
        "--socket=/data/socket",
        "--skip-networking",
        "--skip-grant-tables",
        "--user=nobody",
        "--lc-messages-dir=/usr/share/mysql",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=4M",
    ]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut client = loop {
        match Client::connect(&data.join("socket")) {
            Ok(client) => break client,
            Err(e) => assert!(Instant::now() < deadline, "the server does not answer: {e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // The first statement after the connection: a server needs longer to start than its file to be looked at.
    client.query(b"select 'from a container'").unwrap();
    let event = capture
        .wait_for("the statement", Duration::from_secs(20), |e| e["db.query.text"] == "select 'from a container'");
    // As the kernel names it: from the root of the mounts, of which a mere change of root leaves a part.
    for path in ["ecapture.target.path", "process.executable.path"] {
        assert!(event[path].as_str().is_some_and(|p| p.ends_with("/usr/sbin/mariadbd")), "{path}: {event}");
    }
    assert_ne!(event["process.pid"], 1, "process ids are those of the host");
    // It ends, and its file system can be unmounted: nothing keeps its files open.
    server.kill();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let mine = root.path().display().to_string();
    let gap: Vec<&str> = finished.said.lines().filter(|l| l.contains(&mine) && l.contains("after its start")).collect();
    println!("{gap:?}");
    assert_eq!(gap.len(), 1, "{}", finished.said);
}

#[test]
fn two_containers_of_one_image_are_captured_once_each() {
    let name = "two_containers_of_one_image_are_captured_once_each";
    skip_if!(name, needs::capture(), containers(), needs::program(COMPILER, "gcc"), overlay());
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let image = Root::with(&program.path(), "/evil-target");
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut capture = Capture::start(&modules, &["evil", "-o", "json"]);
    let mut first = start_over(&image, one.path(), &["/evil-target", "300", "5000"]);
    capture.wait_for("a number of the first", Duration::from_secs(10), |e| e["event.name"] == "evil.said");
    // The same file under another device: its probes are there already.
    let mut second = start_over(&image, other.path(), &["/evil-target", "100", "5000"]);
    assert_eq!((second.wait(), first.wait()), (Some(0), Some(0)));
    std::thread::sleep(Duration::from_millis(500));
    let finished = capture.stop();
    whole(&finished);
    let all = numbers(&finished);
    assert_eq!(all.len(), 2, "{:?}; {}", all.keys(), finished.said);
    for (pid, numbers) in &all {
        assert!(numbers.is_sorted_by(|a, b| a < b), "process {pid}: numbers that came twice: {numbers:?}");
    }
    // From its first instruction on.
    assert!(all.values().any(|numbers| *numbers == (0..100).collect::<Vec<_>>()), "{all:?}");
    assert_eq!(finished.said.matches("evil on ").count(), 1, "{}", finished.said);
}

/// The reason why overlays cannot be mounted here, if there is one.
fn overlay() -> Option<String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!known.lines().any(|line| line.ends_with("\toverlay"))).then(|| "needs overlayfs".into())
}

#[test]
fn containers_that_end_while_they_are_looked_at_harm_nothing() {
    let name = "containers_that_end_while_they_are_looked_at_harm_nothing";
    skip_if!(name, needs::capture(), containers(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let mut capture = Capture::start(&modules, &["evil", "-o", "json"]);
    for round in 0..30 {
        let root = Root::with(&program.path(), "/evil-target");
        let mut running = root.start(["/evil-target", "1000000", "1000"]);
        // From before its file is opened until long after it is attached to.
        std::thread::sleep(Duration::from_millis(round * 4));
        running.kill();
        drop(root);
    }
    // One that stays is captured from.
    let root = Root::with(&program.path(), "/evil-target");
    let _running = root.start(["/evil-target", "1000000", "1000"]);
    let begun = Instant::now();
    let last = capture.wait_for("a number of the last one", Duration::from_secs(30), |e| {
        e["ecapture.number"].as_u64().is_some_and(|n| n > 500)
    });
    println!("the last of 31 is captured after {:?}: process {}", begun.elapsed(), last["process.pid"]);
    // Those that are gone are let go: their files are not kept open.
    let deadline = Instant::now() + Duration::from_secs(20);
    while open_targets(capture.pid()) > 1 {
        assert!(Instant::now() < deadline, "{} files are still open", open_targets(capture.pid()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let finished = capture.stop();
    whole(&finished);
    assert!(!finished.said.contains("ERROR"), "{}", finished.said);
}

/// Files called evil-target that a process has open.
fn open_targets(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let names: std::collections::BTreeSet<_> = files
        .filter_map(|f| std::fs::read_link(f.path()).ok())
        .filter(|p| p.to_string_lossy().contains("evil-target"))
        .collect();
    names.len()
}

#[test]
fn events_carry_the_container_and_a_filter_takes_its_first_digits() {
    let name = "events_carry_the_container_and_a_filter_takes_its_first_digits";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"), Group::missing());
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let outer = Group::new("slice");
    let scope = outer.below(&format!("docker-{ID}.scope"));
    let inner = scope.below("init.scope");
    // Somebody has to run in it for it to be found.
    let mut sleeper = Command::new("sh")
        .args(["-c", &format!("echo $$ > {}/cgroup.procs && exec sleep 60", inner.text())])
        .spawn()
        .unwrap();
    let found = || std::fs::read_to_string(inner.path().join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
    while !found() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let args = ["evil", "--target", &program.text(), "--container", "5EED01", "-o", "json"];
    let capture = Capture::start(&modules, &args);
    let inside = [scope.run(&program.path(), &["3", "0"]), inner.run(&program.path(), &["3", "0"])];
    outer.run(&program.path(), &["3", "0"]);
    program.run(&["3", "0"]);
    std::thread::sleep(Duration::from_millis(300));
    let finished = capture.stop();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    whole(&finished);
    let all = numbers(&finished);
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), inside.map(u64::from), "{all:?}");
    for event in finished.named("evil.said") {
        assert_eq!(event["container.id"], ID, "{event}");
    }
    // Without the filter, those outside have no container.
    let capture = Capture::start(&modules, &["evil", "--target", &program.text(), "-o", "json"]);
    let (inside, outside) = (scope.run(&program.path(), &["1", "0"]), outer.run(&program.path(), &["1", "0"]));
    let finished = capture.stop();
    let container = |pid: u32| {
        let event = finished.named("evil.said").find(|e| e["process.pid"] == pid).expect("an event");
        event.get("container.id").and_then(|id| id.as_str()).map(str::to_owned)
    };
    // The process is gone when it is asked about; its control group is still there.
    assert_eq!(container(inside).as_deref(), Some(ID));
    assert_eq!(container(outside), None);

    for (id, code, word) in [("abc", 2, "E-USAGE"), ("my-container", 2, "E-USAGE"), ("0123456789", 1, "E-TARGET")] {
        let output = modules.run(&["evil", "--target", &program.text(), "--container", id]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{id}: {said}");
        assert!(said.contains(word), "{id}: {said}");
    }
}

#[test]
fn a_process_number_that_is_used_again_is_another_process() {
    let name = "a_process_number_that_is_used_again_is_another_process";
    let last_pid = "/proc/sys/kernel/ns_last_pid";
    let settable = (!Path::new(last_pid).exists()).then(|| format!("needs {last_pid} (CONFIG_CHECKPOINT_RESTORE)"));
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"), Group::missing(), settable);
    let modules = Modules::with(&["evil"]);
    let programs = [Program::compile("evil-target.c", "evil-target"), Program::compile("evil-target.c", "evil-target")];
    let scope = Group::new("engine").below(&format!("libpod-{ID}.scope"));
    let capture = Capture::start(&modules, &["evil", "-o", "json"]);
    // Both files are known before it matters.
    let start = |program: &Program| {
        Command::new(program.path()).args(["40", "5000"]).stdin(Stdio::null()).spawn().expect("it starts")
    };
    for program in &programs {
        start(program).wait().unwrap();
    }
    let mut reused = None;
    for _ in 0..50 {
        let first = scope.run(&programs[0].path(), &["3", "1000"]);
        std::fs::write(last_pid, (first - 1).to_string()).unwrap();
        let mut second = start(&programs[1]);
        let again = second.id() == first;
        second.wait().unwrap();
        if again {
            reused = Some(first);
            break;
        }
    }
    let finished = capture.stop();
    whole(&finished);
    let Some(pid) = reused else {
        println!("{} {name}: the number went to somebody else each time", needs::SKIPPED);
        return;
    };
    let mine: Vec<_> = finished.named("evil.said").filter(|e| e["process.pid"] == pid).collect();
    let paths: Vec<&str> = mine.iter().filter_map(|e| e["process.executable.path"].as_str()).collect();
    assert_eq!(paths.len(), 43, "{paths:?}");
    assert!(paths[..3].iter().all(|p| *p == programs[0].text()), "{paths:?}");
    assert!(paths[3..].iter().all(|p| *p == programs[1].text()), "{paths:?}");
    for event in &mine[3..] {
        assert_eq!(event.get("container.id"), None, "the container of another process: {event}");
    }
}
