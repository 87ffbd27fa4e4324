//! Loading and attaching on the running kernel. Needs root and the compilers; says by name what it skips.

use super::{
    AttachError, Doorbell, HostMaps, Kernel, KernelError, LoadError, LoadPlan, Method, ObjectSpec, Point, ProgramKind,
    Ring, Target as File_, detach, load,
    map::{Map, MapError, kind},
    testing::{CAPTURE, Random, Target, object},
};
use std::{collections::HashMap, process::Command, time::Instant};

/// The kernel, or `None` where it refuses us.
fn kernel(test: &str) -> Option<Kernel> {
    match Kernel::probe(None) {
        Ok(kernel) => Some(kernel),
        Err(e) if e.is_privilege() => {
            eprintln!("SKIPPED {test}: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn setup(test: &str) -> Option<(Kernel, ObjectSpec, Target)> {
    let kernel = kernel(test)?;
    let spec = ObjectSpec::parse(&object(test, CAPTURE)?).expect("parses");
    Some((kernel, spec, Target::build(test)?))
}

fn tracepoints() -> HashMap<String, String> {
    [("on_fork".to_owned(), "sched_process_fork".to_owned())].into()
}

#[test]
fn every_call_is_seen_by_both_methods_and_none_after_detach() {
    let Some((kernel, spec, target)) = setup("every_call_is_seen_by_both_methods_and_none_after_detach") else {
        return;
    };
    let ((work, address), (other, _)) = (target.function("work"), target.function("other"));
    for method in [Method::Multi, Method::Perf] {
        if method == Method::Multi && kernel.method == Method::Perf {
            eprintln!("SKIPPED uprobe_multi: kernel {} has none", kernel.release);
            continue;
        }
        let mut running = target.start();
        let maps = HostMaps::create(1 << 20, 4, spec.maps["ecap_layouts"].value).expect("made");
        let plan = LoadPlan {
            globals: [
                ("filter_pid".to_owned(), running.pid().to_ne_bytes().to_vec()),
                ("salt".to_owned(), 1000u64.to_ne_bytes().to_vec()),
            ]
            .into(),
            host_maps: maps.by_name(),
            only: ["on_entry".to_owned(), "on_return".to_owned()].into(),
            tracepoints: tracepoints(),
            method: Some(method),
            ..LoadPlan::default()
        };
        let start = Instant::now();
        let loaded = load(&spec, &kernel, &plan).expect("loads");
        let load_time = start.elapsed();
        assert_eq!(loaded.programs.len(), 2);
        assert!(!loaded.maps.contains_key("ecap_events") && loaded.maps.contains_key("calls"));
        let mut row = [0u8; 32];
        (row[0], row[4]) = (1, 42);
        maps.layouts.as_ref().expect("declared").update(&2u32.to_ne_bytes(), &row).expect("row 2 of 4");

        let (file, start) = (File_::new(target.open()), Instant::now());
        let points = [Point::new(work, 2, 77), Point::new(other, 2, 78)];
        let links = vec![
            loaded.programs["on_return"].attach(&file, &points).expect("attaches"),
            loaded.programs["on_entry"].attach(&file, &points).expect("attaches"),
        ];
        let attach_time = start.elapsed();
        let (counters, mut ring) = (
            maps.counters.counters().expect("maps"),
            Ring::open(&maps.events, maps.events.entries() as usize).expect("maps"),
        );
        let armed = running.byte(address);
        running.calls(300);
        let mut seen = [0u64; 2];
        while let Some(record) = ring.next() {
            let words: Vec<u64> =
                record.data.chunks_exact(8).map(|w| u64::from_ne_bytes(w.try_into().expect("8"))).collect();
            let [cookie, argument, result, factor] = words[..] else {
                panic!("a record of {} bytes", record.data.len())
            };
            let which = (cookie >> 32) as usize - 77;
            assert_eq!((cookie & 0xffff_ffff, argument, factor), (2, seen[which], 42));
            assert_eq!(result, 1000 + [argument * 3, argument + 1][which]);
            seen[which] += 1;
        }
        ring.commit_all();
        assert_eq!(seen, [300, 300], "{method:?}");
        assert_eq!([0, 1, 2, 3, 600].map(|i| counters.get(i)), [600, 600, 0, 0, 0]);
        assert!(!ring.is_odd() && ring.position() == ring.produced());
        assert_eq!(armed, 0xcc);

        let start = Instant::now();
        detach(links);
        eprintln!("{method:?}: load {load_time:?}, attach 2 x 2 points {attach_time:?}, detach {:?}", start.elapsed());
        assert!(running.disarmed(address), "a breakpoint was left behind");
        running.calls(50);
        assert_eq!((counters.get(0), counters.get(1)), (600, 600), "calls are counted after detach");
        let depth = loaded.programs["on_entry"].stack_depth();
        assert!(depth.is_some_and(|d| d > 0 && d < 512), "{depth:?} from {}", loaded.programs["on_entry"].stats);
    }
}

#[test]
fn a_full_ring_loses_and_says_so() {
    let Some((kernel, spec, target)) = setup("a_full_ring_loses_and_says_so") else { return };
    let maps = HostMaps::create(1, 1, spec.maps["ecap_layouts"].value).expect("made");
    assert_eq!(maps.events.entries(), 64 << 10, "rounded up");
    let mut running = target.start();
    let plan = LoadPlan {
        globals: [("filter_pid".to_owned(), running.pid().to_ne_bytes().to_vec())].into(),
        host_maps: maps.by_name(),
        only: ["on_entry".to_owned(), "on_return".to_owned()].into(),
        ..LoadPlan::default()
    };
    let loaded = load(&spec, &kernel, &plan).expect("loads");
    let mut row = [0u8; 32];
    row[0] = 1;
    maps.layouts.as_ref().expect("declared").update(&0u32.to_ne_bytes(), &row).expect("row");
    let (file, point) = (File_::new(target.open()), [Point::new(target.function("work").0, 0, 0)]);
    let links = vec![
        loaded.programs["on_return"].attach(&file, &point).expect("attaches"),
        loaded.programs["on_entry"].attach(&file, &point).expect("attaches"),
    ];
    running.calls(2000);
    let (counters, mut ring) =
        (maps.counters.counters().expect("maps"), Ring::open(&maps.events, 64 << 10).expect("maps"));
    let count = |ring: &Ring| std::iter::from_fn(|| ring.next()).count() as u64;
    let first = count(&ring);
    assert_eq!((first, first + counters.get(2)), (counters.get(1), 2000));
    assert!(counters.get(2) > 0, "2,000 records of 72 bytes do not fit into 64 KiB");
    // Read but not published: there is no room yet.
    running.calls(10);
    assert_eq!(counters.get(1), first);
    ring.commit_all();
    running.calls(10);
    assert_eq!((count(&ring), counters.get(1)), (10, first + 10));
    detach(links);
}

#[test]
fn tracepoints_are_seen() {
    let Some((kernel, spec, _target)) = setup("tracepoints_are_seen") else { return };
    let maps = HostMaps::create(1 << 16, 1, spec.maps["ecap_layouts"].value).expect("made");
    let plan = LoadPlan {
        globals: [("filter_pid".to_owned(), std::process::id().to_ne_bytes().to_vec())].into(),
        host_maps: maps.by_name(),
        only: ["on_fork".to_owned(), "on_getppid".to_owned()].into(),
        tracepoints: tracepoints(),
        ..LoadPlan::default()
    };
    let loaded = load(&spec, &kernel, &plan).expect("loads");
    let counters = maps.counters.counters().expect("maps");
    let link = loaded.programs["on_fork"].attach_tp_btf().expect("attaches");
    assert!(Command::new("true").status().expect("runs").success());
    assert!(counters.get(4) >= 1, "the child of this process was not seen");
    drop(link);
    let program = &loaded.programs["on_getppid"];
    match program.attach_tracepoint("syscalls/sys_enter_getppid") {
        Ok(link) => {
            let before = counters.get(5);
            for _ in 0..20 {
                let _ = rustix::process::getppid();
            }
            assert!(counters.get(5) >= before + 20, "{} of 20", counters.get(5) - before);
            drop(link);
        }
        Err(e) => eprintln!("SKIPPED tracepoint: {e}"),
    }
    for odd in ["nothing", "../x", "syscalls/../../x", "a/"] {
        assert!(matches!(program.attach_tracepoint(odd), Err(AttachError::Tracepoint { .. })), "{odd}");
    }
    assert!(matches!(program.attach_tp_btf(), Err(AttachError::Kind { .. })));
}

#[test]
fn a_bad_point_is_named_and_nothing_stays() {
    let Some((kernel, spec, target)) = setup("a_bad_point_is_named_and_nothing_stays") else { return };
    let (work, address) = target.function("work");
    let file = File_::new(target.open());
    let running = target.start();
    for method in [kernel.method, Method::Perf] {
        let plan = LoadPlan { only: ["on_entry".to_owned()].into(), method: Some(method), ..LoadPlan::default() };
        let loaded = load(&spec, &kernel, &plan).expect("loads");
        let program = &loaded.programs["on_entry"];
        for (bad, of) in [(0, 1), (0, 5), (4, 5), (2, 3)] {
            let mut points = vec![Point::new(work, 0, 0); of];
            points[bad].offset = 1 << 40;
            match program.attach(&file, &points) {
                Err(AttachError::Point { index, offset, .. }) => {
                    assert_eq!((index, offset), (bad, 1 << 40), "{method:?}")
                }
                other => panic!("{method:?}, point {bad} of {of}: {other:?}"),
            }
        }
        assert!(running.disarmed(address), "a good point of a failed attach stayed");
        assert!(matches!(program.attach(&file, &[]), Err(AttachError::NoPoints { .. })));
        assert!(matches!(program.attach_tp_btf(), Err(AttachError::Kind { what: "a typed tracepoint", .. })));
    }
}

#[test]
fn load_errors_name_both_sides() {
    let Some((kernel, spec, _target)) = setup("load_errors_name_both_sides") else { return };
    let fail = |plan: &LoadPlan<'_>| load(&spec, &kernel, plan).expect_err("refused").to_string();
    let global =
        |name: &str, len| LoadPlan { globals: [(name.to_owned(), vec![0; len])].into(), ..LoadPlan::default() };
    assert_eq!(fail(&global("filter_pid", 8)), "global filter_pid: it has 4 bytes, 8 were given");
    assert_eq!(fail(&global("nobody", 8)), "global nobody: the object has none of that name (or never uses it)");
    let only = |name: &str| LoadPlan { only: [name.to_owned()].into(), ..LoadPlan::default() };
    assert_eq!(fail(&only("nobody")), "the object has no program nobody");
    assert_eq!(fail(&only("on_fork")), "program on_fork: no tracepoint is named for it");
    let odd = LoadPlan { tracepoints: [("on_fork".to_owned(), "no_such".to_owned())].into(), ..only("on_fork") };
    assert_eq!(fail(&odd), "program on_fork: this kernel has no tracepoint no_such");
    let small = Map::create(kind::ARRAY, 4, 8, 1, 0, "ecap_counters").expect("made");
    let plan = LoadPlan { host_maps: [("ecap_counters".to_owned(), &small)].into(), ..LoadPlan::default() };
    let expected = "map ecap_counters: the object declares type 2, key 4, value 4096 bytes, flags 0x400, the host's is type 2, key 4, value 8 bytes, flags 0x0";
    assert_eq!(fail(&plan), expected);
}

#[test]
fn the_verifiers_words_are_kept() {
    let test = "the_verifiers_words_are_kept";
    let Some(kernel) = kernel(test) else { return };
    let source = r#"
struct { __uint(type, 1); __uint(max_entries, 4); __type(key, u32); __type(value, u64); } m SEC(".maps");
SEC("uprobe") int p(void *ctx) { u32 k = 0; u64 *v = map_lookup(&m, &k); return *v; }"#;
    let Some(bytes) = object(test, source) else { return };
    let error = load(&ObjectSpec::parse(&bytes).expect("parses"), &kernel, &LoadPlan::default()).expect_err("refused");
    let LoadError::Program { name, log, .. } = &error else { panic!("{error}") };
    assert_eq!(name, "p");
    assert!(log.short().contains("invalid mem access 'map_value_or_null'"), "{}", log.short());
    assert!(log.as_str().lines().count() > log.short().lines().count());
    assert!(error.to_string().contains("map_value_or_null") && !log.short().contains("processed"));
}

#[test]
fn elements_have_the_sizes_of_their_map() {
    if kernel("elements_have_the_sizes_of_their_map").is_none() {
        return;
    }
    let map = Map::create(kind::HASH, 4, 8, 16, 0, "numbers").expect("made");
    let (key, value) = (7u32.to_ne_bytes(), 9u64.to_ne_bytes());
    assert_eq!(map.lookup(&key).expect("asked"), None);
    map.update(&key, &value).expect("set");
    assert_eq!(map.lookup(&key).expect("asked"), Some(value.to_vec()));
    assert_eq!(map.keys().expect("listed"), [key.to_vec()]);
    assert!(map.delete(&key).expect("removed") && !map.delete(&key).expect("asked"));
    assert!(matches!(map.update(&key, &[0; 7]), Err(MapError::Size { what: "value", wanted: 8, given: 7, .. })));
    assert!(matches!(map.lookup(&[0; 3]), Err(MapError::Size { what: "key", .. })));
    let per_cpu = Map::create(kind::PERCPU_ARRAY, 4, 8, 1, 0, "per_cpu").expect("made");
    assert!(matches!(per_cpu.lookup(&key), Err(MapError::PerCpu { .. })));
    let again = Map::from_fd(map.share().expect("shared"), "numbers").expect("asked");
    assert_eq!((again.kind(), again.key_size(), again.value_size(), again.entries()), (map.kind(), 4, 8, 16));

    let maps = HostMaps::create(100_000, 3, 0).expect("made");
    assert_eq!((maps.events.entries(), maps.layouts.is_none(), maps.by_name().len()), (131_072, true, 3));
    let (ours, theirs) = (Doorbell::open(&maps.doorbell).expect("maps"), maps.doorbell.word().expect("maps"));
    ours.arm();
    assert_eq!((theirs.get(), maps.doorbell.lookup(&[0; 4]).expect("asked")), (1, Some(1u64.to_ne_bytes().to_vec())));
    theirs.set(0);
    assert!(!ours.is_armed());
    assert!(matches!(HostMaps::create(1 << 40, 1, 0), Err(MapError::Host { name: "ecap_events", .. })));
    assert!(matches!(HostMaps::create(1, 0, 8), Err(MapError::Host { name: "ecap_layouts", .. })));
}

#[test]
fn without_capabilities_the_error_names_them() {
    if kernel("without_capabilities_the_error_names_them").is_none() {
        return;
    }
    // Capabilities belong to a thread, and this one ends with the test.
    let error = std::thread::spawn(|| {
        caps::clear(None, caps::CapSet::Effective).expect("dropped");
        Kernel::probe(None).expect_err("refused")
    });
    let error = error.join().expect("no panic");
    assert!(error.is_privilege() && matches!(error, KernelError::Refused { .. }));
    let text = error.to_string();
    assert!(text.contains("CAP_BPF, CAP_PERFMON") || text.contains("RLIMIT"), "{text}");
}

#[test]
fn hostile_objects_that_parse_do_not_break_the_loader() {
    let test = "hostile_objects_that_parse_do_not_break_the_loader";
    let Some(kernel) = kernel(test) else { return };
    let Some(good) = object(test, CAPTURE) else { return };
    let (mut random, mut loaded, mut refused) = (Random(42), 0, 0);
    let plan = LoadPlan { tracepoints: tracepoints(), ..LoadPlan::default() };
    while loaded + refused < 80 {
        let Ok(spec) = ObjectSpec::parse(&random.mutate(&good)) else { continue };
        match load(&spec, &kernel, &plan) {
            Ok(_) => loaded += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(loaded > 0 && refused > 0, "{loaded} loaded, {refused} refused");
}

#[test]
fn kinds_of_programs_that_load() {
    let test = "kinds_of_programs_that_load";
    let Some(kernel) = kernel(test) else { return };
    let source = r#"
SEC("classifier") int c(void *ctx) { return -1; }
SEC("cgroup_skb/ingress") int i(void *ctx) { return 1; }
SEC("uprobe.s") int u(void *ctx) { return 0; }
SEC("uretprobe.s") int r(void *ctx) { return 0; }
SEC("xdp") int x(void *ctx) { return 2; }"#;
    let Some(bytes) = object(test, source) else { return };
    let spec = ObjectSpec::parse(&bytes).expect("parses");
    let only = ["c", "i", "u", "r"].map(str::to_owned).into();
    let loaded = load(&spec, &kernel, &LoadPlan { only, ..LoadPlan::default() }).expect("loads");
    assert_eq!(loaded.programs["i"].kind(), ProgramKind::CgroupSkbIngress);
    let refused = load(&spec, &kernel, &LoadPlan::default()).expect_err("xdp is not ours");
    assert_eq!(refused.to_string(), "program x is of type xdp, which this host does not load");
}

/// Not a test of speed (builds differ), but the numbers are wanted: `cargo test -- --nocapture start_is_quick`.
#[test]
fn start_is_quick_and_types_are_read_once() {
    let (test, start) = ("start_is_quick_and_types_are_read_once", Instant::now());
    let Some(kernel) = kernel(test) else { return };
    let probe = start.elapsed();
    let start = Instant::now();
    let first: *const _ = kernel.btf().expect("this kernel has types");
    let types = start.elapsed();
    assert!(std::ptr::eq(first, kernel.btf().expect("kept")));
    let start = Instant::now();
    let _ = aya::features();
    eprintln!(
        "{:?} on {}: probe {probe:?}, types {types:?}, features {:?}",
        kernel.method,
        kernel.release,
        start.elapsed()
    );
    let missing = Kernel::probe(Some(std::path::Path::new("/nonexistent"))).expect("types are not read yet");
    let error = missing.btf().expect_err("not there").to_string();
    assert!(error.contains("/nonexistent") && error.contains("--btf"), "{error}");
}

#[test]
fn the_brokers_capabilities_are_enough() {
    let Some((kernel, spec, target)) = setup("the_brokers_capabilities_are_enough") else { return };
    // Capabilities belong to a thread, and this one ends with the test.
    let limited = std::thread::spawn(move || {
        use caps::Capability::{CAP_BPF, CAP_DAC_READ_SEARCH, CAP_PERFMON, CAP_SYS_PTRACE};
        let few = [CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH].into_iter().collect();
        caps::set(None, caps::CapSet::Effective, &few).expect("dropped");
        assert_eq!(Kernel::probe(None).expect("probed").method, kernel.method);
        for method in [kernel.method, Method::Perf] {
            let only = ["on_entry".to_owned(), "on_fork".to_owned()].into();
            let plan = LoadPlan { only, tracepoints: tracepoints(), method: Some(method), ..LoadPlan::default() };
            let loaded = load(&spec, &kernel, &plan).expect("loads");
            let point = [Point::new(target.function("work").0, 0, 0)];
            let mut links = vec![loaded.programs["on_fork"].attach_tp_btf().expect("attaches")];
            match loaded.programs["on_entry"].attach(&File_::new(target.open()), &point) {
                Ok(link) => links.push(link),
                Err(e) => {
                    assert!(method == Method::Perf && matches!(e, AttachError::Refused { .. }), "{method:?}: {e}");
                    assert!(e.to_string().contains("CAP_SYS_ADMIN"), "{e}");
                }
            }
            detach(links);
        }
    });
    limited.join().expect("no panic");
}
