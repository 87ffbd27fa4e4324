//! Reads what clang's `-MD` writes: a make rule with the files that a source includes. They are what cargo must watch.

/// The prerequisites of the rule. Make escapes a space as `\ `, a `#` as `\#`, a `$` as `$$`; a `\` before a newline
/// continues the line.
pub(crate) fn prerequisites(text: &str) -> Vec<String> {
    // The target is ours (OUT_DIR/<name>.bpf.o) and may hold spaces or colons: the rule's colon is followed by white space.
    let Some(start) = text.find(": ").or_else(|| text.find(":\\\n")).or_else(|| text.find(":\n")) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    let mut name = String::new();
    let mut chars = text[start + 1..].chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('\n')) => {
                chars.next();
                finish(&mut name, &mut names);
            }
            ('\\', Some(&escaped @ (' ' | '#'))) | ('$', Some(&escaped @ '$')) => {
                chars.next();
                name.push(escaped);
            }
            (c, _) if c.is_ascii_whitespace() => finish(&mut name, &mut names),
            (c, _) => name.push(c),
        }
    }
    finish(&mut name, &mut names);
    names
}

fn finish(name: &mut String, names: &mut Vec<String>) {
    if !name.is_empty() {
        names.push(std::mem::take(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lines_and_escapes() {
        let text = "/out/a.bpf.o: src/a.bpf.c \\\n  inc/ecapture/bpf.h \\\n  with\\ space/b\\#.h dollar$$.h\n";
        assert_eq!(prerequisites(text), ["src/a.bpf.c", "inc/ecapture/bpf.h", "with space/b#.h", "dollar$.h"]);
    }

    #[test]
    fn nothing_to_read() {
        assert!(prerequisites("").is_empty());
        assert!(prerequisites("a.o:\n").is_empty());
        assert_eq!(prerequisites("a.o:\\\n b.c\n"), ["b.c"]);
    }
}
