//! A recording of a million statements, made by hand: what a digest is made of.

use std::io::BufWriter;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::recording::{Writer, record};

/// How many.
pub const STATEMENTS: u64 = 1_000_000;
/// Connections that the statements come over.
const CONNECTIONS: u64 = 32;

/// Forms of statements as programs send them; `{}` is what differs each time.
const FORMS: &[&str] = &[
    "SELECT c.id, c.name, c.email FROM customers c WHERE c.id = {} AND c.deleted_at IS NULL LIMIT 1",
    "UPDATE orders SET state = 'paid', paid_at = '2026-11-23 20:00:{}' WHERE id = {} AND state <> 'paid'",
    "INSERT INTO events (id, kind, payload) VALUES ({}, 'click', 'x{}'), ({}, 'view', 'y''{}')",
    "SELECT o.id, o.total, i.sku FROM orders o JOIN items i ON i.order_id = o.id WHERE o.customer IN ({}, {}, {}) ORDER BY o.id DESC",
    "SELECT /* request {} */ COUNT(*) FROM sessions WHERE token = 'a{}b' AND expires > {}.5",
    "DELETE FROM cache_{} WHERE name = \"k{}\" -- {}",
    "SET autocommit=1",
    "COMMIT",
];

/// Tables of `cache_{}`, a prime: far more statements that differ than are told apart, so that memory is at its bound.
const TABLES: u64 = 100_003;

fn statement(number: u64) -> String {
    let form = FORMS[(number % FORMS.len() as u64) as usize];
    let (mut out, mut rest, mut value) = (String::new(), form, number % TABLES);
    while let Some((before, behind)) = rest.split_once("{}") {
        out.push_str(before);
        out.push_str(&value.to_string());
        value = number.wrapping_mul(7919) % 1_000_003;
        rest = behind;
    }
    out + rest
}

/// START and END as the kernel side makes them: ebpf-objects/src/mysql.h.
fn messages(number: u64, time_ns: u64) -> [Vec<u8>; 2] {
    let text = statement(number);
    let head = |kind: u32| {
        let connection = number % CONNECTIONS;
        let words = [u64::from(kind) | 3 << 32, 0x7000 + connection, 1 + connection, time_ns];
        words.map(u64::to_le_bytes).concat()
    };
    let start =
        [&head(1)[..], &(text.len() as u32).to_le_bytes(), &[0; 8], &1_u32.to_le_bytes(), text.as_bytes()].concat();
    let mut end = head(2);
    end.resize(104, 0);
    // A result set with rows; every hundredth failed.
    let flags: u32 = if number.is_multiple_of(100) { 4 } else { 2 | 16 };
    end[32..36].copy_from_slice(&flags.to_le_bytes());
    end[40] = (number % 10) as u8;
    [start, end]
}

/// Makes the recording; its module is the golden one's.
///
/// # Panics
/// If there is no room for it.
#[must_use]
pub fn make() -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/mysql/mariadb-10.11.ecaprec");
    let bytes = std::fs::read(golden).expect("the golden recording");
    let len = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[32..16 + len]).expect("JSON");
    let modules = header["modules"].as_array().expect("modules").clone();
    let mut writer = Writer::new(BufWriter::new(file.as_file()), &modules).expect("a recording");
    let mut time_ns = 1_000_000_000;
    for number in 0..STATEMENTS {
        let [start, end] = messages(number, time_ns);
        writer.record(0, &record(time_ns, 0, &start)).expect("a record");
        time_ns += 1000 + number * 37 % 1_000_000;
        writer.record(0, &record(time_ns, 0, &end)).expect("a record");
        time_ns += 10;
    }
    writer.end(&[2 * STATEMENTS]).expect("an end");
    file
}
