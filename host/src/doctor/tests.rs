//! Machines that are not at hand.

use std::collections::BTreeMap;
use std::io;

use super::judge::{Check, Status, judge};
use super::kernel_config::KernelConfig;
use super::machine::{Answer, Machine, Modules};
use crate::bpf::Method;
use crate::bpf::kernel::KernelError;
use crate::sandbox::privileges::Held;

fn held(name: &'static str, without: Option<&'static str>) -> Held {
    Held { name, held: true, without }
}

/// One on which nothing is wrong.
fn good() -> Machine {
    let options = [
        "BPF",
        "BPF_SYSCALL",
        "BPF_EVENTS",
        "BPF_JIT",
        "PERF_EVENTS",
        "UPROBES",
        "UPROBE_EVENTS",
        "SECCOMP_FILTER",
        "MEMFD_CREATE",
        "DEBUG_INFO_BTF",
        "SECURITY_LANDLOCK",
        "CGROUPS",
    ];
    let options: BTreeMap<String, String> = options.iter().map(|o| ((*o).to_owned(), "y".to_owned())).collect();
    let answer = |name, since| Answer { name, since, result: Ok(()) };
    Machine {
        release: "6.12.1".into(),
        btf: Ok("/sys/kernel/btf/vmlinux".into()),
        config: Some(KernelConfig { path: "/proc/config.gz".into(), options }),
        lockdown: Some("[none] integrity confidentiality".into()),
        capabilities: vec![
            held("CAP_BPF", None),
            held("CAP_PERFMON", None),
            held("CAP_SYS_PTRACE", None),
            held("CAP_DAC_READ_SEARCH", None),
            held("CAP_SETUID", Some("children keep this user")),
        ],
        first_user_namespace: Some(true),
        features: vec![
            answer("BPF ring buffer", "5.8"),
            answer("attach cookie", "5.15"),
            answer("task storage", "5.11"),
            answer("uprobe_multi", "6.6"),
        ],
        method: Ok(Method::Multi),
        unprivileged_bpf_disabled: Some("2".into()),
        landlock: Ok((6, 6)),
        seccomp: true,
        filtered: false,
        memlock: Some(8 << 20),
        perf_event_paranoid: Some("2".into()),
        kptr_restrict: Some("1".into()),
        tracefs: Some("/sys/kernel/tracing".into()),
        cgroup2: Some("/sys/fs/cgroup".into()),
        cgroup1: false,
        available: Some(4 << 30),
        modules: Modules {
            dir: "/usr/lib/ecapture/modules".into(),
            there: true,
            usable: vec!["mysql".into()],
            ..Modules::default()
        },
    }
}

/// Checks that are not ok, by name.
fn wrong(machine: &Machine) -> Vec<(String, Status)> {
    let checks = judge(machine);
    for Check { name, status, found, cost, remedy } in &checks {
        assert!(!found.is_empty() && !found.contains('\n'), "{name}: {found:?}");
        assert_eq!(cost.is_some() && remedy.is_some(), *status != Status::Ok, "{name}: {cost:?} {remedy:?}");
    }
    checks.into_iter().filter(|c| c.status != Status::Ok).map(|c| (c.name, c.status)).collect()
}

fn only(machine: &Machine, name: &str, status: Status) {
    assert_eq!(wrong(machine), [(name.to_owned(), status)]);
    assert_eq!(super::works(&judge(machine)), status != Status::Missing);
}

fn refused() -> KernelError {
    let source = io::Error::from_raw_os_error(libc::EPERM);
    KernelError::Refused { call: "BPF_MAP_CREATE", hints: vec!["a hint".into()], source }
}

fn unsupported(feature: &'static str) -> KernelError {
    let source = io::Error::from_raw_os_error(libc::EINVAL);
    KernelError::Unsupported { release: "5.4.0".into(), feature, since: "5.8", source }
}

#[test]
fn on_a_good_machine_nothing_is_said_to_be_wrong() {
    assert_eq!(wrong(&good()), []);
    assert_eq!(super::exit(&judge(&good())), crate::failure::Exit::Done);
    assert!(super::text(&judge(&good())).ends_with("capturing works here\n"));
}

#[test]
fn without_types_btf_is_the_cause() {
    let why = "No such file or directory".into();
    let machine = Machine { btf: Err(KernelError::Btf { path: "/sys/kernel/btf/vmlinux".into(), why }), ..good() };
    only(&machine, "btf", Status::Missing);
    let text = super::text(&judge(&machine));
    assert!(text.contains("--btf") && text.ends_with("missing: btf\n"), "{text}");
    assert_eq!(super::exit(&judge(&machine)), crate::failure::Exit::Privilege);
}

