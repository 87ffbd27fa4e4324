//! `ecapture doctor` names the cause: on this machine, with rights taken away, and with files of the kernel hidden.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ecapture_tests::capture::{Modules, bin_dir};
use ecapture_tests::document;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;
use tempfile::TempDir;

const SETPRIV: &str = "/usr/bin/setpriv";
const UNSHARE: &str = "/usr/bin/unshare";
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The program with a module, where everybody may look.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-doctor-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for file in ["ecapture", "libecap_mysql.so"] {
            std::fs::copy(bin_dir().join(file), dir.path().join(file)).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The words of a command, with another program's before them.
    fn command(&self, before: &[&str], args: &[&str]) -> Command {
        let mut words = before.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        words.push(self.path("ecapture").to_str().unwrap().to_owned());
        words.extend(["--modules-dir".into(), self.0.path().to_str().unwrap().to_owned(), "--allow-untrusted".into()]);
        words.extend(args.iter().map(|w| (*w).to_owned()));
        let mut command = Command::new("timeout");
        command.arg("60").args(words);
        command
    }

    fn doctor(&self, before: &[&str], args: &[&str]) -> Examined {
        let json = self.command(before, &[&["doctor", "--json"], args].concat()).output().unwrap();
        let text = self.command(before, &[&["doctor"], args].concat()).output().unwrap();
        Examined::new(&json, &text)
    }

    /// The same in a mount namespace of its own, after this piece of shell.
    fn after(&self, shell: &str, args: &[&str]) -> Examined {
        let script = format!("{shell} && exec \"$@\"");
        self.doctor(&[UNSHARE, "--mount", "sh", "-ec", &script, "sh"], args)
    }
}

struct Examined {
    code: Option<i32>,
    json: Value,
    text: String,
}

