//! A web server of one's own that serves files of random bytes, and curl.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::capture::pid;
use crate::tls::Library;
use crate::workload::Numbers;

/// nginx from Debian's package, from a private copy, as nobody, on loopback, with a private copy of the library.
pub struct Nginx {
    process: Child,
    /// Where it listens: the address,
    pub host: String,
    /// and the port.
    pub port: u16,
    /// What `/0`, `/1`, ... are.
    pub files: Vec<Vec<u8>>,
}

impl Nginx {
    /// Starts one that serves `count` files of 1 byte to `longest`, spread evenly over the magnitudes.
    ///
    /// # Panics
    /// If it does not listen within 10 s.
    #[must_use]
    pub fn start(library: &Library, count: usize, longest: u64) -> Self {
        Self::start_at("127.0.0.1", library, count, longest)
    }

    /// The same on another address, in the network that the calling thread is in.
    ///
    /// # Panics
    /// If it does not listen within 10 s.
    #[must_use]
    pub fn start_at(host: &str, library: &Library, count: usize, longest: u64) -> Self {
        let dir = library.dir();
        let mut numbers = Numbers(7);
        let mut files = Vec::new();
        for number in 0..count {
            let magnitude = numbers.below(u64::from(longest.ilog2()) + 1);
            let length = (1 << magnitude) + numbers.below(1 << magnitude);
            let words = (0..length.min(longest).div_ceil(8)).flat_map(|_| numbers.next_number().to_le_bytes());
            let bytes: Vec<u8> = words.take(usize::try_from(length.min(longest)).unwrap_or(usize::MAX)).collect();
            std::fs::write(dir.join(number.to_string()), &bytes).expect("file to be served");
            files.push(bytes);
        }
        let binary = dir.join("nginx");
        std::fs::copy("/usr/sbin/nginx", &binary).expect("nginx (package nginx-light)");
        let state = dir.join("state");
        std::fs::create_dir_all(&state).expect("directory");
        std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        // Free now; nobody else on this machine takes ports of loopback by number.
        let port = TcpListener::bind((host, 0)).and_then(|l| l.local_addr()).expect("port").port();
        let file = dir.join("nginx.conf");
        std::fs::write(&file, configuration(dir, host, port)).expect("configuration");
        let mut command = library.command(&binary);
        command.arg("-p").arg(dir).arg("-c").arg(&file).arg("-e").arg("stderr");
        let process = command.stdout(Stdio::null()).spawn().expect("nginx starts");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((host, port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, host: host.to_owned(), port, files }
    }

    /// Process id of the master.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master takes its workers along.
        let _ = rustix::process::kill_process(pid(self.pid()), rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

fn configuration(dir: &Path, host: &str, port: u16) -> String {
    let (dir, state) = (dir.display(), dir.join("state"));
    let mut temporary = String::new();
    for what in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "{what}_temp_path {};", state.join(what).display());
    }
    format!(
        "daemon off; worker_processes 2; pid {pid}; error_log stderr crit;
         worker_rlimit_nofile 20000; events {{ worker_connections 16384; }}
         http {{
           access_log off; keepalive_requests 100000; {temporary}
           server {{
             listen {host}:{port} ssl http2;
             ssl_certificate certificate.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.2 TLSv1.3;
             root {dir};
             location /gzip/ {{ add_header Content-Encoding gzip; }}
             location /deflate/ {{ add_header Content-Encoding deflate; }}
             location /br/ {{ add_header Content-Encoding br; }}
             location /zstd/ {{ add_header Content-Encoding zstd; }}
             location /up/ {{ dav_methods PUT; client_max_body_size 64m; client_body_buffer_size 1m; }}
           }}
         }}",
        pid = state.join("pid").display(),
    )
}

/// Fetches all files with curl, in one process with so many connections, over this version of HTTP.
///
/// # Panics
/// If curl fails, or gets anything else than what the files are.
pub fn fetch(library: &Library, nginx: &Nginx, version: &str, parallel: u32) {
    fetch_with(library, nginx, &[version], parallel);
}

/// The same with these options of curl.
///
/// # Panics
/// As [`fetch`].
pub fn fetch_with(library: &Library, nginx: &Nginx, options: &[&str], parallel: u32) {
    let into = library.dir().join("fetched");
    let _ = std::fs::remove_dir_all(&into);
    std::fs::create_dir_all(&into).expect("directory");
    std::fs::set_permissions(&into, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    let mut list = String::new();
    for number in 0..nginx.files.len() {
        let output = into.join(number.to_string());
        let _ = writeln!(list, "url = https://localhost:{}/{number}\noutput = {}", nginx.port, output.display());
    }
    let file = library.dir().join("list");
    std::fs::write(&file, list).expect("list");
    let mut command = library.command(Path::new("/usr/bin/curl"));
    command.args(["--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate"]).args(options);
    command.arg("--resolve").arg(format!("localhost:{}:{}", nginx.port, nginx.host));
    command.arg("--parallel-max").arg(parallel.to_string()).arg("--cacert").arg(library.certificate());
    let output = command.arg("--config").arg(&file).output().expect("curl (package curl)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (number, bytes) in nginx.files.iter().enumerate() {
        let fetched = std::fs::read(into.join(number.to_string())).unwrap_or_default();
        assert!(&fetched == bytes, "file {number}: {} bytes fetched of {}", fetched.len(), bytes.len());
    }
}
