//! The link as a whole: order and content over many wraps, sleep and wake, restarts, and a producer that lies.
#![expect(unsafe_code, reason = "scribbles into the shared memory as a hostile process would, between guard pages")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::memory::{CONTROL, Memory};
use super::*;

const SMALL: u64 = 16 << 10;

fn dup(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap()
}

fn producer(link: &Link) -> Producer {
    Producer::new(dup(&link.ring), dup(&link.bell), link.size).unwrap()
}

fn consumer(link: &Link) -> Consumer {
    Consumer::new(dup(&link.ring), dup(&link.bell), link.size).unwrap()
}

fn never() -> impl FnMut() -> bool {
    || panic!("the link is not full")
}

/// Bytes of message `n`: all lengths up to the longest, content that depends on place and number.
fn body(n: u64, max: usize) -> Vec<u8> {
    let len = (n as usize).wrapping_mul(37) % (max + 1);
    (0..len).map(|i| (i as u64 ^ n) as u8).collect()
}

fn drain(c: &mut Consumer) -> Vec<String> {
    let mut all = Vec::new();
    let n = c.drain(usize::MAX, u64::MAX, |m| {
        all.push(match m {
            Message::Event { flags, end, payload } => format!("event {flags} {end} {}", payload.escape_ascii()),
            Message::Hello { pos } => format!("hello {pos}"),
            Message::BatchEnd { end, payload } => format!("end {end} {}", payload.escape_ascii()),
            Message::Record { end, bytes } => format!("record {end} {}", bytes.escape_ascii()),
            Message::Log { level, text } => format!("log {level} {}", text.escape_ascii()),
        });
    });
    assert_eq!(n.unwrap(), all.len());
    all
}

#[test]
fn nothing_is_seen_before_it_is_published() {
    let link = create(SMALL).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    p.hello(96, &mut never()).unwrap();
    p.push_event(3, 128, b"abc", &mut never()).unwrap();
    p.log(2, b"", &mut never()).unwrap();
    p.batch_end(128, b"77", &mut never()).unwrap();
    assert!(drain(&mut c).is_empty());
    p.publish();
    assert_eq!(drain(&mut c), ["hello 96", "event 3 128 abc", "log 2 ", "end 128 77"]);
    assert!(drain(&mut c).is_empty());
}

#[test]
fn every_length_survives_many_wraps() {
    let link = create(SMALL).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    let max = p.max_payload();
    assert_eq!(max as u64, SMALL / 4 - 16);
    let mut seen = 0;
    for n in 0..20_000u64 {
        p.push_event(0, n + 1, &body(n, max), &mut never()).unwrap();
        p.publish();
        c.drain(10, u64::MAX, |m| {
            assert_eq!(m, Message::Event { flags: 0, end: n + 1, payload: &body(n, max) });
            seen += 1;
        })
        .unwrap();
    }
    assert_eq!(seen, 20_000);
}

#[test]
fn what_is_too_long_is_refused_and_leaves_the_link_as_it_was() {
    let link = create(SMALL).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    let long = vec![1; p.max_payload() + 1];
    assert!(matches!(p.push_event(0, 1, &long, &mut never()), Err(PushError::TooLong { len: 4081, max: 4080 })));
    p.push_event(0, 1, &long[1..], &mut never()).unwrap();
    p.publish();
    assert_eq!(c.drain(5, u64::MAX, |_| ()).unwrap(), 1);
    for size in [0, 4096, SMALL + 1, 3 * SMALL, 2 << 30, u64::MAX] {
        assert!(matches!(create(size), Err(LinkError::Size(_))), "{size}");
    }
    // Another size than it has, and a memory file that anybody could cut.
    assert!(matches!(Producer::new(dup(&link.ring), dup(&link.bell), 2 * SMALL), Err(LinkError::Foreign)));
    let loose = rustix::fs::memfd_create("loose", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&loose, 1 << 20).unwrap();
    assert!(matches!(Consumer::new(loose, dup(&link.bell), SMALL), Err(LinkError::Foreign)));
    assert!(rustix::fs::ftruncate(&link.ring, 0).is_err());
}

