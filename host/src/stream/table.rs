//! All connections of a run, in bounded memory. What `T` is, is the caller's: what he has to know of a connection when it
//! is told of.

use std::collections::{BTreeMap, HashMap};

use super::body::BodyLimits;
use super::conversation::{Conversation, Outcome};

/// Module and number of the connection.
pub type Key = (usize, u64);

/// Longest silence of a connection: then it is forgotten. Not everybody says that one has ended.
const IDLE_NS: u64 = 300_000_000_000;
/// The same if a body is open that ends with the connection.
const SILENCE_NS: u64 = 60_000_000_000;
/// Longest time for which calls are held back that may become a message.
const HOLD_NS: u64 = 1_000_000_000;
/// Connections that are remembered, at most.
const MAX_CONNECTIONS: usize = 65_536;

#[derive(Debug)]
struct Slot<T> {
    conversation: Conversation,
    about: T,
    held: usize,
    last_ns: u64,
    /// Its place in the order of use.
    stamp: u64,
    /// It was said to have ended, and nothing has come since.
    ended: bool,
}

/// The connections.
#[derive(Debug)]
pub struct Table<T> {
    slots: HashMap<Key, Slot<T>>,
    order: BTreeMap<u64, Key>,
    stamp: u64,
    held: usize,
    limit: usize,
    bodies: BodyLimits,
    /// Connections are shown as they are.
    follow: bool,
    /// Newest time that was seen.
    newest_ns: u64,
    /// When the silent ones were looked for.
    looked_ns: u64,
    /// Connections that were given up since there was no room for all of them.
    pub evicted: u64,
}

impl<T> Table<T> {
    /// The same of connections that are shown as they are.
    #[must_use]
    pub fn followed(limit: usize) -> Self {
        Self { follow: true, ..Self::new(limit, BodyLimits::default()) }
    }

    /// Holds about `limit` bytes at most.
    #[must_use]
    pub fn new(limit: usize, bodies: BodyLimits) -> Self {
        Self {
            slots: HashMap::new(),
            order: BTreeMap::new(),
            stamp: 0,
            held: 0,
            limit,
            bodies,
            follow: false,
            newest_ns: 0,
            looked_ns: 0,
            evicted: 0,
        }
    }

    /// The connection of this number, made if it is new, and what is known about it. To be followed by [`Table::settle`].
    pub fn connection(&mut self, key: Key, time_ns: u64, about: impl FnOnce() -> T) -> (&mut Conversation, &mut T) {
        self.stamp += 1;
        self.newest_ns = self.newest_ns.max(time_ns);
        let (stamp, bodies, follow) = (self.stamp, self.bodies, self.follow);
        let slot = self.slots.entry(key).or_insert_with(|| Slot {
            conversation: if follow { Conversation::followed() } else { Conversation::new(bodies) },
            about: about(),
            held: 0,
            last_ns: time_ns,
            stamp: 0,
            ended: false,
        });
        slot.ended = false;
        self.order.remove(&slot.stamp);
        self.order.insert(stamp, key);
        (slot.stamp, slot.last_ns) = (stamp, slot.last_ns.max(time_ns));
        (&mut slot.conversation, &mut slot.about)
    }

    /// There is little room left: what is held of this connection need not wait, if nothing is lost by that.
    pub fn hurry(&mut self, key: Key, outcome: &mut Outcome) {
        if self.follow
            && self.held > self.limit / 2
            && let Some(slot) = self.slots.get_mut(&key)
        {
            slot.conversation.release(outcome);
        }
    }

    /// Counts what the connection holds now, and gives up the longest unused ones if that is too much.
    pub fn settle(&mut self, key: Key, mut given_up: impl FnMut(T, Outcome)) {
        if let Some(slot) = self.slots.get_mut(&key) {
            let held = size_of::<Slot<T>>() + slot.conversation.held();
            self.held = self.held + held - slot.held;
            slot.held = held;
        }
        while self.held > self.limit || self.slots.len() > MAX_CONNECTIONS {
            let Some((_, key)) = self.order.first_key_value() else { break };
            self.evicted += 1;
            if let Some((about, mut outcome)) = self.remove(*key) {
                for exchange in &mut outcome.exchanges {
                    exchange.notes.push("told early: too much was held of all connections".into());
                }
                given_up(about, outcome);
            }
        }
    }

