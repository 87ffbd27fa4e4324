//! Frames of network interfaces between the kernel's ring and the outputs: taken, held until the secrets that they need have
//! been written, given on.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::interfaces::Interfaces;
use super::out::{Out, monotonic_ns};
use crate::event::PacketTotals;
use crate::packet::filter::Filter;
use crate::packet::order::Order;
use crate::packet::reader::Reader;
use crate::packet::{Frame, MAX_FRAME};
use crate::protocol::FromCollector;
use crate::protocol::control::Control;
use crate::sink::PACKETS;

/// Bytes taken from the ring before anybody else's turn.
const BUDGET: u64 = 4 << 20;
/// Number of the control group that has all others in it, and says nothing.
const ROOT_GROUP: u64 = 1;
/// Control groups that were asked about, at most, before it is begun anew.
const MAX_ASKED: usize = 4096;

/// Everything that is known of frames.
pub struct Packets {
    reader: Reader,
    /// Where they come from.
    pub interfaces: Interfaces,
    filter: Option<Filter>,
    order: Order,
    /// Under this name the outputs count what they could not take.
    name: Arc<str>,
    /// Control groups whose container was asked for, and of which nothing was heard yet.
    asked: HashSet<u64>,
    /// What the kernel side counted, once it is known.
    totals: PacketTotals,
    /// Frames of interfaces that nobody spoke of.
    strangers: u64,
    /// The end comes after so many frames.
    count: Option<u64>,
    written: u64,
    /// Of these, those that are longer than a file can have them.
    cut: u64,
}

impl Packets {
    /// Nothing yet.
    pub fn new(reader: Reader, filter: Option<Filter>, count: Option<u64>) -> Self {
        Self {
            reader,
            interfaces: Interfaces::default(),
            filter,
            order: Order::default(),
            name: PACKETS.into(),
            asked: HashSet::new(),
            totals: PacketTotals::default(),
            strangers: 0,
            count,
            written: 0,
            cut: 0,
        }
    }

    /// What the kernel side counted.
    pub fn counted(&mut self, totals: PacketTotals, by_interface: Vec<(u32, u64, u64)>) {
        self.totals = totals;
        by_interface.into_iter().for_each(|counted| self.interfaces.counted(counted));
    }

    /// Up to where there are frames now. What the broker says of an interface comes before its first frame: so this is asked
    /// first, then the broker is heard, then the frames are taken.
    pub fn written(&self) -> u64 {
        self.reader.written()
    }

    /// Takes one turn's worth of the frames before `until`; true if there may be more.
    pub fn drain(&mut self, until: u64, out: &Out) -> bool {
        let Self { reader, interfaces, filter, order, asked, strangers, .. } = self;
        let taken = reader.drain(until, BUDGET, |packet| {
            let Some(interface) = interfaces.of(packet) else {
                *strangers += 1;
                return;
            };
            if filter.as_ref().is_some_and(|filter| !filter.fits(interface.link_type, packet)) {
                interfaces.unfit(packet);
                return;
            }
            // By the time that it is written the answer is there. What is forgotten later is asked for again.
            if let Some(owner) = packet.owner.as_ref().filter(|o| o.cgroup > ROOT_GROUP) {
                if out.who.container(owner.cgroup).is_some() {
                    asked.remove(&owner.cgroup);
                } else if asked.insert(owner.cgroup) {
                    Control::say(&FromCollector::Resolve(owner.process, owner.cgroup));
                }
            }
            order.push(packet);
        });
        if self.asked.len() > MAX_ASKED {
            self.asked.clear();
        }
        taken > 0
    }

    /// A secret of this time was written.
    pub fn secret(&mut self, time_ns: u64) {
        self.order.secret(time_ns);
    }

    /// Gives on what has waited long enough. `told_ns`: up to which time all secrets are written.
    pub fn release(&mut self, told_ns: u64, out: &mut Out) {
        let now = monotonic_ns();
        while !out.sinks.congested()
            && let Some(held) = self.order.pop(now, told_ns)
        {
            self.write(&held.packet(), out);
        }
    }

    /// Gives on the next one whether or not it has waited; false if there is none.
    pub fn release_last(&mut self, out: &mut Out) -> bool {
        let Some(held) = self.order.pop_last() else { return false };
        self.write(&held.packet(), out);
        true
    }

    fn write(&mut self, packet: &crate::packet::Packet<'_>, out: &mut Out) {
        let Some(interface) = self.interfaces.of(packet) else { return };
        if self.has_enough() {
            return;
        }
        let container = packet.owner.as_ref().and_then(|owner| out.who.container(owner.cgroup)).flatten();
        let wall_ns = out.clock.wall_ns(packet.time_ns);
        let frame = Frame { packet, interface, wall_ns, container: container.as_deref() };
        out.sinks.packet(&self.name, &frame);
        self.written += 1;
        self.cut += u64::from(packet.data.len() > MAX_FRAME);
    }

    /// As many were written as were asked for.
    pub fn has_enough(&self) -> bool {
        self.count.is_some_and(|count| self.written >= count)
    }

    /// Everything was taken from the ring.
    pub fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// When to look again at the latest; and as [`Reader::prepare_sleep`].
    pub fn prepare_sleep(&mut self) -> Option<Duration> {
        let due = self.order.due().map(|due| Duration::from_nanos(due.saturating_sub(monotonic_ns()).max(1)));
        [due, self.reader.prepare_sleep()].into_iter().flatten().min()
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
        PacketTotals {
            seen: counts.seen,
            unfit: self.interfaces.all_unfit(),
            malformed: self.strangers + counts.malformed,
            cut: self.cut,
            late: self.order.late_packets(),
            late_secrets: self.order.late_secrets(),
            ..self.totals.clone()
        }
    }
}
