//! `INSERT INTO t (name, password) VALUES ('bob', '…')`: which value stands for which column, token by token.

use super::names::is_secret_name;
use crate::statements::lex::{Kind, Token};

/// Most columns that are told apart.
const MOST: u32 = 128;

/// Where in an `INSERT` it is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Out,
    /// Its table is named.
    Table,
    /// The name of that column comes.
    Names(u32),
    /// Behind the names.
    Named,
    /// Before or between rows.
    Rows,
    /// The value of that column comes, in so many brackets.
    Row { column: u32, depth: u32, select: bool },
}

/// The columns of an `INSERT` that hold secrets.
#[derive(Default)]
pub struct Columns {
    phase: Phase,
    secret: u128,
}

impl Columns {
    /// Whether a token is part of the value of such a column.
    pub fn holds_secret(&mut self, sql: &[u8], token: Token) -> bool {
        let text = sql.get(token.from..token.to).unwrap_or_default();
        let word = |words: &[&str]| {
            token.kind == Kind::Word && words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes()))
        };
        if token.kind == Kind::Other(b';') {
            self.phase = Phase::Out;
        }
        self.phase = match (self.phase, token.kind) {
            (Phase::Out, Kind::Word) if word(&["insert", "into", "replace"]) => {
                self.secret = 0;
                Phase::Table
            }
            (Phase::Table, Kind::Word | Kind::Name | Kind::Other(b'.')) if !word(&["select", "values", "set"]) => {
                Phase::Table
            }
            (Phase::Table, Kind::Other(b'(')) => Phase::Names(0),
            (Phase::Names(column), Kind::Other(b',')) => Phase::Names(column + 1),
            (Phase::Names(_), Kind::Other(b')')) if self.secret != 0 => Phase::Named,
            (Phase::Names(column), Kind::Word | Kind::Name | Kind::Text) => {
                if column < MOST && is_secret_name(text) {
                    self.secret |= 1 << column;
                }
                Phase::Names(column)
            }
            (Phase::Names(column), Kind::Other(b'.')) => Phase::Names(column),
            (Phase::Named, _) if word(&["values", "value"]) => Phase::Rows,
            (Phase::Named, _) if word(&["select"]) => Phase::Row { column: 0, depth: 1, select: true },
            (Phase::Named, Kind::Word) => Phase::Named,
            (Phase::Rows, Kind::Other(b'(')) => Phase::Row { column: 0, depth: 1, select: false },
            (Phase::Rows, Kind::Other(b',')) => Phase::Rows,
            // `OVERRIDING SYSTEM VALUE VALUES`, `VALUES ROW(…)`
            (Phase::Rows, _) if word(&["values", "row"]) => Phase::Rows,
            (Phase::Row { select: true, depth: 1, .. }, _)
                if word(&["from", "where", "union", "except", "intersect", "on", "returning", "limit"]) =>
            {
                Phase::Out
            }
            (Phase::Row { column, depth: 1, select }, Kind::Other(b',')) => {
                Phase::Row { column: column + 1, depth: 1, select }
            }
            (Phase::Row { column, depth, select }, Kind::Other(b'(')) => {
                Phase::Row { column, depth: depth.saturating_add(1), select }
            }
            (Phase::Row { depth: 1, select, .. }, Kind::Other(b')')) => {
                if select {
                    Phase::Out
                } else {
                    Phase::Rows
                }
            }
            (Phase::Row { column, depth, select }, Kind::Other(b')')) => {
                Phase::Row { column, depth: depth - 1, select }
            }
            (row @ Phase::Row { .. }, _) => row,
            _ => Phase::Out,
        };
        matches!(self.phase, Phase::Row { column, .. } if column < MOST && self.secret >> column & 1 == 1)
    }
}
