//! Numbers, base64 and hex digits, appended to a byte buffer. `write!` does the same at several times the cost, and
//! these are most of what a line of JSON is made of.

/// Appends `number` in decimal.
pub fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `number` in decimal with its sign.
pub fn signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    decimal(number.unsigned_abs(), out);
}

/// Appends `number` with zeros in front up to `WIDTH` digits; digits beyond are left out.
pub fn padded<const WIDTH: usize>(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; WIDTH];
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Appends a finite number in a form that JSON knows too; `null` otherwise.
pub fn float(number: f64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a Vec cannot fail. Plain decimals while they are short, else an exponent (`{}` of 1e300 is 301 digits).
    let _ = match number.abs() {
        size if !size.is_finite() => write!(out, "null"),
        size if size == 0.0 || (1e-5..1e16).contains(&size) => write!(out, "{number}"),
        _ => write!(out, "{number:e}"),
    };
}

/// Appends two lower-case hex digits.
pub fn hex_byte(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

const HEX: &[u8; 16] = b"0123456789abcdef";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends standard base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    let digit = |bits: u32, shift: u32| BASE64[(bits >> shift & 63) as usize];
    let (triples, rest) = bytes.as_chunks::<3>();
    for [a, b, c] in triples {
        let bits = u32::from_be_bytes([0, *a, *b, *c]);
        out.extend_from_slice(&[digit(bits, 18), digit(bits, 12), digit(bits, 6), digit(bits, 0)]);
    }
    match *rest {
        [a] => {
            let bits = u32::from_be_bytes([0, a, 0, 0]);
            out.extend_from_slice(&[digit(bits, 18), digit(bits, 12), b'=', b'=']);
        }
        [a, b] => {
            let bits = u32::from_be_bytes([0, a, b, 0]);
            out.extend_from_slice(&[digit(bits, 18), digit(bits, 12), digit(bits, 6), b'=']);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(f: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_what_the_standard_library_prints() {
        for number in [0, 7, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(made(|out| decimal(number, out)), number.to_string());
        }
        for number in [0, -1, 5, i64::MIN, i64::MAX] {
            assert_eq!(made(|out| signed(number, out)), number.to_string());
        }
        assert_eq!(made(|out| padded::<3>(7, out)), "007");
    }

    #[test]
    fn floats_read_back_and_stay_short() {
        for number in [0.0, -0.0, 0.1, 1.5e300, -2e-300, f64::MIN_POSITIVE, f64::MAX, 123_456.789] {
            let text = made(|out| float(number, out));
            assert!(serde_json::from_str::<f64>(&text).is_ok(), "{text}");
            assert_eq!(text.parse::<f64>().unwrap(), number, "{text}");
            assert!(text.len() < 30, "{text}");
        }
        assert_eq!(made(|out| float(f64::NAN, out)), "null");
        assert_eq!(made(|out| float(f64::NEG_INFINITY, out)), "null");
    }

    #[test]
    fn base64_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, coded) in cases {
            assert_eq!(made(|out| base64(plain.as_bytes(), out)), coded);
        }
        assert_eq!(made(|out| base64(&[0xff, 0xfe, 0xfd], out)), "//79");
    }
}
