//! Capture files, read back by the crate's reader and by Wireshark's programs.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use proptest::prelude::*;

use super::*;
use crate::event::Summary;
use crate::packet::{Direction, Interface, Owner, Packet};
use crate::sink::fd::Destination;
use crate::sink::samples;

const ETHERNET: u16 = 1;
const WALL: u64 = 1_795_442_531_483_920_123;

fn packets() -> Arc<str> {
    "packets".into()
}

fn interface(index: u32, name: &str) -> Interface {
    Interface { index, name: name.into(), link_type: ETHERNET }
}

fn packet(data: &[u8]) -> Packet<'_> {
    let owner = Some(Owner { process: 4711, uid: 1000, cgroup: 7, comm: b"curl x\xff\\".to_vec() });
    let wire_length = data.len() as u32;
    Packet { time_ns: 5, interface: 2, direction: Direction::Outbound, wire_length, owner, data }
}

fn show(sink: &mut dyn Sink, interface: &Interface, packet: &Packet<'_>) {
    sink.packet(&packets(), &Frame { packet, interface, wall_ns: WALL, container: Some("c0ffee") });
}

fn secret(sink: &mut dyn Sink, line: &str) {
    let (schema, fields) = (samples::schema(), samples::query_fields());
    sink.event(&Event { payload: line.as_bytes(), secret: true, ..samples::event(&schema, &fields) });
}

fn start() -> SessionStart {
    let text = |text: &str| text.to_owned();
    let (host, command) = (text("h"), text("ecapture tls -m pcapng"));
    SessionStart {
        version: text("1.2.3"),
        host,
        command,
        kernel: text("6.1.0"),
        arch: text("x86_64"),
        ..<_>::default()
    }
}

fn end(sink: &mut dyn Sink) {
    sink.session_end(&SessionEnd { wall_ns: WALL, duration_ns: 1, summary: &Summary::default(), segment: None });
    sink.finish(Instant::now());
}

fn content(file: &mut fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The blocks of a file, each with its first letters and what is to be known of it.
fn blocks(bytes: &[u8]) -> Vec<String> {
    let mut reader = PcapNgReader::new(bytes).unwrap();
    let mut all = vec!["section".to_owned()];
    while let Some(block) = reader.next_block() {
        all.push(match block.unwrap().0 {
            Block::InterfaceDescription(_) => "interface".to_owned(),
            Block::EnhancedPacket(packet) => {
                let drops = packet.options.iter().find_map(|o| match o {
                    EnhancedPacketOption::DropCount(count) => Some(format!(" after {count}")),
                    _ => None,
                });
                format!("packet of {}{}", packet.interface_id, drops.unwrap_or_default())
            }
            Block::InterfaceStatistics(block) => format!("statistics of {}", block.interface_id),
            Block::Unknown(block) => {
                assert_eq!((block.type_, &block.value[..4]), (10, &b"KSLT"[..]));
                let length = u32::from_le_bytes(block.value[4..8].try_into().unwrap()) as usize;
                let lines = &block.value[8..8 + length];
                assert!(lines.ends_with(b"\n"));
                format!("{} secrets", lines.split(|b| *b == b'\n').count() - 1)
            }
            other => panic!("{other:?}"),
        });
    }
    all
}

fn sink(file: &fs::File) -> Pcapng {
    Pcapng::new("x", file.try_clone().unwrap().into(), false, false, None).unwrap()
}

#[test]
fn everything_is_there_in_its_place() {
    let mut file = tempfile::tempfile().unwrap();
    let mut output = sink(&file);
    let (lo, eth0, other) = (interface(1, "lo"), interface(2, "eth0"), interface(3, "unused"));
    output.session_start(&start());
    secret(&mut output, "CLIENT_RANDOM 00 11");
    show(&mut output, &eth0, &packet(b"0123456789abcdef"));
    secret(&mut output, "CLIENT_RANDOM 00 11");
    secret(&mut output, "# a comment");
    show(&mut output, &lo, &packet(b"0123456789abcde"));
    let (schema, fields) = (samples::schema(), samples::query_fields());
    output.event(&samples::event(&schema, &fields));
    secret(&mut output, "CLIENT_RANDOM 01 11");
    show(&mut output, &eth0, &packet(&vec![7; 300_000]));
    let total =
        |interface: &Interface| InterfaceTotals { interface: interface.clone(), received: 10, dropped: 3, filtered: 2 };
    output.interfaces(&[total(&lo), total(&other), total(&eth0)]);
    end(&mut output);
    let expected = [
        "section",
        "interface",
        "1 secrets",
        "packet of 0",
        "interface",
        "packet of 1",
        "1 secrets",
        "packet of 0",
        "statistics of 1",
        "statistics of 0",
    ];
    let bytes = content(&mut file);
    assert_eq!(blocks(&bytes), expected);
    assert_eq!(output.report().written, 4, "the first secret has come into the file with a packet");
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap().0 {
            assert_eq!(packet.timestamp, Duration::from_nanos(WALL));
            assert!(packet.data.len() <= 262_144 && packet.original_len as usize >= packet.data.len());
            let cut = packet.options.iter().any(|option| match option {
                EnhancedPacketOption::Common(CommonOption::Comment(text)) => {
                    text.contains("the last 37856 bytes are missing")
                }
                _ => false,
            });
            assert_eq!(cut, packet.original_len == 300_000);
            assert_eq!(packet.options[0], EnhancedPacketOption::Flags(2));
            let EnhancedPacketOption::Common(CommonOption::Comment(comment)) = &packet.options[1] else { panic!() };
            assert_eq!(comment, "ecapture: pid=4711 uid=1000 comm=curl\\x20x\\xff\\x5c container=c0ffee");
        }
    }
}

