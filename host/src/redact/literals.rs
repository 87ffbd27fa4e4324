//! Statements and messages without their values, for `--redact literals`.

use crate::statements::lex::{Dialect, Kind, Lexer, Token};

/// The statement with every literal as `?`; names and keywords stay. `None`: there is none. Without a dialect, what any server takes for a
/// literal is one, and from where they read it otherwise, all of it is.
#[must_use]
pub fn literals(sql: &[u8], dialect: Option<Dialect>) -> Option<Vec<u8>> {
    let (mut out, mut any) = (Vec::with_capacity(sql.len()), false);
    let mut other = dialect.is_none().then(|| Lexer::new(sql, Dialect { mysql: true }));
    for token in Lexer::new(sql, dialect.unwrap_or_default()) {
        let mut kind = token.kind;
        if let Some(same) = other.as_mut().map(Iterator::next) {
            let Some(same) = same.filter(|same| agree(&token, same)) else {
                out.push(b'?');
                return Some(out);
            };
            if same.kind == Kind::Text {
                kind = Kind::Text;
            }
        }
        let all = sql.get(token.start..token.end).unwrap_or_default();
        match kind {
            Kind::Text | Kind::Dollar | Kind::Number => {
                out.push(b'?');
                any = true;
            }
            // What people write into a comment is nobody's to judge.
            Kind::Comment if token.to > token.from => {
                out.extend_from_slice(sql.get(token.start..token.from).unwrap_or_default());
                out.push(b'?');
                out.extend_from_slice(sql.get(token.to..token.end).unwrap_or_default());
                any = true;
            }
            _ => out.extend_from_slice(all),
        }
    }
    any.then_some(out)
}

/// Two servers read the same, if not the same into it.
fn agree(one: &Token, other: &Token) -> bool {
    (one.start, one.end) == (other.start, other.end) && (one.kind == other.kind || one.kind == Kind::Name)
}

/// A message of the server, which quotes the statement: everything in quotes is a literal.
#[must_use]
pub fn quotes(text: &[u8]) -> Option<Vec<u8>> {
    literals(text, Some(Dialect { mysql: true }))
}
