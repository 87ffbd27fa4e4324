//! Frames of network interfaces between the kernel's ring and the outputs.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::event::PacketTotals;
use crate::packet::reader::Reader;
use crate::packet::{Interface, Packet};

/// Bytes taken from the ring before anybody else's turn.
const BUDGET: u64 = 4 << 20;

/// Everything that is known of frames.
pub struct Packets {
    reader: Reader,
    interfaces: HashMap<u32, Interface>,
    /// What the kernel side counted, once it is known.
    totals: PacketTotals,
    by_interface: Vec<(u32, u64, u64)>,
    /// Frames of interfaces that nobody spoke of.
    strangers: u64,
}

impl Packets {
    /// Nothing yet.
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            interfaces: HashMap::new(),
            totals: PacketTotals::default(),
            by_interface: Vec::new(),
            strangers: 0,
        }
    }

    /// Frames of this interface may come.
    pub fn interface(&mut self, interface: Interface) {
        self.interfaces.insert(interface.index, interface);
    }

    /// What the kernel side counted.
    pub fn counted(&mut self, totals: PacketTotals, by_interface: Vec<(u32, u64, u64)>) {
        (self.totals, self.by_interface) = (totals, by_interface);
    }

    /// Up to where there are frames now. What the broker says of an interface comes before its first frame: so this is asked
    /// first, then the broker is heard, then the frames are taken.
    pub fn written(&self) -> u64 {
        self.reader.written()
    }

    /// Takes one turn's worth of the frames before `until`; true if there may be more.
    pub fn drain(&mut self, until: u64, mut each: impl FnMut(&Packet<'_>, &Interface)) -> bool {
        let interfaces = &self.interfaces;
        let taken = self.reader.drain(until, BUDGET, |packet| match interfaces.get(&packet.interface) {
            Some(interface) => each(packet, interface),
            None => self.strangers += 1,
        });
        taken > 0
    }

    /// Everything was taken.
    pub fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// As [`Reader::prepare_sleep`].
    pub fn prepare_sleep(&mut self) -> Option<Duration> {
        self.reader.prepare_sleep()
    }

    /// As [`Reader::awake`].
    pub fn awake(&mut self) {
        self.reader.awake();
    }

    /// To be waited for.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.reader.bell()
    }

    /// The totals of the run.
    pub fn totals(&self) -> PacketTotals {
        let counts = self.reader.counts();
        let malformed = self.strangers + counts.malformed;
        PacketTotals { seen: counts.seen, malformed, ..self.totals.clone() }
    }
}
