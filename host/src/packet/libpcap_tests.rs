//! Expressions against tcpdump: the same frames, and which of them either keeps.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::packet::filter::run;
use crate::packet::{Direction, Packet};

const TCPDUMP: &str = "/usr/bin/tcpdump";

/// False if libpcap or tcpdump is not installed; visibly.
fn possible() -> bool {
    let reason = match (compile("ip"), Path::new(TCPDUMP).exists()) {
        (Err(FilterError::Library(e)), _) => e,
        (_, false) => format!("needs {TCPDUMP} (package tcpdump)"),
        _ => return true,
    };
    println!("SKIPPED libpcap: {reason}");
    false
}

fn ipv4(protocol: u8, options: usize, from: u16, to: u16, payload: usize) -> Vec<u8> {
    let header = 20 + options;
    let length = (header + 20 + payload) as u16;
    let mut ip = vec![0x40 | (header / 4) as u8, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip.resize(header, 1);
    ip.extend_from_slice(&from.to_be_bytes());
    ip.extend_from_slice(&to.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    ip.resize(usize::from(length), 7);
    ip
}

fn ipv6(next: u8, from: u16, to: u16) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0, 0, 20, next, 64];
    ip.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ip.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    ip.extend_from_slice(&from.to_be_bytes());
    ip.extend_from_slice(&to.to_be_bytes());
    ip.resize(60, 0x50);
    ip
}

fn ethernet(kind: u16, payload: &[u8], vlan: Option<u16>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if let Some(vlan) = vlan {
        frame.extend_from_slice(&[0x81, 0]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (from, to) in [(40_000, 443), (443, 40_000), (53, 5353), (80, 8080), (1, 2)] {
        for protocol in [6, 17, 1, 132] {
            for options in [0, 4, 40] {
                all.push(ethernet(0x0800, &ipv4(protocol, options, from, to, usize::from(to) % 900), None));
            }
            all.push(ethernet(0x0800, &ipv4(protocol, 0, from, to, 10), Some(5)));
            all.push(ethernet(0x86dd, &ipv6(protocol, from, to), None));
            all.push(ethernet(0x86dd, &ipv6(protocol, from, to), Some(6)));
        }
    }
    all.push(ethernet(
        0x0806,
        &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2],
        None,
    ));
    all.push(vec![0xff; 14]);
    // Cut in every place.
    let whole = ethernet(0x0800, &ipv4(6, 4, 40_000, 443, 0), None);
    all.extend((14..whole.len()).map(|length| whole[..length].to_vec()));
    all
}

/// Numbers of the frames that tcpdump shows.
fn tcpdump(expression: &str, link_type: u32, frames: &[Vec<u8>]) -> Vec<usize> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, link_type] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for (number, frame) in frames.iter().enumerate() {
        for word in [number as u32, 0, frame.len() as u32, frame.len() as u32 + 3] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    // From stdin, as tcpdump gives up root before it opens a file.
    let mut child = Command::new(TCPDUMP)
        .args(["-r", "-", "-nn", "-tt", "-q", expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&file));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{expression}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split_once('.')?.0.parse().ok()).collect()
}

fn ours(filter: &Filter, link_type: u16, frames: &[Vec<u8>]) -> Vec<usize> {
    let fits = |data: &[u8]| {
        let (direction, wire_length) = (Direction::Inbound, data.len() as u32 + 3);
        filter.fits(link_type, &Packet { time_ns: 0, interface: 1, direction, wire_length, owner: None, data })
    };
    frames.iter().enumerate().filter(|(_, frame)| fits(frame)).map(|(number, _)| number).collect()
}

