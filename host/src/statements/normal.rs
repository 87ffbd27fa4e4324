//! A statement without its values: what differs only in literals, white space, comments, the case of words, or the length of a list is the
//! same one. The case of names is kept for MySQL and MariaDB, where it tells tables apart.

use super::lex::{Dialect, Kind, Lexer};
use super::words::is_word;

/// Appends the statement to `out`.
pub fn normal(sql: &[u8], dialect: Dialect, out: &mut Vec<u8>) {
    let start = out.len();
    let mut open = Opened::default();
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
                if let Some(place) = open.close() {
                    fold(out, start, place);
                }
            }
            Kind::Other(b',' | b'.') => out.extend_from_slice(text),
            Kind::Other(b) => {
                if !(is_operator(b) && is_operator(last)) {
                    space(out, start);
                }
                if b == b'(' {
                    open.open(out.len());
                }
                out.push(b);
            }
            Kind::Word => {
                space(out, start);
                if dialect.mysql && !is_word(text) {
                    out.extend_from_slice(text);
                } else {
                    out.extend(text.iter().map(u8::to_ascii_lowercase));
                }
            }
            Kind::Name => {
                space(out, start);
                out.extend_from_slice(text);
            }
        }
    }
}

/// Where brackets that are not closed yet were opened. Beyond so many inside of one another they are only counted.
#[derive(Default)]
struct Opened {
    places: [usize; 16],
    depth: usize,
}

impl Opened {
    fn open(&mut self, place: usize) {
        if let Some(here) = self.places.get_mut(self.depth) {
            *here = place;
        }
        self.depth += 1;
    }

    fn close(&mut self) -> Option<usize> {
        self.depth = self.depth.checked_sub(1)?;
        self.places.get(self.depth).copied()
    }
}

/// Takes away the row that begins at `place` and has just ended, if it is one of a list whose row before it is the same.
fn fold(out: &mut Vec<u8>, start: usize, place: usize) {
    let (before, row) = (out.get(start..place).unwrap_or_default(), out.get(place..).unwrap_or_default());
    let list = before.strip_suffix(b", ").and_then(|rest| rest.strip_suffix(row));
    // Of what are no values, a list has its length: `f(a), (a)`.
    if list.is_some_and(|list| matches!(row, b"(...)" | b"(?)") || list.ends_with(b"values ")) {
        out.truncate(place - 2);
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
            "select a from t where b = -1 /* why */ and c in (?, ?) -- so",
        ];
        for sql in same {
            assert_eq!(digest(sql, true), "select a from t where b = ? and c in (...)", "{sql}");
        }
        assert_eq!(
            digest("INSERT INTO t(a,b) VALUES (1,'x'), (2,'y'),(3,'z');", true),
            "insert into t (a, b) values (...)"
        );
        assert_eq!(digest("insert into t values (1),(2),(3)", true), "insert into t values (?)");
        for rows in ["(1, now())", "(1, now()), (2, now())", "('x',NOW()),('y',now()),(3,now())"] {
            let sql = format!("INSERT INTO t VALUES {rows} on conflict do nothing");
            assert_eq!(digest(&sql, false), "insert into t values (?, now ()) on conflict do nothing", "{rows}");
        }
        assert_eq!(
            digest("insert into t values (1, f((2), 3)), (4, f((5), 6)), (default, 7)", true),
            "insert into t values (?, f ((?), ?)), (default, ?)"
        );
        // No values, so not rows of a list; brackets that do not match, and more than are followed.
        assert_eq!(digest("select (a), (a), f(b), (b)", true), "select (a), (a), f (b), (b)");
        assert_eq!(digest("values ) (now()), (now()), (now(", false), "values) (now ()), (now ()), (now (");
        let deep = format!("values {0}now(){1}, {0}now(){1}", "(".repeat(20), ")".repeat(20));
        assert_eq!(digest(&deep, false), format!("values {}now (){}", "(".repeat(20), ")".repeat(20)));
        assert_eq!(
            digest("select f(a, 1), t.b from \"T\" t where x >= $1 and y = $$z$$", false),
            "select f (a, ?), t.b from \"T\" t where x >= ? and y = ?"
        );
        assert_eq!(digest("select a - 1, 2", true), "select a - ?, ?");
        assert_eq!(digest("select 'cut", true), "select ?");
        // MariaDB's tables `Orders` and `orders` are two; PostgreSQL has one.
        assert_eq!(digest("SELECT COUNT(*) FROM Orders o", true), "select count (*) from Orders o");
        assert_eq!(digest("SELECT COUNT(*) FROM Orders o", false), "select count (*) from orders o");
        assert_eq!(digest("", true), "");
    }
}