/// Runs a program of Wireshark's; `None` if it is not installed.
fn run(program: &str, args: &[&str], file: &Path) -> Option<(bool, String)> {
    if !Path::new(program).exists() {
        println!("SKIPPED: needs {program} (package tshark)");
        return None;
    }
    let output = Command::new(program).args(args).arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

#[test]
fn wireshark_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let mut output = sink(&fs::File::create(&path).unwrap());
    output.session_start(&start());
    secret(&mut output, &format!("CLIENT_RANDOM {} {}", "ab".repeat(32), "cd".repeat(48)));
    for length in [14, 15, 60, 1514] {
        show(&mut output, &interface(2, "eth0"), &packet(&vec![0; length]));
    }
    let totals = InterfaceTotals { interface: interface(2, "eth0"), received: 7, dropped: 3, filtered: 0 };
    output.interfaces(&[totals]);
    end(&mut output);
    let Some((ok, text)) = run("/usr/bin/capinfos", &["-M"], &path) else { return };
    for said in [
        "Number of packets:   4",
        "Capture application: ecapture 1.2.3",
        "Capture oper-sys:    Linux 6.1.0",
        "Capture hardware:    x86_64",
        "Name = eth0",
        "Time precision = nanoseconds (9)",
        "Number of stat entries = 1",
        "command: ecapture tls -m pcapng",
        "Number of decryption secrets in file: 1",
    ] {
        assert!(ok && text.contains(said), "{said}: {text}");
    }
    let fields = ["-T", "fields", "-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "frame.comment"];
    let (ok, text) = run("/usr/bin/tshark", &[&fields[..], &["-r"]].concat(), &path).unwrap();
    let line = "1795442531.483920123\teth0\tecapture: pid=4711 uid=1000 comm=curl\\x20x\\xff\\x5c container=c0ffee";
    assert!(ok && text.lines().filter(|l| l.replace("\\\\", "\\") == line).count() == 4, "{text}");
}

#[test]
fn a_file_without_packets_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let mut output = sink(&fs::File::create(&path).unwrap());
    output.session_start(&start());
    end(&mut output);
    assert_eq!(blocks(&fs::read(&path).unwrap()), ["section"]);
    let Some((ok, text)) = run("/usr/bin/tshark", &["-r"], &path) else { return };
    assert!(ok, "{text}");
}