impl Examined {
    fn new(json: &Output, text: &Output) -> Self {
        let said = String::from_utf8_lossy(&json.stderr).into_owned();
        assert_eq!(json.status.code(), text.status.code(), "{said}");
        let json: Value = serde_json::from_slice(&json.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        let examined = Self { code: text.status.code(), json, text: String::from_utf8(text.stdout.clone()).unwrap() };
        assert_eq!(examined.json["works"], examined.code == Some(0), "{}", examined.text);
        for check in examined.json["checks"].as_array().unwrap() {
            let line = format!("{:8}  {}", check["status"].as_str().unwrap(), check["name"].as_str().unwrap());
            assert!(examined.text.contains(&line), "{line:?} is not in:\n{}", examined.text);
        }
        examined
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.json["checks"].as_array().unwrap();
        checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"))
    }

    fn missing(&self) -> Vec<&str> {
        let checks = self.json["checks"].as_array().unwrap().iter();
        checks.filter(|c| c["status"] == "missing").map(|c| c["name"].as_str().unwrap()).collect()
    }
}

#[test]
fn on_this_machine_capturing_works() {
    skip_if!("on_this_machine_capturing_works", needs::capture());
    let stage = Stage::new();
    let examined = stage.doctor(&[], &[]);
    assert_eq!((examined.code, examined.missing()), (Some(0), Vec::new()), "{}", examined.text);
    for name in [
        "kernel",
        "btf",
        "kernel config",
        "lockdown",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
        "CAP_SETUID",
        "CAP_SYS_NICE",
        "CAP_NET_ADMIN",
        "BPF ring buffer",
        "attach cookie",
        "task storage",
        "uprobe_multi",
        "uprobes",
        "unprivileged_bpf_disabled",
        "seccomp",
        "landlock",
        "memlock",
        "perf_event_paranoid",
        "kptr_restrict",
        "tracefs",
        "cgroup v2",
        "memory",
        "modules",
    ] {
        let check = examined.check(name);
        assert_eq!(check["status"] == "ok", check["cost"].is_null() && check["remedy"].is_null(), "{check}");
    }
    // In /tmp, where everybody may write: used all the same, as asked for, and said.
    assert_eq!(examined.check("modules")["status"], "degraded", "{}", examined.text);
    assert!(examined.check("modules")["found"].as_str().unwrap().contains("mysql"), "{}", examined.text);
    assert!(examined.text.lines().last().unwrap().starts_with("capturing works here"), "{}", examined.text);
}

#[test]
fn without_a_capability_it_is_the_cause() {
    let name = "without_a_capability_it_is_the_cause";
    skip_if!(name, needs::capture(), needs::program(SETPRIV, "util-linux"));
    let stage = Stage::new();
    const ALL: [&str; 4] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--reuid=65534", "--regid=65534", "--clear-groups"], &ALL),
        (&["--bounding-set=-bpf,-sys_admin"], &ALL[..1]),
        (&["--bounding-set=-perfmon,-sys_admin"], &ALL[1..2]),
        (&["--bounding-set=-sys_ptrace"], &ALL[2..3]),
        (&["--bounding-set=-dac_read_search,-dac_override"], &ALL[3..]),
        // Root, with nothing of what makes root.
        (&["--bounding-set=-all"], &ALL),
    ];
    for (setpriv, missing) in cases {
        let examined = stage.doctor(&[&[SETPRIV], setpriv].concat(), &[]);
        assert_eq!(examined.code, Some(4), "{setpriv:?}: {}", examined.text);
        assert_eq!(examined.missing(), missing, "{setpriv:?}: {}", examined.text);
        let verdict = format!("capturing does not work here; missing: {}", missing.join(", "));
        assert_eq!(examined.text.lines().last(), Some(verdict.as_str()), "{setpriv:?}");
        assert!(examined.text.contains("do: run it as root"), "{}", examined.text);
    }
    // What stands in for two of them does; what is only useful is degraded.
    let examined = stage.doctor(&[SETPRIV, "--bounding-set=-bpf,-perfmon,-setuid"], &[]);
    assert_eq!((examined.code, examined.missing()), (Some(0), Vec::new()), "{}", examined.text);
    assert_eq!(examined.check("CAP_SETUID")["status"], "degraded");
    assert!(examined.check("CAP_SETUID")["cost"].as_str().unwrap().contains("children keep this user"));
    let examined = stage.doctor(&[SETPRIV, "--bounding-set=-net_admin"], &[]);
    assert_eq!((examined.code, examined.missing()), (Some(0), Vec::new()), "{}", examined.text);
    assert!(examined.check("CAP_NET_ADMIN")["cost"].as_str().unwrap().contains("-m pcapng"));
}

#[test]
fn without_types_they_are_the_cause_and_a_file_helps() {
    let name = "without_types_they_are_the_cause_and_a_file_helps";
    skip_if!(
        name,
        needs::capture(),
        needs::program(UNSHARE, "util-linux"),
        needs::program(SERVER, "mariadb-server-core")
    );
    let stage = Stage::new();
    let types = stage.path("types");
    std::fs::copy(VMLINUX, &types).unwrap();
    let types = types.to_str().unwrap();
    let hide = "mount -t tmpfs tmpfs /sys/kernel/btf";
    let examined = stage.after(hide, &[]);
    assert_eq!((examined.code, examined.missing()), (Some(4), vec!["btf"]), "{}", examined.text);
    assert!(examined.check("btf")["found"].as_str().unwrap().contains(VMLINUX), "{}", examined.text);
    assert!(examined.check("btf")["remedy"].as_str().unwrap().contains("--btf"), "{}", examined.text);
    let examined = stage.after(hide, &["--btf", types]);
    assert_eq!((examined.code, examined.missing()), (Some(0), Vec::new()), "{}", examined.text);
    assert_eq!(examined.check("btf")["found"], types);
    // A file that is none.
    let examined = stage.after(hide, &["--btf", "/bin/true"]);
    assert_eq!((examined.code, examined.missing()), (Some(4), vec!["btf"]), "{}", examined.text);

    // What it says is what a run does.
    let server = Mariadb::start();
    let pid = server.pid().to_string();
    let script = format!("{hide} && exec \"$@\"");
    let before = [UNSHARE, "--mount", "sh", "-ec", &script, "sh"];
    let capture = ["mysql", "--pid", &pid, "-o", "json", "--count", "1", "--duration", "20s"];
    let refused = stage.command(&before, &capture).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("E-KERNEL") && said.contains("--btf"), "{said}");
    let mut running = stage.command(&before, &[&capture[..], &["--btf", types]].concat());
    let running = running.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let talk = std::thread::spawn(move || {
        for number in 0..200 {
            let Ok(mut client) = Client::connect(&server.socket()) else { break };
            let _ = client.query(format!("select {number}").as_bytes());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        server
    });
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"mysql.query\""));
    drop(talk.join().unwrap());
}

