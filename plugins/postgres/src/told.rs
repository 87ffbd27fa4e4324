//! What the server's messages say: command tags, errors.

/// The fields of an ErrorResponse that are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// `ERROR`, `FATAL`, `PANIC`, never translated.
    pub severity: Vec<u8>,
    /// SQLSTATE.
    pub code: Vec<u8>,
    /// The message.
    pub message: Vec<u8>,
}

impl Failure {
    /// From the body of an ErrorResponse, which may be cut anywhere.
    pub fn parse(body: &[u8]) -> Self {
        let mut failure = Self::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { break };
            match kind {
                b'V' => failure.severity = text.to_vec(),
                b'S' if failure.severity.is_empty() => failure.severity = text.to_vec(),
                b'C' => failure.code = text.to_vec(),
                b'M' => failure.message = text.to_vec(),
                _ => {}
            }
        }
        failure
    }

    /// Whether the connection ends with it.
    pub fn is_fatal(&self) -> bool {
        self.severity == b"FATAL" || self.severity == b"PANIC"
    }
}

/// A command tag, as `SELECT 5`, `INSERT 0 2`, `CREATE TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag<'a> {
    /// All of it.
    pub text: &'a [u8],
    /// The number at its end.
    pub rows: Option<u64>,
    /// Whether that counts rows that were changed.
    pub changes: bool,
}

impl<'a> Tag<'a> {
    /// From the body of a CommandComplete.
    pub fn parse(body: &'a [u8]) -> Self {
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        let last = text.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let rows = std::str::from_utf8(last).ok().and_then(|last| last.parse().ok());
        let changes =
            [&b"INSERT "[..], b"UPDATE ", b"DELETE ", b"MERGE ", b"COPY "].iter().any(|t| text.starts_with(t));
        Self { text, rows, changes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (body, rows, changes) in [
            (&b"SELECT 5\0"[..], Some(5), false),
            (b"INSERT 0 2\0", Some(2), true),
            (b"CREATE TABLE\0", None, false),
            (b"COPY 7\0", Some(7), true),
            (b"", None, false),
        ] {
            let tag = Tag::parse(body);
            assert_eq!((tag.rows, tag.changes), (rows, changes), "{body:?}");
        }
    }

    #[test]
    fn errors() {
        let failure = Failure::parse(b"SFEHLER\0VERROR\0C42P01\0Mno such table\0Fparse.c\0\0");
        assert_eq!((failure.code.as_slice(), failure.message.as_slice()), (&b"42P01"[..], &b"no such table"[..]));
        assert!(!failure.is_fatal());
        assert!(Failure::parse(b"SFATAL\0VFATAL\0C57").is_fatal());
        assert_eq!(Failure::parse(b"SFATAL\0VFATAL\0C57").code, b"57");
        assert_eq!(Failure::parse(b""), Failure::default());
    }
}
