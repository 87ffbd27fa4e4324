//! Frames of network interfaces: the host's own programs in the kernel, the interfaces that they are at, and the words for
//! the user when one comes, goes or changes.
//!
//! No captured byte is seen here: the ring is made here and read by the collector.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::attach;
use super::attend::{Attended, printable};
use super::filters::{Filters, readiness, set_if_there};
use super::sockets;
use crate::bpf::{self, AttachError, Counters, Kernel, Link, LoadPlan, Loaded, ObjectSpec};
use crate::cli::{PacketHook, PacketOptions};
use crate::event::PacketTotals;
use crate::failure::{Exit, Failure};
use crate::packet::netlink::{self, Watch};
use crate::packet::{Interface, clsact};
use crate::protocol::ToCollector;
use crate::sandbox::privileges;
use crate::target::{cgroup, process};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/packets.bpf.o"));

/// Words of `packets_counters` (`ebpf-objects/src/packets.h`).
const COUNTERS: usize = 10;
/// Hooks in the context of processes, and the tracepoints that they are at.
const HOOKS: [(&str, &str); 3] = [
    ("packets_sent", "sock_send_length"),
    ("packets_received", "sock_recv_length"),
    ("packets_state", "inet_sock_set_state"),
];
/// The one at the making of sockets.
const CREATED: &str = "packets_created";

/// What holds the programs at an interface.
enum Held {
    /// By links.
    Tcx(Vec<Link>),
    /// Before Linux 6.6: by filters, which are taken away when it is dropped.
    Clsact(clsact::Filters),
}

/// An interface that frames are captured from.
struct Watched {
    name: String,
    link_type: u16,
    up: bool,
    held: Held,
}

/// The capture of frames. Dropping it takes everything out of the kernel.
pub struct Packets {
    hooks: Vec<Link>,
    watched: BTreeMap<u32, Watched>,
    loaded: Loaded,
    counters: Counters,
    watch: Watch,
    ready: UnixStream,
    /// Interfaces asked for; empty: all that are up.
    wanted: Vec<String>,
    /// Numbers of those that are there and were refused: tried again whenever something has changed, said once.
    refused: BTreeSet<u32>,
    /// Of those that had another name before, what was counted until then: that is told already.
    told: BTreeMap<u32, (u64, u64)>,
    groups: Vec<u64>,
    warned_lost: u64,
    /// Where the programs are put: what was asked for, and then what the kernel has.
    hook: PacketHook,
    /// Numbers of interfaces that went since somebody looked.
    went: BTreeSet<u32>,
    /// Nothing more is heard of interfaces.
    deaf: bool,
    /// No more are taken.
    stopped: bool,
    /// Real size of the ring, bytes.
    pub ring_bytes: u64,
}

fn failed(e: &dyn std::fmt::Display) -> Failure {
    Failure::new("E-LOAD", format!("the host's own eBPF object for packets: {e}")).exit(Exit::Privilege)
}

/// Whether frames can be captured as far as rights and names go; before anything else is done.
///
/// # Errors
/// `E-PRIVILEGE`, `E-INTERFACE`.
pub fn check(options: &PacketOptions) -> Result<(), Failure> {
    if !privileges::has_net_admin() {
        let text = "capturing packets needs a privilege that this process does not have: CAP_NET_ADMIN";
        return Err(Failure::new("E-PRIVILEGE", text)
            .remedy("run it as root, for example with sudo, or capture without packets: -m keylog")
            .exit(Exit::Privilege));
    }
    let links = interfaces()?;
    for name in &options.interfaces {
        let Some(link) = links.iter().find(|l| l.name == *name) else {
            let there: Vec<&str> = links.iter().map(|l| l.name.as_str()).collect();
            let text = format!("there is no network interface {name} in this network namespace");
            return Err(Failure::new("E-INTERFACE", text).remedy(format!("there are: {}", there.join(", "))));
        };
        if link.link_type().is_none() {
            return Err(Failure::new("E-INTERFACE", unknown_type(link)).remedy(
                "name others: Ethernet and what is like it, loopback, and tunnels of IP packets can be captured from",
            ));
        }
    }
    Ok(())
}

