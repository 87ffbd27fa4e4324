//! From a prepared module to probes in the kernel: maps, filters, programs, links.
//!
//! Filters and layout rows are in place before the first link: a probe that fires must already know whom it is for.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ecapture_plugin_api::plan::AttachKind;

use super::plan::global_bytes;
use super::prepare::Prepared;
use crate::bpf::{self, Counters, HostMaps, Kernel, Link, LoadError, LoadPlan, Loaded, ObjectSpec, Point, Program};
use crate::cli::RunOptions;
use crate::failure::{Exit, Failure};
use crate::module::Loaded as Module;
use crate::protocol::KernelTotals;
use crate::target::process;

/// The host's own object: which processes are watched, as they fork and end.
const CORE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/core.bpf.o"));

/// Bits of `ecap_filter_flags` (`include/ecapture/filter.h`).
const FILTER_PIDS: u32 = 1;
const FILTER_UIDS: u32 = 2;
/// Values in `ecap_pids` (`include/ecapture/maps.h`).
const LISTED: u32 = 1;
const CHILD: u32 = 2;

/// Words of `ecap_counters` (`include/ecapture/record.h`).
mod counter {
    pub const PRODUCED: usize = 0;
    pub const LOST: usize = 1;
    pub const LOST_BYTES: usize = 2;
    pub const PARTIAL: usize = 3;
    pub const FAULTS: usize = 4;
    pub const FAULT_BYTES: usize = 5;
    pub const CUT: usize = 6;
    pub const CUT_BYTES: usize = 7;
    pub const STATE_FULL: usize = 8;
    pub const ORPHANS: usize = 9;
    pub const COUNT: usize = 13;
}

/// A module in the kernel. Dropping it takes everything out again.
pub struct Attached {
    links: Vec<Link>,
    programs: Vec<(String, Loaded)>,
    core: Option<Loaded>,
    maps: HostMaps,
    counters: Counters,
    /// Real size of the ring, bytes.
    pub ring_bytes: u64,
    /// `uname -r`.
    pub kernel_release: String,
}

/// Loads maps, filters and programs; attaches nothing yet.
///
/// # Errors
/// What the kernel refuses, with the short form of the verifier's words.
pub fn load(module: &Module, prepared: &Prepared, kernel: &Kernel, options: &RunOptions) -> Result<Attached, Failure> {
    let name = &module.manifest.module.name;
    let streams = module.manifest.streams.iter();
    let ring = options.ring_bytes.or_else(|| streams.map(|s| s.ring).max()).unwrap_or(8 << 20);
    let layout = prepared.objects.values().find_map(|o| o.maps.get("ecap_layouts")).map_or(0, |m| m.value);
    let rows = prepared.targets.iter().map(|t| t.number + 1).max().unwrap_or(1);
    let maps = HostMaps::create(ring, rows, layout)
        .map_err(|e| Failure::new("E-KERNEL", e.to_string()).exit(Exit::Privilege))?;
    let failed = |what: &str, e: &dyn std::fmt::Display| Failure::new("E-LOAD", format!("{name}: {what}: {e}"));

    let mut core = None;
    let mut flags = 0;
    if !options.pids.is_empty() {
        flags |= FILTER_PIDS;
        core = Some(load_core(kernel, &maps, options.children)?);
    }
    if !options.uids.is_empty() {
        flags |= FILTER_UIDS;
        for uid in &options.uids {
            let one = LISTED.to_ne_bytes();
            maps.uids.update(&uid.to_ne_bytes(), &one).map_err(|e| failed("user filter", &e))?;
        }
    }
    for target in prepared.targets.iter().filter(|t| !t.plan.layout.is_empty()) {
        if let Some(layouts) = &maps.layouts {
            layouts.update(&target.number.to_ne_bytes(), &target.plan.layout).map_err(|e| failed("layout", &e))?;
        }
    }
    let mut programs = Vec::new();
    for wanted in &prepared.configured.objects {
        let Some(spec) = prepared.objects.get(&wanted.id) else { continue };
        let mut globals = HashMap::new();
        for (global, value) in &wanted.globals {
            let size = spec.global_size(global).unwrap_or_default();
            let bytes = global_bytes(value, size).map_err(|e| failed(global, &e))?;
            globals.insert(global.clone(), bytes);
        }
        set_if_there(spec, &mut globals, "ecap_filter_flags", &flags.to_ne_bytes());
        let of_object = prepared.configured.attachments.iter().filter(|a| a.object == wanted.id);
        let tracepoints =
            of_object.filter(|a| a.kind == AttachKind::TpBtf).map(|a| (a.program.clone(), a.to.clone())).collect();
        let plan = LoadPlan {
            globals,
            host_maps: maps.by_name(),
            only: wanted.programs.iter().cloned().collect(),
            tracepoints,
            ..LoadPlan::default()
        };
        let loaded = bpf::load(spec, kernel, &plan).map_err(|e| refused(name, &wanted.id, &e))?;
        for program in loaded.programs.values() {
            tracing::trace!("{name}: {}: {}", program.name(), program.stats.replace('\n', "; "));
        }
        programs.push((wanted.id.clone(), loaded));
    }
    let counters = Counters::open(maps.counters.as_fd(), counter::COUNT)
        .map_err(|e| Failure::new("E-KERNEL", format!("cannot map the counters: {e}")))?;
    let mut attached = Attached {
        links: Vec::new(),
        programs,
        core,
        ring_bytes: maps.events.entries().into(),
        maps,
        counters,
        kernel_release: kernel.release.clone(),
    };
    attached.watch_processes(options)?;
    Ok(attached)
}

