//! Numbers and times as the server writes them: what its output functions make of the binary formats.
//!
//! Source: the documented binary formats, which clients rely on, and the server's own text forms with `DateStyle` ISO,
//! `IntervalStyle` postgres and `TimeZone` UTC, whatever the session has set: its settings are not known here.

use std::fmt::Write as _;

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROS;
/// 2000-01-01, in days since 1970-01-01.
const EPOCH: i64 = 10_957;

/// A floating-point number in the shortest form that reads back as the same; `digits` is 15 for float8, 6 for float4: from
/// that power of ten on with an exponent.
fn float(shortest: &str, digits: i32) -> String {
    let (sign, shortest) = shortest.strip_prefix('-').map_or(("", shortest), |rest| ("-", rest));
    let Some((mantissa, exponent)) = shortest.split_once('e') else { return format!("{sign}{shortest}") };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let plain: String = mantissa.chars().filter(|c| *c != '.').collect();
    if !(-4..digits).contains(&exponent) {
        let direction = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{direction}{:02}", exponent.unsigned_abs());
    }
    let before = usize::try_from(exponent + 1).unwrap_or(0);
    if exponent < 0 {
        let zeros = "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0));
        return format!("{sign}0.{zeros}{plain}");
    }
    if plain.len() <= before {
        return format!("{sign}{plain}{}", "0".repeat(before - plain.len()));
    }
    let (whole, part) = plain.split_at(before);
    format!("{sign}{whole}.{part}")
}

/// `float8`.
pub fn float8(value: f64) -> String {
    special(value.is_nan(), value.is_infinite(), value < 0.0).unwrap_or_else(|| float(&format!("{value:e}"), 15))
}

/// `float4`.
pub fn float4(value: f32) -> String {
    special(value.is_nan(), value.is_infinite(), value < 0.0).unwrap_or_else(|| float(&format!("{value:e}"), 6))
}

fn special(nan: bool, infinite: bool, negative: bool) -> Option<String> {
    let name = match (nan, infinite, negative) {
        (true, ..) => "NaN",
        (_, true, true) => "-Infinity",
        (_, true, false) => "Infinity",
        _ => return None,
    };
    Some(name.to_owned())
}

/// `numeric`: groups of four decimal digits, the first of which counts 10000 to the power of `weight`.
pub fn numeric(groups: &[u16], weight: i16, sign: u16, scale: u16) -> Option<String> {
    let mut text = String::new();
    match sign {
        0 => {}
        0x4000 => text.push('-'),
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => return None,
    }
    if groups.iter().any(|group| *group > 9999) || scale > 0x3fff {
        return None;
    }
    let group = |at: i32| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let weight = i32::from(weight);
    if weight < 0 {
        text.push('0');
    }
    for at in 0..=weight {
        let _ = if at == 0 { write!(text, "{}", group(at)) } else { write!(text, "{:04}", group(at)) };
    }
    if scale > 0 {
        text.push('.');
        let mut part = String::new();
        let mut at = weight + 1;
        // Groups of zeros stand between the point and the first group of a small number.
        if weight < -1 {
            at = 0;
            part = "0000".repeat(usize::try_from(-weight - 1).unwrap_or(0).min(usize::from(scale) / 4 + 1));
        }
        while part.len() < usize::from(scale) {
            let _ = write!(part, "{:04}", group(at));
            at += 1;
        }
        part.truncate(usize::from(scale));
        text.push_str(&part);
    }
    Some(text)
}

/// `date`: days since 2000-01-01.
pub fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        days => {
            let (text, bc) = calendar(i64::from(days));
            text + bc
        }
    }
}

/// The day so many days after 2000-01-01, and ` BC` if it is one.
fn calendar(days: i64) -> (String, &'static str) {
    // Howard Hinnant's algorithm: eras of 400 years that begin with March.
    let z = days + EPOCH + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (year, bc) = if year <= 0 { (1 - year, " BC") } else { (year, "") };
    (format!("{year:04}-{month:02}-{day:02}"), bc)
}

/// Microseconds of a day as `04:05:06.789`.
pub fn time(micros: i64) -> String {
    let (hours, rest) = (micros.div_euclid(3600 * MICROS), micros.rem_euclid(3600 * MICROS));
    format!("{hours:02}:{:02}:{:02}{}", rest / (60 * MICROS), rest / MICROS % 60, fraction(rest % MICROS))
}

fn fraction(micros: i64) -> String {
    if micros == 0 {
        return String::new();
    }
    format!(".{micros:06}").trim_end_matches('0').to_owned()
}