fn unknown_type(link: &netlink::Link) -> String {
    format!(
        "the frames of network interface {} (hardware type {}) are none that can be captured",
        link.name, link.hardware
    )
}

fn interfaces() -> Result<Vec<netlink::Link>, Failure> {
    netlink::links().map_err(|e| Failure::new("E-INTERFACE", format!("cannot list the network interfaces: {e}")))
}

impl Packets {
    /// Loads the programs. From here on sockets are followed; at interfaces there is nothing yet.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn load(kernel: &Kernel, filters: &Filters, options: &PacketOptions) -> Result<Self, Failure> {
        let spec = ObjectSpec::parse(OBJECT).map_err(|e| failed(&e))?;
        let mut globals = HashMap::new();
        set_if_there(&spec, &mut globals, "packets_filter", &filters.flags().to_ne_bytes());
        set_if_there(&spec, &mut globals, "packets_unowned", &u32::from(options.unowned).to_ne_bytes());
        let mut only: std::collections::HashSet<String> = spec.programs.keys().cloned().collect();
        for (program, tracepoint) in HOOKS {
            if !kernel.has_tracepoint(tracepoint).map_err(|e| failed(&e))? {
                tracing::warn!("packets: this kernel has no tracepoint {tracepoint}: fewer frames have an owner");
                only.remove(program);
            }
        }
        let hierarchy = cgroup::mount();
        if hierarchy.is_none() {
            tracing::warn!("packets: no control groups of version 2: a new socket has no owner before it is used");
            only.remove(CREATED);
        }
        let ring = options.ring_bytes.next_power_of_two();
        let ring = u32::try_from(ring).map_err(|e| failed(&e))?;
        let plan = LoadPlan {
            globals,
            host_maps: filters.maps(),
            only,
            max_entries: [("packets_ring".to_owned(), ring)].into(),
            tracepoints: HOOKS.map(|(program, tracepoint)| (program.to_owned(), tracepoint.to_owned())).into(),
            ..LoadPlan::default()
        };
        let loaded = bpf::load(&spec, kernel, &plan).map_err(|e| {
            if let bpf::LoadError::Program { log, .. } = &e {
                tracing::trace!("packets: the verifier's log:\n{}", log.as_str());
            }
            failed(&e)
        })?;
        let counters = map(&loaded, "packets_counters")?;
        let counters = Counters::open(counters.as_fd(), COUNTERS).map_err(|e| failed(&e))?;
        let watch = Watch::new().map_err(|e| failed(&e))?;
        let ready = watch.as_fd().try_clone_to_owned().and_then(readiness).map_err(|e| failed(&e))?;
        let mut packets = Self {
            hooks: Vec::new(),
            watched: BTreeMap::new(),
            counters,
            watch,
            ready,
            wanted: options.interfaces.clone(),
            refused: BTreeSet::new(),
            told: BTreeMap::new(),
            groups: Vec::new(),
            warned_lost: 0,
            hook: options.hook,
            went: BTreeSet::new(),
            deaf: false,
            stopped: false,
            ring_bytes: map(&loaded, "packets_ring")?.entries().into(),
            loaded,
        };
        packets.refresh(filters);
        packets.follow_sockets(hierarchy.as_deref())?;
        // After the hooks: a socket that is made meanwhile is in one or the other.
        let sockets = map(&packets.loaded, "packets_sockets")?;
        let known = sockets::fill(sockets, filters, hierarchy.as_deref());
        tracing::debug!("packets: owners of {known} sockets that are there already");
        // What an earlier run left that was killed, on kernels without TCX.
        clsact::clean_up();
        Ok(packets)
    }

    fn follow_sockets(&mut self, hierarchy: Option<&std::path::Path>) -> Result<(), Failure> {
        let refused = |e: AttachError| Failure::new("E-ATTACH", e.to_string());
        for (name, _) in HOOKS {
            if let Some(program) = self.loaded.programs.get(name) {
                self.hooks.push(program.attach_tp_btf().map_err(refused)?);
            }
        }
        if let (Some(program), Some(root)) = (self.loaded.programs.get(CREATED), hierarchy) {
            let root = File::open(root).map_err(|e| failed(&e))?;
            match program.attach_cgroup(&root) {
                Ok(link) => self.hooks.push(link),
                Err(e) => tracing::warn!("packets: a new socket has no owner before it is used: {e}"),
            }
        }
        Ok(())
    }

    /// Twice a second: what has been lost, and control groups that were made anew.
    pub fn look_around(&mut self, filters: &Filters) {
        self.refresh(filters);
        let totals = self.totals();
        let lost = totals.lost + totals.partial;
        if lost > self.warned_lost {
            tracing::warn!(
                "packets: {} frames lost or cut short because the ring is full ({lost} of {} so far); a larger --packet-ring helps",
                lost - self.warned_lost,
                totals.produced,
            );
            self.warned_lost = lost;
        }
    }

    fn refresh(&mut self, filters: &Filters) {
        let now = filters.group_numbers();
        if now == self.groups {
            return;
        }
        if let Some(groups) = self.loaded.maps.get("packets_groups") {
            for gone in self.groups.iter().filter(|g| !now.contains(g)) {
                let _ = groups.delete(&gone.to_ne_bytes());
            }
            for group in &now {
                if let Err(e) = groups.update(&group.to_ne_bytes(), &1u32.to_ne_bytes()) {
                    tracing::warn!("packets: {e}");
                }
            }
        }
        self.groups = now;
    }

    /// Ring and doorbell, for the collector.
    ///
    /// # Errors
    /// None, but the object's.
    pub fn reader_fds(&self) -> Result<[BorrowedFd<'_>; 2], Failure> {
        Ok([map(&self.loaded, "packets_ring")?.as_fd(), map(&self.loaded, "packets_doorbell")?.as_fd()])
    }

    /// Puts the programs at the interfaces that there are.
    ///
    /// # Errors
    /// What was asked for by name and cannot be had; with no name, that there is nothing at all.
    pub fn attach(&mut self, collector: &Attended) -> Result<(), Failure> {
        let links = interfaces()?;
        for name in self.wanted.clone() {
            let Some(link) = links.iter().find(|l| l.name == name) else {
                return Err(Failure::new("E-INTERFACE", format!("the network interface {name} is gone")));
            };
            if !link.up {
                tracing::warn!("network interface {name} is down: its frames are captured when it comes up");
            }
        }
        for link in &links {
            if !self.wants(link) {
                continue;
            }
            match self.take(link, collector) {
                Ok(()) => {}
                Err(failure) if !self.wanted.is_empty() => return Err(failure),
                Err(failure) => self.refuse(link.index, &failure),
            }
        }
        if self.watched.is_empty() {
            tracing::warn!("no network interface is up: frames are captured from those that come up");
        }
        Ok(())
    }

    fn wants(&self, link: &netlink::Link) -> bool {
        if self.wanted.is_empty() { link.up } else { self.wanted.contains(&link.name) }
    }

    fn refuse(&mut self, index: u32, failure: &Failure) {
        if self.refused.insert(index) {
            tracing::warn!("{failure}");
        }
    }

    /// Captures from one interface. The collector is told first: the first frame may come at once.
    fn take(&mut self, link: &netlink::Link, collector: &Attended) -> Result<(), Failure> {
        let Some(link_type) = link.link_type() else {
            return Err(Failure::new("E-INTERFACE", unknown_type(link)));
        };
        introduce(link, link_type, collector);
        let counts = map(&self.loaded, "packets_interfaces")?;
        counts.insert(&link.index.to_ne_bytes(), &[0; 16]).map_err(|e| failed(&e))?;
        let programs: &[(&str, bool)] = match (link.loopback, link_type) {
            (true, _) => &[("packets_loopback", false)],
            (false, 1) => &[("packets_ether_in", false), ("packets_ether_out", true)],
            (false, _) => &[("packets_raw_in", false), ("packets_raw_out", true)],
        };
        let held = self.put(link, programs).map_err(|e| {
            self.close(link.index, collector);
            Failure::new("E-INTERFACE", format!("cannot capture from network interface {}: {e}", link.name))
        })?;
        self.watched.insert(link.index, Watched { name: link.name.clone(), link_type, up: link.up, held });
        self.refused.remove(&link.index);
        Ok(())
    }

    /// Nothing more comes of an interface. Its place in the kernel's map is another one's, of which there may be many in a long run.
    fn close(&mut self, index: u32, collector: &Attended) {
        if let Some((received, lost)) = self.counted(index) {
            collector.send(&ToCollector::InterfaceOver(index, received, lost));
        }
        self.told.remove(&index);
        if let Some(counts) = self.loaded.maps.get("packets_interfaces") {
            let _ = counts.delete(&index.to_ne_bytes());
        }
    }

    /// It has another name from now on.
    fn rename(&mut self, link: &netlink::Link, link_type: u16, collector: &Attended) {
        if let Some((received, lost)) = self.counted(link.index) {
            collector.send(&ToCollector::InterfaceOver(link.index, received, lost));
            let told = self.told.entry(link.index).or_default();
            *told = (told.0 + received, told.1 + lost);
        }
        introduce(link, link_type, collector);
    }

    fn put(&mut self, link: &netlink::Link, programs: &[(&str, bool)]) -> Result<Held, String> {
        let mut found = Vec::new();
        for (name, outbound) in programs {
            let program = self.loaded.programs.get(*name).ok_or("a program is missing")?;
            found.push((program, *outbound));
        }
        if self.hook != PacketHook::Clsact {
            let links: Result<Vec<Link>, AttachError> =
                found.iter().map(|(program, outbound)| program.attach_interface(link.index, *outbound)).collect();
            match links {
                Ok(links) => return Ok(Held::Tcx(links)),
                // The kernel does not know the kind of link: before 6.6.
                Err(AttachError::Call { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                    if self.hook == PacketHook::Tcx {
                        return Err("this kernel has no TCX (Linux 6.6); leave out --packet-hook".into());
                    }
                    tracing::debug!("packets: no TCX; by clsact");
                }
                Err(e) => return Err(words(&e)),
            }
        }
        let programs: Vec<(BorrowedFd<'_>, bool)> = found.iter().map(|(p, outbound)| (p.fd(), *outbound)).collect();
        let filters = clsact::Filters::put(link.index, &programs).map_err(|e| e.to_string())?;
        if !filters.first() {
            tracing::warn!(
                "network interface {}: filters of others come first and may take frames away before they are seen",
                link.name
            );
        }
        self.hook = PacketHook::Clsact;
        Ok(Held::Clsact(filters))
    }

    /// Waits until an interface has changed.
    pub async fn changed(this: &mut Option<Self>) {
        if let Some(packets) = this.as_mut().filter(|packets| !packets.deaf) {
            let Err(e) = packets.hear().await else { return };
            packets.deaf = true;
            tracing::warn!(
                "nothing is heard of network interfaces any more ({e}): those that come are not captured from"
            );
        }
        std::future::pending().await
    }

    async fn hear(&mut self) -> io::Result<()> {
        while !self.watch.heard(&mut self.went)? {
            self.ready.readable().await?;
            let _ = self.ready.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(())
    }

    /// Some interface has changed: takes what came, lets go of what went, and says it.
    pub fn look_again(&mut self, collector: &Attended) {
        if self.stopped {
            return;
        }
        let links = match interfaces() {
            Ok(links) => links,
            Err(failure) => {
                tracing::warn!("{failure}");
                return;
            }
        };
        // Under the number of one that went there may be another one already.
        let went = std::mem::take(&mut self.went);
        let same = |link: &netlink::Link| !went.contains(&link.index) && self.stays(link);
        let there: BTreeSet<u32> = links.iter().filter(|link| same(link)).map(|link| link.index).collect();
        let gone: Vec<u32> = self.watched.keys().copied().filter(|index| !there.contains(index)).collect();
        for index in gone {
            if let Some(watched) = self.watched.remove(&index) {
                tracing::warn!("network interface {} is gone: nothing more is captured from it", watched.name);
                drop(watched.held);
                self.close(index, collector);
            }
        }
        self.refused.retain(|index| !went.contains(index) && links.iter().any(|link| link.index == *index));
        for link in &links {
            if let Some(watched) = self.watched.get_mut(&link.index) {
                let renamed = watched.name != link.name;
                if renamed {
                    tracing::warn!("network interface {} is called {} now", watched.name, link.name);
                    watched.name.clone_from(&link.name);
                }
                if watched.up != link.up {
                    watched.up = link.up;
                    if link.up {
                        tracing::warn!("network interface {} is up again", link.name);
                    } else {
                        tracing::warn!("network interface {} is down: nothing is captured while it is", link.name);
                    }
                }
                if renamed {
                    let link_type = watched.link_type;
                    self.rename(link, link_type, collector);
                }
            } else if self.wants(link) {
                match self.take(link, collector) {
                    Ok(()) => tracing::warn!("network interface {} has come: captured from now on", link.name),
                    Err(failure) => self.refuse(link.index, &failure),
                }
            }
        }
    }

    /// It is one that is captured from, and its frames begin with what they began with.
    fn stays(&self, link: &netlink::Link) -> bool {
        self.watched.get(&link.index).is_some_and(|watched| link.link_type() == Some(watched.link_type))
    }

    /// Names of the interfaces that are captured from.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.watched.values().map(|w| w.name.as_str()).collect();
        printable(&names.join(", "))
    }

    /// Takes the programs off all interfaces; the ring stays for its reader.
    pub async fn stop(&mut self) {
        self.stopped = true;
        let mut links = std::mem::take(&mut self.hooks);
        for watched in std::mem::take(&mut self.watched).into_values() {
            match watched.held {
                Held::Tcx(of_interface) => links.extend(of_interface),
                Held::Clsact(filters) => drop(filters),
            }
        }
        attach::detach(links).await;
    }

    /// Numbers of the interfaces that are there, with what was to be captured and what of it was lost under the names that they have.
    #[must_use]
    pub fn by_interface(&self) -> Vec<(u32, u64, u64)> {
        let Some(counts) = self.loaded.maps.get("packets_interfaces") else { return Vec::new() };
        let of = |key: Vec<u8>| {
            let index = u32::from_ne_bytes(key.as_slice().try_into().ok()?);
            let (received, lost) = self.counted(index)?;
            Some((index, received, lost))
        };
        counts.keys().unwrap_or_default().into_iter().filter_map(of).collect()
    }

    /// The same of one.
    fn counted(&self, index: u32) -> Option<(u64, u64)> {
        let value = self.loaded.maps.get("packets_interfaces")?.lookup(&index.to_ne_bytes()).ok()??;
        let word = |at: usize| Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
        let told = self.told.get(&index).copied().unwrap_or_default();
        Some((word(0)?.saturating_sub(told.0), word(8)?.saturating_sub(told.1)))
    }

    /// What the kernel side has counted.
    #[must_use]
    pub fn totals(&self) -> PacketTotals {
        let get = |index| self.counters.get(index);
        PacketTotals {
            produced: get(0),
            lost: get(1),
            lost_bytes: get(2),
            partial: get(3),
            faults: get(4),
            filtered: get(5),
            unowned: get(6),
            owned: get(7),
            ..PacketTotals::default()
        }
    }
}

/// The collector learns what the frames with its number are of.
fn introduce(link: &netlink::Link, link_type: u16, collector: &Attended) {
    let interface = Interface { index: link.index, name: link.name.clone(), link_type };
    collector.send(&ToCollector::Interface(interface, process::monotonic_ns()));
}

fn map<'a>(loaded: &'a Loaded, name: &str) -> Result<&'a bpf::Map, Failure> {
    loaded.maps.get(name).ok_or_else(|| failed(&format!("it has no map {name}")))
}

