//! The key log format (NSS, RFC 9850): a line for each secret of a TLS connection, for Wireshark and others to read.
//!
//! Both ends of a connection on this machine log the same line, so a line that was written is not written again, as long
//! as it is one of the last ones, into whichever file of an output. What is no secret is not in this format.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::Event;

use super::encode::decimal;
use super::session::{Gap, Render, SessionEnd, SessionStart};

/// Lines that are remembered: those of some ten thousand connections, in 3 MiB.
const REMEMBERED: usize = 65_536;

/// The format. A clone is for another file of the same output: the second end's line may come when that has begun.
#[derive(Clone, Default)]
pub struct Keylog {
    written: Arc<Mutex<Written>>,
    /// The last event has made a line.
    added: bool,
}

impl Keylog {
    fn written(&self) -> MutexGuard<'_, Written> {
        // Nothing panics while it is held.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last lines, each as two numbers: what only looks like another one is so by one chance in 2^128.
#[derive(Default)]
pub(super) struct Written {
    seeds: [RandomState; 2],
    known: HashSet<[u64; 2]>,
    order: VecDeque<[u64; 2]>,
}

impl Written {
    /// Whether this line is not one of the last.
    pub(super) fn is_new(&mut self, line: &[u8]) -> bool {
        let mark = [self.seeds[0].hash_one(line), self.seeds[1].hash_one(line)];
        if !self.known.insert(mark) {
            return false;
        }
        self.order.push_back(mark);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// The newest line is not one of them any more.
    fn forget_newest(&mut self) {
        if let Some(newest) = self.order.pop_back() {
            self.known.remove(&newest);
        }
    }
}

/// Whether these bytes are a line of a key log, without its end: `LABEL hex hex`, or `# ` and a comment. They come from a
/// worker, which may be hostile, and go where others believe them.
#[must_use]
pub fn is_line(line: &[u8]) -> bool {
    let label = |part: &[u8]| part.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    let hex = |part: &[u8]| {
        part.len().is_multiple_of(2) && part.iter().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    let mut parts = line.split(|b| *b == b' ');
    let whole = |part: Option<&[u8]>, fits: &dyn Fn(&[u8]) -> bool| part.is_some_and(|p| !p.is_empty() && fits(p));
    if line.len() > 1024 {
        return false;
    }
    if let Some(comment) = line.strip_prefix(b"# ") {
        return comment.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    }
    whole(parts.next(), &label) && whole(parts.next(), &hex) && whole(parts.next(), &hex) && parts.next().is_none()
}

impl Render for Keylog {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        self.added = event.secret && self.written().is_new(event.payload);
        if self.added {
            out.extend_from_slice(event.payload);
            out.push(b'\n');
        }
    }

    fn taken_back(&mut self) {
        if std::mem::take(&mut self.added) {
            self.written().forget_newest();
        }
    }

    fn session_start(&mut self, _: &SessionStart, _: &mut Vec<u8>) {}

    fn session_end(&mut self, _: &SessionEnd<'_>, _: &mut Vec<u8>) {}

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        // Readers skip lines that begin so.
        out.extend_from_slice(b"# ");
        decimal(gap.lost, out);
        out.extend_from_slice(b" events are missing here: ");
        out.extend(gap.reason.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b }));
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    fn rendered(render: &mut Keylog, payload: &[u8], secret: bool) -> String {
        let (schema, fields) = (samples::schema(), samples::query_fields());
        let event = Event { payload, secret, ..samples::event(&schema, &fields) };
        samples::render_one(render, &event)
    }

    #[test]
    fn a_secret_is_a_line_and_is_there_once() {
        let mut render = Keylog::default();
        assert_eq!(rendered(&mut render, b"CLIENT_RANDOM 00 11", true), "CLIENT_RANDOM 00 11\n");
        assert_eq!(rendered(&mut render, b"CLIENT_RANDOM 00 11", true), "");
        assert_eq!(rendered(&mut render, b"CLIENT_RANDOM 00 12", true), "CLIENT_RANDOM 00 12\n");
        assert_eq!(rendered(&mut render, b"select 1", false), "");
    }

    #[test]
    fn a_line_is_in_one_of_the_files_and_in_the_next_if_it_did_not_fit() {
        let mut first = Keylog::default();
        let mut next = first.clone();
        assert_eq!(rendered(&mut first, b"CLIENT_RANDOM 00 11", true), "CLIENT_RANDOM 00 11\n");
        assert_eq!(rendered(&mut first, b"CLIENT_RANDOM 00 12", true), "CLIENT_RANDOM 00 12\n");
        first.taken_back();
        assert_eq!(rendered(&mut next, b"CLIENT_RANDOM 00 12", true), "CLIENT_RANDOM 00 12\n");
        assert_eq!(rendered(&mut next, b"CLIENT_RANDOM 00 11", true), "");
        next.taken_back();
        assert_eq!(rendered(&mut next, b"CLIENT_RANDOM 00 12", true), "");
    }

    #[test]
    fn only_so_many_lines_are_remembered() {
        let mut written = Written::default();
        for number in 0..3 * REMEMBERED {
            assert!(written.is_new(&number.to_le_bytes()));
        }
        assert_eq!((written.known.len(), written.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!written.is_new(&(3 * REMEMBERED - 1).to_le_bytes()));
        assert!(written.is_new(&0_usize.to_le_bytes()));
    }

    #[test]
    fn what_is_no_line_of_a_key_log() {
        assert!(is_line(b"CLIENT_TRAFFIC_SECRET_0 a0 ff00") && is_line(b"# a comment: 1"));
        let others: [&[u8]; 11] = [
            b"#CLIENT_RANDOM 00 11",
            b"# two\nlines",
            b"",
            b"CLIENT_RANDOM",
            b"CLIENT_RANDOM 00",
            b"CLIENT_RANDOM 00 ",
            b"CLIENT_RANDOM 00 11 22",
            b"CLIENT_RANDOM 0 11",
            b"CLIENT_RANDOM 00 1g",
            b"CLIENT_RANDOM 00 11\nX 00 11",
            b"client 00 11",
        ];
        for line in others {
            assert!(!is_line(line), "{}", String::from_utf8_lossy(line));
        }
        assert!(!is_line(&[b"A 00 ".as_slice(), &[b'0'; 2000]].concat()));
    }

    #[test]
    fn a_gap_is_a_comment() {
        let mut out = Vec::new();
        let gap = Gap { lost: 7, first_ns: 0, last_ns: 0, reason: "a full\ndisk".to_owned() };
        Keylog::default().gap(&gap, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "# 7 events are missing here: a full disk\n");
    }
}
