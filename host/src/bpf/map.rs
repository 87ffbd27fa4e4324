//! A kernel map that we own: made, filled and read with byte strings of exactly its sizes.
//!
//! Must not live here: which maps the host makes (`host_maps.rs`), and mapped memory (`mmap.rs`).
#![expect(unsafe_code, reason = "element calls, whose buffer sizes are checked here")]

use super::{
    mmap::{Counters, Word},
    sys::{self, NewMap},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// `enum bpf_map_type`, of those that the host makes.
pub mod kind {
    /// Keys to values; an update fails when it is full.
    pub const HASH: u32 = 1;
    /// Numbers to values, all there from the start.
    pub const ARRAY: u32 = 2;
    /// A hash with one value for each CPU.
    pub const PERCPU_HASH: u32 = 5;
    /// An array with one value for each CPU.
    pub const PERCPU_ARRAY: u32 = 6;
    /// Control groups by descriptor.
    pub const CGROUP_ARRAY: u32 = 8;
    /// A hash that throws old entries out.
    pub const LRU_HASH: u32 = 9;
    /// Such a hash with one value for each CPU.
    pub const LRU_PERCPU_HASH: u32 = 10;
    /// Prefixes to values.
    pub const LPM_TRIE: u32 = 11;
    /// A value for each socket, gone with it.
    pub const SK_STORAGE: u32 = 24;
    /// Records to user space.
    pub const RINGBUF: u32 = 27;
    /// A value for each thread, gone with it.
    pub const TASK_STORAGE: u32 = 29;
}

/// The map is an array whose pages can be mapped.
pub const MMAPABLE: u32 = 1 << 10;

/// Why a map could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The kernel does not make it.
    #[error("BPF_MAP_CREATE of map {name} (type {kind}, key {key}, value {value}, entries {entries})")]
    Create {
        /// The map.
        name: String,
        /// `enum bpf_map_type`.
        kind: u32,
        /// Bytes of a key.
        key: u32,
        /// Bytes of a value.
        value: u32,
        /// Most entries.
        entries: u32,
        /// The kernel's words.
        source: io::Error,
    },
    /// A key or a value of another size than the map's.
    #[error("map {name}: {what} of {given} bytes, the map's has {wanted}")]
    Size {
        /// The map.
        name: String,
        /// `key` or `value`.
        what: &'static str,
        /// The map's size.
        wanted: u32,
        /// The caller's.
        given: usize,
    },
    /// A map with one value for each CPU; use another type.
    #[error("map {name} has values per CPU, which the host does not read")]
    PerCpu {
        /// The map.
        name: String,
    },
    /// The kernel refuses the call.
    #[error("{call} of map {name}")]
    Call {
        /// The map.
        name: String,
        /// What was called.
        call: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// A map of the host in a size that cannot be.
    #[error("map {name}: {why}")]
    Host {
        /// The map.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A map and what it is made of. Closed when dropped; programs that use it keep it alive.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    name: String,
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

impl Map {
    /// Makes a map of a type in [`kind`]. Sizes in bytes; `entries` of a ring are its bytes.
    pub fn create(kind: u32, key: u32, value: u32, entries: u32, flags: u32, name: &str) -> Result<Self, MapError> {
        Self::new(&NewMap { kind, key, value, entries, flags, name, ..NewMap::default() })
    }

    pub(super) fn new(map: &NewMap<'_>) -> Result<Self, MapError> {
        let &NewMap { kind, key, value, entries, flags, name, .. } = map;
        let name = name.to_owned();
        match sys::map_create(map) {
            Ok(fd) => Ok(Self { fd, name, kind, key, value, entries, flags }),
            Err(source) => Err(MapError::Create { name, kind, key, value, entries, source }),
        }
    }

    /// Takes a map by its descriptor and asks the kernel what it is (needs the right to call `bpf(2)`).
    pub fn from_fd(fd: OwnedFd, name: &str) -> Result<Self, MapError> {
        let info = sys::map_info(fd.as_fd()).map_err(|source| MapError::Call {
            name: name.to_owned(),
            call: "BPF_OBJ_GET_INFO_BY_FD",
            source,
        })?;
        let (kind, key, value, entries, flags) =
            (info.type_, info.key_size, info.value_size, info.max_entries, info.map_flags);
        Ok(Self { fd, name: name.to_owned(), kind, key, value, entries, flags })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `enum bpf_map_type`.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// Bytes of a key.
    pub fn key_size(&self) -> u32 {
        self.key
    }

    /// Bytes of a value.
    pub fn value_size(&self) -> u32 {
        self.value
    }

    /// Most entries; bytes for a ring.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// `BPF_F_*`.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// A second descriptor of the same map, to hand to another process.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Sets the value of a key.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<(), MapError> {
        self.check("key", self.key, key.len())?;
        self.check("value", self.value, value.len())?;
        // SAFETY: both sizes are the map's, and it is no per-CPU map (checked).
        unsafe { sys::map_update(self.fd.as_fd(), key, value) }.map_err(|e| self.call("BPF_MAP_UPDATE_ELEM", e))
    }

    /// Sets the value of a key that has none; answers whether it did.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<bool, MapError> {
        self.check("key", self.key, key.len())?;
        self.check("value", self.value, value.len())?;
        // SAFETY: both sizes are the map's, and it is no per-CPU map (checked).
        match unsafe { sys::map_insert(self.fd.as_fd(), key, value) } {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.call("BPF_MAP_UPDATE_ELEM", e)),
        }
    }

    /// The value of a key, or `None`.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MapError> {
        self.check("key", self.key, key.len())?;
        let mut value = vec![0; self.value as usize];
        // SAFETY: both sizes are the map's, and it is no per-CPU map (checked).
        match unsafe { sys::map_lookup(self.fd.as_fd(), key, &mut value) } {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.call("BPF_MAP_LOOKUP_ELEM", e)),
        }
    }

    /// Removes a key; answers whether it was there.
    pub fn delete(&self, key: &[u8]) -> Result<bool, MapError> {
        self.check("key", self.key, key.len())?;
        // SAFETY: the size is the map's (checked).
        match unsafe { sys::map_delete(self.fd.as_fd(), key) } {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.call("BPF_MAP_DELETE_ELEM", e)),
        }
    }

    /// All keys. While programs change the map some may be missing or come twice, but it ends.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, MapError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < self.entries as usize {
            let mut next = vec![0; self.key as usize];
            // SAFETY: both buffers have the size of the map's keys.
            match unsafe { sys::map_next_key(self.fd.as_fd(), keys.last().map(Vec::as_slice), &mut next) } {
                Ok(()) => keys.push(next),
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(self.call("BPF_MAP_GET_NEXT_KEY", e)),
            }
        }
        Ok(keys)
    }

    /// The words of a mappable array.
    pub fn counters(&self) -> Result<Counters, MapError> {
        let count = self.value as usize / 8 * self.entries as usize;
        Counters::open(&self.fd, count).map_err(|e| self.call("mmap", e))
    }

    /// The first word of a mappable array, writable.
    pub fn word(&self) -> Result<Word, MapError> {
        Word::open(&self.fd).map_err(|e| self.call("mmap", e))
    }

    pub(super) fn freeze(&self) -> Result<(), MapError> {
        sys::map_freeze(self.fd.as_fd()).map_err(|e| self.call("BPF_MAP_FREEZE", e))
    }

    fn check(&self, what: &'static str, wanted: u32, given: usize) -> Result<(), MapError> {
        if [kind::PERCPU_HASH, kind::PERCPU_ARRAY, kind::LRU_PERCPU_HASH].contains(&self.kind) {
            return Err(MapError::PerCpu { name: self.name.clone() });
        }
        if wanted as usize == given {
            return Ok(());
        }
        Err(MapError::Size { name: self.name.clone(), what, wanted, given })
    }

    fn call(&self, call: &'static str, source: io::Error) -> MapError {
        MapError::Call { name: self.name.clone(), call, source }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
