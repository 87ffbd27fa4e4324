//! The mode `keylog`: the secrets of connections, taken where the library hands each to the function that would log it
//! (`ssl_log_secret`). That function has no name in most files; it is found by the labels that it is called with, and where
//! it takes the client random from is read from its own code by the host. So nothing depends on the version.
//!
//! Layouts of messages and of the row: `ebpf-objects/src/openssl_keylog.h`.

use crate::detect::{self, Hook, version};
use crate::record::connection;
use ecapture_plugin_api::plan::{Field, Hex};
use ecapture_plugin_api::sdk::elf::Elf;
use ecapture_plugin_api::sdk::{
    Configured, Detected, DetectedVersion, Error, Fields, Locator, Object, Out, Probe, ProbeKind, Record,
};
use std::collections::BTreeMap;

/// Name of the mode.
pub const MODE: &str = "keylog";
/// The same secrets, beside packets that the host captures.
pub const PACKETS_MODE: &str = "pcapng";
/// Numbers of the `[[stream]]`s.
pub mod stream {
    pub const SECRETS: u16 = 1;
    pub const UNSEEN: u16 = 2;
}
/// Id of the eBPF object.
const OBJECT: &str = "openssl_keylog";

/// Numbers of the `[[event]]`s.
mod event {
    pub const SECRET: u16 = 3;
    pub const KEYS_NOT_SEEN: u16 = 4;
}
/// Numbers of the columns of a secret.
mod column {
    pub const LABEL: u16 = 0;
    pub const RANDOM: u16 = 1;
    pub const SECRET: u16 = 2;
}
/// And of the one of a connection without.
const CONNECTION: u16 = 0;

/// What a key log calls its secrets. Numbered from 1 in the row; from `OPENSSL_NEXT` on, those that follow others.
const LABELS: [&str; 10] = [
    "CLIENT_RANDOM",
    "CLIENT_EARLY_TRAFFIC_SECRET",
    "EARLY_EXPORTER_SECRET",
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
    "EXPORTER_SECRET",
    "CLIENT_TRAFFIC_SECRET_N",
    "SERVER_TRAFFIC_SECRET_N",
];
/// So many must be there, and so many lead to one function: other calls may stand between a label and its own.
const ENOUGH: (usize, u32) = (4, 3);
/// Bytes of the client random.
const RANDOM: usize = 32;
/// Longest secret.
const LONGEST: usize = 64;
/// Entries of the row.
const PLACES: usize = 24;
const PAGE: u64 = 4096;

/// Whether this mode makes secrets.
pub fn is_mode(mode: &str) -> bool {
    mode == MODE || mode == PACKETS_MODE
}

/// What is loaded, and what the host is to capture.
pub fn configure(mode: &str) -> Configured {
    let object = Object { id: OBJECT.to_owned(), programs: Vec::new(), globals: Default::default() };
    let services = if mode == PACKETS_MODE { vec!["packets".to_owned()] } else { Vec::new() };
    Configured { objects: vec![object], services, ..Configured::default() }
}

/// Looks at one file.
///
/// # Errors
/// Why the file can't be captured from, and what to do: a sentence for the user.
pub fn detect(bytes: &[u8]) -> Result<Detected, String> {
    let elf = Elf::parse(bytes).map_err(|why| format!("not a program or library that can be read: {why}"))?;
    let places = places(&elf);
    let found = (1..=LABELS.len()).filter(|number| places.iter().any(|p| p.1 == *number)).count();
    if found < ENOUGH.0 {
        return Err(format!(
            "it has {found} of the labels of a key log: no OpenSSL from 1.1.1 on, BoringSSL or AWS-LC is in it; a key log \
             can be captured from the library or program that has it"
        ));
    }
    let (product, text, how) = version(&elf);
    let (row, missing) = row(&places);
    let probe = Probe {
        object: OBJECT.to_owned(),
        program: "openssl_secret".to_owned(),
        kind: ProbeKind::Entry,
        at: Locator::CalleeOfStrings {
            strings: LABELS.map(str::to_owned).to_vec(),
            min: ENOUGH.1,
            field: Some(Field { argument: 0, bytes: 32, most: 2 }),
        },
        args: 4,
        arg: 0,
        required: true,
        group: None,
    };
    let (uses, fallbacks, without) = uses(bytes);
    let note = |label: &&str| format!("{label} is told only by its text: a line is missing if that is not in memory");
    Ok(Detected {
        probes: std::iter::once(probe).chain(uses).collect(),
        fallbacks,
        layout: Hex(row),
        notes: missing.iter().map(note).chain(without).collect(),
        ..Detected::supported(DetectedVersion { product: product.to_owned(), text, how })
    })
}

/// Groups of probes that stand in for others.
type Fallbacks = BTreeMap<String, String>;

