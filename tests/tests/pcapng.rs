//! Capture files against Wireshark and tcpdump: everything in them is decrypted with what is in them, is what was sent, and is from whom
//! it is said to be.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::disk::Tiny;
use ecapture_tests::network::Network;
use ecapture_tests::tls::Library;
use ecapture_tests::web::{Nginx, fetch, fetch_with};
use ecapture_tests::wheels::{self, wheel};
use ecapture_tests::{document, needs, or_skip, skip_if};
use rustix::process::{Pid, Signal, kill_process};

const TSHARK: &str = "/usr/bin/tshark";
const TCPDUMP: &str = "/usr/bin/tcpdump";
const PYTHON: &str = "/usr/bin/python3";

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!(
            $test,
            needs::capture(),
            needs::program("/usr/bin/openssl", "openssl"),
            needs::program("/usr/sbin/nginx", "nginx-light"),
            needs::program("/usr/bin/curl", "curl"),
            needs::program(TSHARK, "tshark"),
            needs::program(TCPDUMP, "tcpdump")
        )
    };
}

macro_rules! network {
    ($test:expr) => {
        or_skip!($test, Network::new())
    };
}

/// What is TLS is known by its bytes: the port that a client happened to get may be some other protocol's.
const BY_BYTES: [&str; 2] = ["-o", "tcp.try_heuristic_first:TRUE"];

/// Something that writes a file until it is told to end.
struct Running(Child);