/// A disk of which only so much is free.
struct Disk {
    file: fs::File,
    free: Arc<Mutex<usize>>,
}

impl Destination for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut free = self.free.lock().unwrap();
        let count = bytes.len().min(*free);
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        *free -= count;
        self.file.write(&bytes[..count])
    }

    fn take_back(&mut self, count: u64) {
        let length = self.file.metadata().unwrap().len() - count;
        self.file.set_len(length).unwrap();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn on_a_disk(free: usize) -> (Pcapng, fs::File, Arc<Mutex<usize>>) {
    let file = tempfile::tempfile().unwrap();
    let free = Arc::new(Mutex::new(free));
    let disk = Disk { file: file.try_clone().unwrap(), free: free.clone() };
    let shared = Arc::new(Mutex::new(Shared::new(KEPT)));
    let render = Box::new(File::new(shared.clone()));
    let limits = Limits { batch: 1, pending: 8 << 10 };
    (Pcapng { shared, inner: Box::new(Output::new("x", false, render, Box::new(disk), limits)) }, file, free)
}

#[test]
fn a_full_disk_leaves_whole_blocks_and_what_is_missing_is_said() {
    let (mut output, mut file, free) = on_a_disk(20_000);
    let eth0 = interface(2, "eth0");
    output.session_start(&start());
    for _ in 0..100 {
        show(&mut output, &eth0, &packet(&[1; 1000]));
    }
    secret(&mut output, "CLIENT_RANDOM 00 11");
    // Readable up to the last whole block while it lasts.
    let bytes = content(&mut file);
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    let whole = std::iter::from_fn(|| reader.next_block().map(|block| block.is_ok())).take_while(|ok| *ok).count();
    assert!((15..20).contains(&whole), "{whole}");
    *free.lock().unwrap() = usize::MAX;
    let mut notices = Vec::new();
    output.tick(Instant::now() + Duration::from_secs(2), &mut notices);
    show(&mut output, &eth0, &packet(&[2; 1000]));
    end(&mut output);
    let (all, report) = (blocks(&content(&mut file)), output.report());
    let lost = report.lost;
    assert!(lost > 70, "{lost}");
    assert_eq!(&all[all.len() - 2..], ["1 secrets".to_owned(), format!("packet of 0 after {lost}")]);
    assert_eq!(report.written + lost, 102, "each packet and secret");
}

#[test]
fn what_is_left_of_a_block_at_the_end_is_taken_back() {
    for free in 1..3000 {
        let (mut output, mut file, _) = on_a_disk(free);
        output.session_start(&start());
        secret(&mut output, "CLIENT_RANDOM 00 11");
        show(&mut output, &interface(2, "eth0"), &packet(&[1; 1000]));
        show(&mut output, &interface(2, "eth0"), &packet(&[1; 1000]));
        end(&mut output);
        let bytes = content(&mut file);
        if !bytes.is_empty() {
            let all = blocks(&bytes);
            assert_eq!(all[0], "section");
            assert_eq!(output.report().written, all.iter().filter(|b| b.contains("packet")).count() as u64);
        }
    }
}

#[test]
fn each_file_of_a_series_has_what_it_needs() {
    let files: Vec<fs::File> = (0..8).map(|_| tempfile::tempfile().unwrap()).collect();
    let rotate = Rotate { size: Some(1 << 20), time: None };
    let first = files[0].try_clone().unwrap().into();
    let mut output = Pcapng::new("x", first, false, false, Some(rotate)).unwrap();
    output.session_start(&start());
    let mut next = 1;
    for number in 0..4000_u32 {
        if number % 500 == 0 {
            secret(&mut output, &format!("CLIENT_RANDOM {number:08x} 11"));
        }
        show(&mut output, &interface(number % 2, ["a", "b"][number as usize % 2]), &packet(&[1; 1400]));
        if output.wants_file() {
            output.give_file(Ok(files[next].try_clone().unwrap().into()));
            next += 1;
        }
    }
    end(&mut output);
    assert_eq!((next, output.report().written, output.report().lost), (6, 4007, 0));
    let (mut packets, mut secrets) = (0, 0);
    for mut file in files.into_iter().take(next) {
        let bytes = content(&mut file);
        assert!(bytes.len() <= 1 << 20, "{}", bytes.len());
        let all = blocks(&bytes);
        assert_eq!(all.iter().filter(|block| *block == "interface").count(), 2);
        let found = all.iter().filter(|block| block.contains("packet")).count();
        if secrets > 0 {
            assert_eq!(all[2], format!("{secrets} secrets"), "those of the files before are there again");
        }
        secrets += all.iter().skip(2 * usize::from(secrets > 0) + 1).filter(|block| *block == "1 secrets").count();
        packets += found;
    }
    assert_eq!((packets, secrets), (4000, 8));
}

#[test]
fn secrets_that_come_into_no_file_are_counted() {
    let mut file = tempfile::tempfile().unwrap();
    let mut output = sink(&file);
    output.session_start(&start());
    let line = |number: u32| format!("CLIENT_RANDOM {number:064x} {}", "11".repeat(48));
    let fit = (KEPT / (line(0).len() + 1)) as u32;
    (0..fit + 3).for_each(|number| secret(&mut output, &line(number)));
    assert_eq!(output.report().lost_secrets, 0, "nothing needs them yet");
    show(&mut output, &interface(2, "eth0"), &packet(b"0123456789abcdef"));
    // From here on each is written as it comes, whatever is forgotten.
    (fit + 3..fit + 10).for_each(|number| secret(&mut output, &line(number)));
    show(&mut output, &interface(2, "eth0"), &packet(b"0123456789abcdef"));
    end(&mut output);
    assert_eq!(output.report().lost_secrets, 3);
    let all = blocks(&content(&mut file));
    assert_eq!(all[..3], ["section".to_owned(), "interface".to_owned(), format!("{fit} secrets")]);
    let mut set = crate::sink::SinkSet::default();
    set.push(Box::new(output));
    let mut summary = Summary { packets: Some(crate::event::PacketTotals::default()), ..Summary::default() };
    set.add_losses(&mut summary);
    assert_eq!(summary.packets.unwrap().lost_secrets, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_is_a_file(
        all in proptest::collection::vec(
            (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200), any::<u64>(), any::<u32>(), "\\PC{0,40}"),
            0..40,
        ),
    ) {
        let mut file = tempfile::tempfile().unwrap();
        let mut output = sink(&file);
        output.session_start(&SessionStart { host: "\u{0}".repeat(70_000), ..start() });
        for (kind, data, wall_ns, wire_length, name) in &all {
            if kind % 4 == 0 {
                secret(&mut output, name);
                continue;
            }
            let owner = Owner { process: *wire_length, uid: 0, cgroup: 0, comm: data.clone() };
            let owner = (kind % 3 == 0).then_some(owner);
            let direction = Direction::Inbound;
            let packet = Packet { time_ns: 0, interface: 0, direction, wire_length: *wire_length, owner, data };
            let interface = Interface { index: 0, name: name.clone(), link_type: u16::from(*kind) };
            let frame = Frame { packet: &packet, interface: &interface, wall_ns: *wall_ns, container: None };
            output.packet(&packets(), &frame);
        }
        end(&mut output);
        let found = blocks(&content(&mut file)).iter().filter(|block| block.contains("packet")).count();
        prop_assert_eq!(found, all.iter().filter(|one| one.0 % 4 != 0).count());
    }
}