#[test]
fn the_same_frames_as_tcpdump_keeps() {
    if !possible() {
        return;
    }
    let (ethernet, mut kept) = (frames(), 0);
    let raw: Vec<Vec<u8>> = ethernet.iter().filter(|f| f.len() > 30).map(|f| f[14..].to_vec()).collect();
    for expression in [
        "",
        "ip",
        "ip6",
        "arp",
        "tcp port 443",
        "tcp port 443 or udp port 53",
        "not tcp",
        "host 10.0.0.1",
        "src host 10.0.0.2",
        "net 10.0.0.0/8 and portrange 50-100",
        "dst port 8080 and not vlan",
        "vlan 5",
        "vlan and ip6",
        "ip6 and tcp dst port 443",
        "tcp[tcpflags] & (tcp-push) != 0",
        "greater 400",
        "less 100 and udp",
        "ip[0] & 0xf != 5",
        "len % 7 == 3 or (len - 60) * 2 / 3 > 500",
        "ether src 02:00:00:00:00:02 and sctp",
        "port https",
        "icmp or (ip and ip[2:2] > 600) or (udp[0:2] ^ 53 = 0)",
    ] {
        let filter = compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        let wanted = tcpdump(expression, 1, &ethernet);
        assert_eq!(ours(&filter, 1, &ethernet), wanted, "{expression}");
        kept += wanted.len();
        if filter.programs.contains_key(&101) {
            assert_eq!(ours(&filter, 101, &raw), tcpdump(expression, 101, &raw), "{expression} on raw IP");
        }
    }
    assert!(kept > 500, "{kept}");
}

/// tcpdump refuses these of a file, which does not say it: what they mean is compared on living interfaces (tests/packets.rs).
#[test]
fn direction_and_interface_are_known_of_each_frame() {
    if !possible() {
        return;
    }
    let data = &ethernet(0x0800, &ipv4(6, 0, 1, 2, 0), None);
    for (expression, inbound, outbound) in [
        ("inbound", true, false),
        ("outbound", false, true),
        ("not inbound and tcp", false, true),
        ("inbound and udp", false, false),
        ("ifindex 7", true, true),
        ("outbound and ifindex 8", false, false),
    ] {
        let filter = compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        for (direction, wanted) in [(Direction::Inbound, inbound), (Direction::Outbound, outbound)] {
            for (link_type, data) in [(1, &data[..]), (101, &data[14..])] {
                let packet = Packet { time_ns: 0, interface: 7, direction, wire_length: 54, owner: None, data };
                assert_eq!(filter.fits(link_type, &packet), wanted, "{expression} {direction:?} {link_type}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said_in_libpcaps_words() {
    if !possible() {
        return;
    }
    for (expression, word) in [
        ("tcp prt 443", "syntax error"),
        ("port nosuchport", "nosuchport"),
        ("tcp\0", "zero byte"),
        ("ip protochain 6", "loop"),
        // VLAN tag, and a header, as the kernel has them.
        ("tcp and ether[0xfffff02c:2] = 5", "kernel knows"),
        ("ether[0xfff00000:1] = 5", "kernel knows"),
    ] {
        let Err(FilterError::Expression { message, .. }) = compile(expression) else { panic!("{expression}") };
        assert!(message.contains(word), "{message}");
    }
    // It makes no sense on raw IP, and nothing there fits it.
    let filter = compile("ether host 02:00:00:00:00:01").unwrap();
    assert!(filter.programs.contains_key(&1) && !filter.programs.contains_key(&101));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_program_and_no_frame_does_harm(
        program in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..30),
        data in proptest::collection::vec(any::<u8>(), 0..100),
        wire_length in any::<u32>(),
    ) {
        let program: Vec<_> = program
            .into_iter()
            .map(|(code, jt, jf, k)| Instruction { code: code & 0xff, jt: jt % 8, jf: jf % 8, k: if code > 0x8000 { k } else { k % 50 } })
            .collect();
        let direction = Direction::Outbound;
        let kept = run(&program, &Packet { time_ns: 0, interface: 1, direction, wire_length, owner: None, data: &data });
        prop_assert!(!program.is_empty() || kept == 0);
    }
}