#[test]
fn lockdown_is_named() {
    let name = "lockdown_is_named";
    skip_if!(name, needs::capture(), needs::program(UNSHARE, "util-linux"));
    let stage = Stage::new();
    // A kernel that is locked down cannot be unlocked for the next test: what it says of itself is put in its place.
    let at = |level: &str| {
        format!("mount -t tmpfs tmpfs /sys/kernel/security && echo '{level}' > /sys/kernel/security/lockdown")
    };
    for (level, status, word) in [
        ("[none] integrity confidentiality", "ok", "none"),
        ("none [integrity] confidentiality", "ok", "integrity"),
        ("none integrity [confidentiality]", "degraded", "confidentiality"),
    ] {
        let examined = stage.after(&at(level), &[]);
        assert_eq!(examined.code, Some(0), "{}", examined.text);
        assert_eq!(examined.check("lockdown")["status"], status, "{level}: {}", examined.text);
        assert!(examined.check("lockdown")["found"].as_str().unwrap().starts_with(word), "{}", examined.text);
    }
    let examined = stage.after(&at("none integrity [confidentiality]"), &[]);
    assert!(examined.text.contains("must not read memory of the kernel"), "{}", examined.text);
}

#[test]
fn modules_that_are_not_there_are_named() {
    skip_if!("modules_that_are_not_there_are_named", needs::capture());
    let doctor = |modules: &Modules| modules.run(&["doctor"]);
    let output = doctor(&Modules::empty());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("none usable"), "{said}");
    let modules = Modules::empty();
    std::fs::write(modules.path().join("libecap_broken.so"), "text").unwrap();
    let said = String::from_utf8_lossy(&doctor(&modules).stdout).into_owned();
    assert!(said.contains("1 refused"), "{said}");
    assert!(Path::new("/usr/lib").is_dir());
    let nowhere =
        Command::new(bin_dir().join("ecapture")).args(["doctor", "--modules-dir", "/usr/lib/nowhere"]).output();
    let said = String::from_utf8_lossy(&nowhere.unwrap().stdout).into_owned();
    assert!(said.contains("/usr/lib/nowhere does not exist"), "{said}");
}

#[test]
fn every_command_of_the_document_runs() {
    skip_if!("every_command_of_the_document_runs", needs::capture());
    let stage = Stage::new();
    let types = stage.path("types");
    std::fs::copy(VMLINUX, &types).unwrap();
    let commands = document::commands("docs/doctor.md");
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let words: Vec<&str> =
            words.into_iter().map(|w| if w == "vmlinux.btf" { types.to_str().unwrap() } else { w }).collect();
        let output = stage.command(&[], &words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("attach cookie"), "{command}: {shown}");
    }
    // The lines that the document explains are those that there are.
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md")).unwrap();
    let json: Value =
        serde_json::from_slice(&stage.command(&[], &["doctor", "--json"]).output().unwrap().stdout).unwrap();
    for check in json["checks"].as_array().unwrap() {
        let name = check["name"].as_str().unwrap();
        let name = if name.starts_with("CAP_") { "CAP_..." } else { name };
        assert!(text.contains(&format!("`{name}`")), "docs/doctor.md does not explain {name}");
    }
}
