//! Dates: RFC 3339 in UTC with nanoseconds, and the time of day of a line of text.
//!
//! Local time needs the zone's file, and a sandboxed collector opens no files: the broker hands over the offset from
//! UTC at start. A change of daylight saving during a run is therefore not followed in text; JSON is UTC anyway.

use super::encode::padded;

const DAY: u64 = 86_400;

/// Writes RFC 3339 times; the part up to the second is made once a second.
#[derive(Debug, Default)]
pub struct Rfc3339 {
    cached: Option<u64>,
    date: Vec<u8>,
}

impl Rfc3339 {
    /// Appends `2026-11-23T14:02:11.483920123Z`.
    pub fn write(&mut self, wall_ns: u64, out: &mut Vec<u8>) {
        let seconds = wall_ns / 1_000_000_000;
        if self.cached != Some(seconds) {
            self.date.clear();
            date(seconds, &mut self.date);
            self.cached = Some(seconds);
        }
        out.extend_from_slice(&self.date);
        padded::<9>(wall_ns % 1_000_000_000, out);
        out.push(b'Z');
    }
}

/// `20261123T140211Z`, for names of files.
#[must_use]
pub fn compact(seconds: u64) -> String {
    let mut text = Vec::new();
    date(seconds, &mut text);
    let text: String = String::from_utf8_lossy(&text).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    text + "Z"
}

fn date(seconds: u64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(seconds / DAY);
    padded::<4>(year, out);
    out.push(b'-');
    padded::<2>(month, out);
    out.push(b'-');
    padded::<2>(day, out);
    out.push(b'T');
    clock(seconds % DAY, out);
    out.push(b'.');
}

fn clock(second_of_day: u64, out: &mut Vec<u8>) {
    padded::<2>(second_of_day / 3600, out);
    out.push(b':');
    padded::<2>(second_of_day / 60 % 60, out);
    out.push(b':');
    padded::<2>(second_of_day % 60, out);
}

/// Year, month and day of a day since 1970, Gregorian (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// Appends `14:02:11.483920`, the time of day `utc_offset_s` seconds east of Greenwich.
pub fn time_of_day(wall_ns: u64, utc_offset_s: i32, out: &mut Vec<u8>) {
    let seconds = (wall_ns / 1_000_000_000).saturating_add_signed(i64::from(utc_offset_s));
    clock(seconds % DAY, out);
    out.push(b'.');
    padded::<6>(wall_ns / 1000 % 1_000_000, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc(ns: u64) -> String {
        let mut out = Vec::new();
        Rfc3339::default().write(ns, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_dates() {
        // Compared with date(1): date -u -d @N
        assert_eq!(rfc(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc(951_782_399_999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(rfc(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(rfc(1_767_225_599_000_000_001), "2025-12-31T23:59:59.000000001Z");
        assert_eq!(rfc(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(rfc(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn a_name_of_a_file() {
        assert_eq!(compact(951_782_399), "20000228T235959Z");
    }

    #[test]
    fn the_cache_follows_the_second() {
        let (mut times, mut out) = (Rfc3339::default(), Vec::new());
        for ns in [1_000_000_000, 1_500_000_000, 2_000_000_000, 500_000_000] {
            times.write(ns, &mut out);
            out.push(b' ');
        }
        let text = String::from_utf8(out).unwrap();
        let expected = ["01.000000000", "01.500000000", "02.000000000", "00.500000000"];
        for (time, end) in text.split(' ').zip(expected) {
            assert_eq!(time, format!("1970-01-01T00:00:{end}Z"));
        }
    }

    #[test]
    fn the_time_of_day_is_local() {
        let at = |offset| {
            let mut out = Vec::new();
            time_of_day(1_767_225_599_483_920_123, offset, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(at(0), "23:59:59.483920");
        assert_eq!(at(3600), "00:59:59.483920");
        assert_eq!(at(-5 * 3600 - 1800), "18:29:59.483920");
    }
}
