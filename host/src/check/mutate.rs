//! Records that no kernel side sends: random ones, and real ones with something changed.

use ecapture_plugin_api::manifest::Manifest;

use crate::event::record::{FAULT, HEADER_LEN, Header, LAST};
use crate::protocol::KernelTotals;
use crate::recording::format::{self, Ended, kind};
use crate::recording::{Header as RecordingHeader, RecordedModule};

/// A small generator of numbers, the same everywhere (splitmix64): a finding can be had again from its seed.
#[derive(Debug, Clone)]
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`; 0 below 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }
}

/// Numbers that are at the edge of something.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, i64::MAX as u64, u64::MAX];

/// A recording of these records.
pub fn recording(module: RecordedModule, records: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = format::MAGIC.to_vec();
    let header = RecordingHeader { modules: vec![module], ..RecordingHeader::default() };
    format::push(&mut out, kind::HEADER, 0, 0, &serde_json::to_vec(&header).unwrap_or_default());
    let (mut position, mut produced) = (0, 0);
    for record in records {
        position += (record.len() as u64 + 8).next_multiple_of(8);
        produced += 1;
        format::push(&mut out, kind::RECORD, 0, position, &record);
    }
    let ended = Ended { monotonic_ns: 0, modules: vec![KernelTotals { produced, ..KernelTotals::default() }] };
    format::push(&mut out, kind::END, 0, 0, &serde_json::to_vec(&ended).unwrap_or_default());
    out
}

/// Mutants of the seeds, and nonsense: `count` of them.
pub fn random(manifest: &Manifest, seeds: &[Vec<u8>], count: usize, n: &mut Numbers) -> impl Iterator<Item = Vec<u8>> {
    (1..).take(count).map(move |time| record(manifest, seeds, time * 1_000_000, n))
}

/// Data up to this length is tried at every length: no fixed part of a record is longer in practice.
const SHORT: usize = 128;
/// Seeds that are cut at every length.
const CUT_SEEDS: usize = 64;

/// Every stream with every short length, and seeds cut at every length: what a decoder forgets to ask is how much there is.
pub fn short(manifest: &Manifest, seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut push = |header: Header, data: &[u8]| {
        let (len, time_ns) = (data.len() as u32, 1_000_000 * (records.len() as u64 + 1));
        let header =
            Header { len, total: len, offset: 0, flags: LAST, cut: 0, lost_before: 0, time_ns, pid: 100, ..header };
        records.push([header.to_bytes().as_slice(), data].concat());
    };
    for stream in (0..=u16::MAX).take(manifest.streams.len()) {
        for fill in [0, 0xff] {
            for len in 0..=SHORT {
                push(Header { stream, tid: 100, ..Header::default() }, &vec![fill; len]);
            }
        }
    }
    for seed in seeds.iter().step_by(seeds.len().div_ceil(CUT_SEEDS).max(1)) {
        let Some((header, data)) = Header::parse(seed) else { continue };
        for len in 0..=data.len().min(SHORT) {
            push(header, data.get(..len).unwrap_or_default());
        }
    }
    records
}

fn record(manifest: &Manifest, seeds: &[Vec<u8>], time_ns: u64, n: &mut Numbers) -> Vec<u8> {
    let seed = match seeds.len() {
        0 => None,
        // One in four is nonsense all the same.
        many if n.below(4) > 0 => seeds.get(n.below(many)).cloned(),
        _ => None,
    };
    let (mut header, mut data) = match seed.as_deref().and_then(Header::parse) {
        Some((header, data)) => (header, data.to_vec()),
        None => {
            let stream = n.below(manifest.streams.len()) as u16;
            let orders = if n.below(50) == 0 { 17 } else { 9 };
            let long = 1 << n.below(orders);
            let data = (0..n.below(long)).map(|_| byte(n)).collect();
            (Header { stream, ..Header::default() }, data)
        }
    };
    for _ in 0..n.below(4) {
        change(&mut data, n);
    }
    // A few threads, so that what belongs together meets.
    header.pid = 100 + n.below(3) as u32;
    header.tid = header.pid + n.below(3) as u32;
    header.time_ns = time_ns;
    header.offset = 0;
    header.len = data.len() as u32;
    header.total = header.len + if n.below(8) == 0 { n.below(5000) as u32 } else { 0 };
    header.flags = match n.below(16) {
        0 => FAULT,
        _ => LAST,
    };
    header.lost_before = if n.below(64) == 0 { 1 + n.below(9) as u32 } else { 0 };
    header.cut = if n.below(32) == 0 { n.below(1 << 20) as u32 } else { 0 };
    let mut record = Vec::with_capacity(HEADER_LEN + data.len());
    record.extend_from_slice(&header.to_bytes());
    record.extend_from_slice(&data);
    record
}

fn byte(n: &mut Numbers) -> u8 {
    if n.below(3) == 0 { b' ' + n.below(95) as u8 } else { n.next() as u8 }
}

fn change(data: &mut Vec<u8>, n: &mut Numbers) {
    let at = n.below(data.len());
    match n.below(6) {
        0 => data.truncate(at),
        1 => data.extend((0..n.below(40)).map(|i| i as u8)),
        2 => {
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << n.below(8);
            }
        }
        3 => {
            if let Some(byte) = data.get_mut(at) {
                *byte = n.next() as u8;
            }
        }
        // A number of four or eight bytes, where numbers lie.
        _ => {
            let edge = EDGES.get(n.below(EDGES.len())).copied().unwrap_or(0).to_le_bytes();
            let width = 4 << n.below(2);
            let at = at / 4 * 4;
            if let (Some(slot), Some(edge)) = (data.get_mut(at..at + width), edge.get(..width)) {
                slot.copy_from_slice(edge);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Block, Reader};

    fn manifest() -> Manifest {
        Manifest::parse(include_str!("../../../tests/fixtures/evil/module.toml")).unwrap()
    }

    #[test]
    fn short_records_have_every_length_and_are_well_formed() {
        let seed = [Header { len: 5, tid: 7, ..Header::default() }.to_bytes().as_slice(), b"12345"].concat();
        let short = short(&manifest(), &[seed]);
        assert_eq!(short.len(), 2 * (SHORT + 1) + 6);
        let bytes = recording(RecordedModule::default(), short.clone().into_iter());
        let (mut reader, _) = Reader::new(bytes.as_slice()).unwrap();
        for record in &short {
            let Ok(Block::Record { bytes, .. }) = reader.block() else { panic!("no record") };
            assert_eq!(bytes, record);
            let (header, data) = Header::parse(bytes).unwrap();
            assert_eq!((header.len, header.total, header.flags), (data.len() as u32, data.len() as u32, LAST));
        }
        assert!(matches!(reader.block(), Ok(Block::End(ended)) if ended.modules[0].produced == short.len() as u64));
    }

    #[test]
    fn the_same_seed_gives_the_same_records() {
        let records = |seed| random(&manifest(), &[], 50, &mut Numbers(seed)).collect::<Vec<_>>();
        assert_eq!(records(1), records(1));
        assert_ne!(records(1), records(2));
    }
}
