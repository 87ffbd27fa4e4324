//! Durations in buckets: eight to each power of two, so that a quantile is right to an eighth, in 1.4 KiB whatever comes.

const POWERS: usize = 41;
const SUB: usize = 8;

/// Counts of durations, and the exact longest one.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u32]>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; POWERS * SUB].into_boxed_slice(), total: 0, max: 0 }
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros() as usize;
    let sub = (ns >> (power - 3)) as usize & (SUB - 1);
    ((power - 2) * SUB + sub).min(POWERS * SUB - 1)
}

/// The longest duration of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let (power, sub) = (bucket / SUB + 2, bucket % SUB);
    ((SUB + sub + 1) as u64) << (power - 3)
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
        self.max = self.max.max(ns);
    }

    /// The longest.
    pub fn max(&self) -> Option<u64> {
        (self.total > 0).then_some(self.max)
    }

    /// At least this share of them, in hundredths, took no longer; `None` without any.
    pub fn quantile(&self, hundredths: u64) -> Option<u64> {
        let wanted = (self.total * hundredths).div_ceil(100).max(1);
        let mut seen = 0;
        let mut places = self.counts.iter().enumerate();
        let place = places.find(|(_, count)| {
            seen += u64::from(**count);
            seen >= wanted
        });
        place.map(|(place, _)| upper(place).min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_an_eighth() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(50), histogram.max()), (None, None));
        (1..=10_000).for_each(|n| histogram.add(n * 1000));
        for hundredths in [50, 95, 99] {
            let (exact, told) = (hundredths * 100_000, histogram.quantile(hundredths).unwrap());
            assert!(told >= exact && told <= exact + exact / 8, "{hundredths}: {told}");
        }
        assert_eq!(histogram.max(), Some(10_000_000));
        histogram.add(u64::MAX);
        histogram.add(0);
        assert_eq!(histogram.quantile(100), Some(upper(POWERS * SUB - 1)));
        for ns in [0, 1, 7, 8, 9, 1000, 1 << 40] {
            assert!(upper(bucket(ns)) >= ns, "{ns}");
        }
    }
}
