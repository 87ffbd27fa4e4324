//! Text from a file that nobody vouches for, made safe to print.
//!
//! A manifest, a file name or a soname could move the cursor, recolour the terminal or fake a line of the list. JSON
//! needs none of this (serde_json escapes by itself); everything that a person reads goes through here.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// `text` with every control, bidirectional and invisible character written out as `\u{..}`, newlines included.
pub fn line(text: &str) -> String {
    escaped(text, usize::MAX)
}

/// As [`line()`], cut after `most` characters of the result (an escape counts as one), with `…` where it was cut.
pub fn short(text: &str, most: usize) -> String {
    escaped(text, most)
}

/// A file name or path: bytes that are not UTF-8 as `\x..`.
pub fn os(text: &OsStr) -> String {
    let mut out = String::new();
    for chunk in text.as_bytes().utf8_chunks() {
        out.push_str(&line(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn escaped(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most.saturating_mul(4)));
    for (at, character) in text.chars().enumerate() {
        if at == most {
            out.push('…');
            break;
        }
        match character {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Control characters (C0, DEL, C1), line and paragraph separators, zero-width and bidirectional marks, tags.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
            | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_written_out_and_the_rest_is_kept() {
        assert_eq!(line("a\u{1b}[31mb\nc\u{9b}d\u{202e}é\t\u{7f}"), "a\\u{1b}[31mb\\nc\\u{9b}d\\u{202e}é\\t\\u{7f}");
    }

    #[test]
    fn short_says_that_it_cut() {
        assert_eq!(short("abcdef", 3), "abc…");
        assert_eq!(short("abc", 3), "abc");
    }

    #[test]
    fn file_names_need_not_be_utf8() {
        assert_eq!(os(OsStr::from_bytes(b"lib\xff\x1bx.so")), "lib\\xff\\u{1b}x.so");
    }
}
