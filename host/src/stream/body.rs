//! Bodies: what came over the wire, decoded as its `Content-Encoding` says, kept up to a limit.

/// What bodies may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes that are kept of a decoded body; the rest is counted.
    pub keep: u64,
    /// Bytes that are decoded of a body; what goes beyond is marked and counted no further (a bomb).
    pub decode: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { keep: 1 << 20, decode: 1 << 32 }
    }
}

/// A body, as far as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// The decoded bytes that were kept.
    pub bytes: Vec<u8>,
    /// Bytes of the decoded body, those that were not kept included.
    pub decoded: u64,
    /// Bytes on the wire, without the framing of the protocol (chunk sizes, padding).
    pub wire: u64,
    /// Bytes of it (on the wire) that were never captured.
    pub missing: u64,
    /// What is wrong with it: an encoding that is not known or broken, a bomb, a gap behind which nothing can be decoded. The
    /// bytes up to there are right.
    pub problem: Option<String>,
}

/// Reads a body piece by piece.
#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    limits: BodyLimits,
}

impl BodyReader {
    /// `encodings`: the values of `Content-Encoding`, in their order, as they were sent (each may be a list).
    #[must_use]
    pub fn new<'a>(limits: BodyLimits, encodings: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut body = Body::default();
        let named = encodings.flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        if let Some(encoding) =
            named.into_iter().find(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
        {
            body.problem = Some(format!("encoding {:?} is not known", String::from_utf8_lossy(encoding)));
        }
        Self { body, limits }
    }

    /// The next bytes of the wire.
    pub fn push(&mut self, bytes: &[u8]) {
        self.body.wire += bytes.len() as u64;
        self.body.decoded += bytes.len() as u64;
        let room = usize::try_from(self.limits.keep).unwrap_or(usize::MAX).saturating_sub(self.body.bytes.len());
        self.body.bytes.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    /// Bytes of the wire are missing here.
    pub fn gap(&mut self, len: u64) {
        self.body.missing += len;
        self.body.problem.get_or_insert_with(|| format!("{len} bytes of it were lost"));
    }

    /// Bytes of memory that it holds, about.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.bytes.capacity()
    }

    /// The body; nothing more of it comes.
    #[must_use]
    pub fn finish(self) -> Body {
        self.body
    }
}