    /// The connection has ended. It is told of at the next [`Table::tick`] if nothing comes until then: who frees one of two references
    /// may go on with the other.
    pub fn ended(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.ended = true;
        }
    }

    fn remove(&mut self, key: Key) -> Option<(T, Outcome)> {
        let mut slot = self.slots.remove(&key)?;
        self.order.remove(&slot.stamp);
        self.held = self.held.saturating_sub(slot.held);
        let mut outcome = Outcome::default();
        if slot.ended {
            slot.conversation.close(&mut outcome);
        } else {
            slot.conversation.finish(&mut outcome);
        }
        Some((slot.about, outcome))
    }

    /// Looks for what has been waiting too long. `now_ns`: `None` if only the events tell what time it is.
    pub fn tick(&mut self, now_ns: Option<u64>, mut told: impl FnMut(&T, Outcome)) {
        let now = now_ns.unwrap_or(self.newest_ns);
        if now.saturating_sub(self.looked_ns) < HOLD_NS / 4 {
            return;
        }
        self.looked_ns = now;
        let mut silent = Vec::new();
        for (key, slot) in &mut self.slots {
            let idle = now.saturating_sub(slot.last_ns);
            if slot.ended || idle > IDLE_NS || (idle > SILENCE_NS && slot.conversation.ends_with_silence()) {
                silent.push((slot.stamp, *key));
            } else if slot.conversation.holds_since().is_some_and(|since| now.saturating_sub(since) > HOLD_NS) {
                let mut outcome = Outcome::default();
                slot.conversation.release(&mut outcome);
                told(&slot.about, outcome);
            }
        }
        self.end(silent, told);
    }

    /// Ends those that `which` says have ended, the time of whose last call is its argument.
    pub fn end_those(&mut self, mut which: impl FnMut(Key, &T, u64) -> bool, told: impl FnMut(&T, Outcome)) {
        let ended = self.slots.iter().filter(|(key, slot)| which(**key, &slot.about, slot.last_ns));
        let ended: Vec<_> = ended.map(|(key, slot)| (slot.stamp, *key)).collect();
        self.end(ended, told);
    }

    fn end(&mut self, mut which: Vec<(u64, Key)>, mut told: impl FnMut(&T, Outcome)) {
        which.sort_unstable();
        for (_, key) in which {
            if let Some((about, outcome)) = self.remove(key) {
                told(&about, outcome);
            }
        }
    }

    /// Connections that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes that are held, about.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::assemble::Call;
    use crate::stream::exchange::Direction;

    fn say(table: &mut Table<u64>, id: u64, offset: u64, bytes: &[u8], time_ns: u64) -> (Outcome, Vec<(u64, Outcome)>) {
        let (mut outcome, mut given_up) = (Outcome::default(), Vec::new());
        let (conversation, about) = table.connection((0, id), time_ns, || id);
        assert_eq!(*about, id);
        let call = Call { direction: Direction::Transmit, offset, bytes, missing: 0, time_ns };
        conversation.call(&call, bytes, &mut outcome);
        table.settle((0, id), |id, outcome| given_up.push((id, outcome)));
        (outcome, given_up)
    }

    #[test]
    fn memory_is_bounded_by_giving_up_the_longest_unused() {
        let mut table = Table::new(200_000, BodyLimits::default());
        let mut told = Vec::new();
        for id in 1..100 {
            let head = format!("POST /{id} HTTP/1.1\r\nContent-Length: 100000\r\n\r\n");
            let bytes = [head.as_bytes(), &[b'x'; 50_000]].concat();
            told.extend(say(&mut table, id, 0, &bytes, id).1);
            assert!(table.held() <= 200_000);
        }
        assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (1..=told.len() as u64).collect::<Vec<_>>());
        assert_eq!((told.len() + table.len(), table.evicted), (99, told.len() as u64));
        let exchange = &told[0].1.exchanges[0];
        assert!(exchange.notes.iter().any(|note| note.starts_with("told early")), "{:?}", exchange.notes);
        assert_eq!(exchange.request.as_ref().unwrap().message.body.bytes.len(), 50_000);
    }

    #[test]
    fn ten_thousand_connections_fit() {
        let mut table = Table::new(64 << 20, BodyLimits::default());
        for id in 1..=10_000 {
            say(&mut table, id, 0, b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n", id);
        }
        assert_eq!((table.len(), table.evicted), (10_000, 0));
        table.end_those(|_, _, _| true, |_, outcome| assert_eq!(outcome.exchanges.len(), 1));
        assert!(table.is_empty() && table.held() == 0 && table.order.is_empty());
    }

    #[test]
    fn who_says_so_ends_a_connection_unless_it_goes_on() {
        let mut table = Table::new(1 << 20, BodyLimits::default());
        for id in [1, 2] {
            say(&mut table, id, 0, b"HTTP/1.1 200 OK\r\n\r\nbody", 1000);
            table.ended((0, id));
        }
        table.ended((0, 3));
        say(&mut table, 2, 23, b"more", 2000);
        let mut told = Vec::new();
        table.tick(Some(HOLD_NS), |id, outcome| told.push((*id, outcome.exchanges)));
        let [(1, exchanges)] = told.as_slice() else { panic!("{told:?}") };
        let response = exchanges[0].response.as_ref().unwrap();
        assert_eq!((response.message.body.bytes.as_slice(), response.message.complete), (&b"body"[..], true));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn silence_ends_a_connection() {
        let mut table = Table::new(1 << 20, BodyLimits::default());
        say(&mut table, 1, 0, b"GET / HTTP/1.1\r\n\r\n", 1000);
        say(&mut table, 2, 0, b"GE", 1000);
        let mut told = Vec::new();
        table.tick(Some(HOLD_NS + 2000), |id, outcome| told.push((*id, outcome.released.len())));
        assert_eq!((told.as_slice(), table.len()), (&[(2, 1)][..], 2));
        told.clear();
        table.tick(Some(IDLE_NS + 2000), |id, outcome| told.push((*id, outcome.exchanges.len())));
        assert_eq!((told.as_slice(), table.len()), (&[(1, 1), (2, 0)][..], 0));
    }
}
