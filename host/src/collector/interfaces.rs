//! Which interface a frame is of, and what came of its frames. A number is no name: it can be another interface's later, and an interface
//! can get another name. So each description holds from its time on, and frames that are still on their way keep the one before.

use std::collections::BTreeMap;

use crate::packet::{Interface, InterfaceTotals, Packet};

/// Most that are remembered: as many as can be captured from at once. Beyond that those are forgotten that are over, the oldest first.
const MOST: usize = 8192;

/// An interface under one name.
struct Known {
    totals: InterfaceTotals,
    /// It is gone, or has another name.
    over: bool,
}

/// All of them, by their number and the time (monotonic ns) from which on it is theirs.
#[derive(Default)]
pub struct Interfaces {
    known: BTreeMap<(u32, u64), Known>,
    /// Frames of forgotten ones that did not fit the filter.
    unfit: u64,
}

impl Interfaces {
    /// From this time on this is the interface of its number.
    pub fn begin(&mut self, interface: Interface, since_ns: u64) {
        let index = interface.index;
        if let Some(before) = self.newest(index) {
            before.over = true;
        }
        let totals = InterfaceTotals { interface, received: 0, dropped: 0, filtered: 0 };
        self.known.insert((index, since_ns), Known { totals, over: false });
        while self.known.len() > MOST {
            let over = self.known.iter().filter(|(_, known)| known.over);
            let Some(oldest) = over.map(|(key, _)| *key).min_by_key(|(_, since)| *since) else { return };
            self.unfit += self.known.remove(&oldest).map_or(0, |known| known.totals.filtered);
        }
    }

    /// What the kernel side counted of the interface that has this number.
    pub fn counted(&mut self, (index, received, dropped): (u32, u64, u64)) {
        if let Some(known) = self.newest(index).filter(|known| !known.over) {
            (known.totals.received, known.totals.dropped) = (received, dropped);
        }
    }

    /// The same, and nothing more comes of it under this name.
    pub fn end(&mut self, counted: (u32, u64, u64)) {
        self.counted(counted);
        if let Some(known) = self.newest(counted.0) {
            known.over = true;
        }
    }

    fn newest(&mut self, index: u32) -> Option<&mut Known> {
        self.known.range_mut((index, 0)..=(index, u64::MAX)).next_back().map(|(_, known)| known)
    }

    /// The interface of a frame.
    pub fn of(&self, packet: &Packet<'_>) -> Option<&Interface> {
        let (first, last) = ((packet.interface, 0), (packet.interface, packet.time_ns));
        self.known.range(first..=last).next_back().map(|(_, known)| &known.totals.interface)
    }

    /// A frame did not fit the filter.
    pub fn unfit(&mut self, packet: &Packet<'_>) {
        let (first, last) = ((packet.interface, 0), (packet.interface, packet.time_ns));
        if let Some((_, known)) = self.known.range_mut(first..=last).next_back() {
            known.totals.filtered += 1;
        }
    }

    /// Frames that did not fit the filter.
    pub fn all_unfit(&self) -> u64 {
        self.unfit + self.known.values().map(|known| known.totals.filtered).sum::<u64>()
    }

    /// What came of each; one that came back as what it was is one.
    pub fn totals(&self) -> Vec<InterfaceTotals> {
        let mut all: BTreeMap<&Interface, InterfaceTotals> = BTreeMap::new();
        for Known { totals, .. } in self.known.values() {
            match all.get_mut(&totals.interface) {
                Some(sum) => {
                    sum.received += totals.received;
                    sum.dropped += totals.dropped;
                    sum.filtered += totals.filtered;
                }
                None => {
                    all.insert(&totals.interface, totals.clone());
                }
            }
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Direction;

    fn interface(index: u32, name: &str, link_type: u16) -> Interface {
        Interface { index, name: name.into(), link_type }
    }

    fn packet(interface: u32, time_ns: u64) -> Packet<'static> {
        Packet { time_ns, interface, direction: Direction::Inbound, wire_length: 0, owner: None, data: &[] }
    }

    #[test]
    fn a_number_is_whose_it_was_at_the_time_of_the_frame() {
        let mut all = Interfaces::default();
        let name = |all: &Interfaces, time| all.of(&packet(7, time)).map(|i| (i.name.clone(), i.link_type));
        all.begin(interface(7, "eth0", 1), 100);
        assert_eq!(name(&all, 99), None);
        all.unfit(&packet(7, 150));
        // Another name, and then another interface: what is on its way from before is the old one's.
        all.end((7, 10, 1));
        all.begin(interface(7, "wan", 1), 200);
        all.end((7, 20, 0));
        all.begin(interface(7, "tun0", 101), 300);
        all.counted((7, 40, 0));
        for (time, wanted) in [(100, ("eth0", 1)), (199, ("eth0", 1)), (200, ("wan", 1)), (300, ("tun0", 101))] {
            assert_eq!(name(&all, time), Some((wanted.0.into(), wanted.1)), "{time}");
        }
        // It comes back as what it was.
        all.end((7, 40, 0));
        all.begin(interface(7, "eth0", 1), 400);
        all.counted((7, 5, 2));
        let totals = all.totals();
        let told: Vec<_> =
            totals.iter().map(|t| (t.interface.name.as_str(), t.received, t.dropped, t.filtered)).collect();
        assert_eq!(told, [("eth0", 15, 3, 1), ("tun0", 40, 0, 0), ("wan", 20, 0, 0)]);
        // Nothing is counted for one that is over.
        all.end((7, 5, 2));
        all.counted((7, 999, 999));
        assert_eq!(all.totals()[0].received, 15);
    }

    #[test]
    fn those_that_are_over_are_forgotten_when_there_are_too_many() {
        let mut all = Interfaces::default();
        all.begin(interface(1, "lo", 1), 1);
        for number in 2..MOST as u32 + 100 {
            all.begin(interface(number, "veth", 1), number.into());
            all.unfit(&packet(number, u64::MAX));
            all.end((number, 1, 0));
        }
        assert_eq!(all.known.len(), MOST);
        assert!(all.of(&packet(1, 5)).is_some() && all.of(&packet(2, 5)).is_none(), "what lasts is kept");
        assert_eq!(all.all_unfit(), MOST as u64 + 98);
    }
}
