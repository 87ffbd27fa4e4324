//! A statement without its values: what differs only in literals, white space, comments, the case of words, or the length of a list is the
//! same one.

use super::lex::{Dialect, Kind, Lexer};

/// Appends the statement to `out`.
pub fn normal(sql: &[u8], dialect: Dialect, out: &mut Vec<u8>) {
    let start = out.len();
    let is_operator = |b: u8| {
        matches!(b, b'=' | b'<' | b'>' | b'!' | b'|' | b'&' | b'~' | b'^' | b':' | b'+' | b'-' | b'*' | b'/' | b'%')
    };
    for token in Lexer::new(sql, dialect) {
        let text = sql.get(token.start..token.end).unwrap_or_default();
        let own = out.get(start..).unwrap_or_default();
        let last = own.last().copied().unwrap_or(0);
        match token.kind {
            Kind::Space | Kind::Comment | Kind::Other(b';') => {}
            Kind::Text | Kind::Dollar | Kind::Number | Kind::Marker => {
                // A sign belongs to the number.
                let signed = matches!(
                    own,
                    [.., b'(' | b',' | b'=' | b'<' | b'>', b'-' | b'+']
                        | [.., b'(' | b',' | b'=' | b'<' | b'>', b' ', b'-' | b'+']
                );
                if signed && token.kind == Kind::Number {
                    out.pop();
                    while out.last() == Some(&b' ') {
                        out.pop();
                    }
                }
                let own = out.get(start..).unwrap_or_default();
                if own.ends_with(b"(?,") {
                    out.truncate(out.len() - 2);
                    out.extend_from_slice(b"...");
                } else if own.ends_with(b"(...,") {
                    out.pop();
                } else {
                    // Strings side by side are one; so is a string behind its prefix.
                    if own.last() == Some(&b'?') && token.kind == Kind::Text {
                        continue;
                    }
                    space(out, start);
                    out.push(b'?');
                }
            }
            Kind::Other(b')') => {
                let own = out.get(start..).unwrap_or_default();
                if own.ends_with(b"in (?") {
                    out.pop();
                    out.extend_from_slice(b"...");
                }
                out.push(b')');
                let own = out.get(start..).unwrap_or_default();
                for row in [&b"(...), (...)"[..], b"(?), (?)"] {
                    if own.ends_with(row) {
                        out.truncate(out.len() - row.len() / 2 - 1);
                        break;
                    }
                }
            }
            Kind::Other(b',' | b'.') => out.extend_from_slice(text),
            Kind::Other(b) => {
                if !(is_operator(b) && is_operator(last)) {
                    space(out, start);
                }
                out.push(b);
            }
            Kind::Word => {
                space(out, start);
                out.extend(text.iter().map(u8::to_ascii_lowercase));
            }
            Kind::Name => {
                space(out, start);
                out.extend_from_slice(text);
            }
        }
    }
}

fn space(out: &mut Vec<u8>, start: usize) {
    if out.len() > start && !matches!(out.last(), Some(b'(' | b'.' | b'@' | b' ')) {
        out.push(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(sql: &str, mysql: bool) -> String {
        let mut out = Vec::new();
        normal(sql.as_bytes(), Dialect { mysql }, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn statements_that_differ_in_values_only_are_one() {
        let same = [
            "SELECT a FROM t WHERE b = 'x' AND c IN (1, 2, 3)",
            "select  a\nfrom t where b='y''z' and c in (4)",
            "select a from T where b = -1 /* why */ and c in (?, ?) -- so",
        ];
        for sql in same {
            assert_eq!(digest(sql, true).replace(" T ", " t "), "select a from t where b = ? and c in (...)", "{sql}");
        }
        assert_eq!(
            digest("INSERT INTO t(a,b) VALUES (1,'x'), (2,'y'),(3,'z');", true),
            "insert into t (a, b) values (...)"
        );
        assert_eq!(digest("insert into t values (1),(2),(3)", true), "insert into t values (?)");
        assert_eq!(
            digest("select f(a, 1), t.b from \"T\" t where x >= $1 and y = $$z$$", false),
            "select f (a, ?), t.b from \"T\" t where x >= ? and y = ?"
        );
        assert_eq!(digest("select a - 1, 2", true), "select a - ?, ?");
        assert_eq!(digest("select 'cut", true), "select ?");
        assert_eq!(digest("", true), "");
    }
}