impl Running {
    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        assert!(self.0.wait().is_ok());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// tcpdump beside us, with what it has written once it listens.
fn tcpdump(interface: &str, file: &Path, expression: &str) -> Running {
    let args = ["-i", interface, "-U", "--immediate-mode", "-B", "65536", "-Z", "root", "-s", "0", "-w"];
    let mut command = Command::new(TCPDUMP);
    command.args(args).arg(file).arg(expression).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    // It has its head when tcpdump is there.
    while file.metadata().map_or(0, |file| file.len()) == 0 {
        assert!(Instant::now() < deadline, "tcpdump does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    running
}

/// What tshark says of a file: a line for each packet that fits, its fields.
fn tshark(file: &Path, fits: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new(TSHARK);
    command.args(BY_BYTES).arg("-r").arg(file).args(["-n", "-Y", fits, "-T", "fields", "-E", "separator=/t"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("cut short") && !said.contains("corrupt"), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The bodies of HTTP/1.1 responses, by their paths.
fn bodies_of_http1(file: &Path, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let into = dir.join("objects");
    let _ = std::fs::remove_dir_all(&into);
    let mut command = Command::new(TSHARK);
    command.args(BY_BYTES).arg("-r").arg(file).args(["-q", "--export-objects"]).arg(format!("http,{}", into.display()));
    assert!(command.output().unwrap().status.success());
    let files = std::fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

/// The bodies of HTTP/2 responses, by their paths.
fn bodies_of_http2(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let fields =
        ["tcp.stream", "http2.streamid", "http2.type", "http2.length", "http2.headers.path", "http2.data.data"];
    let (mut paths, mut bodies) = (BTreeMap::new(), BTreeMap::<_, Vec<u8>>::new());
    for line in tshark(file, "http2", &fields) {
        let all = |number: usize| line.get(number).map(String::as_str).unwrap_or_default().split(',');
        let (mut asked, mut data) = (all(4), all(5));
        for ((stream, kind), length) in all(1).zip(all(2)).zip(all(3)) {
            let id = (line[0].clone(), stream.to_owned());
            match kind {
                // Only requests have a path, and nothing else goes that way with headers.
                "1" => {
                    if let Some(path) = asked.next().filter(|path| !path.is_empty()) {
                        paths.insert(id, path.trim_start_matches('/').to_owned());
                    }
                }
                "0" if length != "0" => {
                    let hex = data.next().unwrap_or_default().replace(':', "");
                    let digits = hex.as_bytes().chunks(2);
                    let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
                    let bytes: Vec<u8> = bytes.collect();
                    let body = bodies.entry(id).or_default();
                    // With the last frame tshark gives all of them, put together.
                    if length.parse() != Ok(bytes.len()) {
                        body.clear();
                    }
                    body.extend(bytes);
                }
                _ => {}
            }
        }
    }
    paths.into_iter().map(|(id, path)| (path, bodies.remove(&id).unwrap_or_default())).collect()
}

/// Bodies are those that were sent.
fn same(bodies: &BTreeMap<String, Vec<u8>>, nginx: &Nginx) {
    assert_eq!(bodies.len(), nginx.files.len(), "{:?}", bodies.keys());
    for (number, file) in nginx.files.iter().enumerate() {
        let body = &bodies[&number.to_string()];
        assert!(body == file, "file {number}: {} bytes of {}", body.len(), file.len());
    }
}

/// Nothing in the file is encrypted still, and no record is a wrong one.
fn all_is_decrypted(file: &Path) {
    let fields = [
        "tcp.stream",
        "tls.record.version",
        "tls.record.content_type",
        "tls.app_data_proto",
        "tls.handshake.type",
        "tls.segment.data",
        "frame.protocols",
    ];
    let (mut data, mut finished) = (BTreeMap::<_, usize>::new(), BTreeMap::<_, usize>::new());
    for line in tshark(file, "tls.record.version", &fields) {
        let all = |field: usize| line[field].split(',').filter(|value| !value.is_empty());
        // A record of TLS 1.3 says what is in it only when it is decrypted.
        assert_eq!(all(1).count(), all(2).count(), "{line:?}");
        *finished.entry(line[0].clone()).or_default() += all(4).filter(|kind| *kind == "20").count();
        let count = all(2).filter(|kind| *kind == "23").count();
        if count > 0 {
            // The protocol is said of others too; what was read is a part of something, or has something in it.
            assert!(all(3).count() >= count, "{line:?}");
            assert!(all(5).next().is_some() || !line[6].ends_with(":tls"), "{line:?}");
            *data.entry(line[0].clone()).or_default() += count;
        }
    }
    assert!(data.values().sum::<usize>() > 100, "{data:?}");
    // The last words of both handshakes are encrypted.
    assert!(data.keys().all(|stream| finished[stream] == 2), "{finished:?}");
    let wrong = tshark(file, "_ws.malformed || tls.alert_message.level == 2", &["frame.number"]);
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Ports, numbers and flags of each packet, which say which one it is, with its time in ns.
fn who(file: &Path, fits: &str) -> Vec<(Vec<String>, u64)> {
    let fields = [
        "frame.time_epoch",
        "tcp.srcport",
        "tcp.seq_raw",
        "tcp.ack_raw",
        "tcp.len",
        "tcp.flags",
        "tcp.options.timestamp.tsval",
        "ip.id",
    ];
    let time = |text: &str| -> u64 {
        let (seconds, rest) = text.split_once('.').unwrap();
        seconds.parse::<u64>().unwrap() * 1_000_000_000 + rest.parse::<u64>().unwrap()
    };
    tshark(file, fits, &fields).into_iter().map(|line| (line[1..].to_vec(), time(&line[0]))).collect()
}

fn start(modules: &Modules, library: &Library, more: &[&str]) -> Capture {
    let path = library.text();
    Capture::start(modules, &[&["tls", "-m", "pcapng", "--libssl", &path], more].concat())
}

fn whole(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    for bad in ["lost:", "cut short", "unaccounted", "not written", "out of order", "may need it", "made no sense"] {
        assert!(!finished.said.contains(bad), "{bad}: {}", finished.said);
    }
}

fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Requests over this pair of interfaces, or one interface, each version of HTTP in its turn; captured where the client is.
fn requests(interface: &str, host: &str, client: &Network, server: &Network) {
    let library = Library::installed();
    let modules = Modules::with(&["openssl"]);
    let dir = tempfile::tempdir().unwrap();
    // Each is asked for twice.
    let files = std::env::var("ECAPTURE_TEST_FILES").map_or(50, |files| files.parse().unwrap());
    let nginx = server.inside(|| Nginx::start_at(host, &library, files, 60_000));
    let parallel = u32::try_from(files / 5).unwrap().min(100);
    let (file, theirs) = (dir.path().join("out.pcapng"), dir.path().join("tcpdump.pcap"));
    let port = format!("tcp port {}", nginx.port);
    let (before, after, finished) = client.inside(|| {
        let beside = tcpdump(interface, &theirs, &port);
        let capture = start(&modules, &library, &["-i", interface, "-w", file.to_str().unwrap()]);
        let before = now_ns();
        fetch(&library, &nginx, "--http1.1", parallel);
        fetch(&library, &nginx, "--http2", parallel);
        let after = now_ns();
        std::thread::sleep(Duration::from_millis(100));
        let finished = capture.stop();
        beside.end(Signal::INT);
        (before, after, finished)
    });
    whole(&finished);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    all_is_decrypted(&file);
    same(&bodies_of_http1(&file, dir.path()), &nginx);
    same(&bodies_of_http2(&file), &nginx);
    // Every packet that tcpdump saw, once, at the same time.
    let (mine, other) = (who(&file, "tcp"), who(&theirs, "tcp"));
    let sorted = |packets: &[(Vec<String>, u64)]| {
        let mut keys: Vec<_> = packets.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys
    };
    assert!(sorted(&mine) == sorted(&other), "{} packets, and {} of tcpdump's", mine.len(), other.len());
    let times: BTreeMap<_, _> = other.into_iter().collect();
    for (key, time) in &mine {
        assert!(time.abs_diff(times[key]) < 10_000_000, "{key:?} {time} {}", times[key]);
        assert!((before - 10_000_000..after + 200_000_000).contains(time), "{before} {time} {after}");
    }
    // Whose they are.
    let workers = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", nginx.pid())).unwrap();
    let mut workers: BTreeSet<&str> = workers.split_whitespace().collect();
    // The one that made the socket that listens answers the first packet.
    let master = nginx.pid().to_string();
    workers.insert(&master);
    let of_nginx = |comment: &str| {
        comment.contains(" comm=nginx") && workers.iter().any(|pid| comment.contains(&format!("pid={pid} ")))
    };
    for line in tshark(&file, "tcp", &["tcp.srcport", "frame.comment"]) {
        let served = line[0] == nginx.port.to_string();
        let (nginx, curl) = (of_nginx(&line[1]), line[1].contains(" comm=curl"));
        // On one machine a packet is its sender's; over the wire it is that of the end that is here.
        let right = if interface == "lo" && served { nginx } else { curl };
        assert!(right && line[1].contains(" uid=65534 "), "{line:?}");
    }
    let info = Command::new("/usr/bin/capinfos").arg("-M").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(info.status.success() && info.stderr.is_empty(), "{}", String::from_utf8_lossy(&info.stderr));
    assert!(text.contains("Strict time order:   True") && text.contains(&format!("Name = {interface}")), "{text}");
    // Other programs take it too, and can take the secrets out.
    let public = dir.path().join("public.pcapng");
    let editcap =
        Command::new("/usr/bin/editcap").arg("--discard-all-secrets").arg(&file).arg(&public).output().unwrap();
    assert!(editcap.status.success(), "{}", String::from_utf8_lossy(&editcap.stderr));
    assert!(tshark(&public, "http || http2", &["frame.number"]).is_empty());
    println!("{} packets of {} requests", mine.len(), 2 * nginx.files.len());
}

#[test]
fn requests_on_loopback() {
    let test = "requests_on_loopback";
    skip_unless_possible!(test);
    let network = network!(test);
    requests("lo", "127.0.0.1", &network, &network);
}

#[test]
fn requests_over_a_pair_of_interfaces() {
    let test = "requests_over_a_pair_of_interfaces";
    skip_unless_possible!(test);
    let (client, server) = (network!(test), network!(test));
    if let Err(reason) = client.join(("ecap0", "10.77.0.1/24"), &server, ("ecap1", "10.77.0.2/24")) {
        skip_if!(test, Some(reason));
        return;
    }
    requests("ecap0", "10.77.0.2", &client, &server);
}

/// The secrets of TLS 1.2 are others: one for a connection.
#[test]
fn requests_with_tls_1_2() {
    let test = "requests_with_tls_1_2";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (dir.path().join("out.pcapng"), library.text());
    network.inside(|| {
        let nginx = Nginx::start(&library, 50, 30_000);
        // The mode by its other name.
        let fixed = ["tls", "-m", "pcap", "--libssl", &path, "-i", "lo", "-w", file.to_str().unwrap()];
        let capture = Capture::start(&modules, &fixed);
        for version in ["--http1.1", "--http2"] {
            fetch_with(&library, &nginx, &[version, "--tls-max", "1.2"], 10);
        }
        std::thread::sleep(Duration::from_millis(100));
        whole(&capture.stop());
        all_is_decrypted(&file);
        assert!(tshark(&file, "tls.record.opaque_type", &["frame.number"]).is_empty(), "that is TLS 1.3");
        same(&bodies_of_http1(&file, dir.path()), &nginx);
        same(&bodies_of_http2(&file), &nginx);
    });
}

/// Each file of a series is decrypted by itself, as far as it has the beginning of a connection.
#[test]
fn each_file_of_a_series_by_itself() {
    let test = "each_file_of_a_series_by_itself";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.pcapng");
    let rounds = 6;
    network.inside(|| {
        let nginx = Nginx::start(&library, 40, 60_000);
        let more = ["-i", "lo", "-w", file.to_str().unwrap(), "--rotate-size", "1MiB"];
        let capture = start(&modules, &library, &more);
        for _ in 0..rounds {
            fetch(&library, &nginx, "--http1.1", 20);
        }
        std::thread::sleep(Duration::from_millis(100));
        whole(&capture.stop());
    });
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    let mut answers = 0;
    for file in &files {
        assert!(file.metadata().unwrap().len() <= 1 << 20);
        let streams = |fits: &str| -> BTreeSet<String> {
            tshark(file, fits, &["tcp.stream"]).into_iter().map(|line| line[0].clone()).collect()
        };
        let begun = streams("tls.handshake.type == 2");
        let undone = streams("tls.record.opaque_type == 23 && !tls.record.content_type");
        assert!(begun.is_disjoint(&undone), "{}: {:?}", file.display(), begun.intersection(&undone));
        let found = tshark(file, "http.response", &["frame.number"]).len();
        assert!(begun.is_empty() || found > 0, "{}", file.display());
        answers += found;
    }
    // But for those whose connection began in the file before.
    assert!(answers > rounds * 40 / 2, "{answers}");
}

/// gRPC has BoringSSL inside, without names.
#[test]
fn calls_of_grpc() {
    let test = "calls_of_grpc";
    skip_unless_possible!(test);
    skip_if!(test, needs::program(PYTHON, "python3"));
    let network = network!(test);
    let (package, types) =
        or_skip!(test, wheel("grpcio").and_then(|package| Ok((package, wheel("typing_extensions")?))));
    let (served, modules, dir) = (Library::installed(), Modules::with(&["openssl"]), tempfile::tempdir().unwrap());
    let copy = dir.path().join("copy");
    assert!(Command::new("cp").arg("-a").arg(&package).arg(&copy).status().unwrap().success());
    for path in [dir.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (out, library, rounds) = (dir.path().join("out.pcapng"), wheels::file(&copy, "cygrpc"), 30);
    let path = std::env::join_paths([copy.as_path(), types.as_path()]).unwrap();
    let finished = network.inside(|| {
        let fixed = ["tls", "-m", "pcapng", "-i", "lo", "--libssl", library.to_str().unwrap()];
        let capture = Capture::start(&modules, &[&fixed[..], &["-w", out.to_str().unwrap()]].concat());
        let _ = served.exchange_with(Path::new(PYTHON), "tls-grpc-calls.py", &[], rounds, &[("PYTHONPATH", &path)]);
        std::thread::sleep(Duration::from_millis(100));
        capture.stop()
    });
    whole(&finished);
    all_is_decrypted(&out);
    let mut calls: BTreeMap<String, u32> = BTreeMap::new();
    for line in tshark(&out, "http2.headers.path", &["http2.headers.path"]) {
        line[0].split(',').for_each(|path| *calls.entry(path.to_owned()).or_default() += 1);
    }
    let expected = ["Fail", "Get", "List", "Put", "Talk"].map(|call| (format!("/shop.Orders/{call}"), rounds));
    assert!(calls.iter().map(|(path, count)| (path.clone(), *count)).eq(expected), "{calls:?}");
}

/// A server of OpenSSL's program, and a connection with it.
struct Talk<'l> {
    library: &'l Library,
    server: Running,
    client: Option<Running>,
    address: String,
    heard: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl<'l> Talk<'l> {
    fn listen(library: &'l Library) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let heard = dir.path().join("heard");
        let (certificate, key) = (library.certificate(), library.key());
        let files = ["-cert", certificate.to_str().unwrap(), "-key", key.to_str().unwrap()];
        let args = [&["s_server", "-accept", &address, "-quiet"], &files[..]].concat();
        let server = openssl(library, &args, std::fs::File::create(&heard).unwrap().into());
        until("the server listens", || std::net::TcpStream::connect(&address).is_ok());
        Self { library, server, client: None, address, heard, _dir: dir }
    }

    /// A word from the client, which connects if it has not yet.
    fn say(&mut self, word: &str) {
        let connect = || {
            let args = ["s_client", "-connect", &self.address, "-quiet", "-no_ign_eof"];
            openssl(self.library, &args, Stdio::null())
        };
        let client = self.client.get_or_insert_with(connect);
        writeln!(client.0.stdin.as_mut().unwrap(), "{word}").unwrap();
        until(word, || std::fs::read_to_string(&self.heard).unwrap().contains(word));
    }
}

fn openssl(library: &Library, args: &[&str], out: Stdio) -> Running {
    let mut command = library.command(Path::new("/usr/bin/openssl"));
    Running(command.args(args).stdin(Stdio::piped()).stdout(out).stderr(Stdio::null()).spawn().unwrap())
}

fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !happens() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_connection_from_before_the_capture_is_told_of() {
    let test = "a_connection_from_before_the_capture_is_told_of";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.pcapng");
    network.inside(|| {
        let mut before = Talk::listen(&library);
        before.say("zero");
        let nginx = Nginx::start(&library, 5, 1000);
        let mut capture = start(&modules, &library, &["-i", "lo", "-w", file.to_str().unwrap()]);
        before.say("one");
        // At once, and not for every connection.
        capture.wait_for_word("was over before the capture", 1, Duration::from_secs(10));
        before.say("two");
        fetch(&library, &nginx, "--http1.1", 1);
        let finished = capture.stop();
        whole(&finished);
        assert_eq!(finished.said.matches("was over before the capture:").count(), 1, "{}", finished.said);
        assert!(finished.said.contains("the keys of 2 connections were not seen"), "both ends: {}", finished.said);
        // Its packets are there, and those of others are decrypted.
        assert!(
            tshark(&file, "tls.record.opaque_type == 23 || tls.record.content_type == 23", &["frame.number"]).len() > 2
        );
        assert_eq!(tshark(&file, "http.response", &["frame.number"]).len(), 5);
    });
}

#[test]
fn live_into_tshark() {
    let test = "live_into_tshark";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    network.inside(|| {
        let nginx = Nginx::start(&library, 20, 1000);
        let mut command = modules.ecapture();
        let path = library.text();
        command.args(["tls", "-m", "pcapng", "--libssl", &path, "-i", "lo", "-w", "-"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = std::io::BufRead::lines(std::io::BufReader::new(process.stderr.take().unwrap()));
        let pipe = process.stdout.take().unwrap();
        // It leaves after the first 20 requests.
        let args =
            ["-l", "-r", "-", "-n", "-Y", "http.response.code == 200", "-T", "fields", "-e", "http.response.code"];
        let mut reader =
            Command::new(TSHARK).args(args).stdin(pipe).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        assert!(errors.by_ref().map_while(Result::ok).any(|line| line.contains("capturing; Ctrl-C ends it")));
        fetch(&library, &nginx, "--http1.1", 5);
        let mut seen = String::new();
        let mut lines = std::io::BufReader::new(reader.stdout.take().unwrap());
        while seen.lines().count() < 20 {
            // All of them, while the capture goes on.
            assert!(std::io::BufRead::read_line(&mut lines, &mut seen).unwrap() > 0, "{seen}");
        }
        reader.kill().unwrap();
        reader.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // Nobody listens: it notices with the next packets, and ends as if it had been told to.
        let status = loop {
            fetch(&library, &nginx, "--http1.1", 5);
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on");
        };
        let said: Vec<String> = errors.map_while(Result::ok).collect();
        assert_eq!(status.code(), Some(0), "{said:?}");
        assert!(!said.join("\n").contains("E-"), "{said:?}");
    });
}

#[test]
fn only_what_fits_the_expression() {
    let test = "only_what_fits_the_expression";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let (file, theirs) = (dir.path().join("out.pcapng"), dir.path().join("tcpdump.pcap"));
    network.inside(|| {
        let nginx = Nginx::start(&library, 20, 3000);
        let expression = format!("src port {} and greater 100", nginx.port);
        let beside = tcpdump("lo", &theirs, &expression);
        let words: Vec<&str> = expression.split(' ').collect();
        let more = [&["-i", "lo", "-w", file.to_str().unwrap()], &words[..]].concat();
        let capture = start(&modules, &library, &more);
        fetch(&library, &nginx, "--http1.1", 5);
        std::thread::sleep(Duration::from_millis(100));
        let finished = capture.stop();
        beside.end(Signal::INT);
        whole(&finished);
        assert!(finished.said.contains("that did not fit the packet filter left out"), "{}", finished.said);
        let of = |file: &Path| who(file, "tcp").into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>();
        let (mine, other) = (of(&file), of(&theirs));
        assert!(mine == other && mine.len() >= 20, "{} packets, and {} of tcpdump's", mine.len(), other.len());
        // What is asked for in the wrong way is said before anything is attached, and before the file is touched.
        let length = file.metadata().unwrap().len();
        let wrong = modules.run(&["tls", "-m", "pcapng", "-w", file.to_str().unwrap(), "tcp", "prt", "443"]);
        let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert_eq!(wrong.status.code(), Some(2), "{said}");
        assert!(said.contains("E-FILTER") && said.contains("syntax error") && !said.contains("probes"), "{said}");
        assert_eq!(file.metadata().unwrap().len(), length);
    });
}

#[test]
fn a_full_disk_leaves_a_file_that_can_be_read() {
    let test = "a_full_disk_leaves_a_file_that_can_be_read";
    skip_unless_possible!(test);
    let disk = or_skip!(test, Tiny::mount("200k"));
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    network.inside(|| {
        let nginx = Nginx::start(&library, 30, 60_000);
        let file = disk.path().join("out.pcapng");
        let capture = start(&modules, &library, &["-i", "lo", "-w", file.to_str().unwrap()]);
        fetch(&library, &nginx, "--http1.1", 5);
        fetch(&library, &nginx, "--http2", 5);
        std::thread::sleep(Duration::from_millis(300));
        let finished = capture.stop();
        assert_eq!(finished.code, Some(1), "{}", finished.said);
        assert!(
            finished.said.contains("No space left on device") && finished.said.contains("not written"),
            "{}",
            finished.said
        );
        // Up to the last whole block, which tshark would say otherwise.
        let packets = tshark(&file, "tcp", &["frame.number"]).len();
        let requests = tshark(&file, "http.request", &["frame.number"]).len();
        assert!(packets > 30 && requests > 0, "{packets} {requests}");
    });
}

#[test]
fn nothing_happens_and_a_killed_capture() {
    let test = "nothing_happens_and_a_killed_capture";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.pcapng");
    network.inside(|| {
        let finished = start(&modules, &library, &["-i", "lo", "-w", file.to_str().unwrap()]).stop();
        whole(&finished);
        assert!(finished.said.contains("packets: 0 frames, none lost"), "{}", finished.said);
        assert!(tshark(&file, "", &["frame.number"]).is_empty());
        let nginx = Nginx::start(&library, 10, 3000);
        // A library that makes secrets, which nobody calls.
        let idle = Library::installed();
        let capture = start(&modules, &idle, &["-i", "lo", "-w", file.to_str().unwrap()]);
        fetch(&library, &nginx, "--http1.1", 5);
        let finished = capture.stop();
        whole(&finished);
        assert!(finished.said.contains("no call of those that were asked for came by"), "{}", finished.said);
        let (packets, read) = (tshark(&file, "tls", &["frame.number"]), tshark(&file, "http", &["frame.number"]));
        assert!(packets.len() > 40 && read.is_empty(), "{} {}", packets.len(), read.len());
        let capture = start(&modules, &library, &["-i", "lo", "-w", file.to_str().unwrap()]);
        fetch(&library, &nginx, "--http1.1", 5);
        let deadline = Instant::now() + Duration::from_secs(10);
        while tshark(&file, "http.response", &["frame.number"]).len() < 10 {
            assert!(Instant::now() < deadline, "not written while it lasts");
        }
        capture.signal(Signal::KILL);
        assert_eq!(capture.wait().code, None);
        same(&bodies_of_http1(&file, dir.path()), &nginx);
    });
}

#[test]
fn wireshark_starts_it() {
    let test = "wireshark_starts_it";
    skip_unless_possible!(test);
    let place = Path::new("/usr/lib/x86_64-linux-gnu/wireshark/extcap");
    skip_if!(test, (!place.is_dir()).then(|| format!("needs {}", place.display())));
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    // What a link to the program does where the modules are in their place.
    let command = modules.ecapture();
    let words: Vec<&str> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
    let script = format!("#!/bin/sh\nexec {} {} \"$@\"\n", command.get_program().to_str().unwrap(), words.join(" "));
    let program = dir.path().join("ecapture");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.path().join("out.pcapng");
    network.inside(|| {
        // In a view of the file system of its own, in which Wireshark finds nothing else.
        let tshark_here = |args: &str| {
            let script = format!("mount --bind {} {} && exec {TSHARK} {args}", dir.path().display(), place.display());
            let mut command = Command::new("/usr/bin/unshare");
            command.args(["-m", "sh", "-c", &script]);
            command
        };
        let listed = tshark_here("-D").output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(text.contains("ecapture (TLS with keys (ecapture))"), "{text}");
        let nginx = Nginx::start(&library, 10, 3000);
        let args = format!("-i ecapture -f 'tcp port {}' -a duration:30 -c 100 -w {}", nginx.port, file.display());
        let mut capture = tshark_here(&args);
        let mut running = Running(capture.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        while running.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it captures nothing");
            fetch(&library, &nginx, "--http1.1", 5);
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut said = String::new();
        running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(tshark(&file, "tcp", &["frame.number"]).len(), 100, "{said}");
        assert!(!tshark(&file, "http.request", &["frame.number"]).is_empty(), "decrypted: {said}");
    });
}

#[test]
fn wireshark_asks_whether_a_filter_is_one() {
    let test = "wireshark_asks_whether_a_filter_is_one";
    skip_unless_possible!(test);
    let modules = Modules::with(&["openssl"]);
    let judge = |filter: &str| {
        let output = modules.run(&["--extcap-interface", "ecapture", "--extcap-capture-filter", filter]);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{filter}");
        String::from_utf8(output.stdout).unwrap()
    };
    for right in ["", "tcp port 443", "inbound and host 10.0.0.1", "vlan 5 or (udp and portrange 1-9)"] {
        assert_eq!(judge(right), "");
    }
    for (wrong, why) in
        [("tcp prt 443", "syntax error"), ("port nosuchport", "nosuchport"), ("ip protochain 6", "loop")]
    {
        let said = judge(wrong);
        assert!(said.contains(why) && said.ends_with('\n'), "{wrong}: {said}");
    }
}

/// All that stands on its stderr Wireshark shows as an error: nothing, unless something is missing.
#[test]
fn wireshark_hears_of_what_is_missing_and_of_nothing_else() {
    let test = "wireshark_hears_of_what_is_missing_and_of_nothing_else";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    network.inside(|| {
        for before in [false, true] {
            let mut talk = Talk::listen(&library);
            if before {
                talk.say("before");
            }
            let mut command = modules.ecapture();
            command.args(["--capture", "--extcap-interface", "ecapture", "--interface", "lo"]);
            command.arg("--pid").arg(talk.server.0.id().to_string()).arg("--fifo").arg(&fifo);
            let mut child = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
            let (taken, mut reader) = (Arc::new(Mutex::new(Vec::new())), std::fs::File::open(&fifo).unwrap());
            let bytes = taken.clone();
            let rest = std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    bytes.lock().unwrap().extend_from_slice(&buffer[..count]);
                }
            });
            // It captures when more than the head of the file comes.
            until("it captures", || {
                let _ = std::net::TcpStream::connect(&talk.address);
                taken.lock().unwrap().len() > 3000
            });
            talk.say("more");
            std::thread::sleep(Duration::from_millis(300));
            kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
            let mut said = String::new();
            child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(child.0.wait().unwrap().code(), Some(0), "{said}");
            rest.join().unwrap();
            let file = dir.path().join("out.pcapng");
            std::fs::write(&file, &*taken.lock().unwrap()).unwrap();
            assert_eq!(tshark(&file, "tls.handshake.type == 20", &["frame.number"]).is_empty(), before, "{said}");
            let missing = "ecapture: packets: 1 connection not decrypted: the handshake was over before the capture\n";
            assert_eq!(said, if before { missing } else { "" });
        }
    });
}

#[test]
fn what_the_document_shows() {
    let test = "what_the_document_shows";
    skip_unless_possible!(test);
    let (network, library, modules) = (network!(test), Library::installed(), Modules::with(&["openssl"]));
    let dir = tempfile::tempdir().unwrap();
    let commands = document::commands("docs/packets.md");
    assert_eq!(commands.len(), 2, "{commands:?}");
    network.inside(|| {
        let nginx = Nginx::start(&library, 5, 1000);
        for command in commands {
            let program = modules.ecapture();
            let words: Vec<&str> = program.get_args().map(|arg| arg.to_str().unwrap()).collect();
            // Probes only what this test has started.
            let (program, more) = (program.get_program().to_str().unwrap(), "--duration 2s --libssl");
            let whole = command
                .replace("ecapture tls", &format!("{program} {} tls {more} {}", words.join(" "), library.text()))
                .replace("port 443", &format!("port {}", nginx.port));
            let mut shell = Command::new("/bin/sh");
            let shown = dir.path().join("shown");
            let stdout = std::fs::File::create(&shown).unwrap();
            shell.args(["-c", &whole]).current_dir(dir.path()).stdout(stdout).stderr(Stdio::null());
            let mut process = shell.spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while process.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline, "{command} does not end");
                fetch(&library, &nginx, "--http1.1", 2);
                std::thread::sleep(Duration::from_millis(200));
            }
            assert_eq!(process.wait().unwrap().code(), Some(0), "{command}");
            if command.contains("out.pcapng") {
                assert!(!tshark(&dir.path().join("out.pcapng"), "http.response", &["frame.number"]).is_empty());
            } else {
                assert!(std::fs::read_to_string(&shown).unwrap().contains("GET /"), "{command}");
            }
        }
    });
}
