//! What to do when a worker dies. Pure: time is passed in.

use std::time::{Duration, Instant};

/// Deaths within [`WINDOW`] after which a module is still started again; the next one disables it.
const FORGIVEN: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// What the broker does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start another worker after this pause.
    Restart(Duration),
    /// Give the module up.
    Disable,
}

/// What a worker was decoding when it died of itself; a worker that was killed from outside suspects nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// Ring position of the record.
    pub position: u64,
    /// It was this record; else it or one of those decoded in the same call.
    pub exact: bool,
}

impl Suspect {
    /// From the word that a worker leaves in its link: positions are multiples of 8, and the lowest bit says that it is
    /// not this very record.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self { position: word & !7, exact: word & 1 == 0 }
    }
}

/// The history of one module's workers.
#[derive(Debug, Default)]
pub struct Restarts {
    deaths: Vec<Instant>,
    suspects: Vec<Suspect>,
    poisoned: Vec<u64>,
    /// Workers started again so far.
    pub count: u64,
}

impl Restarts {
    /// A worker died.
    pub fn died(&mut self, now: Instant, suspect: Option<Suspect>) -> Verdict {
        if let Some(suspect) = suspect {
            // The second death at one record is proof enough. A death somewhere in a call is followed by one at the very
            // record, because the next worker decodes one by one.
            let before =
                |s: &Suspect| if s.exact { s.position == suspect.position } else { s.position <= suspect.position };
            if suspect.exact && self.suspects.iter().any(before) && !self.poisoned.contains(&suspect.position) {
                self.poisoned.push(suspect.position);
                self.suspects.clear();
            } else {
                self.suspects.push(suspect);
            }
        }
        self.deaths.retain(|t| now.duration_since(*t) < WINDOW);
        self.deaths.push(now);
        if self.deaths.len() > FORGIVEN {
            return Verdict::Disable;
        }
        self.count += 1;
        // The first restart is at once: the ring fills while nobody drains it.
        let pause = match self.deaths.len() {
            1 => 0,
            n => 25 << (n - 2),
        };
        Verdict::Restart(Duration::from_millis(pause))
    }

    /// Positions of records that are not to be decoded again.
    #[must_use]
    pub fn poisoned(&self) -> Vec<u64> {
        self.poisoned.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_death_within_a_minute_disables() {
        let (start, mut restarts) = (Instant::now(), Restarts::default());
        for n in 0..5 {
            let verdict = restarts.died(start + Duration::from_secs(n), None);
            assert!(matches!(verdict, Verdict::Restart(_)), "death {n}: {verdict:?}");
        }
        assert_eq!(restarts.died(start + Duration::from_secs(6), None), Verdict::Disable);
        assert_eq!(restarts.count, 5);
    }

    #[test]
    fn old_deaths_are_forgotten() {
        let (start, mut restarts) = (Instant::now(), Restarts::default());
        for n in 0..20 {
            let verdict = restarts.died(start + Duration::from_secs(13 * n), None);
            assert!(matches!(verdict, Verdict::Restart(_)), "death {n}: {verdict:?}");
        }
    }

    #[test]
    fn a_record_is_skipped_when_it_has_killed_two_workers() {
        let (start, mut restarts) = (Instant::now(), Restarts::default());
        restarts.died(start, Some(Suspect { position: 64, exact: false }));
        assert!(restarts.poisoned().is_empty());
        restarts.died(start, Some(Suspect { position: 128, exact: true }));
        assert_eq!(restarts.poisoned(), [128]);
    }

    #[test]
    fn one_death_alone_skips_nothing() {
        let (start, mut restarts) = (Instant::now(), Restarts::default());
        restarts.died(start, Some(Suspect { position: 128, exact: true }));
        restarts.died(start, Some(Suspect { position: 64, exact: false }));
        restarts.died(start, None);
        assert!(restarts.poisoned().is_empty());
    }

    #[test]
    fn the_word_in_the_link_tells_exact_from_about() {
        assert_eq!(Suspect::from_word(64), Suspect { position: 64, exact: true });
        assert_eq!(Suspect::from_word(65), Suspect { position: 64, exact: false });
    }
}