fn words(error: &AttachError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn tool(program: &str, args: &[&str]) -> String {
        let done = Command::new(program).args(args).output().expect("iproute2");
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
    }

    /// A pair of interfaces that is gone when dropped.
    struct Pair(String);

    impl Pair {
        fn index(&self) -> u32 {
            netlink::links().unwrap().iter().find(|l| l.name == self.0).expect("it was made").index
        }

        fn shown(&self) -> String {
            tool("tc", &["filter", "show", "dev", &self.0, "ingress"])
                + &tool("tc", &["filter", "show", "dev", &self.0, "egress"])
                + &tool("tc", &["qdisc", "show", "dev", &self.0])
        }
    }

    impl Drop for Pair {
        fn drop(&mut self) {
            tool("ip", &["link", "del", &self.0]);
        }
    }

    #[test]
    fn filters_of_clsact_go_when_dropped_and_those_of_a_dead_process_at_the_next_start() {
        const TEST: &str = "filters_of_clsact";
        let kernel = match Kernel::probe(None) {
            Ok(kernel) => kernel,
            Err(e) => {
                println!("SKIPPED {TEST}: {e}");
                return;
            }
        };
        let pair = Pair(format!("ecap{}", std::process::id() % 1_000_000));
        let made = tool("ip", &["link", "add", &pair.0, "type", "veth", "peer", "name", &format!("{}p", pair.0)]);
        if !made.is_empty() {
            println!("SKIPPED {TEST}: {made}");
            return;
        }
        let spec = ObjectSpec::parse(OBJECT).unwrap();
        let plan = LoadPlan {
            only: ["packets_ether_in".to_owned(), "packets_ether_out".to_owned()].into(),
            ..LoadPlan::default()
        };
        let loaded = bpf::load(&spec, &kernel, &plan).unwrap();
        let of = |name: &str| loaded.programs[name].fd();
        let programs = [(of("packets_ether_in"), false), (of("packets_ether_out"), true)];
        let index = pair.index();

        let filters = clsact::Filters::put(index, &programs).unwrap();
        let shown = pair.shown();
        assert_eq!(shown.matches("ecapture-").count(), 2, "{shown}");
        clsact::clean_up();
        assert_eq!(pair.shown().matches("ecapture-").count(), 2, "a living process keeps its own");
        drop(filters);
        let shown = pair.shown();
        assert!(!shown.contains("ecapture-") && !shown.contains("clsact"), "{shown}");

        // A process of this number, but of another time.
        std::mem::forget(clsact::Filters::put_of(index, &programs, (std::process::id(), 1)).unwrap());
        assert_eq!(pair.shown().matches("ecapture-").count(), 2);
        clsact::clean_up();
        let shown = pair.shown();
        assert!(!shown.contains("ecapture-") && !shown.contains("clsact"), "{shown}");

        // The discipline of somebody else stays.
        assert_eq!(tool("tc", &["qdisc", "add", "dev", &pair.0, "clsact"]), "");
        drop(clsact::Filters::put(index, &programs).unwrap());
        assert!(pair.shown().contains("clsact"));
    }
}
