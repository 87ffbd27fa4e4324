//! Privileges: each one that is missing is named, and what stands in for one is taken.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use ecapture_tests::capture::bin_dir;
use ecapture_tests::{needs, skip_if};

const SETPRIV: &str = "/usr/bin/setpriv";

fn code_and_words(output: &Output) -> (Option<i32>, String) {
    let words = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&words).into_owned())
}

#[test]
fn each_missing_privilege_is_named() {
    skip_if!("each_missing_privilege_is_named", needs::capture(), needs::program(SETPRIV, "util-linux"));
    // Somewhere that everybody may look into.
    let dir = tempfile::Builder::new().prefix("ecapture-privilege-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for file in ["ecapture", "libecap_mysql.so"] {
        std::fs::copy(bin_dir().join(file), dir.path().join(file)).unwrap();
    }
    let run = |setpriv: &[&str]| {
        let output = Command::new(SETPRIV)
            .args(setpriv)
            .arg(dir.path().join("ecapture"))
            .arg("--modules-dir")
            .arg(dir.path())
            .args(["--allow-untrusted", "mysql", "--mysqld", "/bin/true"])
            .output()
            .unwrap();
        code_and_words(&output)
    };
    const ALL: [&str; 4] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let cases: [(&[&str], &[&str]); 6] = [
        (&nobody, &ALL),
        (&["--bounding-set=-bpf,-sys_admin"], &ALL[..1]),
        (&["--bounding-set=-perfmon,-sys_admin"], &ALL[1..2]),
        (&["--bounding-set=-sys_ptrace"], &ALL[2..3]),
        (&["--bounding-set=-dac_read_search,-dac_override"], &ALL[3..]),
        (&["--bounding-set=-all"], &ALL),
    ];
    for (setpriv, missing) in cases {
        let (code, said) = run(setpriv);
        assert_eq!(code, Some(4), "{setpriv:?}: {said}");
        assert!(said.contains("E-PRIVILEGE") && said.contains("sudo"), "{setpriv:?}: {said}");
        for name in ALL {
            assert_eq!(said.contains(name), missing.contains(&name), "{setpriv:?}: {name}: {said}");
        }
    }
    // What stands in for them does.
    let (code, said) = run(&["--bounding-set=-bpf,-perfmon,-dac_read_search"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("E-DETECT"), "{said}");
}
