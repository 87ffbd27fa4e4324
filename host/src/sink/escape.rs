//! Makes captured text safe to print: no faked line, no driven terminal, nothing hidden, always valid UTF-8.
//!
//! One rule for text and JSON, only the spelling differs: line breaks and other control characters (C0, DEL, and C1,
//! which some terminals obey even in UTF-8), the characters that reorder or hide text (bidirectional controls, zero-width
//! and tag characters) and the Unicode line and paragraph separators are spelled out. JSON would allow most of them; but
//! JSON Lines are looked at on terminals too, and an escape changes nothing for a parser. Joiners (U+200C, U+200D) and
//! variation selectors are left alone: scripts and emoji need them. Bytes that are not UTF-8 become U+FFFD, one for each
//! broken sequence.

use super::encode::hex_byte;

const REPLACEMENT: &str = "\u{fffd}";

/// How what may not be printed is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// `\n`, `\x1b`, `\u{202e}`, `\\`.
    Text,
    /// As text, but a line feed begins an indented line and a tab stays one.
    Multiline,
    /// `\n`, `\u001b`, `\u202e`, `\\`, `\"`.
    Json,
}

/// What begins a continued line of `--multiline`. Captured text can't leave the indentation.
pub const INDENT: &[u8] = b"\n    ";

/// Appends `bytes` as one line of text. A backslash is doubled, so that an escape can be told from the same letters in
/// the captured text.
pub fn text(bytes: &[u8], out: &mut Vec<u8>) {
    spell(bytes, Spelling::Text, out);
}

/// Appends `bytes` as text in which line feeds begin a new, indented line.
pub fn multiline(bytes: &[u8], out: &mut Vec<u8>) {
    spell(bytes, Spelling::Multiline, out);
}

/// Appends the inside of a JSON string (no quotes). Returns whether the bytes were UTF-8, that is, whether the string
/// says all.
pub fn json(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    spell(bytes, Spelling::Json, out)
}

fn spell(bytes: &[u8], spelling: Spelling, out: &mut Vec<u8>) -> bool {
    if let Ok(text) = std::str::from_utf8(bytes) {
        spell_str(text, spelling, out);
        return true;
    }
    for chunk in bytes.utf8_chunks() {
        spell_str(chunk.valid(), spelling, out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
    false
}

/// For each byte: 0 = copy, 1 = ASCII that is spelled out, 2 = may begin a character that is.
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = 1;
        byte += 1;
    }
    table[0x7f] = 1;
    table[b'"' as usize] = 1;
    table[b'\\' as usize] = 1;
    table[0xc2] = 2; // U+0080..U+009F, U+00AD
    table[0xd8] = 2; // U+061C
    table[0xe1] = 2; // U+180E
    table[0xe2] = 2; // U+200B..U+2069
    table[0xef] = 2; // U+FEFF, U+FFF9..U+FFFB
    table[0xf3] = 2; // U+E0000..U+E007F
    table
};

/// Characters beyond ASCII that are spelled out.
fn hidden(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

fn spell_str(text: &str, spelling: Spelling, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len());
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(next_special) {
        at += found;
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
        let plain = if c.is_ascii() { c == '"' && spelling != Spelling::Json } else { !hidden(c) };
        if !plain {
            out.extend_from_slice(&bytes[copied..at]);
            match spelling {
                Spelling::Json => spell_json(c, out),
                _ => spell_text(c, spelling, out),
            }
            copied = at + c.len_utf8();
        }
        at += c.len_utf8();
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Index of the next byte whose class is not 0. Eight bytes at a time while they are plain ASCII: text mostly is.
fn next_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // "Some byte is zero", and only then non-zero (Hacker's Delight, 6-1); exact as a yes or no for the whole word.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, _) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c)) | zero(word ^ (ONES * 0x7f));
        if (control | found | word & HIGH) != 0 {
            let inside = bytes.get(at..at + 8)?.iter().position(|b| CLASS[usize::from(*b)] != 0);
            if let Some(inside) = inside {
                return Some(at + inside);
            }
        }
        at += 8;
    }
    bytes.get(at..)?.iter().position(|b| CLASS[usize::from(*b)] != 0).map(|inside| at + inside)
}

