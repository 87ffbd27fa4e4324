//! A map with a bound: entries and bytes, the least recently used goes first. For every table of a decoder that outlives one
//! message, because its keys (connections, names of statements) are chosen by whoever talks to the target.
//!
//! Not here: what is stored. Nothing knows about records or SQL.
//!
//! Two ordered maps rather than a linked list: no unsafe code, no crate, and removing all of one connection is a range.
//! The price is O(log n) a touch, which is nothing beside the record that causes it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Bound of a [`Bounded`] map. Both hold at any time, except that one entry alone may be larger than `bytes`:
/// it then is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Most entries.
    pub entries: usize,
    /// Most bytes, the sum of the entries' weights.
    pub bytes: usize,
}

/// Map whose least recently used entries are evicted when it outgrows its [`Bound`].
#[derive(Debug)]
pub struct Bounded<K, V> {
    bound: Bound,
    bytes: usize,
    clock: u64,
    entries: BTreeMap<K, Entry<V>>,
    by_age: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Ord + Copy, V> Bounded<K, V> {
    /// An empty map.
    pub fn new(bound: Bound) -> Self {
        Self { bound, bytes: 0, clock: 0, entries: BTreeMap::new(), by_age: BTreeMap::new() }
    }

    /// Puts `value` under `key` (replacing what was there) and evicts what no longer fits. The new entry itself stays.
    /// Returns what was evicted, oldest first; a replaced value is not among it.
    pub fn insert(&mut self, key: K, value: V, weight: usize) -> Vec<(K, V)> {
        self.remove(&key);
        let used = self.next();
        self.bytes = self.bytes.saturating_add(weight);
        self.by_age.insert(used, key);
        self.entries.insert(key, Entry { value, weight, used });
        let mut evicted = Vec::new();
        while self.entries.len() > 1 && (self.entries.len() > self.bound.entries || self.bytes > self.bound.bytes) {
            let Some((_, oldest)) = self.by_age.first_key_value() else { break };
            let oldest = *oldest;
            let Some(value) = self.remove(&oldest) else { break };
            evicted.push((oldest, value));
        }
        evicted
    }

    /// The value of `key`, which becomes the most recently used one.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        let used = self.next();
        let entry = self.entries.get_mut(key)?;
        self.by_age.remove(&entry.used);
        self.by_age.insert(used, *key);
        entry.used = used;
        Some(&mut entry.value)
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.by_age.remove(&entry.used);
        self.bytes = self.bytes.saturating_sub(entry.weight);
        Some(entry.value)
    }

    /// Takes out every key of the range.
    pub fn remove_range(&mut self, keys: RangeInclusive<K>) {
        let keys: Vec<K> = self.entries.range(keys).map(|(key, _)| *key).collect();
        for key in &keys {
            self.remove(key);
        }
    }

    /// Takes everything out, in the order of the keys.
    pub fn drain(&mut self) -> Vec<V> {
        self.by_age.clear();
        self.bytes = 0;
        std::mem::take(&mut self.entries).into_values().map(|entry| entry.value).collect()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sum of the weights.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn next(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut map = Bounded::new(Bound { entries: 2, bytes: 100 });
        assert!(map.insert(1, "a", 1).is_empty());
        assert!(map.insert(2, "b", 1).is_empty());
        assert_eq!(map.touch(&1).copied(), Some("a"));
        assert_eq!(map.insert(3, "c", 1), vec![(2, "b")]);
        assert!(map.touch(&2).is_none() && map.touch(&1).is_some() && map.touch(&3).is_some());
    }

    #[test]
    fn bytes_are_bounded_and_a_giant_stays_alone() {
        let mut map = Bounded::new(Bound { entries: 10, bytes: 10 });
        map.insert(1, (), 4);
        map.insert(2, (), 4);
        assert_eq!(map.insert(3, (), 4), vec![(1, ())]);
        assert_eq!(map.bytes(), 8);
        assert_eq!(map.insert(4, (), 1000), vec![(2, ()), (3, ())]);
        assert_eq!((map.len(), map.bytes()), (1, 1000));
    }

    #[test]
    fn replacing_and_ranges_keep_the_count() {
        let mut map = Bounded::new(Bound { entries: 10, bytes: 100 });
        map.insert((1, 1), (), 5);
        map.insert((1, 1), (), 7);
        map.insert((1, 2), (), 1);
        map.insert((2, 1), (), 1);
        assert_eq!(map.bytes(), 9);
        map.remove_range((1, 0)..=(1, i32::MAX));
        assert_eq!((map.len(), map.bytes()), (1, 1));
        assert_eq!(map.remove(&(2, 1)), Some(()));
        assert!(map.is_empty() && map.bytes() == 0);
    }

    proptest! {
        #[test]
        fn the_bound_holds(steps in proptest::collection::vec((0u8..3, 0u8..20, 0usize..30), 0..300)) {
            let mut map = Bounded::new(Bound { entries: 5, bytes: 60 });
            for (what, key, weight) in steps {
                match what {
                    0 => { map.insert(key, weight, weight); }
                    1 => { map.touch(&key); }
                    _ => { map.remove(&key); }
                }
                prop_assert!(map.len() <= 5);
                prop_assert!(map.bytes() <= 60);
                prop_assert_eq!(map.entries.len(), map.by_age.len());
                prop_assert_eq!(map.bytes(), map.entries.values().map(|e| e.weight).sum::<usize>());
            }
        }
    }
}
