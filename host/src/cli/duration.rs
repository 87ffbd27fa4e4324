//! Durations and sizes as people write them.

use std::time::Duration;

use crate::sink::rotate::MIN_SIZE;

/// `90`, `90s`, `1.5s`, `200ms`, `5m`, `2h`. A bare number is seconds.
///
/// # Errors
/// Says what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time; expected ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number such as 30s, 200ms or 5m".to_string())?;
    Duration::try_from_secs_f64(number * factor).map_err(|e| e.to_string())
}

/// `65536`, `64KiB`, `16MiB`, `16M`, `1GiB`. Bytes; units are powers of 1024.
///
/// # Errors
/// Says what was expected.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("{unit:?} is no unit of size; expected KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "expected a size such as 16MiB".to_string())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_string())
}

/// The size of a ring: 128KiB, which holds the largest record, to 1GiB; the kernel allows more, but positions are masked
/// with 32 bits in places.
///
/// # Errors
/// Says what was expected.
pub fn ring_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (128 << 10..=1 << 30).contains(&bytes) { Ok(bytes) } else { Err("expected 128KiB to 1GiB".into()) }
}

/// Room for frames.
///
/// # Errors
/// Says what was expected.
pub fn packet_ring(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (1 << 20..=1 << 30).contains(&bytes) { Ok(bytes) } else { Err("expected 1MiB to 1GiB".into()) }
}

/// Longest part of a body that is shown: at most 256MiB, since it is held in memory as a whole.
///
/// # Errors
/// Says what was expected.
pub fn max_body(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (1..=256 << 20).contains(&bytes) { Ok(bytes) } else { Err("expected 1 byte to 256MiB".into()) }
}

/// Room for what is held of connections: 1MiB to 1GiB, which the collector's own limit leaves room for.
///
/// # Errors
/// Says what was expected.
pub fn stream_memory(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (1 << 20..=1 << 30).contains(&bytes) { Ok(bytes) } else { Err("expected 1MiB to 1GiB".into()) }
}

/// How often numbers are told: 100ms or more.
///
/// # Errors
/// Says what was expected.
pub fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time >= Duration::from_millis(100) { Ok(time) } else { Err("expected 100ms or more".into()) }
}

/// An expression for what is to be left out.
///
/// # Errors
/// What is wrong with it.
pub fn redact_pattern(text: &str) -> Result<String, String> {
    crate::redact::pattern(text).map(|_| text.to_owned())
}

/// Most bytes of a file of a rotated output.
///
/// # Errors
/// Says what was expected.
pub fn rotate_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes >= MIN_SIZE { Ok(bytes) } else { Err("expected 1MiB or more".into()) }
}

/// How long a file of a rotated output is written to.
///
/// # Errors
/// Says what was expected.
pub fn rotate_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time >= Duration::from_secs(1) { Ok(time) } else { Err("expected 1s or more".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "5 s", "-1", "1d", "1..2s", "1e400"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("16m"), Ok(16 << 20));
        for bad in ["", "MiB", "1.5M", "1TiB", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
