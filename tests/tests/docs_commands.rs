//! Commands that documents show run as they stand there, on private programs. (Those of README, configuration, doctor and output
//! files have tests of their own.)

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ecapture_tests::bash::{self, Bash};
use ecapture_tests::capture::{Modules, bin_dir};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::postgres::{self, Postgres};
use ecapture_tests::shell::Shell;
use ecapture_tests::tls::{self, Library};
use ecapture_tests::zsh::{self, Zsh};
use ecapture_tests::{document, needs, skip_if};

/// Runs a command with these words in place of others and with more at its end, in a directory, while something goes on.
fn run(modules: &Modules, dir: &Path, command: &str, instead: &[(&str, &str)], goes_on: impl Fn()) -> Output {
    let words = command.split(' ').skip(1).map(|word| {
        let other = instead.iter().find(|(from, _)| *from == word);
        other.map_or(word, |(_, to)| *to)
    });
    let mut process =
        modules.ecapture().args(words).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while process.try_wait().unwrap().is_none() {
        goes_on();
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn recordings_and_checks() {
    skip_if!("recordings_and_checks", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let dir = tempfile::tempdir().unwrap();
    let module = bin_dir().join("libecap_mysql.so").to_str().unwrap().to_owned();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/mysql/mariadb-10.11.ecaprec");
    let pid = server.pid().to_string();
    let instead = [
        ("4711", pid.as_str()),
        ("libecap_mysql.so", &module),
        ("/usr/lib/ecapture/modules/libecap_mysql.so", &module),
        ("session.ecaprec", golden.to_str().unwrap()),
        ("10s", "2s"),
        ("60s", "2s"),
    ];
    let ask = || {
        Client::connect(&server.socket()).unwrap().query(b"select 'for the document'").unwrap();
    };
    let mut commands = document::commands("docs/recordings.md");
    assert_eq!(commands.len(), 2);
    commands.extend(document::commands("docs/module-check.md"));
    assert_eq!(commands.len(), 6);
    for command in commands {
        let shown = run(&modules, dir.path(), &command, &instead, ask).stdout;
        let shown = String::from_utf8(shown).unwrap();
        match command.as_str() {
            c if c.contains("--record ") => assert!(dir.path().join("shop.jsonl").metadata().unwrap().len() > 1000),
            c if c.contains("replay") => assert!(shown.contains("for the document"), "{command}: {shown}"),
            c if c.contains("--json") => assert!(shown.contains("\"findings\""), "{command}: {shown}"),
            _ => assert!(shown.contains(": 0 errors"), "{command}: {shown}"),
        }
    }
}

#[test]
fn the_module_bash() {
    skip_if!("the_module_bash", needs::capture(), needs::program(bash::SHELL, "bash"));
    let shell = Bash::installed();
    the_module_of_a_shell("bash", &shell, shell.command());
}

#[test]
fn the_module_zsh() {
    skip_if!("the_module_zsh", needs::capture(), needs::program(zsh::SHELL, "zsh"));
    let shell = Zsh::installed();
    the_module_of_a_shell("zsh", &shell, shell.command());
}

/// The document of `ecapture bash` or `ecapture zsh`: `command` is a private copy of that shell.
fn the_module_of_a_shell(name: &str, shell: &Shell, mut command: Command) {
    let modules = Modules::with(&[name]);
    let dir = tempfile::tempdir().unwrap();
    // A shell that waits: commands for all shells are run for this one, and for its children.
    let mut waiting =
        command.args(["-c", "while read -r line; do eval \"$line\"; done"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = waiting.id().to_string();
    let orders = std::cell::RefCell::new(waiting.stdin.take().unwrap());
    let order = || {
        use std::io::Write as _;
        orders.borrow_mut().write_all(b": for the document\n").unwrap();
    };
    let (binary, installed) = (shell.text(), format!("/bin/{name}"));
    let instead = [("4711", pid.as_str()), (installed.as_str(), &binary), ("1000", "65534"), ("10s", "2s")];
    let commands = document::commands(&format!("docs/modules/{name}.md"));
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        // Probes only what this test has started.
        let mut whole = command.clone();
        if !command.contains(&format!("--{name}")) && !command.contains("plan") && !command.contains("4711") {
            whole += " --pid 4711";
        }
        if !command.contains("--duration") && !command.contains("--count") && !command.contains("plan") {
            whole += " --duration 2s";
        }
        let shown = String::from_utf8(run(&modules, dir.path(), &whole, &instead, order).stdout).unwrap();
        let wanted = if command.contains("plan") { "file offset" } else { ": for the document" };
        let file = dir.path().join("commands.jsonl");
        let shown = if command.contains("-w ") { std::fs::read_to_string(file).unwrap() } else { shown };
        assert!(shown.contains(wanted), "{command}: {shown}");
    }
    drop(orders);
    let _ = waiting.wait();
}

#[test]
fn the_module_openssl() {
    let test = "the_module_openssl";
    skip_if!(
        test,
        needs::capture(),
        needs::program("/usr/bin/openssl", "openssl"),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let modules = Modules::with(&["openssl"]);
    let (library, calls) = (Library::installed(), tls::calls());
    let dir = tempfile::tempdir().unwrap();
    // A shell that waits, whose children talk TLS: commands for all processes are run for it. Those that talk are soon gone; one
    // that has the library is always there.
    let mut shell = library.command(Path::new("/bin/sh"));
    let talk = format!(
        "LD_PRELOAD={1} sleep 600 & while read -r _; do {0} {1} {2} {3} reuse 2 > /dev/null; done; kill $!",
        calls.path().display(),
        library.text(),
        library.certificate().display(),
        library.key().display()
    );
    let mut waiting = shell.args(["-c", &talk]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = waiting.id().to_string();
    let orders = std::cell::RefCell::new(waiting.stdin.take().unwrap());
    let order = || {
        use std::io::Write as _;
        orders.borrow_mut().write_all(b"talk\n").unwrap();
    };
    let file = library.text();
    let instead = [("4711", pid.as_str()), ("/usr/lib/x86_64-linux-gnu/libssl.so.3", &file), ("10s", "2s")];
    let commands = document::commands("docs/modules/openssl.md");
    assert_eq!(commands.len(), 8, "{commands:?}");
    for command in commands {
        // Probes only what this test has started.
        let mut whole = command.clone();
        if !command.contains("--libssl") && !command.contains("plan") && !command.contains("4711") {
            whole += " --pid 4711";
        }
        if !command.contains("--duration") && !command.contains("--count") && !command.contains("plan") {
            whole += " --duration 3s";
        }
        let output = run(&modules, dir.path(), &whole, &instead, order);
        let (shown, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        let file = ["plaintext.jsonl", "keys.log"].into_iter().find(|file| command.contains(file));
        let shown = file.map_or(shown, |file| std::fs::read_to_string(dir.path().join(file)).unwrap());
        let wanted = match () {
            () if command.contains("plan") => "file offset",
            () if command.contains("hex") => "72 6f 75 6e 64",
            () if command.contains("keylog") && command.contains("json") => "\"event.name\":\"openssl.secret\"",
            () if command.contains("keylog") => "CLIENT_HANDSHAKE_TRAFFIC_SECRET ",
            () => "round 1",
        };
        assert!(shown.contains(wanted), "{command}: {shown}{said}");
    }
    drop(orders);
    let _ = waiting.wait();
}

#[test]
fn the_module_postgres() {
    let test = "the_module_postgres";
    skip_if!(test, needs::capture(), needs::program(postgres::SERVER, "postgresql-15"));
    let server = Postgres::start();
    let modules = Modules::with(&["postgres"]);
    let dir = tempfile::tempdir().unwrap();
    let (pid, binary) = (server.pid().to_string(), server.binary().display().to_string());
    let ask = || assert!(server.psql(&["-c", "select 'for the document'"]).status.success());
    let instead = [("4711", pid.as_str()), (postgres::SERVER, &binary), ("10s", "2s")];
    let commands = document::commands("docs/modules/postgres.md");
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        // Probes only what this test has started.
        let mut whole = command.clone();
        if !command.contains("--postgres") && !command.contains("plan") && !command.contains("4711") {
            whole += " --pid 4711";
        }
        if !command.contains("--duration") && !command.contains("--count") && !command.contains("plan") {
            whole += " --duration 2s";
        }
        let shown = String::from_utf8(run(&modules, dir.path(), &whole, &instead, ask).stdout).unwrap();
        let file = dir.path().join("statements.jsonl");
        let shown = if command.contains("-w ") { std::fs::read_to_string(file).unwrap() } else { shown };
        let wanted = match () {
            () if command.contains("plan") => "file offset",
            () if command.contains("--count") => "connect ok",
            () => "for the document",
        };
        assert!(shown.contains(wanted), "{command}: {shown}");
    }
}