#[test]
fn waiting_for_a_full_link_can_be_given_up() {
    let link = create(SMALL).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    let mut asked = 0;
    let refused = (1..).find_map(|n| {
        let give_up = &mut || {
            asked += 1;
            asked < 5
        };
        p.push_event(0, n, &[0; 1000], give_up).err()
    });
    assert!(matches!(refused, Some(PushError::GaveUp)));
    assert_eq!((asked, p.waits()), (5, 1));
    // Sixteen fit (1024 bytes each); the wait published them, since each is a record of its own.
    assert_eq!(c.drain(usize::MAX, u64::MAX, |_| ()).unwrap(), 16);
    assert_eq!(p.split_records(), 0);
    p.push_event(0, 99, b"again", &mut never()).unwrap();
}

#[test]
fn events_of_one_record_become_visible_together() {
    let link = create(SMALL).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    for _ in 0..10 {
        p.push_event(0, 100, &[0; 1000], &mut never()).unwrap();
    }
    for _ in 0..6 {
        p.push_event(0, 200, &[0; 1000], &mut never()).unwrap();
    }
    // Full in the middle of record 200: only record 100 may be published.
    assert!(matches!(p.push_event(0, 200, &[0; 1000], &mut || false), Err(PushError::GaveUp)));
    let mut ends = Vec::new();
    c.drain(usize::MAX, u64::MAX, |m| ends.push(matches!(m, Message::Event { end: 100, .. }))).unwrap();
    assert_eq!(ends, [true; 10]);
    p.push_event(0, 200, &[0; 1000], &mut never()).unwrap();
    assert_eq!(c.drain(usize::MAX, u64::MAX, |_| ()).unwrap(), 0);
    // A record that is larger than the ring can't wait for its end.
    let mut all = 0;
    for _ in 0..40 {
        p.push_event(0, 200, &[0; 1000], &mut || {
            all += c.drain(usize::MAX, u64::MAX, |_| ()).unwrap();
            true
        })
        .unwrap();
    }
    assert!(all >= 16, "{all}");
    assert!(p.split_records() >= 1);
}

#[test]
fn a_new_worker_repeats_and_nothing_is_lost_or_doubled() {
    let link = create(SMALL).unwrap();
    let observer = Observer::new(&link).unwrap();
    let (mut c, mut positions) = (consumer(&link), Positions::default());
    assert_eq!(observer.now_at(), None, "before the first worker");
    let mut next = 0u64; // the record that is to come
    let mut ring = 0u64; // the eBPF ring's consumer position: moves only after publish
    let mut expected_dropped = 0;
    for round in 0..50u64 {
        let mut p = producer(&link);
        assert_eq!(observer.now_at(), None);
        p.hello(ring * 8, &mut never()).unwrap();
        p.publish();
        let batch = 3 + round % 5; // cut elsewhere each time
        for n in ring..ring + batch {
            p.now_at(Some(n * 8));
            for part in 0..1 + n % 3 {
                p.push_event(part as u16, (n + 1) * 8, &n.to_le_bytes(), &mut never()).unwrap();
            }
            p.push_event(flags::FREE, 0, b"tick", &mut never()).unwrap();
        }
        assert_eq!(observer.now_at(), Some((ring + batch - 1) * 8));
        match round % 3 {
            0 => {}           // killed before it published: as if it had never been
            1 => p.publish(), // killed between publishing and moving the position
            _ => {
                p.batch_end((ring + batch) * 8, &[], &mut never()).unwrap();
                p.publish();
                p.now_at(None);
                ring += batch;
            }
        }
        let (mut part, before) = (0u64, next);
        c.drain(usize::MAX, u64::MAX, |m| {
            if !positions.admit(&m) {
                expected_dropped += 1;
                return;
            }
            if let Message::Event { flags, end, payload } = m
                && flags != flags::FREE
            {
                assert_eq!(end, (next + 1) * 8, "lost or doubled in round {round}");
                assert_eq!(payload, next.to_le_bytes());
                assert_eq!(u64::from(flags), part);
                part += 1;
                if part == 1 + next % 3 {
                    (next, part) = (next + 1, 0);
                }
            }
        })
        .unwrap();
        assert_eq!(part, 0, "half a record");
        assert!(if round % 3 == 0 { next == before } else { next >= before });
    }
    assert!(ring > 50 && next >= ring, "{next} {ring}");
    assert_eq!(positions.dropped(), expected_dropped);
    assert!(expected_dropped > 20, "{expected_dropped}");
    assert_eq!(observer.waiting(), 0);
}

