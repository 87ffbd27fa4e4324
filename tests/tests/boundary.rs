//! Who may do what while a capture runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules, children};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::{needs, skip_if};

const NOBODY: &str = "65534";

/// Fields of `/proc/PID/status`.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.into(), v.trim().into())).collect()
}

/// Nothing that the process could use against the system, or a reason.
fn powerless(status: &BTreeMap<String, String>) -> Result<(), String> {
    let field = |key: &str| status.get(key).map_or("", String::as_str);
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if u64::from_str_radix(field(key), 16) != Ok(0) {
            return Err(format!("{key} is {}", field(key)));
        }
    }
    let uids: Vec<&str> = field("Uid").split_whitespace().collect();
    if uids != [NOBODY; 4] {
        return Err(format!("uids are {uids:?}"));
    }
    for (key, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Threads", "1"), ("Groups", "")] {
        if field(key) != wanted {
            return Err(format!("{key} is {:?}", field(key)));
        }
    }
    Ok(())
}

/// What a process has open.
fn open_in(pid: u32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    links.map(|l| std::fs::read_link(l.unwrap().path()).unwrap().display().to_string()).collect()
}

#[test]
fn children_have_no_power_and_the_broker_maps_nothing_foreign() {
    skip_if!(
        "children_have_no_power_and_the_broker_maps_nothing_foreign",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let capture = Capture::start(&modules, &["mysql", "--pid", &pid, "-o", "json"]);
    for role in ["worker", "collector"] {
        assert_eq!(powerless(&status(capture.child(role))), Ok(()), "{role}");
    }
    // The module runs in the worker, from a sealed copy and nowhere else.
    let maps = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(maps(capture.child("worker")).contains("memfd:mysql"));
    for pid in [capture.pid(), capture.child("collector")] {
        let maps = maps(pid);
        for foreign in ["memfd:mysql", "libecap_", "mariadbd"] {
            assert!(!maps.contains(foreign), "{pid} maps {foreign}:\n{maps}");
        }
    }
    // The broker has given up what it does not need any more. It keeps what watching takes (BPF, PERFMON, SYS_PTRACE,
    // DAC_READ_SEARCH), what starting a worker again takes, and what gives children their turns.
    let effective = u64::from_str_radix(&status(capture.pid())["CapEff"], 16).unwrap();
    const KILL: u64 = 1 << 5;
    const SETGID: u64 = 1 << 6;
    const SETUID: u64 = 1 << 7;
    const SETPCAP: u64 = 1 << 8;
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const SYS_PTRACE: u64 = 1 << 19;
    const SYS_NICE: u64 = 1 << 23;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let most = DAC_READ_SEARCH | SYS_PTRACE | PERFMON | BPF | KILL | SETGID | SETUID | SETPCAP | SYS_NICE;
    assert_eq!(effective & !most, 0, "{effective:#x}");
    assert_eq!(effective & (BPF | PERFMON), BPF | PERFMON, "{effective:#x}");
    // Nor has a child anything open that leads out: no file, no directory, no socket but the one to the broker.
    for role in ["worker", "collector"] {
        let sockets = open_in(capture.child(role)).into_iter().filter(|open| {
            let known = ["/dev/null", "pipe:", "anon_inode:", "/memfd:"].iter().any(|k| open.starts_with(k));
            assert!(known || open.starts_with("socket:"), "{role} has {open}");
            !known
        });
        assert_eq!(sockets.count(), 1, "{role}: {:?}", open_in(capture.child(role)));
    }
    assert_eq!(capture.stop().code, Some(0));
}

/// Children that live for some milliseconds: looked for again and again, and caught at their work.
#[test]
fn scout_and_detection_have_no_power_either() {
    skip_if!(
        "scout_and_detection_have_no_power_either",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let modules = Modules::with(&["mysql"]);
    let mut seen: BTreeMap<String, Result<(), String>> = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline
        && !["ecapture: scout", "ecapture: worker"].iter().all(|r| seen.get(*r) == Some(&Ok(())))
    {
        let mut plan = modules
            .ecapture()
            .args(["module", "plan", "mysql", "--target", SERVER])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while plan.try_wait().unwrap().is_none() {
            for (role, pid) in children(plan.id()) {
                // A child is looked at while it puts its walls up as well: the best that was seen counts.
                let found = powerless(&status(pid));
                let best = seen.entry(role).or_insert_with(|| found.clone());
                if found.is_ok() {
                    *best = found;
                }
            }
        }
        assert!(plan.wait().unwrap().success());
    }
    for role in ["ecapture: scout", "ecapture: worker"] {
        assert_eq!(seen.get(role), Some(&Ok(())), "{role}");
    }
}
