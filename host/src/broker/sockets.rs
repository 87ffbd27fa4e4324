//! Whose the sockets are that were there before the programs: the kernel side learns of a socket when it is made or used, and
//! a connection that only receives would be nobody's until then.
//!
//! A process's socket is borrowed for a moment (`pidfd_getfd`), since the kernel takes a value for a socket only by a
//! descriptor of it. Nothing is read from or written to it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::filters::Filters;
use crate::bpf::Map;
use crate::packet::Owner;
use crate::packet::record::owner_bytes;
use crate::target::{cgroup, process};

/// Most that are looked at.
const MOST: usize = 200_000;

/// Writes owners into the map; how many.
pub fn fill(map: &Map, filters: &Filters, hierarchy: Option<&Path>) -> usize {
    let (mut known, mut looked) = (0, 0);
    for pid in process::all() {
        let sockets = sockets_of(pid);
        if sockets.is_empty() {
            continue;
        }
        let Some(value) = value(pid, filters, hierarchy) else { continue };
        let Some(handle) = Pid::from_raw(pid.cast_signed()).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok())
        else {
            continue;
        };
        for number in sockets {
            looked += 1;
            if looked > MOST {
                tracing::warn!(
                    "packets: more than {MOST} sockets: the owners of the others are known when they are used"
                );
                return known;
            }
            let Ok(socket) = pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()) else { continue };
            known += usize::from(put(map, &socket, &value));
        }
    }
    known
}

/// Only where nobody is known yet: the hooks know better.
fn put(map: &Map, socket: &OwnedFd, value: &[u8]) -> bool {
    matches!(socket_domain(socket), Ok(AddressFamily::INET | AddressFamily::INET6))
        && matches!(map.insert(&socket.as_raw_fd().to_ne_bytes(), value), Ok(true))
}

/// Numbers of the descriptors of a process that are sockets.
fn sockets_of(pid: u32) -> Vec<i32> {
    let Ok(dir) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let number = |entry: std::fs::DirEntry| {
        let leads_to = std::fs::read_link(entry.path()).ok()?;
        leads_to.to_str()?.starts_with("socket:").then_some(())?;
        entry.file_name().to_str()?.parse().ok()
    };
    dir.flatten().filter_map(number).collect()
}

fn value(pid: u32, filters: &Filters, hierarchy: Option<&Path>) -> Option<Vec<u8>> {
    let threads = process::threads(pid);
    let (comm, uid) = threads.first()?.clone();
    let names: Vec<Vec<u8>> = threads.into_iter().map(|(name, _)| name).collect();
    let directory = hierarchy.and_then(|mount| cgroup::directory_of(pid, mount));
    let cgroup = cgroup::place(pid, hierarchy).group.unwrap_or(0);
    let wanted = filters.lets_through(pid, uid, &names, directory.as_deref());
    Some(owner_bytes(&Owner { process: pid, uid, cgroup, comm }, wanted))
}
