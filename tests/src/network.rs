//! Networks of one's own: whatever else the machine sends is not in them.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace with nothing but a loopback interface that is up; gone when dropped.
#[derive(Debug)]
pub struct Network(String);

impl Network {
    /// An empty one.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn new() -> Result<Self, String> {
        let name = format!("ecap-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let network = Self(name);
        ip(&["netns", "add", &network.0])?;
        ip(&["-n", &network.0, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    /// Joins two by a pair of interfaces, each `(name, address with the length of its prefix)`.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn join(&self, here: (&str, &str), other: &Self, there: (&str, &str)) -> Result<(), String> {
        let (this, that) = (self.0.as_str(), other.0.as_str());
        ip(&["-n", this, "link", "add", here.0, "type", "veth", "peer", "name", there.0, "netns", that])?;
        for (network, (name, address)) in [(this, here), (that, there)] {
            ip(&["-n", network, "addr", "add", address, "dev", name])?;
            ip(&["-n", network, "link", "set", name, "up"])?;
        }
        Ok(())
    }

    /// Does something in it: what the calling thread does, and what it starts.
    ///
    /// # Panics
    /// If the way there or back is closed.
    pub fn inside<T>(&self, what: impl FnOnce() -> T) -> T {
        let enter = |path: &str| {
            let file = File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        };
        let back = File::open("/proc/thread-self/ns/net").expect("our own network");
        enter(&format!("/run/netns/{}", self.0));
        let answer = what();
        move_into_link_name_space(back.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        answer
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output =
        Command::new("/usr/sbin/ip").args(args).output().map_err(|e| format!("needs ip (package iproute2): {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
