//! Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: the lengths of its symbols say all of it, so that only they are written down and the tables come out of
//! them when this is compiled. A crate that does it is `httlib-huffman` (last release 2022, tables of 100 KiB and more); thirty
//! lines that are tested with the examples of the RFC cost less than it.

/// Length in bits of each byte's code; the last is the end of the string, which may not occur.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

/// The longest code.
const LONGEST: usize = 30;
/// Codes up to so many bits are looked up in one step: all printable ASCII that is common in headers.
const STEP: usize = 9;

/// How the codes of one length lie.
#[derive(Clone, Copy)]
struct Row {
    /// The first code behind those of this length, left-aligned in 32 bits.
    end: u64,
    /// The first code of this length.
    first: u32,
    /// Where its symbols begin in the list of all.
    at: u16,
}

struct Tables {
    rows: [Row; LONGEST + 1],
    /// All symbols in the order of their codes.
    symbols: [u16; 257],
    /// By the first `STEP` bits: the symbol and the length of its code, 0 if it is longer.
    step: [(u8, u8); 1 << STEP],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables =
        Tables { rows: [Row { end: 0, first: 0, at: 0 }; LONGEST + 1], symbols: [0; 257], step: [(0, 0); 1 << STEP] };
    let (mut code, mut at, mut len) = (0_u32, 0_usize, 1_usize);
    while len <= LONGEST {
        code <<= 1;
        tables.rows[len].first = code;
        tables.rows[len].at = at as u16;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == len {
                tables.symbols[at] = symbol as u16;
                if len <= STEP {
                    let mut tail = 0;
                    while tail < 1 << (STEP - len) {
                        tables.step[((code as usize) << (STEP - len)) + tail] = (symbol as u8, len as u8);
                        tail += 1;
                    }
                }
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        tables.rows[len].end = (code as u64) << (32 - len);
        len += 1;
    }
    tables
}

/// Appends what `bytes` say to `out`, up to `limit` bytes of it in all; false if that is no such code.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>, limit: usize) -> bool {
    let (mut bits, mut count) = (0_u64, 0_usize);
    let mut rest = bytes.iter();
    loop {
        while count <= 56
            && let Some(byte) = rest.next()
        {
            bits = (bits << 8) | u64::from(*byte);
            count += 8;
        }
        if count == 0 {
            return true;
        }
        // The next 32 bits; behind the end there are ones, as the padding is.
        let next = if count >= 32 {
            (bits >> (count - 32)) as u32
        } else {
            let missing = 32 - count;
            ((bits << missing) as u32) | (u32::MAX >> count)
        };
        let (symbol, len) = match TABLES.step[(next >> (32 - STEP)) as usize] {
            (symbol, len) if len > 0 => (u16::from(symbol), usize::from(len)),
            _ => match long(next) {
                Some(found) => found,
                None => return count < 8 && next == u32::MAX,
            },
        };
        if len > count {
            // What is left is less than a code: fewer than eight bits, all of them ones.
            return count < 8 && next == u32::MAX;
        }
        if symbol == 256 || out.len() >= limit {
            return false;
        }
        out.push(symbol as u8);
        count -= len;
    }
}

/// The symbol at the beginning of these bits, and the length of its code.
fn long(next: u32) -> Option<(u16, usize)> {
    let len = (STEP + 1..=LONGEST).find(|len| u64::from(next) < TABLES.rows[*len].end)?;
    let row = TABLES.rows[len];
    let symbol = TABLES.symbols.get(usize::from(row.at) + ((next >> (32 - len)) - row.first) as usize)?;
    Some((*symbol, len))
}

#[cfg(test)]
/// The code of these bytes, for tests of what decodes it.
pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut codes = [(0_u32, 0_usize); 257];
    for (len, row) in TABLES.rows.iter().enumerate().skip(1) {
        for (code, symbol) in (row.first..).zip(TABLES.symbols.iter().skip(usize::from(row.at))) {
            if usize::from(LENGTHS[usize::from(*symbol)]) != len {
                break;
            }
            codes[usize::from(*symbol)] = (code, len);
        }
    }
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u64, 0);
    for byte in bytes {
        let (code, len) = codes[usize::from(*byte)];
        bits = (bits << len) | u64::from(code);
        count += len;
        while count >= 8 {
            out.push((bits >> (count - 8)) as u8);
            count -= 8;
        }
    }
    if count > 0 {
        out.push(((bits << (8 - count)) as u8) | (0xff >> count));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use proptest::prelude::*;

    fn text(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes, &mut out, 1 << 20).then_some(out)
    }

    #[test]
    fn examples_of_the_rfc() {
        for (code, said) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], &b"www.example.com"[..]),
            (b"\xa8\xeb\x10\x64\x9c\xbf", b"no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", b"custom-key"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", b"custom-value"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                b"Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (b"\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3", b"https://www.example.com"),
        ] {
            assert_eq!(text(code).as_deref(), Some(said));
            assert_eq!(encode(said), code);
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        assert_eq!(text(b"\xff"), None, "eight bits of padding");
        assert_eq!(text(b"\xff\xff\xff\xff"), None, "the end of the string");
        assert_eq!(text(b"\x18"), None, "padding of zeros: 'a', then 000");
        assert_eq!(text(b"\x1f").as_deref(), Some(&b"a"[..]));
        assert_eq!(text(b""), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn all_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(text(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn no_bytes_are_too_bad(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let said = text(&bytes);
            prop_assert!(said.is_none_or(|said| encode(&said) == bytes));
        }
    }
}