#[test]
fn a_producer_refuses_a_link_that_the_last_worker_broke() {
    let link = create(SMALL).unwrap();
    let memory = Memory::map(link.ring.as_fd(), SMALL).unwrap();
    for produced in [8, SMALL + 16, u64::MAX - 15] {
        memory.produced().store(produced, Ordering::Relaxed);
        let p = Producer::new(dup(&link.ring), dup(&link.bell), SMALL);
        assert!(matches!(p, Err(LinkError::Position { .. })), "{produced}");
    }
}

fn sleep(c: &Consumer, limit: Duration) -> bool {
    let timeout = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(&c.bell(), PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

#[test]
fn only_an_armed_consumer_is_woken() {
    let link = create(SMALL).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    p.log(0, b"x", &mut never()).unwrap();
    p.publish();
    assert!(!sleep(&c, Duration::ZERO), "nobody asked to be woken");
    assert!(!c.arm(), "not empty");
    assert_eq!(c.drain(9, u64::MAX, |_| ()).unwrap(), 1);
    assert!(c.arm());
    p.publish();
    assert!(sleep(&c, Duration::ZERO));
    c.disarm();
    assert!(!sleep(&c, Duration::ZERO), "silent again");
}

/// Two threads; the consumer sleeps whenever it can, so a lost wake-up shows as a pause of 5 s.
#[test]
fn two_threads_all_arrives_in_order_and_nobody_oversleeps() {
    const COUNT: u64 = 300_000;
    let link = create(1 << 20).unwrap();
    let (mut p, mut c) = (producer(&link), consumer(&link));
    let begin = Instant::now();
    let other = std::thread::spawn(move || {
        let text = [7u8; 200];
        for n in 0..COUNT {
            p.push_event(0, n + 1, &text[..(n % 200) as usize], &mut || true).unwrap();
            if n % 64 == 63 {
                p.publish();
            }
            if n % 60_000 == 0 {
                p.publish();
                std::thread::sleep(Duration::from_millis(3)); // long enough for the consumer to fall asleep
            }
        }
        p.publish();
    });
    let (mut next, mut sleeps) = (0, 0);
    while next < COUNT {
        let n = c
            .drain(4096, u64::MAX, |m| {
                assert!(
                    matches!(m, Message::Event { end, payload, .. } if end == next + 1 && payload.len() as u64 == next % 200)
                );
                next += 1;
            })
            .unwrap();
        if n == 0 && c.arm() {
            sleeps += 1;
            assert!(sleep(&c, Duration::from_secs(5)), "a wake-up was lost at {next}");
            c.disarm();
        }
    }
    other.join().unwrap();
    let took = begin.elapsed();
    println!("{COUNT} messages in {took:?}: {:.0}/s, {sleeps} sleeps", COUNT as f64 / took.as_secs_f64());
    assert!(took < Duration::from_secs(30));
}

/// The link between two pages that nobody may touch.
fn guarded(link: &Link) -> Memory {
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
    let len = CONTROL + link.size as usize;
    // SAFETY: a fresh region of ours, of which the middle is replaced by the link; never unmapped.
    unsafe {
        let region = mmap_anonymous(std::ptr::null_mut(), len + 8192, ProtFlags::empty(), MapFlags::PRIVATE).unwrap();
        let (at, rw) = (region.add(4096), ProtFlags::READ | ProtFlags::WRITE);
        let base = mmap(at, len, rw, MapFlags::SHARED | MapFlags::FIXED, &link.ring, 0).unwrap();
        Memory::at(base.cast(), link.size)
    }
}

/// Two seconds of a producer that writes rubbish, plausible and not, while the consumer reads: no panic, nothing read
/// outside (the guard pages would end the test), every message within its bounds.
#[test]
fn a_hostile_producer_only_gets_refusals() {
    let link = create(SMALL).unwrap();
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let map = memmap2::MmapOptions::new().len(CONTROL + SMALL as usize).map_raw(link.ring.as_raw_fd()).unwrap();
    let hostile = std::thread::spawn({
        let (stop, writes) = (Arc::clone(&stop), Arc::clone(&writes));
        move || {
            // SAFETY: every offset used below is a multiple of 8 inside the mapping.
            let word = |at: usize| unsafe { AtomicU64::from_ptr(map.as_mut_ptr().add(at & !7).cast()) };
            let mut x = 0x9E37_79B9_7F4A_7C15u64;
            let mut random = move || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x
            };
            while !stop.load(Ordering::Relaxed) {
                let (what, v) = (random(), random());
                let produced = word(0).load(Ordering::Relaxed);
                match what % 8 {
                    0 => word(0).store(
                        match v % 6 {
                            0 => v,
                            1 => produced.wrapping_sub(v % 4096 * 16),
                            2 => u64::MAX - 15,
                            _ => produced.wrapping_add(v % (SMALL / 16) * 16),
                        },
                        Ordering::Relaxed,
                    ),
                    1 => word(64 + v as usize % 3 * 64).store(random(), Ordering::Relaxed), // consumed, armed, now at
                    _ => {
                        let len = match v % 8 {
                            0 => v as u32,
                            1 => u32::MAX,
                            2 => SMALL as u32,
                            3 => SMALL as u32 - 16,
                            4 => 8,
                            5 => 0,
                            _ => (v >> 32) as u32 % 300,
                        };
                        let kind = [1, 2, 3, 4, 0xFFFF, v & 0xFFFF][(v >> 8) as usize % 6];
                        let at = CONTROL + (what >> 8) as usize % (SMALL as usize / 16) * 16;
                        word(at).store(u64::from(len) | kind << 32, Ordering::Relaxed);
                    }
                }
                writes.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut c = Consumer::over(guarded(&link), dup(&link.bell));
    let (mut positions, begin) = (Positions::default(), Instant::now());
    let (mut accepted, mut sum, mut refused) = (0u64, 0u64, [0u64; 3]);
    while begin.elapsed() < Duration::from_secs(2) {
        for _ in 0..1000 {
            let result = c.drain(1000, u64::MAX, |m| {
                positions.admit(&m);
                let payload = match m {
                    Message::Event { payload, .. }
                    | Message::BatchEnd { payload, .. }
                    | Message::Log { text: payload, .. } => payload,
                    _ => &[],
                };
                assert!(payload.len() as u64 <= SMALL / 4 - 16);
                sum = payload.iter().fold(sum, |s, b| s.wrapping_add(u64::from(*b)));
                accepted += 1;
            });
            if let Err(e) = result {
                match e {
                    LinkError::Position { .. } => refused[0] += 1,
                    LinkError::Length(_) => refused[1] += 1,
                    LinkError::Kind(_) => refused[2] += 1,
                    other => panic!("{other}"),
                }
                let near = Observer::new(&link).unwrap().produced();
                c.resync(near.wrapping_sub(sum % SMALL));
            }
            let _ = c.arm();
            c.disarm();
        }
    }
    stop.store(true, Ordering::Relaxed);
    hostile.join().unwrap();
    let writes = writes.load(Ordering::Relaxed);
    println!("{writes} hostile writes; {accepted} accepted ({sum:x}), refused: position, length, kind {refused:?}");
    assert!(accepted > 0 && refused.iter().all(|n| *n > 0), "{accepted} {refused:?}");
}

/// Records are handed over before the events that are made of them: a worker that dies in between has had the records taken,
/// and not the events.
#[test]
fn records_and_events_are_repeated_each_up_to_where_they_had_come() {
    let link = create(SMALL).unwrap();
    let mut consumer = consumer(&link);
    let mut positions = Positions::default();
    let mut admitted = |consumer: &mut Consumer| {
        let mut all = Vec::new();
        consumer
            .drain(usize::MAX, u64::MAX, |m| match m {
                Message::Record { end, .. } if positions.admit(&m) => all.push(format!("record {end}")),
                Message::Event { end, .. } if positions.admit(&m) => all.push(format!("event {end}")),
                Message::Hello { .. } => assert!(positions.admit(&m)),
                _ => {}
            })
            .unwrap();
        all
    };
    let mut first = producer(&link);
    first.hello(0, &mut never()).unwrap();
    for end in [8, 16, 24] {
        first.push_record(end, b"raw", &mut never()).unwrap();
    }
    first.push_event(0, 8, b"made of it", &mut never()).unwrap();
    first.publish();
    assert_eq!(admitted(&mut consumer), ["record 8", "record 16", "record 24", "event 8"]);
    drop(first);
    let mut second = producer(&link);
    second.hello(0, &mut never()).unwrap();
    for end in [8, 16, 24, 32] {
        second.push_record(end, b"raw", &mut never()).unwrap();
    }
    for end in [8, 16, 24, 32] {
        second.push_event(0, end, b"made of it", &mut never()).unwrap();
    }
    second.publish();
    assert_eq!(admitted(&mut consumer), ["record 32", "event 16", "event 24", "event 32"]);
}
