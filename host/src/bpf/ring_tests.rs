//! The reader over a file in place of the kernel's ring: the same pages, filled by the test. The real one is used in
//! `kernel_tests`.

use super::{BUSY, DISCARD, Ring, RingError};
use crate::bpf::mmap::page_size;
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, os::unix::fs::FileExt};

struct Fake {
    file: File,
    size: u64,
}

impl Fake {
    fn new(pages: u64) -> Self {
        let (page, file) = (page_size() as u64, File::from(memfd_create("ring", MemfdFlags::CLOEXEC).expect("memfd")));
        file.set_len(2 * page + 2 * pages * page).expect("fits");
        Self { file, size: pages * page }
    }

    fn ring(&self) -> Ring {
        Ring::open(&self.file, self.size as usize).expect("opens")
    }

    fn word(&self, at: u64, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), at).expect("inside");
    }

    fn consumed(&self) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0).expect("inside");
        u64::from_le_bytes(bytes)
    }

    fn produced(&self, to: u64) {
        self.word(page_size() as u64, to);
    }

    /// Both copies of the data, as the kernel maps its pages twice.
    fn data(&self, position: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let at = (position + i as u64) % self.size;
            for copy in [at, at + self.size] {
                self.file.write_all_at(&[*byte], 2 * page_size() as u64 + copy).expect("inside");
            }
        }
    }

    fn record(&self, position: u64, header: u32, bytes: &[u8]) -> u64 {
        self.data(position, &header.to_le_bytes());
        self.data(position + 8, bytes);
        position + (bytes.len() as u64 + 8).next_multiple_of(8)
    }
}

#[test]
fn records_come_in_order_and_stay_until_commit() {
    let fake = Fake::new(1);
    let first = fake.record(0, 5, b"hello");
    let second = fake.record(first, 3 | DISCARD, b"no!");
    let third = fake.record(second, 12, b"twelve bytes");
    let fourth = fake.record(third, 4 | BUSY, b"busy");
    fake.produced(fourth);
    let mut ring = fake.ring();
    let (a, b) = (ring.next().expect("first"), ring.next().expect("third"));
    assert_eq!((a.start, a.end, a.data), (0, 16, &b"hello"[..]));
    assert_eq!((b.start, b.end, b.data), (second, third, &b"twelve bytes"[..]));
    assert!(ring.next().is_none(), "a record that is still written must wait");
    let (a, b) = (a.end, b.end);
    assert_eq!((fake.consumed(), ring.position()), (0, 0), "nothing is published by reading");
    ring.commit(a).expect("the first is done with");
    assert_eq!((fake.consumed(), ring.position(), ring.read_position()), (16, 16, b));
    // A new reader goes on after what was published.
    let again = fake.ring();
    assert_eq!(again.next().expect("not yet published").data, b"twelve bytes");
    fake.record(third, 4, b"busy");
    assert_eq!(ring.next().expect("now finished").data, b"busy");
    ring.commit_all();
    assert_eq!((fake.consumed(), ring.produced()), (fourth, fourth));
}

#[test]
fn positions_that_were_not_reached_are_not_published() {
    let fake = Fake::new(1);
    fake.produced(fake.record(0, 8, b"12345678"));
    let mut ring = fake.ring();
    for wanted in [8, 16, u64::MAX] {
        assert!(matches!(ring.commit(wanted), Err(RingError::Commit { .. })), "{wanted}");
    }
    let end = ring.next().expect("a record").end;
    assert!(ring.commit(4).is_err());
    ring.commit(end).expect("reached");
    ring.commit(end).expect("the same again");
    assert!(ring.commit(0).is_err(), "never back");
    assert_eq!(fake.consumed(), end);
}

#[test]
fn a_record_may_run_over_the_end() {
    let fake = Fake::new(1);
    let start = 10 * fake.size - 16;
    fake.word(0, start);
    let end = fake.record(start, 40, &[7; 40]);
    fake.produced(end);
    let mut ring = fake.ring();
    let record = ring.next().expect("a record");
    assert_eq!((record.data, record.end), (&[7u8; 40][..], end));
    ring.commit(end).expect("reached");
}

#[test]
fn odd_memory_ends_the_reading_and_never_leaves_the_ring() {
    for (header, produced) in [(5000, 16), (0x3fff_ffff, 4096), (9, 16), (4, 1 << 40), (4, 3)] {
        let fake = Fake::new(1);
        fake.record(0, header, b"abcd");
        let ring = fake.ring();
        fake.produced(produced);
        assert!(ring.next().is_none(), "header {header:#x}, produced {produced}");
        assert!(ring.is_odd());
        assert!(ring.next().is_none());
    }
    let fake = Fake::new(1);
    fake.word(0, 3);
    assert!(matches!(Ring::open(&fake.file, 4096), Err(RingError::Position { consumed: 3, .. })));
    fake.word(0, 1 << 20);
    assert!(matches!(Ring::open(&fake.file, 4096), Err(RingError::Position { .. })));
    for size in [0, 100, 4096 * 3, 4097] {
        assert!(matches!(Ring::open(&fake.file, size), Err(RingError::Size(_))));
    }
}
