//! The running kernel's verifier accepts every object, and no stack of a program at a uprobe reaches the size at which
//! the kernel would give it a per-CPU stack. Needs root and bpftool; says so and passes without them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_ebpf::{Arch, Builder};

/// The kernel (6.13 and later) rounds a program's depth up to 16 and gives it a per-CPU stack from 64 on, which a
/// preempted uprobe program shares with the next: so 48 is the most.
const DEEPEST: u32 = 48;

fn sources() -> Vec<PathBuf> {
    let fixtures = ["tls-ready", "wrapped"];
    let fixtures =
        fixtures.map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/fixtures/{name}/bpf")));
    let mut sources: Vec<PathBuf> = std::iter::once(ecapture_ebpf::source_dir())
        .chain(fixtures)
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    sources
}

/// `stack depth 16+8`: the program's own and those of its subprograms.
fn depths(log: &str) -> Vec<u32> {
    log.lines()
        .filter_map(|line| line.strip_prefix("stack depth "))
        .map(|parts| parts.trim().split('+').map(|part| part.parse::<u32>().unwrap()).sum())
        .collect()
}

#[test]
fn the_kernel_takes_every_object_with_little_stack() {
    let usable = Command::new("bpftool").arg("version").output().is_ok_and(|output| output.status.success());
    let root = fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t0"));
    if !usable || !root {
        eprintln!("SKIPPED: needs root and bpftool");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut programs = 0;
    for source in sources() {
        let built = Builder::new(&source).out_dir(dir.path()).arch(host_arch()).announce(false).build().unwrap();
        // Other programs than those at uprobes are not preempted by themselves: the kernel sees to it.
        let object = fs::read(&built.path).unwrap();
        let at_uprobes =
            ["uprobe", "uretprobe"].iter().any(|word| object.windows(word.len()).any(|w| w == word.as_bytes()));
        let told = if at_uprobes { "--debug" } else { "--json" };
        // bpftool pins what it loads, into a file system that only it sees and that ends with it.
        let pins = dir.path().join("pins");
        fs::create_dir_all(&pins).unwrap();
        let script = "mount -t bpf bpf \"$1\" && exec bpftool \"$2\" prog loadall \"$0\" \"$1/programs\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        let output = command.arg(&built.path).arg(&pins).arg(told).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        assert!(output.status.success(), "{} refused: {tail:#?}", source.display());
        let depths = depths(&log);
        assert_eq!(depths.is_empty(), !at_uprobes, "{}: no statistics in the verifier's log", source.display());
        assert!(depths.iter().all(|depth| *depth <= DEEPEST), "{}: {depths:?}", source.display());
        programs += depths.len();
    }
    assert!(programs >= 18, "only {programs} programs were looked at");
}

fn host_arch() -> Arch {
    Arch::from_rust(std::env::consts::ARCH).unwrap()
}
