//! Parsing and judging of objects: what is read from good ones, and that bad ones are refused, quickly and without a panic.

use super::{
    elf, helpers,
    object::{Calls, MapOrigin, ObjectError, ObjectSpec, ProgramKind, calls},
    scan::{Permissions, Violation, judge},
    testing::{CAPTURE, Random, object},
};
use std::time::{Duration, Instant};

const ALL: Permissions<'_> = Permissions { programs: &[], helpers: &[], map_memory: 1 << 30 };

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn violations(bytes: &[u8], permissions: &Permissions<'_>) -> Vec<Violation> {
    let spec = ObjectSpec::parse(bytes).expect("the object is well-formed");
    judge(&spec, permissions).err().unwrap_or_default()
}

#[test]
fn a_good_object_is_read_and_allowed() {
    let Some(bytes) = object("a_good_object_is_read_and_allowed", CAPTURE) else { return };
    let spec = ObjectSpec::parse(&bytes).expect("parses");
    assert_eq!(spec.license, "GPL");
    let kinds: Vec<_> = spec.programs.iter().map(|(n, p)| (n.as_str(), p.kind, p.sleepable)).collect();
    assert_eq!(
        kinds,
        [
            ("on_entry", ProgramKind::Uprobe, false),
            ("on_fork", ProgramKind::TpBtf, false),
            ("on_getppid", ProgramKind::Tracepoint, false),
            ("on_return", ProgramKind::Uretprobe, false)
        ]
    );
    // map_lookup_elem is called by the function `count` only, which is a separate one.
    let entry = &spec.programs["on_entry"];
    assert_eq!(entry.helpers.iter().copied().collect::<Vec<_>>(), [1, 14, 156, 158]);
    assert!(entry.instructions > 10 && !entry.kernel_functions);
    let calls = &spec.maps["calls"];
    assert_eq!((calls.kind, calls.key, calls.value, calls.entries, calls.flags), (29, 4, 8, 0, 1));
    let counters = &spec.maps["ecap_counters"];
    assert_eq!((counters.kind, counters.value, counters.entries, counters.flags), (2, 4096, 1, 1024));
    assert_eq!(spec.maps[".rodata"].origin, MapOrigin::Constants);
    assert_eq!(
        (spec.global_size("filter_pid"), spec.global_size("salt"), spec.global_size("nothing")),
        (Some(4), Some(8), None)
    );
    assert!(spec.needs_kernel_types && spec.externs.is_empty());

    let programs = words(&["tp_btf", "tracepoint"]);
    judge(&spec, &Permissions { programs: &programs, ..ALL }).expect("allowed");
    assert_eq!(
        judge(&spec, &ALL).expect_err("two programs are not allowed by default"),
        [
            Violation::ProgramKind { program: "on_fork".into(), kind: "tp_btf" },
            Violation::ProgramKind { program: "on_getppid".into(), kind: "tracepoint" }
        ]
    );
}