fn spell_text(c: char, spelling: Spelling, out: &mut Vec<u8>) {
    match c {
        '\n' if spelling == Spelling::Multiline => out.extend_from_slice(INDENT),
        '\t' if spelling == Spelling::Multiline => out.push(b'\t'),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\\' => out.extend_from_slice(b"\\\\"),
        _ if c.is_ascii() => {
            out.extend_from_slice(b"\\x");
            hex_byte(c as u8, out);
        }
        _ => {
            use std::io::Write as _;
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{}", c.escape_unicode());
        }
    }
}

fn spell_json(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                let [high, low] = unit.to_be_bytes();
                hex_byte(high, out);
                hex_byte(low, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        text(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn json_of(bytes: &[u8]) -> (String, bool) {
        let mut out = vec![b'"'];
        let whole = json(bytes, &mut out);
        out.push(b'"');
        (String::from_utf8(out).unwrap(), whole)
    }

    #[test]
    fn text_can_neither_fake_a_line_nor_drive_a_terminal() {
        assert_eq!(shown(b"a\nb\r\tc\x1b[2J\x7f\0"), r"a\nb\r\tc\x1b[2J\x7f\x00");
        assert_eq!(
            shown("x\u{202e}y\u{9b}31m\u{2028}\u{e0041}\u{feff}".as_bytes()),
            r"x\u{202e}y\u{9b}31m\u{2028}\u{e0041}\u{feff}"
        );
        assert_eq!(shown(br"a\nb"), r"a\\nb");
        assert_eq!(shown("select \"ä\" – 漢字 👩\u{200d}👧".as_bytes()), "select \"ä\" – 漢字 👩\u{200d}👧");
        assert_eq!(shown(b"a\xff\xfeb\xe4\xb8"), "a\u{fffd}\u{fffd}b\u{fffd}");
        // C1 as a raw byte is not UTF-8.
        assert_eq!(shown(b"\x9b31m"), "\u{fffd}31m");
    }

    #[test]
    fn multiline_text_stays_inside_its_indentation() {
        let mut out = Vec::new();
        multiline(b"a\n14:02 fake\r\n\tb\x1b", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\n    14:02 fake\\r\n    \tb\\x1b");
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_of(b"a\"\\\n\x01"), (r#""a\"\\\n\u0001""#.into(), true));
        assert_eq!(json_of("\u{202e}\u{e0041}\u{7f}".as_bytes()).0, r#""\u202e\udb40\udc41\u007f""#);
        assert_eq!(json_of(b"a\xff"), ("\"a\u{fffd}\"".into(), false));
    }

    #[test]
    fn special_bytes_are_found_at_every_place_of_a_word() {
        for special in [b'"', b'\\', 0x00, 0x1f, 0x7f] {
            for at in 0..40 {
                let mut bytes = vec![b'a'; 40];
                bytes[at] = special;
                assert_eq!(next_special(&bytes), Some(at));
            }
        }
        assert_eq!(next_special("aaaaaaaaääääääääbbbb".as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_parsable_string(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let (text, whole) = json_of(&bytes);
            let back: String = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
            prop_assert_eq!(whole, std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn any_text_survives_json(input in "\\PC{0,20}[\\u{80}-\\u{ff}\\u{2000}-\\u{2070}\\u{e0000}-\\u{e0080}\\x00-\\x7f]{0,20}") {
            let (text, _) = json_of(input.as_bytes());
            prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), input);
            prop_assert!(!text.chars().any(|c| c.is_control() || hidden(c)));
        }

        #[test]
        fn any_bytes_become_one_line(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(!shown(&bytes).chars().any(|c| c.is_control() || hidden(c)));
        }
    }
}