/// Probes on functions that read and write, for connections whose handshake was over before: as in the mode `text`, but for the
/// connection only. What is missing without them is said.
fn uses(bytes: &[u8]) -> (Vec<Probe>, Fallbacks, Option<String>) {
    let detection = match detect::detect(bytes) {
        Ok(detection) => detection,
        Err(_) => {
            let missing = "SSL_read and SSL_write are not found: connections whose handshake was over before the \
                           capture are not told of";
            return (Vec::new(), Fallbacks::new(), Some(missing.to_owned()));
        }
    };
    let moves = |hook: &&Hook| matches!(hook.call & 0xff, 1 | 2 | 6 | 7 | 11 | 12 | 14);
    let probe = |hook: &Hook| {
        let program = if hook.at_return { "openssl_used" } else { "openssl_use" };
        let args = u8::from(!hook.at_return);
        Probe { object: OBJECT.to_owned(), program: program.to_owned(), args, required: false, ..crate::probe(hook) }
    };
    let probes: Vec<Probe> = detection.hooks.iter().filter(moves).map(probe).collect();
    let is_group = |name: &str| probes.iter().any(|p| p.group.as_deref() == Some(name));
    let fallbacks = detection.fallbacks.iter().filter(|(group, other)| is_group(group) && is_group(other));
    let fallbacks = fallbacks.map(|(group, other)| ((*group).to_owned(), (*other).to_owned())).collect();
    (probes, fallbacks, None)
}

/// Where in their pages the labels are, with the numbers of these. A label may be there more than once, or be the end of
/// another one.
fn places(elf: &Elf<'_>) -> Vec<(u16, usize)> {
    let mut places = Vec::new();
    for (label, number) in LABELS.iter().zip(1..) {
        let text = [label.as_bytes(), b"\0"].concat();
        places.extend(elf.find(&text).take(PLACES).map(|at| ((at % PAGE) as u16, number)));
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// The row: the places of which each means one label. And the labels that are there, but not at such a place.
fn row(places: &[(u16, usize)]) -> (Vec<u8>, Vec<&'static str>) {
    let alone = |(at, _): &&(u16, usize)| places.iter().filter(|p| p.0 == *at).count() == 1;
    let told: Vec<_> = places.iter().filter(alone).take(PLACES).collect();
    let mut row = Vec::with_capacity(PLACES * 4);
    for (at, number) in &told {
        row.extend(at.to_le_bytes());
        row.extend((*number as u16).to_le_bytes());
    }
    row.resize(PLACES * 4, 0);
    let missing = LABELS.iter().zip(1..).filter(|(_, number)| {
        let has = |(_, label): &(u16, usize)| label == number;
        places.iter().any(has) && !told.iter().any(|told| has(told))
    });
    (row, missing.map(|(label, _)| *label).collect())
}

/// One secret as the kernel side sent it.
#[derive(Debug, PartialEq, Eq)]
struct Secret<'a> {
    label: &'a [u8],
    random: &'a [u8],
    secret: &'a [u8],
}

/// Reads one message.
fn parse(message: &[u8]) -> Result<Secret<'_>, String> {
    const FIXED: usize = 160;
    const NO_LABEL: u16 = 1;
    const NO_RANDOM: u16 = 2;
    const NO_SECRET: u16 = 4;
    let whole = Fields::<FIXED>::split(message).filter(|(_, rest)| rest.is_empty());
    let (message, _) = whole.ok_or_else(|| format!("{} bytes, not the {FIXED} of a message", message.len()))?;
    let (unread, place) = (message.u16::<12>(), usize::from(message.u16::<14>()));
    let label = match (message.bytes::<112, 40>(), place.checked_sub(1).and_then(|n| LABELS.get(n))) {
        (text, _) if unread & NO_LABEL == 0 => text.split(|b| *b == 0).next().unwrap_or_default(),
        (_, Some(label)) => label.as_bytes(),
        (_, None) => return Err("a secret whose label was not in memory".to_owned()),
    };
    let fits = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    if label.is_empty() || !label.iter().all(fits) {
        return Err(format!("{:?} is no label of a key log", String::from_utf8_lossy(label)));
    }
    let length = message.u32::<8>() as usize;
    let secret = message.bytes::<48, LONGEST>().get(..length).filter(|secret| !secret.is_empty());
    let secret = secret.ok_or_else(|| format!("a secret of {length} bytes"))?;
    if unread & (NO_RANDOM | NO_SECRET) != 0 {
        let what = if unread & NO_RANDOM != 0 { "client random" } else { "secret" };
        return Err(format!("the {what} of a connection could not be read"));
    }
    Ok(Secret { label, random: message.bytes::<16, RANDOM>(), secret })
}

/// Emits the secret that a message has.
///
/// # Errors
/// A message that makes no sense, or lacks something.
pub fn secret(record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let secret = parse(record.data()).map_err(Error::new)?;
    let (random, value) = (hex(secret.random), hex(secret.secret));
    let line = [secret.label, random.as_bytes(), value.as_bytes()].join(&b' ');
    let event = out.event(event::SECRET).text(column::LABEL, secret.label);
    event.text(column::RANDOM, &random).text(column::SECRET, &value).secret(&line).emit();
    Ok(())
}

/// Emits that a connection's keys were not seen.
///
/// # Errors
/// A message that makes no sense.
pub fn not_seen(record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let message = record.data().try_into();
    let ssl = message.map_err(|_| Error::new(format!("{} bytes, not the 8 of a message", record.data().len())))?;
    let connection = connection(record.process(), u64::from_le_bytes(ssl), record.time_ns());
    let line = format!(
        "# keys not seen: process {} connection {connection}: its handshake was over before the capture",
        record.process()
    );
    out.event(event::KEYS_NOT_SEEN).u64(CONNECTION, connection).secret(line.as_bytes()).emit();
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

#[cfg(test)]
#[path = "keylog_tests.rs"]
mod tests;