#[test]
fn helpers_need_permission_or_are_never_allowed() {
    let test = "helpers_need_permission_or_are_never_allowed";
    let Some(bytes) = object(test, r#"SEC("uprobe.s") int p(void *ctx) { char f[] = "x"; printk(f, 2); return 0; }"#)
    else {
        return;
    };
    let helper = Violation::Helper { program: "p".into(), helper: "bpf_trace_printk".into() };
    assert_eq!(violations(&bytes, &ALL), [helper]);
    for spelling in ["trace_printk", "bpf_trace_printk"] {
        assert_eq!(violations(&bytes, &Permissions { helpers: &words(&[spelling]), ..ALL }), []);
    }
    assert!(ObjectSpec::parse(&bytes).expect("parses").programs["p"].sleepable);

    // Called through a function in .text, and "granted": still never.
    let source = r#"
static __attribute__((noinline)) long deep(void *at) { char b = 1; return write_user(at, &b, 1); }
SEC("uretprobe") int p(struct pt_regs *ctx) { return deep((void *)ctx->ax); }"#;
    let bytes = object(test, source).expect("the compiler was there before");
    let never = Violation::ForbiddenHelper { program: "p".into(), helper: "bpf_probe_write_user".into() };
    assert_eq!(violations(&bytes, &Permissions { helpers: &words(&["probe_write_user"]), ..ALL }), [never]);
}

#[test]
fn forbidden_helpers_are_found_by_number() {
    for (number, name) in
        [(36, "probe_write_user"), (58, "override_return"), (109, "send_signal"), (117, "send_signal_thread")]
    {
        assert_eq!(helpers::number(name), Some(number));
        let source =
            format!(r#"SEC("uprobe") int p(void *ctx) {{ return ((long (*)(u64, u64, u64)){number})(9, 0, 0); }}"#);
        let Some(bytes) = object("forbidden_helpers_are_found_by_number", &source) else { return };
        let never = Violation::ForbiddenHelper { program: "p".into(), helper: format!("bpf_{name}") };
        assert_eq!(violations(&bytes, &ALL), [never]);
    }
    let source = r#"SEC("uprobe") int p(void *ctx) { return ((long (*)(void))4242)(); }"#;
    let bytes = object("forbidden_helpers_are_found_by_number", source).expect("the compiler was there before");
    let newer = Violation::ForbiddenHelper { program: "p".into(), helper: "helper number 4242".into() };
    assert_eq!(violations(&bytes, &ALL), [newer]);
}

#[test]
fn kernel_functions_are_never_allowed() {
    let source = r#"
extern void *bpf_task_acquire(void *p) __attribute__((section(".ksyms")));
SEC("uprobe") int p(void *ctx) { return bpf_task_acquire(ctx) != 0; }"#;
    let Some(bytes) = object("kernel_functions_are_never_allowed", source) else { return };
    assert!(violations(&bytes, &ALL).contains(&Violation::KernelName { name: "bpf_task_acquire".into() }));
}

#[test]
fn other_programs_and_maps_are_refused() {
    let test = "other_programs_and_maps_are_refused";
    let Some(bytes) = object(test, r#"SEC("kprobe/x") int p(void *ctx) { return 0; }"#) else { return };
    let granted = words(&["kprobe"]);
    let unknown = Violation::UnknownProgramKind { program: "p".into(), kind: "kprobe" };
    assert_eq!(violations(&bytes, &Permissions { programs: &granted, ..ALL }), [unknown]);

    let maps = r#"
struct { __uint(type, 3); __uint(max_entries, 4); __type(key, u32); __type(value, u32); } jumps SEC(".maps");
struct { __uint(type, 1); __uint(max_entries, 4); __uint(pinning, 1); __type(key, u32); __type(value, u32); } pinned SEC(".maps");
struct { __uint(type, 1); __uint(max_entries, 4); __uint(map_flags, 4); __type(key, u32); __type(value, u32); } numa SEC(".maps");
struct { __uint(type, 1); __uint(max_entries, 1000); __type(key, u32); __type(value, u64); } big SEC(".maps");
struct { __uint(type, 27); __uint(max_entries, 1 << 30); } ecap_events SEC(".maps");
SEC("uprobe") int p(void *ctx) { return 0; }"#;
    let bytes = object(test, maps).expect("the compiler was there before");
    let what: Vec<String> = violations(&bytes, &ALL).iter().map(Violation::to_string).collect();
    assert_eq!(
        what,
        [
            "map jumps has type 3, which the host does not create",
            "map numa has flags 0x4, which the host does not create",
            "map pinned has a pin or maps inside, which the host does not create"
        ]
    );
    // The host's own ring does not count; of the rest a thousand entries of 8 + 8 + 64 bytes are the most.
    let memory = violations(&bytes, &Permissions { map_memory: 80_000, ..ALL });
    let expected = |v: &&Violation| matches!(v, Violation::MapMemory { largest, allowed: 80_000, needed } if largest == "big" && (80_000..90_000).contains(needed));
    assert_eq!(memory.iter().filter(expected).count(), 1, "{memory:?}");
}

#[test]
fn hostile_fields_are_refused_by_name() {
    let Some(good) = object("hostile_fields_are_refused_by_name", CAPTURE) else { return };
    let why = |bytes: &[u8]| match ObjectSpec::parse(bytes) {
        Err(ObjectError::Elf(e)) => e.to_string(),
        other => panic!("not refused by the bounds check: {:?}", other.map(|_| "accepted")),
    };
    assert_eq!(why(b""), "not a 64-bit little-endian ELF file");
    assert_eq!(why(&good[..64]), "a section header is outside the file");
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
    let half = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let headers: Vec<usize> =
        (0..usize::from(good[60]) | usize::from(good[61]) << 8).map(|i| word(&good, 40) + i * 64).collect();
    let of_kind = |kind: u32| headers.iter().copied().find(|h| half(&good, h + 4) == kind).expect("there is one");

    // aya-obj slices by this size without a look.
    let symbols = word(&good, of_kind(2) + 24);
    let count = word(&good, of_kind(2) + 32) / 24;
    let function = (0..count).map(|i| symbols + i * 24).find(|s| good[s + 4] & 15 == 2).expect("there is a function");
    let mut bytes = good.clone();
    bytes[function + 16..function + 24].copy_from_slice(&(1u64 << 20).to_le_bytes());
    assert!(why(&bytes).contains("ends outside section"), "{}", why(&bytes));

    // A relocation of a map, moved on to the call of a helper: aya-obj would write a number of its choice there.
    let rel = headers.iter().copied().find(|h| {
        let target = half(&good, h + 44) as usize;
        half(&good, h + 4) == 9 && word(&good, headers[target] + 8) & 4 != 0
    });
    let rel = rel.expect("code has relocations");
    let code = word(&good, headers[half(&good, rel + 44) as usize] + 24);
    let size = word(&good, headers[half(&good, rel + 44) as usize] + 32);
    let call =
        (0..size / 8).find(|i| good[code + i * 8] == 0x85 && good[code + i * 8 + 1] == 0).expect("a helper is called");
    let entry =
        (0..word(&good, rel + 32) / 16).map(|i| word(&good, rel + 24) + i * 16).find(|e| half(&good, e + 8) == 1);
    let entry = entry.expect("a map is used");
    let mut bytes = good.clone();
    bytes[entry..entry + 8].copy_from_slice(&(call as u64 * 8).to_le_bytes());
    assert!(why(&bytes).contains("changes what it must not change"), "{}", why(&bytes));

    // Maps declared in the old way.
    let mut bytes = good.clone();
    // The last one: .BTF has a string of that name, too.
    let name = bytes.windows(7).rposition(|w| w == b"\0.maps\0").expect("named");
    bytes[name..name + 7].copy_from_slice(b"\0maps\0\0");
    assert!(why(&bytes).contains("not in the old way"), "{}", why(&bytes));
}

#[test]
fn relocations_against_nameless_types_are_refused() {
    let Some(good) = object("relocations_against_nameless_types_are_refused", CAPTURE) else { return };
    // .BTF.ext starts with magic, version, flags and a header of 32 bytes; the relocations' place is at 24.
    let ext = good.windows(8).position(|w| w == [0x9f, 0xeb, 1, 0, 32, 0, 0, 0]).expect("there is one");
    let offset = u32::from_le_bytes(good[ext + 24..ext + 28].try_into().expect("4 bytes")) as usize;
    let first = ext + 32 + offset + 4 + 8; // record size; section name and count
    let mut refused = 0;
    for id in 1..60u32 {
        let mut bytes = good.clone();
        bytes[first + 4..first + 8].copy_from_slice(&id.to_le_bytes());
        refused += u32::from(ObjectSpec::parse(&bytes).err().is_some_and(|e| e.to_string().contains("has no name")));
    }
    assert!((10..50).contains(&refused), "{refused} of 59");
}

#[test]
fn cut_and_flipped_objects_never_panic_or_hang() {
    let Some(good) = object("cut_and_flipped_objects_never_panic_or_hang", CAPTURE) else { return };
    let (mut random, start, mut slowest, mut parsed) =
        (Random(0x9e37_79b9_7f4a_7c15), Instant::now(), Duration::ZERO, 0);
    let mut attempt = |bytes: &[u8]| {
        let one = Instant::now();
        if let Ok(spec) = ObjectSpec::parse(bytes) {
            let _ = judge(&spec, &ALL);
            parsed += 1;
        }
        slowest = slowest.max(one.elapsed());
    };
    for len in 0..good.len() {
        attempt(&good[..len]);
    }
    for _ in 0..4000 {
        attempt(&random.mutate(&good));
    }
    assert!(parsed > 100, "the mutations are too wild: {parsed} of 4000 parse");
    assert!(slowest < Duration::from_secs(2), "one object took {slowest:?}");
    eprintln!("{} objects, {parsed} still parse, slowest {slowest:?}, all {:?}", good.len() + 4000, start.elapsed());
}

#[test]
fn work_that_grows_with_products_is_bounded() {
    // One section header for all: the sections overlap.
    let Some(good) = object("work_that_grows_with_products_is_bounded", CAPTURE) else { return };
    let table = u64::from_le_bytes(good[40..48].try_into().expect("8 bytes")) as usize;
    let count = 500usize;
    let mut bytes = good.clone();
    let at = bytes.len();
    let code =
        (0..usize::from(good[60])).map(|i| table + i * 64).find(|h| good[h + 8] & 4 != 0).expect("there is code");
    bytes.extend_from_slice(&good[table..table + usize::from(good[60]) * 64]);
    for _ in usize::from(good[60])..count {
        let mut copy = good[code..code + 64].to_vec();
        copy[24..32].copy_from_slice(&0u64.to_le_bytes());
        copy[32..40].copy_from_slice(&(good.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&copy);
    }
    bytes[40..48].copy_from_slice(&(at as u64).to_le_bytes());
    bytes[60..62].copy_from_slice(&(count as u16).to_le_bytes());
    let refused = ObjectSpec::parse(&bytes).expect_err("refused").to_string();
    assert!(refused.contains("overlap"), "{refused}");
    assert!(matches!(ObjectSpec::parse(&vec![0; elf::MAX_OBJECT + 1]), Err(ObjectError::Elf(_))));
}

#[test]
fn calls_are_told_apart() {
    let code = |raw: &[u64]| {
        let bytes: Vec<u8> = raw.iter().flat_map(|i| i.to_le_bytes()).collect();
        calls(&aya_obj::copy_instructions(&bytes).expect("whole instructions"))
    };
    let call = |source: u64, number: u64| 0x85 | source << 12 | number << 32;
    let only = |helpers: &[u32]| Calls { helpers: helpers.iter().copied().collect(), kernel_functions: false };
    assert_eq!(code(&[call(0, 36), call(1, 58), call(0, 1)]), only(&[1, 36]));
    // The second half of a 16-byte load looks like a call, and is none; a load at the end has none.
    assert_eq!(code(&[0x18, call(0, 36), call(0, 5), 0x18]), only(&[5]));
    for kernel_function in [call(2, 1234), call(3, 1), 0x8d] {
        assert!(code(&[kernel_function]).kernel_functions, "{kernel_function:#x}");
    }
}