fn load_core(kernel: &Kernel, maps: &HostMaps, children: bool) -> Result<Loaded, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new("E-LOAD", format!("the host's own eBPF object: {e}"));
    let spec = ObjectSpec::parse(CORE).map_err(|e| failed(&e))?;
    let mut globals = HashMap::new();
    set_if_there(&spec, &mut globals, "ecap_follow_children", &u32::from(children).to_ne_bytes());
    let tracepoints = [("ecap_fork", "sched_process_fork"), ("ecap_exit", "sched_process_exit")];
    let plan = LoadPlan {
        globals,
        host_maps: maps.by_name(),
        tracepoints: tracepoints.map(|(p, t)| (p.to_owned(), t.to_owned())).into(),
        ..LoadPlan::default()
    };
    bpf::load(&spec, kernel, &plan).map_err(|e| failed(&e))
}

/// A constant that no program of the object reads is not in the object.
fn set_if_there(spec: &ObjectSpec, globals: &mut HashMap<String, Vec<u8>>, name: &str, value: &[u8]) {
    if spec.global_size(name).is_some() {
        globals.insert(name.into(), value.into());
    }
}

fn refused(module: &str, object: &str, error: &LoadError) -> Failure {
    if let LoadError::Program { log, .. } = error {
        tracing::trace!("{module}: {object}: the verifier's log:\n{}", log.as_str());
    }
    Failure::new("E-LOAD", format!("{module}: object {object}: {error}"))
        .remedy("-vv shows everything that the kernel's verifier said")
        .exit(Exit::Privilege)
}

impl Attached {
    /// Attaches what needs no target and fills the list of processes. The programs that follow forks come first and the
    /// list is filled after, so that a child that is born meanwhile is in one or the other.
    fn watch_processes(&mut self, options: &RunOptions) -> Result<(), Failure> {
        let Some(core) = &self.core else { return Ok(()) };
        for program in core.programs.values() {
            let link = program.attach_tp_btf().map_err(|e| Failure::new("E-ATTACH", e.to_string()))?;
            self.links.push(link);
        }
        let failed = |e: &dyn std::fmt::Display| Failure::new("E-LOAD", format!("process filter: {e}"));
        let pids = if options.children { process::with_children(&options.pids) } else { options.pids.clone() };
        for pid in pids {
            let value = if options.pids.contains(&pid) { LISTED } else { CHILD };
            self.maps.pids.update(&pid.to_ne_bytes(), &value.to_ne_bytes()).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// Attaches everything to all targets; or nothing, when one thing fails.
    ///
    /// # Errors
    /// Which program could not be attached where.
    pub fn attach(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        for attachment in &prepared.configured.attachments {
            let Some(program) = self.program(&attachment.object, &attachment.program) else { continue };
            let link = match attachment.kind {
                AttachKind::TpBtf => program.attach_tp_btf(),
                AttachKind::Tracepoint => program.attach_tracepoint(&attachment.to),
                AttachKind::Cgroup => continue,
            };
            self.links.push(link.map_err(|e| Failure::new("E-ATTACH", e.to_string()))?);
        }
        for target in &prepared.targets {
            let path = target.found.path.display();
            let file: File =
                target.found.file.try_clone().map_err(|e| Failure::new("E-ATTACH", format!("{path}: {e}")))?;
            let file = bpf::Target::new(file);
            for placement in &target.plan.placements {
                let points: Vec<Point> =
                    placement.offsets.iter().map(|o| Point::new(*o, target.number, placement.arg)).collect();
                let Some(program) = self.program(&placement.object, &placement.program) else {
                    let text = format!("{path}: the program {} is not loaded", placement.program);
                    return Err(Failure::new("E-ATTACH", text));
                };
                let link = program.attach(&file, &points);
                self.links.push(link.map_err(|e| Failure::new("E-ATTACH", format!("{path}: {e}: {}", source(&e))))?);
            }
        }
        Ok(())
    }

    fn program(&self, object: &str, name: &str) -> Option<&Program> {
        self.programs.iter().find(|(id, _)| id == object)?.1.programs.get(name)
    }

    /// Takes all probes off. Off the main thread: detaching waits for the kernel, and Ctrl-C must still be heard.
    pub async fn detach(&mut self) {
        let links = std::mem::take(&mut self.links);
        if links.is_empty() {
            return;
        }
        let count = links.len();
        let mut detaching = tokio::task::spawn_blocking(move || bpf::detach(links));
        if tokio::time::timeout(Duration::from_secs(1), &mut detaching).await.is_err() {
            tracing::info!("detaching {count} links; the kernel takes its time");
            let _ = detaching.await;
        }
    }

    /// Links that hold probes now.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Ring and doorbell, for the worker.
    #[must_use]
    pub fn worker_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.maps.events.as_fd(), self.maps.doorbell.as_fd()]
    }

    /// What the kernel side has counted so far.
    #[must_use]
    pub fn totals(&self) -> KernelTotals {
        let get = |index| self.counters.get(index);
        KernelTotals {
            produced: get(counter::PRODUCED),
            lost: get(counter::LOST),
            lost_bytes: get(counter::LOST_BYTES),
            partial: get(counter::PARTIAL),
            faults: get(counter::FAULTS),
            fault_bytes: get(counter::FAULT_BYTES),
            cut: get(counter::CUT),
            cut_bytes: get(counter::CUT_BYTES),
            state_full: get(counter::STATE_FULL),
            orphans: get(counter::ORPHANS),
            restarts: 0,
            disabled: false,
        }
    }
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}