#[test]
fn a_missing_capability_is_the_cause_and_not_what_cannot_be_asked_without_it() {
    let mut machine = good();
    machine.capabilities[0].held = false;
    for answer in &mut machine.features {
        answer.result = Err(refused());
    }
    machine.method = Err(unsupported("uprobes"));
    let missing: Vec<_> = wrong(&machine).into_iter().filter(|(_, status)| *status == Status::Missing).collect();
    assert_eq!(missing, [("CAP_BPF".to_owned(), Status::Missing)]);
    assert!(super::text(&judge(&machine)).ends_with("missing: CAP_BPF\n"));

    let mut machine = good();
    machine.capabilities[4].held = false;
    only(&machine, "CAP_SETUID", Status::Degraded);
}

#[test]
fn refused_with_all_capabilities_the_filter_or_the_namespace_is_the_cause() {
    let mut machine = Machine { filtered: true, ..good() };
    assert_eq!(wrong(&machine), []);
    for answer in &mut machine.features {
        answer.result = Err(refused());
    }
    let names: Vec<String> = wrong(&machine).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"seccomp".into()) && names.contains(&"BPF ring buffer".into()), "{names:?}");
    machine.first_user_namespace = Some(false);
    assert!(wrong(&machine).contains(&("user namespace".into(), Status::Missing)));
}

#[test]
fn lockdown_is_named() {
    let mut machine = Machine { lockdown: Some("none integrity [confidentiality]".into()), ..good() };
    only(&machine, "lockdown", Status::Degraded);
    machine.lockdown = Some("none [integrity] confidentiality".into());
    assert_eq!(wrong(&machine), []);
    assert!(super::text(&judge(&machine)).contains("integrity; capturing needs nothing that it forbids"));
    machine.lockdown = Some("\u{1b}[2J".into());
    assert!(!super::text(&judge(&machine)).contains('\u{1b}'));
}

#[test]
fn an_old_kernel_lacks_what_it_lacks() {
    let mut machine = good();
    machine.features[0].result = Err(unsupported("BPF ring buffer"));
    only(&machine, "BPF ring buffer", Status::Missing);
    let mut machine = good();
    machine.features[3].result = Err(unsupported("uprobe_multi"));
    machine.method = Ok(Method::Perf);
    only(&machine, "uprobe_multi", Status::Degraded);
    let mut machine = good();
    machine.features[2].result = Err(unsupported("task storage"));
    only(&machine, "task storage", Status::Degraded);
    let machine = Machine { method: Err(unsupported("uprobes")), ..good() };
    only(&machine, "uprobes", Status::Missing);
    let machine = Machine { release: "5.10.0-8-amd64".into(), memlock: Some(65536), ..good() };
    let expected = [("kernel".to_owned(), Status::Degraded), ("memlock".to_owned(), Status::Degraded)];
    assert_eq!(wrong(&machine), expected);
}

#[test]
fn a_configuration_says_what_is_not_built_in() {
    let mut machine = good();
    machine.config.as_mut().unwrap().options.remove("UPROBES");
    only(&machine, "kernel config", Status::Missing);
    assert!(super::text(&judge(&machine)).contains("CONFIG_UPROBES"));
    let mut machine = good();
    machine.config.as_mut().unwrap().options.remove("BPF_JIT");
    only(&machine, "kernel config", Status::Degraded);
    machine.config = None;
    assert_eq!(wrong(&machine), []);
}

#[test]
fn each_other_line_can_be_wrong() {
    only(&Machine { seccomp: false, ..good() }, "seccomp", Status::Missing);
    only(&Machine { landlock: Err("not supported".into()), ..good() }, "landlock", Status::Degraded);
    only(&Machine { landlock: Ok((3, 6)), ..good() }, "landlock", Status::Degraded);
    only(&Machine { tracefs: None, ..good() }, "tracefs", Status::Degraded);
    only(&Machine { cgroup1: true, ..good() }, "cgroup v2", Status::Degraded);
    only(&Machine { cgroup2: None, ..good() }, "cgroup v2", Status::Degraded);
    only(&Machine { available: Some(1 << 20), ..good() }, "memory", Status::Degraded);
    let with = |modules: Modules| Machine { modules, ..good() };
    let there = good().modules;
    only(&with(Modules { there: false, ..there.clone() }), "modules", Status::Degraded);
    only(&with(Modules { usable: Vec::new(), ..there.clone() }), "modules", Status::Degraded);
    only(&with(Modules { refused: 1, ..there.clone() }), "modules", Status::Degraded);
    only(&with(Modules { tainted: 1, ..there.clone() }), "modules", Status::Degraded);
    only(&with(Modules { problem: Some("/usr is writable".into()), ..there }), "modules", Status::Degraded);
}

#[test]
fn the_json_has_every_check() {
    let checks = judge(&good());
    let json: serde_json::Value = serde_json::from_str(&super::json(&checks).unwrap()).unwrap();
    assert_eq!((json["schema"].as_u64(), json["works"].as_bool()), (Some(1), Some(true)));
    assert_eq!(json["checks"].as_array().unwrap().len(), checks.len());
    for (shown, check) in json["checks"].as_array().unwrap().iter().zip(&checks) {
        assert_eq!(shown["name"], check.name);
        assert!(shown["cost"].is_null() && shown["found"].is_string(), "{shown}");
    }
}
