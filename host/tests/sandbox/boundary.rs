//! Checks of the boundary itself: what a child has given up, and what attacks from inside it meet.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use ecapture::sandbox::channel::receive;
use ecapture::sandbox::{BoundaryReport, Ended, Identity, Role, memfd};

use crate::driver::{Check, Place, end, ensure, hear, hear_text, inside, spawn, start, text};
use crate::inside::{Job, Results, Said, Start};

/// Empty but for what this place is known to lack.
fn check_report(place: Place, report: &BoundaryReport, role: Role) -> Check {
    ensure!(report.role == role && report.tight == (role != Role::Worker), "{report:?}");
    let all = report.degraded.join("; ");
    ensure!(all.contains("CAP_SETUID") != place.root, "{report:?}");
    ensure!(all.contains("no Landlock") != place.landlock, "{report:?}");
    ensure!((report.landlock == "none") != place.landlock, "{report:?}");
    ensure!(!(place.root && report.landlock == "full") || report.degraded.is_empty(), "{report:?}");
    Ok(())
}

pub fn status(place: Place, role: Role) -> Check {
    let mut child = spawn(role, &start(Job::Sleep), &[])?;
    check_report(place, &inside(&child)?, role)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid)).map_err(text)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap_or("?");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let who = Identity::choose();
    let four = |id: u32| format!("{id} {id} {id} {id}"); // real, effective, saved, file system
    let (uids, gids) = (four(who.uid), four(who.gid));
    let zero = "0000000000000000";
    let mut want = vec![("Uid", uids.as_str()), ("Gid", &gids), ("CapInh", zero), ("CapPrm", zero), ("CapEff", zero)];
    want.extend([("CapAmb", zero), ("NoNewPrivs", "1"), ("Seccomp", "2"), ("Threads", "1")]);
    if place.root {
        want.extend([("CapBnd", zero), ("Groups", "")]);
        ensure!(who.uid != 0 && who.gid != 0, "the identity is root");
    }
    for (name, value) in want {
        ensure!(field(name) == value, "{name} is {:?}, not {value:?}", field(name));
    }
    // Session of its own; nothing but the channel, /dev/null and stderr is open.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).map_err(text)?;
    let session = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3)).unwrap_or("?").to_string();
    ensure!(session == child.pid.to_string(), "session {session}");
    if place.root {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", child.pid)).map_err(text)?.count();
        ensure!(fds == 3, "{fds} descriptors");
        let environment = std::fs::read(format!("/proc/{}/environ", child.pid)).map_err(text)?;
        ensure!(environment.is_empty(), "environment {:?}", String::from_utf8_lossy(&environment));
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", child.pid)).map_err(text)?;
        ensure!(line.starts_with(&role.argv0()), "{line:?}");
    }
    child.kill().map_err(text)?;
    ensure!(end(&mut child)? == Ended::Killed(9), "not killed");
    child.kill().map_err(|e| format!("kill after the end: {e}"))
}

/// What a module's constructor can do: see the module's documentation. Everything else must be refused.
fn allowed_before_tighten(place: Place) -> BTreeSet<&'static str> {
    let mut set = BTreeSet::from([
        "mmap new code",
        "mmap given fd as code",
        "mprotect data to code",
        "open given fd again", // dlopen of the module itself
        "stat /etc/shadow",    // Landlock does not cover stat
    ]);
    if !place.landlock {
        let reading =
            ["open /etc/passwd", "open libc.so.6", "open / (O_PATH)", "list /usr/lib", "open /proc/self/maps"];
        set.extend(reading);
        if !place.root {
            // The caller's own: that is why the broker makes itself undumpable.
            set.insert("open broker's environ");
        }
    }
    set
}

fn judge(results: &Results, allowed: &BTreeSet<&str>, errnos: &[(&str, &str)]) -> Check {
    ensure!(results.len() >= 65, "only {} attacks", results.len());
    let mut bad = Vec::new();
    for (name, result) in results {
        let fine = match result.as_str() {
            "EPERM" | "ENOSYS" | "EACCES" => true,
            "worked" => allowed.contains(name.as_str()),
            other => errnos.contains(&(name, other)),
        };
        if !fine {
            bad.push(format!("{name}: {result}"));
        }
    }
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    Ok(())
}

pub fn attacks(place: Place, role: Role) -> Check {
    let file = memfd::sealed_copy("given", &[0x90; 8192]).map_err(text)?;
    let mut child = spawn(role, &start(Job::Attack), &[file.as_fd()])?;
    inside(&child)?;
    let Said::Results { before, after } = hear(&child)? else { return Err("no results".into()) };
    ensure!(end(&mut child)? == Ended::Exited(0), "did not end well");
    if std::env::var_os("SANDBOX_TABLE").is_some() {
        for (name, result) in &before {
            println!("       | {role} | {name} | {result} | {} |", after[name]);
        }
    }
    if role == Role::Worker {
        // An empty program (22): the call is open, since tighten needs it. No such file (2): nothing there to open.
        judge(&before, &allowed_before_tighten(place), &[("seccomp filter", "errno 22")])?;
        ensure!(before["mmap new code"] == "worked", "dlopen could not work");
        ensure!(before["seccomp filter"] == "errno 22", "tighten could not work");
    } else {
        ensure!(before == after, "tighten changed a role that is tight");
    }
    // The only call of these that a collector may make: it waits for messages (11: there is none).
    let allowed: &[_] = if role == Role::Collector { &[("recvmsg fd 0", "errno 11")] } else { &[] };
    judge(&after, &BTreeSet::new(), allowed)?;
    for name in ["clone3", "openat2 /etc/passwd", "statx /etc/shadow"] {
        ensure!(after[name] == "ENOSYS", "{name}: {}", after[name]);
    }
    ensure!(!std::path::Path::new(crate::attacks::PATH.to_str().unwrap_or("")).exists(), "a file was made");
    Ok(())
}

