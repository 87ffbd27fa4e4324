//! Packets wait a moment for the secrets that they need, since whoever reads them decrypts what it has the secrets of by then.
//!
//! A program that sends has its secrets before the packet; one that receives makes them after it, as soon as it gets to run. And
//! secrets come through a worker that may lag behind. So a packet is let go when every worker that makes secrets has told everything
//! up to [`SETTLE`] after it, and at the latest after [`PATIENCE`]; a secret that comes when younger packets have been let go is late.
//! What is held is bounded: beyond it the oldest go.

use std::collections::VecDeque;

use super::{Direction, Owner, Packet};

/// So long after a packet its secrets may be made.
pub const SETTLE: u64 = 50_000_000;
/// Longest wait. A living worker tells how far it is every 150 ms, and on a busy machine later.
pub const PATIENCE: u64 = 1_000_000_000;
/// Most bytes that wait.
const MAX_HELD: usize = 64 << 20;
/// What a packet takes beside its bytes.
const OVERHEAD: usize = 128;

/// A packet that waits, or has waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    time_ns: u64,
    interface: u32,
    direction: Direction,
    wire_length: u32,
    owner: Option<Owner>,
    data: Vec<u8>,
}

impl Held {
    fn of(packet: &Packet<'_>) -> Self {
        Self {
            time_ns: packet.time_ns,
            interface: packet.interface,
            direction: packet.direction,
            wire_length: packet.wire_length,
            owner: packet.owner.clone(),
            data: packet.data.to_vec(),
        }
    }

    /// The packet.
    #[must_use]
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            time_ns: self.time_ns,
            interface: self.interface,
            direction: self.direction,
            wire_length: self.wire_length,
            owner: self.owner.clone(),
            data: &self.data,
        }
    }

    fn bytes(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// Packets that wait, in the order of their times.
#[derive(Debug, Default)]
pub struct Order {
    held: VecDeque<Held>,
    bytes: usize,
    /// Time of the newest packet that was let go.
    released: u64,
    late_secrets: u64,
    late_packets: u64,
}

impl Order {
    /// Takes a packet.
    pub fn push(&mut self, packet: &Packet<'_>) {
        self.late_packets += u64::from(packet.time_ns < self.released);
        let held = Held::of(packet);
        self.bytes += held.bytes();
        // They come nearly in order: several processors fill one ring.
        let place = self.held.iter().rposition(|other| other.time_ns <= held.time_ns).map_or(0, |at| at + 1);
        self.held.insert(place, held);
    }

    /// The next packet that may be written. `now_ns`: monotonic; `told_ns`: up to which time all workers that make secrets have
    /// told everything, `u64::MAX` if there are none.
    pub fn pop(&mut self, now_ns: u64, told_ns: u64) -> Option<Held> {
        let time = self.held.front()?.time_ns;
        let settled = told_ns >= time.saturating_add(SETTLE);
        if !settled && now_ns < time.saturating_add(PATIENCE) && self.bytes <= MAX_HELD {
            return None;
        }
        let held = self.held.pop_front()?;
        self.bytes -= held.bytes();
        self.released = self.released.max(time);
        Some(held)
    }

    /// The next packet, whether or not it has waited: nothing more will come.
    pub fn pop_last(&mut self) -> Option<Held> {
        self.pop(u64::MAX, u64::MAX)
    }

    /// A secret of this time is written now; false if it is late.
    pub fn secret(&mut self, time_ns: u64) -> bool {
        let late = time_ns < self.released;
        self.late_secrets += u64::from(late);
        !late
    }

    /// When to ask again at the latest, monotonic ns; `None` if nothing waits.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.held.front().map(|held| held.time_ns.saturating_add(PATIENCE))
    }

    /// Secrets that came when younger packets had been let go.
    #[must_use]
    pub fn late_secrets(&self) -> u64 {
        self.late_secrets
    }

    /// Packets that came when younger ones had been let go: they are written out of order.
    #[must_use]
    pub fn late_packets(&self) -> u64 {
        self.late_packets
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(time_ns: u64, data: &[u8]) -> Packet<'_> {
        let owner = None;
        Packet { time_ns, interface: 1, direction: Direction::Inbound, wire_length: data.len() as u32, owner, data }
    }

    fn times(order: &mut Order, now: u64, told: u64) -> Vec<u64> {
        std::iter::from_fn(|| order.pop(now, told)).map(|held| held.packet().time_ns).collect()
    }

    #[test]
    fn packets_wait_until_the_workers_have_told_what_came_shortly_after() {
        let mut order = Order::default();
        for time in [10, 30, 20] {
            order.push(&packet(time, b"x"));
        }
        assert!(times(&mut order, 1000, 10 + SETTLE - 1).is_empty());
        assert_eq!(times(&mut order, 1000, 20 + SETTLE), [10, 20]);
        assert_eq!(order.due(), Some(30 + PATIENCE));
        assert_eq!(times(&mut order, 30 + PATIENCE, 0), [30], "nobody waits for ever");
        assert_eq!((order.due(), order.is_empty()), (None, true));
    }

    #[test]
    fn a_secret_is_late_when_a_younger_packet_is_gone() {
        let mut order = Order::default();
        order.push(&packet(100, b"x"));
        assert!(order.secret(50) && order.secret(150));
        assert_eq!(times(&mut order, 0, u64::MAX), [100]);
        assert!(order.secret(100) && !order.secret(99));
        order.push(&packet(90, b"y"));
        assert_eq!((order.late_secrets(), order.late_packets()), (1, 1));
        assert_eq!(order.pop_last().map(|held| held.packet().time_ns), Some(90));
    }

    #[test]
    fn memory_is_bounded_by_letting_the_oldest_go() {
        let mut order = Order::default();
        let big = vec![0; MAX_HELD / 2];
        order.push(&packet(1, &big));
        assert!(order.pop(2, 0).is_none());
        order.push(&packet(2, &big));
        assert_eq!(order.pop(2, 0).unwrap().packet().data.len(), big.len());
        assert!(order.pop(2, 0).is_none());
    }
}
