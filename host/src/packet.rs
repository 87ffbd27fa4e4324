//! Frames of network interfaces: what the kernel's program says of one, and who sent it.
//!
//! The types that the two halves share: whoever reads frames (from the kernel's ring) makes [`Packet`]s, whoever writes them
//! (pcapng) knows nothing of where they came from. No module sees a packet.
//!
//! Between the two: [`filter`] (a tcpdump expression) and [`order`] (packets wait for the secrets that they need).

pub mod filter;
pub mod libpcap;
pub mod order;

pub mod clsact;
pub mod netlink;
pub mod reader;
pub mod record;

use serde::{Deserialize, Serialize};

/// Most bytes of a frame that a capture file has: Wireshark believes in no longer ones, and reads nothing behind one.
pub const MAX_FRAME: usize = 262_144;

/// Which way a frame went, seen from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
}

/// The process that a frame was sent by or is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Process id.
    pub process: u32,
    /// User id.
    pub uid: u32,
    /// Number of its control group.
    pub cgroup: u64,
    /// Name of the thread that made or last used the socket, as the kernel has it: at most 15 bytes.
    pub comm: Vec<u8>,
}

/// An interface under one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interface {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What its frames begin with, as a number of <https://www.tcpdump.org/linktypes.html>: 1 Ethernet, 101 raw IP.
    pub link_type: u16,
}

/// One frame, borrowed from where it was read.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// When it passed, `CLOCK_MONOTONIC` in ns.
    pub time_ns: u64,
    /// Number of the interface.
    pub interface: u32,
    /// Which way.
    pub direction: Direction,
    /// Length on the wire in bytes, the link header included. More than [`Self::data`] has if the frame was cut.
    pub wire_length: u32,
    /// Whose it is, if that is known.
    pub owner: Option<Owner>,
    /// The frame from its link header on.
    pub data: &'a [u8],
}

/// A frame on its way to the outputs, with everything that is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The frame.
    pub packet: &'a Packet<'a>,
    /// Its interface.
    pub interface: &'a Interface,
    /// When it passed, ns since 1970.
    pub wall_ns: u64,
    /// Id of the container that its owner's control group belongs to.
    pub container: Option<&'a str>,
}

/// What came of an interface's frames, from the beginning of the capture on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceTotals {
    /// The interface.
    pub interface: Interface,
    /// Frames that the kernel's program saw and that were wanted there (process filters).
    pub received: u64,
    /// Of these, those for which the ring had no room.
    pub dropped: u64,
    /// Of these, those that the packet filter left out.
    pub filtered: u64,
}
