//! Frames of network interfaces, beside tcpdump on the same interfaces in namespaces of their own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules, bin_dir};
use ecapture_tests::engine::Group;
use ecapture_tests::frames::{Frame, Namespaces, counted, counted_interfaces, pcap, pcapng};
use ecapture_tests::{needs, or_skip, skip_if};
use rustix::process::Signal;

const TCPDUMP: &str = "/usr/bin/tcpdump";
const PYTHON: &str = "/usr/bin/python3";
/// Copied: keys are asked for, but nobody talks TLS here.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

macro_rules! namespaces {
    ($test:expr) => {{
        skip_if!(
            $test,
            needs::capture(),
            needs::program(TCPDUMP, "tcpdump"),
            needs::program(PYTHON, "python3"),
            needs::program(LIBRARY, "libssl3"),
            needs::program("/usr/bin/nsenter", "util-linux"),
            needs::program("/usr/sbin/ip", "iproute2"),
        );
        or_skip!($test, Namespaces::make($test))
    }};
}

/// Serves and talks as it is told, line by line.
const TALKER: &str = r#"
import socket, struct, sys, threading

listening, kept = [], []

def serve(c):
    n = 0
    while True:
        d = c.recv(1 << 20)
        if not d: break
        n += len(d)
        if d.endswith(b"?"): c.sendall(b"!")
    c.sendall(b"%d" % n)
    c.close()

def accept(s):
    while True:
        c, _ = s.accept()
        threading.Thread(target=serve, args=(c,), daemon=True).start()

def listen(port):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::", port)); s.listen(64); listening.append(s)
    threading.Thread(target=accept, args=(s,), daemon=True).start()

def bulk(host, port, n):
    c = socket.create_connection((host, port)); b = b"x" * (1 << 18)
    while n > 0: n -= c.send(b[:n])
    c.shutdown(1)
    while c.recv(100): pass
    c.close()

def keep(host, port): kept.append(socket.create_connection((host, port)))

def ask():
    for c in kept:
        c.sendall(b"?"); assert c.recv(1) == b"!"

def udp(host, port, n, options=b""):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    if options: s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
    s.sendto(b"u" * n, (host, port))

