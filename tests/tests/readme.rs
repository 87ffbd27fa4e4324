//! What the README shows works: every command runs, and the module in it builds and captures.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, bin_dir, read_events};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands in the README's blocks of this language.
fn blocks(language: &str) -> Vec<String> {
    let (mut found, mut inside): (Vec<String>, Option<bool>) = (Vec::new(), None);
    for line in read("README.md").lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(name), None) => {
                inside = Some(name == language);
                if name == language {
                    found.push(String::new());
                }
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                if let Some(block) = found.last_mut() {
                    block.push_str(line);
                    block.push('\n');
                }
            }
            _ => {}
        }
    }
    assert!(!found.is_empty(), "the README has no {language} block");
    found
}

/// Commands of the console blocks, without their prompts.
fn commands() -> Vec<String> {
    let text = blocks("console").concat();
    let prompted = text.lines().filter_map(|l| l.strip_prefix("# ").or_else(|| l.strip_prefix("$ ")));
    prompted.map(str::to_owned).collect()
}

/// What stands for itself in the README, and for what in a test.
struct Stage {
    server: Mariadb,
    modules: Modules,
}

impl Stage {
    /// The arguments of a command of the README, on the private server.
    fn arguments(&self, command: &str) -> Vec<String> {
        let file = self.server.dir().join("out.jsonl");
        let words = command.split(' ').skip(1).map(|word| match word {
            "4711" => self.server.pid().to_string(),
            "/usr/sbin/mariadbd" => self.server.binary().to_str().unwrap().to_owned(),
            "out.jsonl" => file.to_str().unwrap().to_owned(),
            word => word.to_owned(),
        });
        words.collect()
    }

    fn query(&self, text: &str) {
        Client::connect(&self.server.socket()).unwrap().query(text.as_bytes()).unwrap();
    }

