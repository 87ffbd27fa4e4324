//! From a prepared module to probes in the kernel: maps, programs, links.
//!
//! A target's layout row is in place before its first link: a probe that fires must already know what it is in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ecapture_plugin_api::plan::{AttachKind, Configured, Object};

use super::filters::{Filters, set_if_there};
use super::plan::global_bytes;
use super::prepare::{Ready, Target};
use crate::bpf::{self, Counters, HostMaps, Kernel, Link, LoadError, LoadPlan, Loaded, ObjectSpec, Point, Program};
use crate::failure::{Exit, Failure};
use crate::module::Loaded as Module;
use crate::protocol::KernelTotals;
use crate::target::discover::MAX_TARGETS;

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
    /// What belongs to no target.
    links: Vec<Link>,
    /// Probes by the number of their target.
    targets: BTreeMap<u32, Vec<Link>>,
    programs: Vec<(String, Loaded)>,
    maps: HostMaps,
    counters: Counters,
    /// Real size of the ring, bytes.
    pub ring_bytes: u64,
}

/// Loads maps and programs of one module; attaches nothing yet.
///
/// # Errors
/// What the kernel refuses, with the short form of the verifier's words.
pub fn load(
    module: &Module,
    ready: &Ready,
    kernel: &Kernel,
    filters: &Filters,
    ring_bytes: Option<u64>,
) -> Result<Attached, Failure> {
    let name = &module.manifest.module.name;
    let streams = module.manifest.streams.iter();
    let ring = ring_bytes.or_else(|| streams.map(|s| s.ring).max()).unwrap_or(8 << 20);
    // Room for all that may come.
    let maps = HostMaps::create(ring, MAX_TARGETS as u32, ready.layout_size().unwrap_or(0))
        .map_err(|e| Failure::new("E-KERNEL", e.to_string()).exit(Exit::Privilege))?;
    let failed = |what: &str, e: &dyn std::fmt::Display| Failure::new("E-LOAD", format!("{name}: {what}: {e}"));

    let left_out = left_out(&ready.configured, |tracepoint| kernel.has_tracepoint(tracepoint))
        .map_err(|e| Failure::new("E-KERNEL", e.to_string()).exit(Exit::Privilege))?;
    for (program, tracepoint) in &left_out {
        tracing::warn!("{name}: this kernel has no tracepoint {tracepoint}: goes on without the program {program}");
    }
    let mut programs = Vec::new();
    for wanted in &ready.configured.objects {
        let Some(spec) = ready.objects.get(&wanted.id) else { continue };
        filters.fit(name, spec)?;
        let mut globals = HashMap::new();
        for (global, value) in &wanted.globals {
            let size = spec.global_size(global).unwrap_or_default();
            let bytes = global_bytes(value, size).map_err(|e| failed(global, &e))?;
            globals.insert(global.clone(), bytes);
        }
        set_if_there(spec, &mut globals, "ecap_filter_flags", &filters.flags().to_ne_bytes());
        set_if_there(spec, &mut globals, "ecap_filter_cgroups", &filters.groups().to_ne_bytes());
        let of_object = ready.configured.attachments.iter().filter(|a| a.object == wanted.id);
        let tracepoints =
            of_object.filter(|a| a.kind == AttachKind::TpBtf).map(|a| (a.program.clone(), a.to.clone())).collect();
        let plan = LoadPlan {
            globals,
            host_maps: maps.by_name().into_iter().chain(filters.maps()).collect(),
            only: only(wanted, spec, &left_out),
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
    Ok(Attached {
        links: Vec::new(),
        targets: BTreeMap::new(),
        programs,
        ring_bytes: maps.events.entries().into(),
        maps,
        counters,
    })
}

/// Programs that can be done without and have to be, with the tracepoints that this kernel lacks.
fn left_out<E>(configured: &Configured, has: impl Fn(&str) -> Result<bool, E>) -> Result<BTreeMap<String, String>, E> {
    let mut left_out = BTreeMap::new();
    for attachment in configured.attachments.iter().filter(|a| a.kind == AttachKind::TpBtf) {
        if configured.optional.contains(&attachment.program) && !has(&attachment.to)? {
            left_out.insert(attachment.program.clone(), attachment.to.clone());
        }
    }
    Ok(left_out)
}

/// Which programs of an object are loaded; none named: all.
fn only(wanted: &Object, spec: &ObjectSpec, left_out: &BTreeMap<String, String>) -> HashSet<String> {
    if left_out.is_empty() {
        return wanted.programs.iter().cloned().collect();
    }
    let all = wanted.programs.is_empty();
    let names = spec.programs.keys().filter(|name| all || wanted.programs.contains(name));
    names.filter(|name| !left_out.contains_key(*name)).cloned().collect()
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
    /// Attaches everything to all targets; or nothing, when one thing fails.
    ///
    /// # Errors
    /// Which program could not be attached where.
    pub fn attach(&mut self, ready: &Ready, targets: &[Target]) -> Result<(), Failure> {
        for attachment in &ready.configured.attachments {
            let Some(program) = self.program(&attachment.object, &attachment.program) else { continue };
            let link = match attachment.kind {
                AttachKind::TpBtf => program.attach_tp_btf(),
                AttachKind::Tracepoint => program.attach_tracepoint(&attachment.to),
                AttachKind::Cgroup => continue,
            };
            self.links.push(link.map_err(|e| Failure::new("E-ATTACH", e.to_string()))?);
        }
        targets.iter().try_for_each(|target| self.attach_target(target))
    }

    /// Attaches everything to one target, whose row is filled before; or nothing.
    ///
    /// # Errors
    /// Which program could not be attached where.
    pub fn attach_target(&mut self, target: &Target) -> Result<(), Failure> {
        let path = target.found.path.display();
        let failed = |e: &dyn std::fmt::Display| Failure::new("E-ATTACH", format!("{path}: {e}"));
        if let Some(layouts) = self.maps.layouts.as_ref().filter(|_| !target.plan.layout.is_empty()) {
            layouts.update(&target.number.to_ne_bytes(), &target.plan.layout).map_err(|e| failed(&e))?;
        }
        let file: File = target.found.file.try_clone().map_err(|e| failed(&e))?;
        let file = bpf::Target::new(file);
        let mut links = Vec::with_capacity(target.plan.placements.len());
        for placement in &target.plan.placements {
            let points: Vec<Point> =
                placement.offsets.iter().map(|o| Point::new(*o, target.number, placement.arg)).collect();
            let program = self.program(&placement.object, &placement.program);
            let program = program.ok_or_else(|| failed(&format!("the program {} is not loaded", placement.program)))?;
            let link = program.attach(&file, &points);
            links.push(link.map_err(|e| failed(&format!("{e}: {}", source(&e))))?);
        }
        self.targets.insert(target.number, links);
        Ok(())
    }

    /// Gives out what holds the probes of one target, for [`detach`].
    #[must_use]
    pub fn take_target(&mut self, number: u32) -> Vec<Link> {
        self.targets.remove(&number).unwrap_or_default()
    }

    fn program(&self, object: &str, name: &str) -> Option<&Program> {
        self.programs.iter().find(|(id, _)| id == object)?.1.programs.get(name)
    }

    /// Gives out what holds the probes, for [`detach`].
    #[must_use]
    pub fn take_links(&mut self) -> Vec<Link> {
        let targets = std::mem::take(&mut self.targets).into_values().flatten();
        std::mem::take(&mut self.links).into_iter().chain(targets).collect()
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

/// Takes probes off. Off the main thread: detaching waits for the kernel, and Ctrl-C must still be heard.
pub async fn detach(links: Vec<Link>) {
    if links.is_empty() {
        return;
    }
    let count = links.len();
    tracing::debug!("detaching {count} links");
    let mut detaching = tokio::task::spawn_blocking(move || bpf::detach(links));
    if tokio::time::timeout(Duration::from_secs(1), &mut detaching).await.is_err() {
        tracing::info!("detaching {count} links; the kernel takes its time");
        let _ = detaching.await;
    }
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use ecapture_plugin_api::plan::Attachment;

    use super::*;

    #[test]
    fn only_what_can_be_done_without_is_left_out() {
        let attachment = |program: &str, to: &str| Attachment {
            object: "o".into(),
            program: program.into(),
            kind: AttachKind::TpBtf,
            to: to.into(),
        };
        let configured = Configured {
            attachments: vec![
                attachment("old", "there"),
                attachment("new", "not_there"),
                attachment("must", "not_there"),
            ],
            optional: vec!["old".into(), "new".into()],
            ..Configured::default()
        };
        let has = |name: &str| Ok::<_, ()>(name == "there");
        assert_eq!(left_out(&configured, has), Ok([("new".to_owned(), "not_there".to_owned())].into()));
        assert_eq!(left_out(&configured, |_| Err(7)), Err(7));
    }
}