pub fn fatal(_: Place) -> Check {
    let cases = [
        ("segv", Some(Ended::Killed(11))),
        ("abort", Some(Ended::Killed(6))),
        ("exit 0", Some(Ended::Exited(0))), // and no answer: that is why only a message means success
        ("stop", None),
        #[cfg(target_arch = "x86_64")]
        ("int 0x80", Some(Ended::Killed(31))),
        ("memory", Some(Ended::Exited(0))),
    ];
    for (name, want) in cases {
        let mut child = spawn(Role::Worker, &start(Job::Fatal(name.into())), &[])?;
        inside(&child)?;
        let Some(want) = want else {
            ensure!(child.wait(Duration::from_millis(300)).map_err(text)?.is_none(), "{name}: ended");
            child.kill().map_err(text)?;
            ensure!(end(&mut child)? == Ended::Killed(9), "{name}: not killed");
            continue;
        };
        let ended = end(&mut child)?;
        ensure!(ended == want, "{name}: {ended}, not {want}");
        let said = receive(child.control.as_fd()).map_err(text)?;
        let said = said.map_or(String::new(), |s| String::from_utf8_lossy(&s).into_owned());
        ensure!((name == "memory") == said.contains("refused after"), "{name}: said {said:?}");
    }
    Ok(())
}

pub fn on_disk(place: Place) -> Check {
    let mut file = tempfile::NamedTempFile::new().map_err(text)?;
    file.write_all(&[1; 8192]).map_err(text)?;
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).map_err(text)?;
    let reading = std::fs::File::open(file.path()).map_err(text)?;
    for readable in [true, false] {
        let start = Start { readable, ..start(Job::Attack) };
        let mut child = spawn(Role::Worker, &start, &[reading.as_fd()])?;
        inside(&child)?;
        let Said::Results { before, after } = hear(&child)? else { return Err("no results".into()) };
        end(&mut child)?;
        let (got, want) =
            (&before["open given fd again"], if readable || !place.landlock { "worked" } else { "EACCES" });
        ensure!(got == want, "readable {readable}: {got}, not {want}");
        ensure!(after["open given fd again"] == "EPERM", "after: {}", after["open given fd again"]);
        judge(&before, &allowed_before_tighten(place), &[("seccomp filter", "errno 22")])?;
    }
    Ok(())
}

pub fn preload(_: Place) -> Check {
    for (names, fine) in
        [(&["libm.so.6"][..], true), (&["libm.so.6", "/lib/libc.so.6"], false), (&["libno.so.0"], false)]
    {
        let preload = names.iter().map(|n| n.to_string()).collect();
        let mut child = spawn(Role::Worker, &Start { preload, ..start(Job::Echo) }, &[])?;
        match (hear(&child)?, fine) {
            (Said::Inside(_), true) => {}
            (Said::Error(e), false) if e.contains(names[names.len() - 1]) => {}
            (other, _) => return Err(format!("{names:?}: {other:?}")),
        }
        ensure!(end(&mut child)? == Ended::Exited(if fine { 0 } else { 3 }), "{names:?}");
    }
    Ok(())
}

pub fn load(place: Place) -> Check {
    // Any library of the system will do; this one is not loaded yet, and needs libc only.
    let paths = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib"];
    let bytes = paths.iter().find_map(|p| std::fs::read(format!("{p}/libm.so.6")).ok()).ok_or("no libm.so.6")?;
    let module = memfd::sealed_copy("module", &bytes).map_err(text)?;
    let start = Start { preload: vec!["libc.so.6".into()], ..start(Job::Load) };
    let mut child = spawn(Role::Worker, &start, &[module.as_fd()])?;
    check_report(place, &inside(&child)?, Role::Worker)?;
    let said = hear_text(&child)?;
    ensure!(said == "Some(1.0) true", "{said}");
    ensure!(end(&mut child)? == Ended::Exited(0), "did not end well");
    Ok(())
}

pub fn lie(_: Place) -> Check {
    let mut child = spawn(Role::Worker, &start(Job::Lie), &[])?;
    inside(&child)?;
    match hear(&child)? {
        Said::Error(e) if e.contains("not in force") => {}
        other => return Err(format!("{other:?}")),
    }
    ensure!(end(&mut child)? == Ended::Exited(3), "went on");
    Ok(())
}
