//! The maps that the host makes, for each module or for all of a run, and gives to all objects by name.
//!
//! Their kernel side is `ebpf-objects/include/ecapture/maps.h`; an object that declares one differently is refused at load.

use super::{
    map::{MMAPABLE, Map, MapError, kind},
    object::MapSpec,
};
use std::collections::HashMap;

/// Names that belong to the host in every object.
pub const HOST_MAPS: [&str; 9] = [
    "ecap_events",
    "ecap_counters",
    "ecap_doorbell",
    "ecap_layouts",
    "ecap_pids",
    "ecap_uids",
    "ecap_comms",
    "ecap_cgroups",
    // Scratch of the filter; made for each object, since it needs the object's types.
    "ecap_comm_of",
];

/// Slots of `ecap_cgroups`.
pub const CGROUPS: usize = 8;
/// Room in `ecap_comms`.
pub const COMMS: usize = 64;

const MIN_RING: u64 = 64 << 10;
const MAX_RING: u64 = 1 << 30;
const COUNTERS: u32 = 4096;
const MAX_TARGETS: u32 = 65_536;
const MAX_LAYOUT: u32 = 64 << 10;
const PIDS: u32 = 16_384;
const UIDS: u32 = 256;

/// One set of maps, for one module.
#[derive(Debug)]
pub struct HostMaps {
    /// `ecap_events`: the ring. Its real size is `entries()`.
    pub events: Map,
    /// `ecap_counters`: 512 words, mappable.
    pub counters: Map,
    /// `ecap_doorbell`: one word, mappable.
    pub doorbell: Map,
    /// `ecap_layouts`: a row of the module's own kind for each target; `None` if its objects declare none.
    pub layouts: Option<Map>,
}

/// What the filters of all modules of a run ask: one set of maps for all of them.
#[derive(Debug)]
pub struct FilterMaps {
    /// `ecap_pids`: processes that are watched.
    pub pids: Map,
    /// `ecap_uids`: users that are watched.
    pub uids: Map,
    /// `ecap_comms`: names of threads that are watched.
    pub comms: Map,
    /// `ecap_cgroups`: control groups that are watched, with all below them.
    pub cgroups: Map,
}

impl FilterMaps {
    /// Makes them, empty.
    pub fn create() -> Result<Self, MapError> {
        Ok(Self {
            pids: Map::create(kind::HASH, 4, 4, PIDS, 0, "ecap_pids")?,
            uids: Map::create(kind::HASH, 4, 4, UIDS, 0, "ecap_uids")?,
            comms: Map::create(kind::HASH, 16, 4, COMMS as u32, 0, "ecap_comms")?,
            cgroups: Map::create(kind::CGROUP_ARRAY, 4, 4, CGROUPS as u32, 0, "ecap_cgroups")?,
        })
    }

    /// By name, as `LoadPlan::host_maps` takes them.
    pub fn by_name(&self) -> HashMap<String, &Map> {
        [&self.pids, &self.uids, &self.comms, &self.cgroups]
            .into_iter()
            .map(|map| (map.name().to_owned(), map))
            .collect()
    }
}

impl HostMaps {
    /// Makes them. `ring_bytes` is rounded up to what the kernel takes (a power of two, 64 KiB at least); `targets` rows of
    /// `layout_value_size` bytes (what the object declares; 0 = it declares none).
    pub fn create(ring_bytes: u64, targets: u32, layout_value_size: u32) -> Result<Self, MapError> {
        let ring = ring_bytes.max(MIN_RING).checked_next_power_of_two().filter(|size| *size <= MAX_RING);
        let ring = ring.and_then(|size| u32::try_from(size).ok()).ok_or_else(|| MapError::Host {
            name: "ecap_events",
            why: format!("a ring of {ring_bytes} bytes; at most {MAX_RING} are made"),
        })?;
        if layout_value_size > MAX_LAYOUT || !(1..=MAX_TARGETS).contains(&targets) {
            let why = format!(
                "{targets} rows of {layout_value_size} bytes; 1 to {MAX_TARGETS} rows of at most {MAX_LAYOUT} bytes are made"
            );
            return Err(MapError::Host { name: "ecap_layouts", why });
        }
        let layouts = (layout_value_size > 0)
            .then(|| Map::create(kind::ARRAY, 4, layout_value_size, targets, 0, "ecap_layouts"))
            .transpose()?;
        Ok(Self {
            events: Map::create(kind::RINGBUF, 0, 0, ring, 0, "ecap_events")?,
            counters: Map::create(kind::ARRAY, 4, COUNTERS, 1, MMAPABLE, "ecap_counters")?,
            doorbell: Map::create(kind::ARRAY, 4, 8, 1, MMAPABLE, "ecap_doorbell")?,
            layouts,
        })
    }

    /// By name, as `LoadPlan::host_maps` takes them.
    pub fn by_name(&self) -> HashMap<String, &Map> {
        let all = [&self.events, &self.counters, &self.doorbell];
        all.into_iter().chain(&self.layouts).map(|map| (map.name().to_owned(), map)).collect()
    }
}

/// Does the map that we have fit what an object declares? The number of entries may differ: that is the host's choice.
pub(super) fn fits(declared: &MapSpec, given: &Map) -> bool {
    (declared.kind, declared.key, declared.value, declared.flags)
        == (given.kind(), given.key_size(), given.value_size(), given.flags())
}