/// An offset from UTC, given in seconds to the west.
pub fn zone(west: i32) -> String {
    let east = -i64::from(west);
    let (sign, seconds) = if east < 0 { ('-', -east) } else { ('+', east) };
    let mut text = format!("{sign}{:02}", seconds / 3600);
    if seconds % 3600 != 0 {
        let _ = write!(text, ":{:02}", seconds / 60 % 60);
    }
    if seconds % 60 != 0 {
        let _ = write!(text, ":{:02}", seconds % 60);
    }
    text
}

/// `timestamp`, and `timestamptz` with `zone` `+00`: microseconds since 2000-01-01.
pub fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        micros => {
            let (day, bc) = calendar(micros.div_euclid(DAY));
            format!("{day} {}{zone}{bc}", time(micros.rem_euclid(DAY)))
        }
    }
}

/// `interval`.
pub fn interval(micros: i64, days: i32, months: i32) -> String {
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return "infinity".to_owned(),
        (i64::MIN, i32::MIN, i32::MIN) => return "-infinity".to_owned(),
        _ => {}
    }
    let mut parts = Vec::new();
    // A part behind a negative one says that it is not.
    let mut negative = false;
    for (value, unit) in [(i64::from(months / 12), "year"), (i64::from(months % 12), "mon"), (i64::from(days), "day")] {
        if value != 0 {
            let plus = if negative && value > 0 { "+" } else { "" };
            parts.push(format!("{plus}{value} {unit}{}", if value == 1 { "" } else { "s" }));
            negative = value < 0;
        }
    }
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 {
            "-"
        } else if negative {
            "+"
        } else {
            ""
        };
        let magnitude = i64::try_from(micros.unsigned_abs()).unwrap_or(i64::MAX);
        parts.push(format!("{sign}{}", time(magnitude)));
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_the_server_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (123_456.789, "123456.789"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1e-4, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (-2.5e300, "-2.5e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float8(value), text);
        }
        assert_eq!((float4(1e6), float4(0.1), float4(99999.0)), ("1e+06".into(), "0.1".into(), "99999".into()));
    }

    #[test]
    fn numerics() {
        for (groups, weight, sign, scale, text) in [
            (&[][..], 0, 0, 0, "0"),
            (&[12, 5000], 0, 0, 2, "12.50"),
            (&[1, 2345, 6789], 1, 0x4000, 4, "-12345.6789"),
            (&[5], -1, 0, 4, "0.0005"),
            (&[5000], -1, 0, 1, "0.5"),
            (&[1], -3, 0, 12, "0.000000000001"),
            (&[1], 2, 0, 0, "100000000"),
            (&[], 0, 0, 3, "0.000"),
            (&[], 0, 0xc000, 0, "NaN"),
        ] {
            assert_eq!(numeric(groups, weight, sign, scale).as_deref(), Some(text));
        }
        assert_eq!(numeric(&[10_000], 0, 0, 0), None);
        assert_eq!(numeric(&[1], 0, 7, 0), None);
        assert_eq!(numeric(&[1], i16::MIN, 0, 3).as_deref(), Some("0.000"));
    }

    #[test]
    fn days_and_times() {
        assert_eq!((date(0), date(-1), date(60)), ("2000-01-01".into(), "1999-12-31".into(), "2000-03-01".into()));
        assert_eq!((date(-730_119), date(-730_120)), ("0001-01-01".into(), "0001-12-31 BC".into()));
        assert_eq!((date(i32::MAX), date(i32::MIN)), ("infinity".into(), "-infinity".into()));
        assert_eq!(timestamp(-1, ""), "1999-12-31 23:59:59.999999");
        assert_eq!(timestamp(1_500_000, "+00"), "2000-01-01 00:00:01.5+00");
        assert_eq!((time(86_400 * MICROS), time(3_723_000_100)), ("24:00:00".into(), "01:02:03.0001".into()));
        assert_eq!((zone(0), zone(-19_800), zone(28_800)), ("+00".into(), "+05:30".into(), "-08".into()));
    }

    #[test]
    fn intervals() {
        for (micros, days, months, text) in [
            (0, 0, 0, "00:00:00"),
            (14_706_700_000, 3, 14, "1 year 2 mons 3 days 04:05:06.7"),
            (-1_000_000, 0, 0, "-00:00:01"),
            (1_000_000, -1, 0, "-1 days +00:00:01"),
            (0, 1, -1, "-1 mons +1 day"),
        ] {
            assert_eq!(interval(micros, days, months), text);
        }
    }
}
