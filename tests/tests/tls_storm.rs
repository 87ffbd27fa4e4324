//! Captures come and go while a server and a client talk TLS: neither may notice.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::tls::Library;
use ecapture_tests::web::{Nginx, fetch};
use ecapture_tests::{needs, skip_if};

#[test]
fn captures_come_and_go_and_no_byte_is_wrong() {
    skip_if!(
        "captures_come_and_go_and_no_byte_is_wrong",
        needs::capture(),
        needs::program("/usr/bin/openssl", "openssl"),
        needs::program("/usr/bin/curl", "curl"),
        needs::program("/usr/sbin/nginx", "nginx-light")
    );
    // `cargo xtask soak` goes on for half an hour.
    let seconds = std::env::var("ECAPTURE_SOAK_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let library = Library::installed();
    let nginx = Nginx::start(&library, 100, 1 << 18);
    let modules = Modules::with(&["openssl"]);
    let path = library.text();
    let (done, fetched) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut captures: u64 = 0;
    let mut events = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Every file is compared.
            while !done.load(Ordering::Relaxed) {
                let version = if fetched.load(Ordering::Relaxed) % 2 == 0 { "--http1.1" } else { "--http2" };
                fetch(&library, &nginx, version, 8);
                fetched.fetch_add(1, Ordering::Relaxed);
            }
        });
        while Instant::now() < end {
            let capture = Capture::start(&modules, &["tls", "--libssl", &path, "-o", "json", "--view", "raw"]);
            std::thread::sleep(Duration::from_millis(300));
            let finished = capture.stop();
            assert_eq!(finished.code, Some(0), "{}", finished.said);
            let totals = &finished.end()["ecapture.session.modules"][0];
            assert_eq!((&totals["unaccounted"], &totals["undecodable"]), (&0.into(), &0.into()), "{totals}");
            captures += 1;
            events += totals["seen"].as_u64().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let fetched = fetched.load(Ordering::Relaxed);
    println!("{captures} captures, {events} events, {fetched} times all files");
    assert!(captures * 4 >= seconds && fetched > 0 && events > 0, "{captures} captures, {fetched} rounds");
}
