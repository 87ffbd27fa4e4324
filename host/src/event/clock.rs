//! From the kernel's monotonic time to the time of day.
//!
//! `bpf_ktime_get_ns()` is `CLOCK_MONOTONIC`: it never steps, and it stands still while the machine sleeps. The time of
//! day is that plus an offset, which is one value for the whole session, sampled at start and again every
//! [`Clock::PERIOD`]. So a step of the wall clock (NTP, an administrator, a resume from suspend) shows up in events at most
//! that much late, and the wall time of two events may then run backwards; `ecapture.monotonic_ns` never does. The
//! alternative, asking both clocks per event, would give the time of *decoding* a better date, not the event.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Converts monotonic to wall time.
#[derive(Debug, Clone)]
pub struct Clock {
    offset: i64,
    /// The offset before the last re-sampling and the monotonic time up to which it held: events are decoded some
    /// milliseconds after they happened, those from before the change keep the date they had.
    before: Option<(u64, i64)>,
    sampled_ns: u64,
}

impl Clock {
    /// Time between two samples of the offset.
    pub const PERIOD: Duration = Duration::from_secs(10);

    /// Samples both clocks.
    pub fn sample() -> Self {
        let (offset, now) = sample();
        Self { offset, before: None, sampled_ns: now }
    }

    /// A clock with a fixed offset in ns, for replay and tests.
    pub fn with_offset(offset: i64) -> Self {
        Self { offset, before: None, sampled_ns: 0 }
    }

    /// Wall time in ns since 1970 of a monotonic time. Saturates instead of wrapping: the worker may send any number.
    pub fn wall_ns(&self, monotonic_ns: u64) -> u64 {
        let offset = match self.before {
            Some((until, offset)) if monotonic_ns < until => offset,
            _ => self.offset,
        };
        monotonic_ns.saturating_add_signed(offset)
    }

    /// Samples again if the last sample is older than [`Clock::PERIOD`]; returns by how many ns the wall clock moved
    /// against the monotonic one since (a slow drift is a few µs, a step is anything).
    pub fn refresh(&mut self) -> Option<i64> {
        let now = nanoseconds(clock_gettime(ClockId::Monotonic));
        if now.saturating_sub(self.sampled_ns) < Self::PERIOD.as_nanos() as u64 {
            return None;
        }
        let (offset, now) = sample();
        Some(self.change(offset, now))
    }

    fn change(&mut self, offset: i64, now: u64) -> i64 {
        let moved = offset.saturating_sub(self.offset);
        self.before = Some((now, self.offset));
        (self.offset, self.sampled_ns) = (offset, now);
        moved
    }
}

/// The offset and the monotonic time of the sample. Of a few tries the one with the least time between the two reads of
/// the monotonic clock: being preempted between two reads would shift every event of the session.
fn sample() -> (i64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..5 {
        let before = nanoseconds(clock_gettime(ClockId::Monotonic));
        let wall = nanoseconds(clock_gettime(ClockId::Realtime));
        let after = nanoseconds(clock_gettime(ClockId::Monotonic));
        let width = after.saturating_sub(before);
        if width < best.0 {
            best = (width, wall.cast_signed().saturating_sub((before + width / 2).cast_signed()), after);
        }
    }
    (best.1, best.2)
}

/// Nanoseconds of a time; 0 before 1970. 64 bits last until the year 2554.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn now_is_now() {
        let clock = Clock::sample();
        let ours = clock.wall_ns(nanoseconds(clock_gettime(ClockId::Monotonic)));
        let theirs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(ours.abs_diff(theirs) < 1_000_000_000, "{ours} {theirs}");
    }

    #[test]
    fn a_step_moves_later_events_only() {
        let mut clock = Clock::with_offset(1000);
        assert_eq!(clock.change(-40, 500), -1040);
        assert_eq!(clock.wall_ns(499), 1499);
        assert_eq!(clock.wall_ns(500), 460);
    }

    #[test]
    fn absurd_times_saturate() {
        assert_eq!(Clock::with_offset(5).wall_ns(u64::MAX), u64::MAX);
        assert_eq!(Clock::with_offset(-5).wall_ns(1), 0);
    }

    #[test]
    fn a_fresh_sample_is_not_taken_again() {
        assert_eq!(Clock::sample().refresh(), None);
    }
}
