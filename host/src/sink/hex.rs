//! The classical hex dump: a line of text for the event, then each text or bytes column and the payload in lines of
//! sixteen bytes. Everything is shown; a line never grows beyond 90 bytes, whatever was captured.

use crate::event::{Event, Value};

use super::encode::{decimal, hex_byte};
use super::session::{Gap, Render, SessionEnd, SessionStart};
use super::text::{Text, TextOptions};

/// The format.
#[derive(Debug, Default)]
pub struct Hex {
    text: Text,
}

impl Hex {
    /// With these options; `multiline` has no meaning here.
    pub fn new(options: TextOptions) -> Self {
        Self { text: Text::new(TextOptions { multiline: false, ..options }) }
    }
}

impl Render for Hex {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        self.text.prefix(event, out);
        out.extend_from_slice(event.schema.name().as_bytes());
        for (column, value) in event.columns() {
            if !matches!(value, Value::Text(_) | Value::Bytes(_)) {
                out.push(b' ');
                out.extend_from_slice(column.name().as_bytes());
                out.push(b'=');
                self.text.value(value, out);
            }
        }
        self.text.suffix(event, out);
        for (column, value) in event.columns() {
            if let Value::Text(bytes) | Value::Bytes(bytes) = value {
                dump(column.name(), bytes, out);
            }
        }
        if !event.payload.is_empty() {
            dump("payload", event.payload, out);
        }
    }

    fn session_start(&mut self, start: &SessionStart, out: &mut Vec<u8>) {
        self.text.session_start(start, out);
    }

    fn session_end(&mut self, end: &SessionEnd<'_>, out: &mut Vec<u8>) {
        self.text.session_end(end, out);
    }

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        self.text.gap(gap, out);
    }
}

fn dump(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"  ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b" (");
    decimal(bytes.len() as u64, out);
    out.extend_from_slice(if bytes.len() == 1 { b" byte)\n" } else { b" bytes)\n" });
    for (number, line) in bytes.chunks(16).enumerate() {
        out.extend_from_slice(b"    ");
        // Four bytes of offset: nothing that is captured at once is larger.
        ((number * 16) as u32).to_be_bytes().into_iter().for_each(|b| hex_byte(b, out));
        for column in 0..16 {
            out.extend_from_slice(if column % 8 == 0 { b"  " } else { b" " });
            match line.get(column) {
                Some(byte) => hex_byte(*byte, out),
                None => out.extend_from_slice(b"  "),
            }
        }
        out.extend_from_slice(b"  |");
        out.extend(line.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { *b } else { b'.' }));
        out.extend_from_slice(b"|\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples::{self, render_one};

    #[test]
    fn columns_and_payload_are_dumped() {
        let schema = samples::schema();
        let fields = samples::query_fields();
        let mut event = samples::event(&schema, &fields);
        event.payload = b"\x00\xff\x1b";
        event.missing = 5;
        let text = render_one(&mut Hex::default(), &event);
        let expected = "\
14:02:11.483920 mariadbd[4711/4802] mysql.query ecapture.connection.id=7 db.response.returned_rows=3 ecapture.duration_ns=0.8 ms [5 bytes missing]
  ecapture.outcome (2 bytes)
    00000000  6f 6b                                             |ok|
  db.query.text (34 bytes)
    00000000  73 65 6c 65 63 74 20 2a  20 66 72 6f 6d 20 6f 72  |select * from or|
    00000010  64 65 72 73 20 77 68 65  72 65 20 69 64 20 3d 20  |ders where id = |
    00000020  31 37                                             |17|
  payload (3 bytes)
    00000000  00 ff 1b                                          |...|
";
        assert_eq!(text, expected);
    }
}
