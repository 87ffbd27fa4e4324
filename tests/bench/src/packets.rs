//! Bulk data over a veth pair between two namespaces: with nothing, with ecapture and with tcpdump at one end. How fast it goes, what
//! each loses, and what it costs. Both have room for 64 MiB in the kernel and write into memory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, bin_dir, children, pid};
use ecapture_tests::frames::Namespaces;
use rustix::process::Signal;

use super::stats::Rounds;

const ROUNDS: usize = 5;
const BYTES: u64 = 1_000_000_000;

const SERVER: &str = r#"
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("10.77.0.2", 5000)); s.listen(4)
print("ready", flush=True)
while True:
    c, _ = s.accept()
    while c.recv(1 << 20): pass
    c.sendall(b"!"); c.close()
"#;

/// Arguments: bytes, bytes a second (0: as fast as it goes). Prints the bytes a second.
const CLIENT: &str = r#"
import socket, sys, time
total, rate = int(sys.argv[1]), float(sys.argv[2])
c = socket.create_connection(("10.77.0.2", 5000)); data = b"x" * (1 << 18); began = time.time(); left = total
while left > 0:
    left -= c.send(data[:left])
    if rate:
        ahead = (total - left) / rate - (time.time() - began)
        if ahead > 0: time.sleep(ahead)
c.shutdown(1); c.recv(1)
print(total / (time.time() - began))
"#;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What came of one contender.
#[derive(Default)]
struct Results {
    rate: Rounds,
    kept: Rounds,
    lost: Rounds,
    seconds: Rounds,
}

/// Seconds of processor time of a process so far.
fn seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn load(net: &Namespaces, rate: u64) -> f64 {
    let (bytes, rate) = (BYTES.to_string(), rate.to_string());
    let done = net.run(0, "/usr/bin/python3", &["-c", CLIENT, &bytes, &rate]);
    String::from_utf8_lossy(&done.stdout).trim().parse().expect("a rate")
}

/// Rate, share of the frames that was lost, seconds of processor time.
fn beside_ecapture(net: &Namespaces, modules: &Modules, rate: u64, dir: &Path) -> (f64, f64, f64) {
    let file = dir.join("bench.pcapng");
    let args = ["tls", "-m", "pcapng", "-i", "v0", "--libssl", "/usr/lib/x86_64-linux-gnu/libssl.so.3", "-o", "json"];
    let writes = ["-w", "-", "-w", file.to_str().unwrap()];
    let capture = Capture::start(modules, &[&args[..], &writes].concat());
    let processes: Vec<u32> = children(capture.pid()).into_values().chain([capture.pid()]).collect();
    let before: f64 = processes.iter().map(|p| seconds(*p)).sum();
    let rate = load(net, rate);
    std::thread::sleep(Duration::from_secs(1));
    let used = processes.iter().map(|p| seconds(*p)).sum::<f64>() - before;
    let ended = capture.stop();
    let totals = &ended.end()["ecapture.session.packets"];
    let count = |name: &str| totals[name].as_f64().unwrap_or(0.0);
    (rate, 100.0 * count("lost") / count("produced").max(1.0), used)
}

fn beside_tcpdump(net: &Namespaces, rate: u64, dir: &Path) -> (f64, f64, f64) {
    let file = dir.join("bench.pcap");
    let args = ["-i", "v0", "-s", "0", "-B", "65536", "--nano", "-Z", "root", "-w", file.to_str().unwrap()];
    let mut child = net.command(0, "/usr/bin/tcpdump", &args).stderr(Stdio::piped()).spawn().expect("tcpdump");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    stderr.find(|line| line.contains("listening"));
    let before = seconds(child.id());
    let rate = load(net, rate);
    std::thread::sleep(Duration::from_millis(1500));
    let used = seconds(child.id()) - before;
    rustix::process::kill_process(pid(child.id()), Signal::INT).expect("tcpdump runs");
    let (mut received, mut dropped) = (0.0, 0.0);
    for line in stderr {
        let first = || line.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        if line.contains("received by filter") {
            received = first();
        } else if line.contains("dropped by kernel") {
            dropped = first();
        }
    }
    let _ = child.wait();
    (rate, 100.0 * dropped / f64::max(received, 1.0), used)
}

/// Prints the table of each load.
pub fn run() {
    let net = match Namespaces::make("bench") {
        Ok(net) if Path::new("/usr/bin/tcpdump").exists() => net,
        Ok(_) => return println!("needs /usr/bin/tcpdump"),
        Err(reason) => return println!("{reason}"),
    };
    let memory = if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" };
    let dir = tempfile::Builder::new().prefix("ecapture-bench-").tempdir_in(memory).expect("temporary directory");
    let modules = Modules::of(&net.wrapped(0, &bin_dir().join("ecapture")));
    modules.install("openssl");
    let mut server: Command = net.command(1, "/usr/bin/python3", &["-c", SERVER]);
    let mut server = Killed(server.stdout(Stdio::piped()).spawn().expect("python3"));
    let mut line = String::new();
    let _ = BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut line);
    for (name, rate) in [("as fast as it goes", 0), ("400 MB/s", 400_000_000)] {
        let mut all = [Results::default(), Results::default(), Results::default()];
        for _ in 0..ROUNDS {
            let alone = load(&net, rate);
            let rounds = [
                (alone, 0.0, 0.0),
                beside_ecapture(&net, &modules, rate, dir.path()),
                beside_tcpdump(&net, rate, dir.path()),
            ];
            for (results, (rate, lost, seconds)) in all.iter_mut().zip(rounds) {
                results.rate.push(rate / 1e6);
                results.kept.push(100.0 * rate / alone);
                results.lost.push(lost);
                results.seconds.push(seconds);
            }
        }
        println!("1 GB, {name}: MB/s; % of the rate kept; % of the frames lost; s of processor time; {ROUNDS} rounds");
        for (name, r) in ["nothing", "ecapture", "tcpdump"].iter().zip(&all) {
            println!("  {name:10} {}; {}; {}; {}", r.rate, r.kept, r.lost, r.seconds);
        }
    }
}
