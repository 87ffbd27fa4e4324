//! Recordings made by hand: a writer that knows no more than docs/recordings.md, so that the document is tested as well.

use std::io::{self, Seek, SeekFrom, Write};

use serde_json::{Value, json};

/// Largest body that a reader takes.
pub const MAX_BODY: usize = 8 << 20;

/// CRC-32 (IEEE), going on from `crc` (0 at first).
#[must_use]
pub fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let (mut table, mut n) = ([0; 256], 0);
        while n < 256 {
            let (mut c, mut bit) = (n as u32, 0);
            while bit < 8 {
                c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[n] = c;
            n += 1;
        }
        table
    };
    !bytes.iter().fold(!crc, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// What a header says of a module.
#[must_use]
pub fn module(name: &str, version: &str, mode: &str, options: Value) -> Value {
    json!({
        "name": name, "version": version, "tainted": false, "build_id": null, "manifest": "",
        "config": {"schema": 1, "mode": mode, "options": options}, "targets": ["/usr/bin/first"],
    })
}

/// The 80 bytes in front of every record, and its data: a message of its own.
#[must_use]
pub fn record(time_ns: u64, target: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(80 + data.len());
    let len = u32::try_from(data.len()).expect("a short record");
    out.extend(len.to_le_bytes());
    // Stream 0; the last chunk.
    out.extend([0, 0, 2, 0]);
    out.extend(time_ns.to_le_bytes());
    for word in [4711, 4712, 1000, target] {
        out.extend(u32::to_le_bytes(word));
    }
    out.extend([0; 16]);
    for word in [0, len, 0, 0] {
        out.extend(u32::to_le_bytes(word));
    }
    out.extend(b"by-hand\0\0\0\0\0\0\0\0\0");
    out.extend(data);
    out
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    position: u64,
}

impl<W: Write> Writer<W> {
    /// With the header.
    ///
    /// # Errors
    /// Of the output.
    pub fn new(out: W, modules: &[Value]) -> io::Result<Self> {
        let mut writer = Self { out, position: 0 };
        writer.out.write_all(b"ECAPREC\x01")?;
        let header = json!({
            "version": "0.1.0", "host": "by-hand", "kernel": "6.1", "monotonic_ns": 1_000_000_000,
            "wall_ns": 1_700_000_000_000_000_000_u64, "modules": modules,
        });
        writer.block(1, 0, 0, header.to_string().as_bytes())?;
        Ok(writer)
    }

    /// Any block.
    ///
    /// # Errors
    /// Of the output.
    pub fn block(&mut self, kind: u8, module: u8, position: u64, rest: &[u8]) -> io::Result<()> {
        let mut head = [0; 16];
        head[..2].copy_from_slice(&[kind, module]);
        head[8..].copy_from_slice(&position.to_le_bytes());
        let len = u32::try_from(head.len() + rest.len()).map_err(io::Error::other)?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&crc32(crc32(0, &head), rest).to_le_bytes())?;
        self.out.write_all(&head)?;
        self.out.write_all(rest)
    }

    /// A record of a module.
    ///
    /// # Errors
    /// Of the output.
    pub fn record(&mut self, module: u8, record: &[u8]) -> io::Result<()> {
        self.position += (record.len() as u64 + 8).next_multiple_of(8);
        self.block(2, module, self.position, record)
    }

    /// The end: so many messages of each module were produced.
    ///
    /// # Errors
    /// Of the output.
    pub fn end(mut self, produced: &[u64]) -> io::Result<W> {
        let zeros = [
            "lost",
            "lost_bytes",
            "faults",
            "fault_bytes",
            "partial",
            "cut",
            "cut_bytes",
            "state_full",
            "orphans",
            "restarts",
        ];
        let totals = produced.iter().map(|produced| {
            let mut totals = json!({"produced": produced, "disabled": false});
            zeros.iter().for_each(|key| totals[key] = json!(0));
            totals
        });
        let end = json!({"monotonic_ns": 9_000_000_000_u64, "modules": totals.collect::<Vec<_>>()});
        self.block(4, 0, 0, end.to_string().as_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write + Seek> Writer<W> {
    /// The largest block there is, of zeros (a kind that nobody knows) that are a hole in the file. `crc`: of [`MAX_BODY`] zeros.
    ///
    /// # Errors
    /// Of the output.
    pub fn hole(&mut self, crc: u32) -> io::Result<()> {
        self.out.write_all(&(MAX_BODY as u32).to_le_bytes())?;
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.seek(SeekFrom::Current(MAX_BODY as i64)).map(drop)
    }
}
