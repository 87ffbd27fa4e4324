//! Durations and sizes as people write them.

/// `100ms`, `5s`, `1.5s`, `2m`, `1h`, `10us`, `5ns` in nanoseconds. A unit is required, but `0` may stand alone.
pub fn parse_duration(text: &str) -> Option<i64> {
    let units = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    if text == "0" {
        return Some(0);
    }
    scaled(text, &units)
}

/// `4096`, `64KiB`, `1MiB`, `2GiB` in bytes. `K`, `M` and `G` are the same; `KB` and `MB` are refused, because readers
/// differ about what they mean.
pub fn parse_size(text: &str) -> Option<i64> {
    let units = [
        ("", 1),
        ("B", 1),
        ("K", 1 << 10),
        ("KiB", 1 << 10),
        ("M", 1 << 20),
        ("MiB", 1 << 20),
        ("G", 1 << 30),
        ("GiB", 1 << 30),
    ];
    scaled(text, &units)
}

/// A number with at most nine decimals and a unit. Exact or refused: no rounding.
fn scaled(text: &str, units: &[(&str, i64)]) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |t: &str| !t.is_empty() && t.len() <= 19 && t.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || (number.contains('.') && (!all_digits(decimals) || decimals.len() > 9)) {
        return None;
    }
    let whole: i64 = whole.parse::<i64>().ok()?.checked_mul(*scale)?;
    if decimals.is_empty() {
        return Some(whole);
    }
    let ten = 10_i64.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    let part = decimals.parse::<i64>().ok()?.checked_mul(*scale)?;
    if part % ten != 0 {
        return None;
    }
    whole.checked_add(part / ten)
}

/// Nanoseconds with the unit that gives the shortest exact text: what [`parse_duration`] reads back.
pub fn format_duration(ns: i64) -> String {
    let units =
        [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
    if ns == 0 {
        return "0".to_owned();
    }
    let found = units.iter().find(|(_, scale)| ns % scale == 0);
    found.map_or_else(|| format!("{ns}ns"), |(unit, scale)| format!("{}{unit}", ns / scale))
}

/// Bytes with the largest unit that is exact: what [`parse_size`] reads back.
pub fn format_size(bytes: i64) -> String {
    let units = [("GiB", 1_i64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let found = units.iter().find(|(_, scale)| bytes != 0 && bytes % scale == 0);
    found.map_or_else(|| bytes.to_string(), |(unit, scale)| format!("{}{unit}", bytes / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("100ms"), Some(100_000_000));
        assert_eq!(parse_duration("1.5s"), Some(1_500_000_000));
        assert_eq!(parse_duration("5ns"), Some(5));
        assert_eq!(parse_duration("0"), Some(0));
        for bad in ["", "5", "s", "-1s", "1.5ns", ".5s", "1.s", "1..5s", "1 s", "99999999999999h", "1e3s", "1d"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("1MiB"), Some(1 << 20));
        assert_eq!(parse_size("1.5K"), Some(1536));
        for bad in ["", "MiB", "1MB", "1mib", "-1", "0x10", "1.0001K", "9999999999G"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn there_and_back() {
        for n in [0, 1, 999, 1_000, 1_500_000, 60_000_000_000, 3_600_000_000_000, 1 << 40, (1 << 20) + 1] {
            assert_eq!(parse_duration(&format_duration(n)), Some(n));
            assert_eq!(parse_size(&format_size(n)), Some(n));
        }
    }
}