    /// Runs a command to its end, which must be a good one; gives what it wrote to stdout.
    fn shows(&self, command: &str) -> String {
        let arguments = self.arguments(command);
        let output = self.modules.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the capture of a command, with these options besides.
    fn captures(&self, command: &str, more: &[&str]) -> Capture {
        let arguments = self.arguments(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Capture::start(&self.modules, &arguments)
    }
}

/// Every command of the README has its line here; one that has none fails the test, and so does a line without a command.
#[test]
fn every_command_of_the_readme_runs() {
    let name = "every_command_of_the_readme_runs";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage { server: Mariadb::start(), modules: Modules::with(&["mysql", "postgres"]) };
    let xtask = read("xtask/src/main.rs");
    let soon = Duration::from_secs(10);
    let mut left = commands();
    left.sort();
    left.dedup();
    assert_eq!(left.len(), 14, "{left:?}");
    for command in left {
        match command.as_str() {
            "cargo xtask demo" | "cargo xtask test" => {
                let task = command.rsplit(' ').next().unwrap();
                assert!(xtask.contains(&format!("[\"{task}\"] =>")), "{command}");
            }
            "ecapture --list-modules" => {
                let shown = stage.shows(&command);
                let row = shown.lines().find(|l| l.starts_with("mysql ")).unwrap_or_else(|| panic!("{shown}"));
                let words: Vec<&str> = row.split_whitespace().collect();
                // As the README shows it, but for where the test keeps its modules.
                assert_eq!(words[..5], ["mysql", "0.1.0", "1.0", "mariadbd,", "mysqld"], "{row}");
                assert!(words.contains(&"ok"), "{row}");
            }
            "ecapture help mysql" => {
                let shown = stage.shows(&command);
                let other = stage.shows("ecapture help postgres");
                for (option, of_postgres) in options_of_the_readme() {
                    let shown = if of_postgres { &other } else { &shown };
                    assert!(shown.contains(&option), "{option} is in the README and not in:\n{shown}");
                }
            }
            "ecapture doctor" => {
                let shown = stage.shows(&command);
                assert!(shown.lines().last().unwrap().starts_with("capturing works here"), "{shown}");
            }
            "ecapture module info mysql" => {
                let shown = stage.shows(&command);
                assert!(shown.contains("mariadbd") && shown.contains("db.query.text"), "{shown}");
            }
            "ecapture module plan mysql --target /usr/sbin/mariadbd" => {
                let shown = stage.shows(&command);
                assert!(shown.contains("MariaDB 10.11") && shown.contains("file offset 0x"), "{shown}");
            }
            "ecapture mysql --pid 4711" => {
                let mut capture = stage.captures(&command, &["-o", "json"]);
                stage.query("select 'by pid'");
                capture.wait_for("the statement", soon, |e| e["db.query.text"] == "select 'by pid'");
                assert_eq!(capture.stop().code, Some(0), "{command}");
            }
            "ecapture mysql --pid 4711 --count 1" => {
                let capture = stage.captures(&command, &["-o", "json"]);
                stage.query("select 'the first'");
                let finished = capture.wait();
                assert_eq!(finished.code, Some(0), "{command}: {}", finished.said);
                assert_eq!(finished.named("mysql.query").count(), 1, "{command}");
            }
            "ecapture mysql --mysqld /usr/sbin/mariadbd -o json -w out.jsonl --duration 10s" => {
                let capture = stage.captures(&command.replace("10s", "2s"), &[]);
                stage.query("select 'to a file'");
                let finished = capture.wait();
                assert_eq!(finished.code, Some(0), "{command}: {}", finished.said);
                assert!(finished.events.is_empty(), "-w replaces stdout: {:?}", finished.events);
                let events = read_events(&stage.server.dir().join("out.jsonl"));
                assert!(events.iter().any(|e| e["db.query.text"] == "select 'to a file'"), "{events:?}");
                assert_eq!(events.last().unwrap()["event.name"], "ecapture.session.end");
            }
            // Where the host looks for modules; not tried, since it would change this machine.
            "install -D -m 755 target/release/libecap_mysql.so /usr/lib/ecapture/modules/libecap_mysql.so" => {
                assert!(read("host/src/module/find.rs").contains("DEFAULT_DIR: &str = \"/usr/lib/ecapture/modules\""));
                assert!(bin_dir().join("libecap_mysql.so").is_file());
            }
            "install -D -m 755 target/release/ecapture /usr/local/bin/ecapture" => {
                assert!(bin_dir().join("ecapture").is_file());
            }
            // `the_module_of_the_readme_captures` does these two.
            "cargo build --release" | "ecapture --modules-dir target/release --allow-untrusted shell" => {}
            unknown => panic!("the README has a command that no test knows: {unknown}"),
        }
    }
}

/// Options in the first column of the README's tables.
/// Each, and whether it is the module postgres alone that has it.
fn options_of_the_readme() -> Vec<(String, bool)> {
    let text = read("README.md");
    let rows = text.lines().filter_map(|l| l.strip_prefix("| `-"));
    let options: Vec<(String, bool)> = rows
        .map(|row| {
            let option = row.split([' ', '|', '`']).next().unwrap_or_default();
            (format!("-{option}"), row.contains("| of `postgres`:"))
        })
        .collect();
    assert!(options.len() > 10, "{options:?}");
    options
}

/// The README's form of a line of text, against a real one.
#[test]
fn lines_look_as_the_readme_shows_them() {
    let name = "lines_look_as_the_readme_shows_them";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let shown = blocks("text").concat();
    let shown = shown.lines().find(|l| l.ends_with("select * from orders where id = 17")).expect("the line");
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let file = server.dir().join("shown");
    let (pid, path) = (server.pid().to_string(), file.to_str().unwrap());
    let capture = Capture::start(&modules, &["mysql", "--pid", &pid, "-w", path]);
    let mut client = Client::connect(&server.socket()).unwrap();
    client.query(b"create database shop").unwrap();
    client.init_db("shop").unwrap();
    client.query(b"create table orders (id int)").unwrap();
    client.query(b"insert into orders values (17)").unwrap();
    client.query(b"select * from orders where id = 17").unwrap();
    // An answer may be here before the server is done with the statement; with the next one it surely is.
    client.query(b"select 'done'").unwrap();
    assert_eq!(capture.stop().code, Some(0));
    let text = std::fs::read_to_string(&file).unwrap();
    let real =
        text.lines().find(|l| l.ends_with("select * from orders where id = 17")).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(form(real), form(shown), "{real}");
}

/// A line with each number, and the unit of its duration, made one and the same.
fn form(line: &str) -> String {
    let mut out = String::new();
    for c in line.replace(" us ", " ms ").chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if c != '0' || !out.ends_with('0') {
            out.push(c);
        }
    }
    // Durations come with or without a fraction.
    out.replace(" 0.0 ms ", " 0 ms ")
}

/// The module that the README has its reader write: built as a third party would, and tried on a copy of bash.
#[test]
fn the_module_of_the_readme_captures() {
    let name = "the_module_of_the_readme_captures";
    skip_if!(
        name,
        needs::capture(),
        needs::program("/bin/bash", "bash"),
        needs::program("/usr/bin/script", "bsdutils")
    );
    // The libraries that module_abi.rs has built serve here too.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (package, target) = (scratch.join("readme-module"), scratch.join("abi-variants/target"));
    let _ = std::fs::remove_dir_all(&package);
    std::fs::create_dir_all(package.join("src")).unwrap();
    let only = |language: &str, has: &str| {
        let mut found = blocks(language).into_iter().filter(|block| block.contains(has));
        found.next().unwrap_or_else(|| panic!("no {language} block with {has:?}"))
    };
    // Where the README's reader keeps this tree; and a workspace of its own, since here it lies inside of another's.
    let manifest = only("toml", "[package]").replace("../ecapture/", &format!("{}/", root().display()));
    std::fs::write(package.join("Cargo.toml"), manifest + "\n[workspace]\n").unwrap();
    std::fs::copy(root().join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    std::fs::write(package.join("module.toml"), only("toml", "[module]")).unwrap();
    std::fs::write(package.join("src/shell.bpf.c"), only("c", "ecapture.h")).unwrap();
    std::fs::write(package.join("build.rs"), only("rust", "build_or_exit")).unwrap();
    std::fs::write(package.join("src/lib.rs"), only("rust", "export_module!")).unwrap();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&package)
        .args(["build", "--offline", "--quiet", "--target-dir"])
        .arg(&target)
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let modules = Modules::empty();
    std::fs::copy(target.join("debug/libecap_shell.so"), modules.path().join("libecap_shell.so")).unwrap();
    let bash = modules.path().join("bash");
    std::fs::copy("/bin/bash", &bash).unwrap();
    let bash = bash.to_str().unwrap();
    let mut capture = Capture::start(&modules, &["shell", "--bash", bash, "-o", "json"]);
    // A terminal: without one, bash does not ask readline.
    let mut session = Command::new("script")
        .args(["-qec", &format!("{bash} --norc --noprofile"), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script");
    let mut keyboard = session.stdin.take().unwrap();
    keyboard.write_all(b"echo from the readme\nexit\n").unwrap();
    let event =
        capture.wait_for("the line", Duration::from_secs(20), |e| e["ecapture.command.text"] == "echo from the readme");
    drop(keyboard);
    assert!(session.wait().unwrap().success());
    assert_eq!(event["event.name"], "shell.line");
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert!(finished.said.contains("none lost"), "{}", finished.said);
}