def bind_udp(port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", port)); listening.append(s)

def raw(link, frame):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((link, 0)); s.send(frame)

def ipv4(payload, protocol=17):
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2")) + payload

def ipv6(first, payload):
    return struct.pack("!IHBB", 6 << 28, len(payload), first, 64) + socket.inet_pton(socket.AF_INET6, "fd77::1") + socket.inet_pton(socket.AF_INET6, "fd77::2") + payload

print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"#;

/// A process that does as it is told.
struct Talker(Child, ChildStdin, BufReader<ChildStdout>);

impl Talker {
    fn start(net: &Namespaces, which: usize) -> Self {
        let mut child = net
            .command(which, PYTHON, &["-c", TALKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut this = Self(child, stdin, stdout);
        this.answer("ready");
        this
    }

    fn answer(&mut self, wanted: &str) {
        let mut line = String::new();
        self.2.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), wanted);
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.1, "{what}").unwrap();
        self.answer("done");
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// tcpdump on one interface.
struct Tcpdump(Child, PathBuf);

impl Tcpdump {
    fn start(net: &Namespaces, which: usize, link: &str, dir: &Path) -> Self {
        Self::keeping(net, which, link, dir, "")
    }

    /// Only what fits the expression.
    fn keeping(net: &Namespaces, which: usize, link: &str, dir: &Path, expression: &str) -> Self {
        let path = dir.join(format!("{which}-{link}-{}.pcap", expression.replace(' ', "-")));
        let args = ["-i", link, "-s", "0", "-B", "65536", "--nano", "-U", "-Z", "root", "-w", path.to_str().unwrap()];
        let mut child = net
            .command(which, TCPDUMP, &[&args[..], &[expression]].concat())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump");
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("listening"), "{said}");
        Self(child, path)
    }

    fn stop(mut self) -> Vec<Frame> {
        // The kernel hands it what has come at least once a second, and at its end it does not look again.
        let (mut size, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_millis(1300) {
            let now = std::fs::metadata(&self.1).unwrap().len();
            if now != size {
                (size, since) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        rustix::process::kill_process(ecapture_tests::capture::pid(self.0.id()), Signal::INT).unwrap();
        self.0.wait().unwrap();
        pcap(&self.1)
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Packets {
    modules: Modules,
    dir: tempfile::TempDir,
}

impl Packets {
    fn new(net: &Namespaces, which: usize) -> Self {
        let modules = Modules::of(&net.wrapped(which, &bin_dir().join("ecapture")));
        modules.install("openssl");
        let dir = tempfile::Builder::new().prefix("ecapture-packets-").tempdir().unwrap();
        std::fs::copy(LIBRARY, dir.path().join("libssl.so.3")).unwrap();
        Self { modules, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Captures into a file, beside totals as JSON on stdout.
    fn start(&self, name: &str, more: &[&str]) -> Capture {
        let path = self.file(name);
        let library = self.dir.path().join("libssl.so.3");
        let args = ["tls", "-m", "pcapng", "--libssl", library.to_str().unwrap(), "-o", "json"];
        let writes = ["-w", "-", "-w", path.to_str().unwrap()];
        Capture::start(&self.modules, &[&args[..], &writes, more].concat())
    }

    fn frames(&self, name: &str) -> Vec<Frame> {
        pcapng(&self.file(name))
    }
}

/// The totals of frames; nothing of them is lost.
fn whole(finished: &Finished) -> serde_json::Value {
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let totals = finished.end()["ecapture.session.packets"].clone();
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../docs/event.schema.json")).unwrap();
    let published = &schema["$defs"]["ecapture.session.end"]["properties"]["ecapture.session.packets"]["properties"];
    assert!(totals.as_object().unwrap().keys().eq(published.as_object().unwrap().keys()), "{totals}");
    for name in ["lost", "partial", "faults", "malformed", "sink_lost"] {
        assert!(totals[name].as_u64().unwrap_or(0) == 0, "{totals}");
    }
    totals
}

/// What the kernel says of its own accord, at any time: neighbours, routers, groups. One of the two may begin before it.
fn is_chatter(frame: &Frame) -> bool {
    let data = &frame.data;
    let icmp = data.get(20) == Some(&58) || (data.get(20) == Some(&0) && data.get(54) == Some(&58));
    match data.get(12..14) {
        Some([0x86, 0xdd]) => icmp,
        Some([0x08, 0x00]) => data.get(23) == Some(&2),
        other => other == Some(&[0x08, 0x06]),
    }
}

fn has_port(frame: &Frame, port: u16) -> bool {
    // Ethernet, IPv4 without options or IPv6 without extensions.
    let at = match frame.data.get(12..14) {
        Some([0x08, 0]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => return false,
    };
    [at, at + 2].iter().any(|at| frame.data.get(*at..at + 2) == Some(&port.to_be_bytes()))
}

#[test]
fn every_frame_is_there_once_and_whole_with_its_process() {
    const TEST: &str = "frames";
    let net = namespaces!(TEST);
    let dir = tempfile::tempdir().unwrap();
    let (mut here, mut other, mut there) = (Talker::start(&net, 1), Talker::start(&net, 1), Talker::start(&net, 0));
    here.tell("listen(5000); bind_udp(5001)");
    other.tell("listen(6000)");
    // From before the capture, and used by the far end only.
    there.tell("keep('10.77.0.2', 5000)");
    let packets = Packets::new(&net, 1);
    let all = packets.start("all.pcapng", &["-i", "v1,lo"]);
    let pid = here.pid().to_string();
    let mine = packets.start("mine.pcapng", &["-i", "v1", "--pid", &pid]);
    let (on_v1, on_lo) = (Tcpdump::start(&net, 1, "v1", dir.path()), Tcpdump::start(&net, 1, "lo", dir.path()));

    there.tell("ask()");
    there.tell("bulk('10.77.0.2', 5000, 20_000_000); bulk('fd77::2', 5000, 5_000_000)");
    there.tell("bulk('10.77.0.2', 6000, 1_000_000)");
    // Fragments, and IPv4 options.
    there.tell(
        "udp('10.77.0.2', 5001, 20_000); udp('fd77::2', 5001, 20_000); udp('10.77.0.2', 5001, 7, bytes([1, 1, 1, 0]))",
    );
    there.tell(
        "ether = bytes.fromhex('ffffffffffff020000000001'); datagram = struct.pack('!HHHH', 9, 5001, 11, 0) + b'ext'",
    );
    // Hop by hop and destination options before UDP; one tag, and two.
    there.tell("raw('v0', ether + b'\\x86\\xdd' + ipv6(0, bytes([60, 0, 1, 4, 0, 0, 0, 0]) + bytes([17, 0, 1, 4, 0, 0, 0, 0]) + datagram))");
    there.tell("raw('v0', ether + b'\\x81\\0\\x60\\x05\\x08\\0' + ipv4(datagram))");
    there.tell("raw('v0', ether + b'\\x88\\xa8\\0\\x07\\x81\\0\\0\\x05\\x08\\0' + ipv4(datagram))");
    // Segments beyond 64 KiB, where `ip` and the kernel know of them.
    let huge = [(0, "v0"), (1, "v1")].iter().all(|(which, link)| {
        let args = ["link", "set", link, "gso_max_size", "190000", "gro_max_size", "190000"];
        net.run(*which, "ip", &args).status.success()
    });
    there.tell("bulk('fd77::2', 5000, 5_000_000)");
    here.tell("udp('127.0.0.1', 5001, 30_000); bulk('127.0.0.1', 6000, 3_000_000); bulk('::1', 5000, 1_000_000)");
    net.ip(1, &["link", "set", "v1", "mtu", "9000"]);
    net.ip(0, &["link", "set", "v0", "mtu", "9000"]);
    there.tell("udp('10.77.0.2', 5001, 8900); bulk('10.77.0.2', 5000, 300_000)");

    let heard = |dump: Tcpdump| dump.stop().into_iter().filter(|f| !is_chatter(f)).collect::<Vec<_>>();
    let (on_v1, on_lo) = (heard(on_v1), heard(on_lo));
    let (all, mine) = (all.stop(), mine.stop());
    let (totals, of_mine) = (whole(&all), whole(&mine));
    let frames = packets.frames("all.pcapng");
    for (name, dumped) in [("v1", &on_v1), ("lo", &on_lo)] {
        let ours: Vec<&Frame> = frames.iter().filter(|f| f.interface == name && !is_chatter(f)).collect();
        assert!(dumped.len() > 100, "{name}: {}", dumped.len());
        let (ours_counted, theirs) = (counted(ours.iter().copied()), counted(dumped));
        let missing: Vec<_> =
            theirs.iter().filter(|(k, n)| ours_counted.get(*k) != Some(n)).map(|(k, _)| k.0).collect();
        let extra: Vec<_> = ours_counted.iter().filter(|(k, n)| theirs.get(*k) != Some(n)).map(|(k, _)| k.0).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{name}: missing lengths {missing:?}, extra {extra:?}");
        assert_eq!(ours.len(), dumped.len());
        assert!(ours.iter().all(|f| f.wire as usize == f.data.len() && f.link_type == 1), "whole frames");
        // Both say when, to about the same time.
        let (first, theirs) = (ours[0].time_ns, dumped[0].time_ns);
        assert!(first.abs_diff(theirs) < 10_000_000, "{first} and {theirs}");
    }
    assert_eq!(totals["seen"].as_u64(), Some(frames.len() as u64));
    let largest = frames.iter().map(|f| f.data.len()).max();
    assert!(largest > Some(if huge { 100_000 } else { 60_000 }), "large segments: {largest:?}");
    let tagged = |tag: &[u8]| frames.iter().filter(|f| f.data[12..].starts_with(tag)).count();
    assert_eq!((tagged(&[0x81, 0, 0x60, 5, 8, 0]), tagged(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5, 8, 0])), (1, 1));

    // Whose: on the veth pair the process at this end.
    let (here_pid, other_pid) = (here.pid(), other.pid());
    let on_v1: Vec<&Frame> = frames.iter().filter(|f| f.interface == "v1" && !is_chatter(f)).collect();
    for (port, pid) in [(5000, here_pid), (5001, here_pid), (6000, other_pid)] {
        let of_port: Vec<&&Frame> = on_v1.iter().filter(|f| has_port(f, port)).collect();
        assert!(of_port.len() >= 2, "port {port}: {}", of_port.len());
        let strange: Vec<_> = of_port.iter().filter(|f| f.pid() != Some(pid)).collect();
        assert!(
            strange.is_empty(),
            "port {port}: {} of {}, first {:?}",
            strange.len(),
            of_port.len(),
            strange[0].comment
        );
        // What comes in is for this port.
        let at = |f: &Frame| if f.data[12..14] == [0x08, 0] { 36 } else { 56 };
        assert!(of_port.iter().all(|f| f.outbound == Some(f.data[at(f)..at(f) + 2] != port.to_be_bytes())));
    }
    // Options, extension headers, tags and later fragments lead to the socket as well.
    let marked: Vec<&&Frame> =
        on_v1.iter().filter(|f| f.data.ends_with(b"ext") || f.data.ends_with(b"uuuuuuu")).collect();
    assert!(marked.len() >= 4, "{}", marked.len());
    assert!(
        marked.iter().all(|f| f.pid() == Some(here_pid)),
        "{:?}",
        marked.iter().map(|f| &f.comment).collect::<Vec<_>>()
    );
    // On loopback the sender.
    let owners: BTreeSet<Option<u32>> = frames.iter().filter(|f| f.interface == "lo").map(Frame::pid).collect();
    assert_eq!(owners, [Some(here_pid), Some(other_pid)].into());

    // A filter keeps what is that process's and nothing else.
    let filtered = packets.frames("mine.pcapng");
    let expected: Vec<&Frame> = on_v1.iter().copied().filter(|f| f.pid() == Some(here_pid)).collect();
    assert_eq!(filtered.len(), expected.len());
    assert_eq!(counted(&filtered), counted(expected));
    assert!(of_mine["filtered"].as_u64() > Some(10), "{of_mine}");
}

/// Until the capture has said this.
fn says(capture: &mut Capture, words: &str) {
    capture.wait_for_word(words, 1, Duration::from_secs(10));
}

#[test]
fn interfaces_come_and_go() {
    const TEST: &str = "links";
    let net = namespaces!(TEST);
    let packets = Packets::new(&net, 1);
    let mut there = Talker::start(&net, 0);
    let mut here = Talker::start(&net, 1);
    let mut all = packets.start("all.pcapng", &[]);
    here.tell("raw('lo', bytes(12) + b'\\x88\\xb5first')");
    // Comes up later, is renamed, goes down, and is removed.
    net.ip(1, &["link", "add", "w0", "type", "veth", "peer", "name", "w1"]);
    net.ip(1, &["link", "set", "w0", "up"]);
    net.ip(1, &["link", "set", "w1", "up"]);
    says(&mut all, "network interface w1 has come");
    here.tell("raw('w1', bytes(12) + b'\\x88\\xb5second')");
    net.ip(1, &["link", "set", "w1", "down"]);
    says(&mut all, "network interface w1 is down");
    net.ip(1, &["link", "set", "w1", "name", "w2"]);
    says(&mut all, "network interface w1 is called w2 now");
    net.ip(1, &["link", "set", "w2", "up"]);
    says(&mut all, "network interface w2 is up again");
    here.tell("raw('w2', bytes(12) + b'\\x88\\xb5third')");
    net.ip(1, &["link", "del", "w0"]);
    says(&mut all, "network interface w2 is gone");
    there.tell("raw('v0', b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5fourth')");
    whole(&all.stop());
    let frames = packets.frames("all.pcapng");
    let seen = |mark: &[u8]| {
        let on = frames.iter().filter(|f| f.data.get(14..14 + mark.len()) == Some(mark));
        on.map(|f| (f.interface.as_str(), f.outbound)).collect::<BTreeSet<_>>()
    };
    assert_eq!(seen(b"first"), [("lo", Some(false))].into());
    assert_eq!(seen(b"second"), [("w0", Some(false)), ("w1", Some(true))].into());
    // Each frame is under the name that its interface had.
    assert_eq!(seen(b"third"), [("w0", Some(false)), ("w2", Some(true))].into());
    assert_eq!(seen(b"fourth"), [("v1", Some(false))].into());

    // An interface that was named and comes back.
    net.ip(1, &["link", "add", "w0", "type", "veth", "peer", "name", "w1"]);
    let mut named = packets.start("named.pcapng", &["-i", "w0"]);
    assert!(named.said.contains("network interface w0 is down"), "{}", named.said);
    net.ip(1, &["link", "del", "w0"]);
    says(&mut named, "network interface w0 is gone");
    net.ip(1, &["link", "add", "w0", "type", "veth", "peer", "name", "w1"]);
    says(&mut named, "network interface w0 has come");
    // It was down all the time, and now comes up.
    let nothing = packets.start("nothing.pcapng", &["-i", "w0"]);
    let totals = whole(&nothing.stop());
    assert_eq!(totals["seen"].as_u64(), Some(0), "{totals}");
    assert!(packets.frames("nothing.pcapng").is_empty(), "a capture of nothing can be read");
    net.ip(1, &["link", "set", "w0", "up"]);
    net.ip(1, &["link", "set", "w1", "up"]);
    says(&mut named, "network interface w0 is up again");
    here.tell("raw('w1', bytes(12) + b'\\x88\\xb5fifth'); raw('w0', bytes(12) + b'\\x88\\xb5sixth')");
    whole(&named.stop());
    let frames = packets.frames("named.pcapng");
    for (mark, outbound) in [(b"fifth", false), (b"sixth", true)] {
        let on: Vec<_> = frames.iter().filter(|f| f.data.ends_with(mark)).collect();
        assert!(on.len() == 1 && on[0].interface == "w0" && on[0].outbound == Some(outbound), "{on:?}");
    }
}

/// A number is nobody's for ever: what has it later is another interface, and nothing of the first one stays.
#[test]
fn a_number_that_is_used_again_is_another_interface() {
    const TEST: &str = "again";
    let net = namespaces!(TEST);
    skip_if!(TEST, needs::program("/usr/sbin/bpftool", "bpftool"));
    let packets = Packets::new(&net, 1);
    let mut here = Talker::start(&net, 1);
    let mut all = packets.start("all.pcapng", &[]);
    // One that no other test of this machine has.
    let number = 1_000_000_000 + std::process::id();
    let add = |name: &str| {
        let add = ["link", "add", name, "index", &number.to_string(), "type", "veth", "peer", "name", "peer"];
        net.ip(1, &add);
        net.ip(1, &["link", "set", "peer", "up"]);
        net.ip(1, &["link", "set", name, "up"]);
    };
    add("first");
    says(&mut all, "network interface first has come");
    here.tell("raw('first', bytes(12) + b'\\x88\\xb5first')");
    assert!(counted_interfaces().contains(&number));
    net.ip(1, &["link", "del", "first"]);
    says(&mut all, "network interface first is gone");
    assert!(!counted_interfaces().contains(&number), "its place is free");
    add("second");
    says(&mut all, "network interface second has come");
    here.tell("raw('second', bytes(12) + b'\\x88\\xb5second')");
    // At once, so that it is gone and there again before anybody looks.
    let batch = format!(
        "link del second\nlink add third index {number} type veth peer name peer\nlink set third up\nlink set peer up\n"
    );
    let file = packets.file("batch");
    std::fs::write(&file, batch).unwrap();
    net.ip(1, &["-batch", file.to_str().unwrap()]);
    says(&mut all, "network interface second is gone");
    says(&mut all, "network interface third has come");
    here.tell("raw('third', bytes(12) + b'\\x88\\xb5third')");
    let totals = whole(&all.stop());
    let frames = packets.frames("all.pcapng");
    assert_eq!(totals["seen"].as_u64(), Some(frames.len() as u64));
    for name in ["first", "second", "third"] {
        let marked = frames.iter().filter(|f| f.outbound == Some(true) && f.data.ends_with(name.as_bytes()));
        let on: Vec<&str> = marked.map(|f| f.interface.as_str()).collect();
        assert_eq!(on, [name]);
    }
}

/// The largest segments that the kernel makes are too large for readers of capture files.
#[test]
fn a_frame_that_is_too_long_for_a_file_is_cut_and_says_so() {
    const TEST: &str = "long";
    let net = namespaces!(TEST);
    let set = |which, link| {
        let args = ["link", "set", link, "gso_max_size", "524280", "gro_max_size", "524280"];
        net.run(which, "ip", &args).status.success()
    };
    skip_if!(TEST, (!(set(0, "v0") && set(1, "v1"))).then(|| "needs Linux 6.3 and its ip".to_owned()));
    let (mut here, mut there) = (Talker::start(&net, 1), Talker::start(&net, 0));
    here.tell("listen(5000)");
    let packets = Packets::new(&net, 1);
    let capture = packets.start("all.pcapng", &["-i", "v1"]);
    there.tell("bulk('fd77::2', 5000, 50_000_000)");
    let totals = whole(&capture.stop());
    let frames = packets.frames("all.pcapng");
    let long: Vec<&Frame> = frames.iter().filter(|f| f.wire > 262_144).collect();
    assert_eq!(totals["cut"].as_u64(), Some(long.len() as u64));
    for frame in &long {
        let missing = frame.wire - 262_144;
        assert!(
            frame.data.len() == 262_144 && frame.comments.contains(&format!("last {missing} bytes")),
            "{}",
            frame.comments
        );
    }
    assert!(frames.iter().all(|f| f.wire > 262_144 || f.wire as usize == f.data.len()));
    if long.is_empty() {
        println!("SKIPPED {TEST}: the kernel made no such segment");
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    const TEST: &str = "refused";
    let net = namespaces!(TEST);
    let packets = Packets::new(&net, 1);
    let out = packets.file("x.pcapng");
    let run = |more: &[&str]| {
        let base = ["tls", "-m", "pcapng", "-w", out.to_str().unwrap()];
        let done = packets.modules.run(&[&base[..], more].concat());
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, said) = run(&["-i", "v1,nothing0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("E-INTERFACE") && said.contains("nothing0") && said.contains("there are: lo, v1"), "{said}");
    assert!(!out.exists(), "nothing is written by a run that does not begin");
    let text = packets.modules.run(&["tls", "-i", "v1", "--duration", "1s"]);
    assert_eq!(text.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&text.stderr).contains("-m pcapng"));

    skip_if!("packets without CAP_NET_ADMIN", needs::program("/usr/bin/setpriv", "util-linux"));
    let done = Command::new("/usr/bin/setpriv")
        .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"])
        .arg(bin_dir().join("ecapture"))
        .args(["--modules-dir", packets.modules.path().to_str().unwrap(), "--allow-untrusted"])
        .args(["tls", "-m", "pcapng", "-i", "lo", "-w", out.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(4), "{said}");
    assert!(said.contains("E-PRIVILEGE") && said.contains("CAP_NET_ADMIN"), "{said}");
}

#[test]
fn a_kill_leaves_nothing_at_the_interfaces() {
    const TEST: &str = "killed";
    let net = namespaces!(TEST);
    let packets = Packets::new(&net, 1);
    // The packages' bpftool may be older than the links: what is at the interface is asked of the kernel by its links.
    let links = || {
        let shown = Command::new("/usr/sbin/bpftool").args(["-j", "prog", "show"]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).matches("packets_ether_in").count()
    };
    skip_if!(TEST, needs::program("/usr/sbin/bpftool", "bpftool"));
    let before = links();
    let capture = packets.start("killed.pcapng", &["-i", "v1"]);
    assert!(links() > before, "the test sees the programs");
    let mut there = Talker::start(&net, 0);
    there.tell("raw('v0', b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5frame')");
    std::thread::sleep(Duration::from_millis(1200));
    capture.signal(Signal::KILL);
    let ended = capture.wait();
    assert_eq!(ended.code, None);
    let deadline = Instant::now() + Duration::from_secs(10);
    while links() > before {
        assert!(Instant::now() < deadline, "programs are left");
        std::thread::sleep(Duration::from_millis(50));
    }
    let qdisc = net.run(1, "tc", &["qdisc", "show", "dev", "v1"]);
    assert!(!String::from_utf8_lossy(&qdisc.stdout).contains("clsact"));
    // Up to there the file is good, and the next run finds nothing in its way.
    assert!(packets.frames("killed.pcapng").iter().any(|f| f.data.ends_with(b"frame")));
    let again = packets.start("again.pcapng", &["-i", "v1"]);
    there.tell("raw('v0', b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5again')");
    whole(&again.stop());
    assert!(packets.frames("again.pcapng").iter().any(|f| f.data.ends_with(b"again")));
}

/// Before Linux 6.6 there is no TCX: filters of the discipline clsact, which others may use as well, and which stay after a kill.
#[test]
fn by_filters_of_clsact() {
    const TEST: &str = "clsact";
    let net = namespaces!(TEST);
    skip_if!(TEST, needs::program("/usr/sbin/tc", "iproute2"));
    let dir = tempfile::tempdir().unwrap();
    let packets = Packets::new(&net, 1);
    let tc = |args: &[&str]| {
        let output = net.run(1, "tc", args);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let qdisc = || tc(&["qdisc", "show", "dev", "v1"]).1;
    let filters =
        || tc(&["filter", "show", "dev", "v1", "ingress"]).1 + &tc(&["filter", "show", "dev", "v1", "egress"]).1;
    let by_clsact = |name: &str| packets.start(name, &["-i", "v1", "--packet-hook", "clsact"]);

    let mut here = Talker::start(&net, 1);
    let mut there = Talker::start(&net, 0);
    here.tell("listen(5000); bind_udp(5001)");
    let capture = by_clsact("all.pcapng");
    assert!(qdisc().contains("clsact") && filters().matches("ecapture").count() >= 2, "{} {}", qdisc(), filters());
    let dump = Tcpdump::start(&net, 1, "v1", dir.path());
    there.tell("bulk('10.77.0.2', 5000, 3_000_000); bulk('fd77::2', 5000, 1_000_000); udp('10.77.0.2', 5001, 20_000)");
    let dumped: Vec<Frame> = dump.stop().into_iter().filter(|f| !is_chatter(f)).collect();
    let totals = whole(&capture.stop());
    let frames = packets.frames("all.pcapng");
    assert_eq!(totals["seen"].as_u64(), Some(frames.len() as u64));
    let ours: Vec<&Frame> = frames.iter().filter(|f| !is_chatter(f)).collect();
    assert!(ours.len() > 20 && ours.iter().all(|f| f.pid() == Some(here.pid())), "{}", ours.len());
    assert_eq!(counted(ours), counted(&dumped));
    assert!(!qdisc().contains("clsact"), "{}", qdisc());

    // Somebody else's, and a kill: ours are there until the next run, which takes them away, and his stay.
    assert!(tc(&["qdisc", "add", "dev", "v1", "clsact"]).0);
    let others = tc(&["filter", "add", "dev", "v1", "ingress", "pref", "7", "matchall", "action", "ok"]).0;
    let killed = by_clsact("killed.pcapng");
    killed.signal(Signal::KILL);
    assert_eq!(killed.wait().code, None);
    assert!(filters().contains("ecapture"), "{}", filters());
    // By whatever hook.
    let again = packets.start("again.pcapng", &["-i", "v1"]);
    assert!(!filters().contains("ecapture"), "{}", filters());
    there.tell("raw('v0', b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5again')");
    whole(&again.stop());
    assert!(packets.frames("again.pcapng").iter().any(|f| f.data.ends_with(b"again")));
    assert!(qdisc().contains("clsact"), "{}", qdisc());
    if others {
        assert!(filters().contains("matchall"), "{}", filters());
    } else {
        println!("SKIPPED {TEST} beside another filter: this kernel has no cls_matchall");
    }
}

#[test]
fn only_frames_of_those_that_were_asked_for() {
    const TEST: &str = "filtered";
    let net = namespaces!(TEST);
    let mut here = Talker::start(&net, 1);
    let mut other = Talker::start(&net, 1);
    let mut there = Talker::start(&net, 0);
    here.tell("listen(5000)");
    other.tell("import os; open('/proc/self/comm', 'w').write('other talker')");
    other.tell("os.setgid(65534); os.setuid(65534); listen(6000)");
    let packets = Packets::new(&net, 1);
    let pid = other.pid().to_string();
    let mut ways = vec![vec!["--uid", "65534"], vec!["--comm", "other talker"], vec!["--pid", &pid]];
    // A socket that is there before its process changes over belongs to the new group all the same.
    let group = Group::missing().is_none().then(|| Group::new("talker"));
    let text = group.as_ref().map(Group::text).unwrap_or_default();
    match &group {
        Some(group) => {
            std::fs::write(group.path().join("cgroup.procs"), &pid).unwrap();
            ways.push(vec!["--cgroup", &text]);
        }
        None => println!("SKIPPED {TEST} by control group: needs cgroup v2"),
    }
    let all = packets.start("all.pcapng", &["-i", "v1"]);
    let captures: Vec<Capture> = (0..)
        .zip(&ways)
        .map(|(n, way)| packets.start(&format!("{n}.pcapng"), &[&["-i", "v1"][..], way].concat()))
        .collect();
    let unowned = packets.start("unowned.pcapng", &["-i", "v1", "--pid", &pid, "--unowned-packets"]);
    there.tell("bulk('10.77.0.2', 5000, 300_000); bulk('10.77.0.2', 6000, 300_000); bulk('fd77::2', 6000, 100_000)");
    there.tell("raw('v0', b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5nobody')");
    whole(&all.stop());
    let frames = packets.frames("all.pcapng");
    let wanted: Vec<&Frame> = frames.iter().filter(|f| has_port(f, 6000)).collect();
    assert!(wanted.len() > 10 && frames.iter().any(|f| has_port(f, 5000)), "{}", wanted.len());
    for (n, (way, capture)) in (0..).zip(ways.iter().zip(captures)) {
        let totals = whole(&capture.stop());
        let kept = packets.frames(&format!("{n}.pcapng"));
        assert_eq!(counted(&kept), counted(wanted.iter().copied()), "{way:?}");
        assert!(totals["filtered"].as_u64() > Some(2) && totals["unowned"].as_u64() > Some(0), "{way:?}: {totals}");
    }
    whole(&unowned.stop());
    let kept = packets.frames("unowned.pcapng");
    let nobodys = |f: &&Frame| f.pid().is_none();
    assert!(kept.iter().any(|f| f.data.ends_with(b"nobody")), "{}", kept.len());
    assert_eq!(counted(kept.iter().filter(|f| !nobodys(f))), counted(wanted.iter().copied()));
}

/// At this end of a pair the sockets of a container at the other end are nobody's, which is said, and can be asked for. Nor are what it
/// sends elsewhere and what it gets from there those of a process here that listens at such a port.
#[test]
fn what_a_container_sends_is_nobodys_at_this_end() {
    const TEST: &str = "container";
    let net = namespaces!(TEST);
    net.run(1, "sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    for (which, [v4, v6]) in [(0, ["10.77.0.2", "fd77::2"]), (1, ["10.77.0.1", "fd77::1"])] {
        net.ip(which, &["route", "add", "10.99.0.0/24", "via", v4]);
        net.ip(which, &["-6", "route", "add", "fd99::/64", "via", v6]);
    }
    let (mut inside, mut here) = (Talker::start(&net, 0), Talker::start(&net, 1));
    here.tell("bind_udp(5010)");
    let packets = Packets::new(&net, 1);
    let pid = inside.pid().to_string();
    let his = ["-i", "v1", "--pid", &pid, "--unowned-packets"];
    let captures = [("all", &his[..2]), ("his", &his[..4]), ("both", &his[..])]
        .map(|(name, args)| (name, packets.start(&format!("{name}.pcapng"), args)));
    // Nobody listens; somebody does, but not there; somebody does.
    for (address, other) in [("10.77.0.2", "10.99.0.1"), ("fd77::2", "fd99::1")] {
        inside.tell(&format!("udp('{address}', 5009, 100); udp('{other}', 5010, 100); udp('{address}', 5010, 77)"));
    }
    for (name, capture) in captures {
        let totals = whole(&capture.stop());
        let frames = packets.frames(&format!("{name}.pcapng"));
        let of = |count: usize| -> Vec<Option<u32>> {
            let sent = frames.iter().filter(|f| f.outbound == Some(false) && f.data.ends_with(&vec![b'u'; count]));
            sent.filter(|f| f.data.len() - count < 63).map(Frame::pid).collect()
        };
        assert_eq!(of(100), vec![None; if name == "his" { 0 } else { 4 }], "{name}");
        assert_eq!(of(77), vec![Some(here.pid()); if name == "all" { 2 } else { 0 }], "{name}");
        assert_eq!(totals["unowned"].as_u64() > Some(3), name == "his", "{name}: {totals}");
    }
}

/// What no file says, and tcpdump therefore knows of living interfaces only.
#[test]
fn directions_and_interfaces_in_expressions_are_tcpdumps() {
    const TEST: &str = "directions";
    let net = namespaces!(TEST);
    let dir = tempfile::tempdir().unwrap();
    let (mut here, mut there) = (Talker::start(&net, 1), Talker::start(&net, 0));
    here.tell("listen(5000); listen(5002); bind_udp(5001)");
    let packets = Packets::new(&net, 1);
    let shown = net.run(1, "ip", &["-o", "link", "show", "v1"]).stdout;
    let number = String::from_utf8(shown).unwrap().split(':').next().unwrap().to_owned();
    let expressions = ["inbound and ip".into(), "outbound and tcp".into(), format!("ifindex {number} and not arp")];
    let mut running: Vec<_> = (0..)
        .zip(&expressions)
        .map(|(n, expression)| {
            let filter = format!("--packet-filter={expression}");
            let dumps = ["v1", "lo"].map(|link| (link, Tcpdump::keeping(&net, 1, link, dir.path(), expression)));
            (expression, dumps, packets.start(&format!("{n}.pcapng"), &["-i", "v1,lo", &filter]))
        })
        .collect();
    // The block that is open when tcpdump sets its filter it filters itself, and knows nothing of these words. What fits ends it in a second.
    there.tell("bulk('10.77.0.2', 5002, 1)");
    here.tell("bulk('127.0.0.1', 5002, 1)");
    std::thread::sleep(Duration::from_millis(1500));
    there.tell("bulk('10.77.0.2', 5000, 300_000); udp('10.77.0.2', 5001, 20_000)");
    here.tell("bulk('127.0.0.1', 5000, 300_000)");
    let told = |f: &&Frame| !is_chatter(f) && !has_port(f, 5002);
    let mut kept = Vec::new();
    for (n, (expression, dumps, capture)) in (0..).zip(running.drain(..)) {
        let dumps = dumps.map(|(link, dump)| (link, dump.stop()));
        whole(&capture.stop());
        let frames = packets.frames(&format!("{n}.pcapng"));
        for (link, theirs) in dumps {
            let theirs: Vec<&Frame> = theirs.iter().filter(told).collect();
            let ours: Vec<&Frame> = frames.iter().filter(|f| f.interface == link).filter(told).collect();
            kept.push(theirs.len() > 2);
            assert!(counted(ours) == counted(theirs), "{expression} on {link}");
        }
    }
    assert_eq!(kept, [true, true, true, false, true, false], "what comes in on lo, and nothing goes out there");
}

/// A tunnel of IP packets, whose frames have no head of their own, and a bridge, which shows them once more.
#[test]
fn tunnels_and_bridges() {
    const TEST: &str = "devices";
    let net = namespaces!(TEST);
    let dir = tempfile::tempdir().unwrap();
    let (mut here, mut there) = (Talker::start(&net, 1), Talker::start(&net, 0));
    here.tell("import fcntl, os; tun = os.open('/dev/net/tun', os.O_RDWR)");
    here.tell("fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b't1', 0x1001))");
    net.ip(1, &["addr", "add", "10.78.0.1/24", "dev", "t1"]);
    net.ip(1, &["link", "set", "t1", "up"]);
    net.ip(1, &["link", "add", "b1", "type", "bridge"]);
    net.ip(1, &["link", "set", "v1", "master", "b1"]);
    net.ip(1, &["addr", "del", "10.77.0.2/24", "dev", "v1"]);
    net.ip(1, &["addr", "add", "10.77.0.2/24", "dev", "b1"]);
    net.ip(1, &["link", "set", "b1", "up"]);
    here.tell("listen(5000); bind_udp(5001)");
    let packets = Packets::new(&net, 1);
    let capture = packets.start("all.pcapng", &["-i", "t1,b1,v1"]);
    let dumps = ["t1", "b1", "v1"].map(|link| (link, Tcpdump::start(&net, 1, link, dir.path())));
    here.tell("for n in (1, 500, 4000): udp('10.78.0.2', 9, n)");
    here.tell("os.write(tun, ipv4(struct.pack('!HHHH', 9, 5001, 11, 0) + b'tun'))");
    there.tell("bulk('10.77.0.2', 5000, 200_000)");
    let is_chatter = |f: &Frame| match f.link_type {
        101 => f.data[0] >> 4 == 6 || f.data[9] == 2,
        _ => is_chatter(f),
    };
    let dumped = dumps.map(|(link, dump)| (link, dump.stop()));
    whole(&capture.stop());
    let frames = packets.frames("all.pcapng");
    for (link, mut theirs) in dumped {
        let link_type = if link == "t1" { 101 } else { 1 };
        theirs.iter_mut().for_each(|frame| frame.link_type = link_type);
        let theirs: Vec<&Frame> = theirs.iter().filter(|f| !is_chatter(f)).collect();
        let ours: Vec<&Frame> = frames.iter().filter(|f| f.interface == link && !is_chatter(f)).collect();
        assert!(ours.len() > 4 && ours.iter().all(|f| f.link_type == link_type), "{link}: {}", ours.len());
        assert_eq!(counted(ours.iter().copied()), counted(theirs), "{link}");
        let sent = ours.iter().filter(|f| f.outbound == Some(true)).count();
        assert!(sent > 0 && sent < ours.len(), "{link}: {sent} of {}", ours.len());
        if link == "t1" {
            let of_process = |f: &&&Frame| f.outbound == Some(true) && f.pid() == Some(here.pid());
            assert_eq!(ours.iter().filter(of_process).count(), sent);
            assert!(ours.iter().any(|f| f.data.ends_with(b"tun") && f.data[0] == 0x45));
        }
    }
}
