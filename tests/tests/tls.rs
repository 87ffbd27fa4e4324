//! TLS plaintext, call by call, against what a program says that it did: every way to read and write, every length.

use std::collections::{BTreeMap, BTreeSet};

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::suites::Suite;
use ecapture_tests::tls::{self, Contained, Library};
use ecapture_tests::web::{Nginx, fetch};
use ecapture_tests::{needs, or_skip, skip_if, sources};

fn capture(library: &str, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["openssl"]);
    let capture =
        Capture::start(&modules, &[&["tls", "--libssl", library, "-o", "json", "--view", "raw"], more].concat());
    (modules, capture)
}

/// Runs a scenario under a capture and compares call by call. Gives what was captured.
fn scenario(name: &str, number: u32) -> Finished {
    let (library, calls) = (Library::installed(), tls::calls());
    let (_modules, capture) = capture(&library.text(), &[]);
    let said = library.run(&calls, name, number);
    assert!(!said.is_empty());
    let finished = capture.stop();
    finished.assert_whole();
    tls::compare(&said, &tls::captured(&finished.events));
    finished
}

/// Every scenario with another version of the library; `run` says what its calls moved.
fn every_scenario(library: &str, mut run: impl FnMut(&str, u32) -> Vec<tls::Call>) {
    for (name, number) in [
        ("lengths", 17),
        ("retries", 2),
        ("memory", 50),
        ("early", 4),
        ("reuse", 10),
        ("reset", 3),
        ("interleaved", 6),
        ("bio", 20),
    ] {
        let (_modules, capture) = capture(library, &[]);
        let said = run(name, number);
        let finished = capture.stop();
        finished.assert_whole();
        println!("{name}: {} calls", said.len());
        tls::compare(&said, &tls::captured(&finished.events));
    }
}

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!(
            $test,
            needs::capture(),
            needs::program("/usr/bin/openssl", "openssl"),
            needs::program("/usr/bin/gcc", "gcc")
        )
    };
}

#[test]
fn every_length_around_every_power_of_two() {
    skip_unless_possible!("every_length_around_every_power_of_two");
    // `cargo xtask soak` goes up to 2^24 + 1, which is 400 MB.
    let top: u32 = std::env::var("ECAPTURE_TLS_LENGTHS").map_or(20, |top| top.parse().unwrap());
    let finished = scenario("lengths", top);
    // The writer's stream and the reader's are the same bytes, in one piece.
    let streams = tls::streams(&finished.events);
    let bytes: u64 = (6..=top).map(|n| 3 << n).sum();
    let mut found: Vec<_> = streams.iter().map(|((_, direction), bytes)| (direction.as_str(), bytes)).collect();
    found.sort();
    let [(_, four), (_, six), (_, sent), (_, also_sent)] = found.as_slice() else { panic!("{} streams", found.len()) };
    assert!([four, six, sent, also_sent].iter().all(|s| s.len() as u64 == bytes && *s == four), "{bytes} bytes each");
    assert!(found.iter().map(|f| f.0).eq(["receive", "receive", "transmit", "transmit"]));
}

#[test]
fn a_write_that_is_tried_again_is_there_once() {
    skip_unless_possible!("a_write_that_is_tried_again_is_there_once");
    let finished = scenario("retries", 5);
    let streams = tls::streams(&finished.events);
    assert_eq!(streams.len(), 4);
    let lengths: u64 = (0..5).map(|round| 300_000 + round).sum();
    assert!(streams.values().all(|s| s.len() as u64 == lengths));
}

#[test]
fn through_memory_all_is_there_but_the_address() {
    skip_unless_possible!("through_memory_all_is_there_but_the_address");
    let finished = scenario("memory", 200);
    assert!(finished.named("openssl.data").all(|e| e["network.peer.address"].is_null()));
}

#[test]
fn through_an_ssl_bio() {
    skip_unless_possible!("through_an_ssl_bio");
    scenario("bio", 200);
}

#[test]
fn a_call_within_a_call_of_another_connection() {
    skip_unless_possible!("a_call_within_a_call_of_another_connection");
    scenario("nested", 50);
}

#[test]
fn bytes_before_the_handshake_is_over() {
    skip_unless_possible!("bytes_before_the_handshake_is_over");
    let finished = scenario("early", 10);
    let early = |e: &&serde_json::Value| e["ecapture.payload.text"] == "early bird";
    assert_eq!(finished.named("openssl.data").filter(early).count(), 20, "at both ends");
}

#[test]
fn one_object_for_several_connections_is_several_streams() {
    skip_unless_possible!("one_object_for_several_connections_is_several_streams");
    let rounds = 40;
    let finished = scenario("reuse", rounds);
    let streams = tls::streams(&finished.events);
    assert_eq!(streams.len(), 2 * rounds as usize);
    for round in 0..rounds {
        let text = format!("round {round}").into_bytes();
        assert_eq!(streams.values().filter(|s| **s == text).count(), 2, "round {round}");
    }
}

#[test]
fn a_connection_that_breaks_off_has_what_was_said_before() {
    skip_unless_possible!("a_connection_that_breaks_off_has_what_was_said_before");
    scenario("reset", 10);
}

#[test]
fn connections_in_turn_on_one_thread_and_one_connection_of_several() {
    skip_unless_possible!("connections_in_turn_on_one_thread_and_one_connection_of_several");
    let finished = scenario("interleaved", 20);
    let ids: BTreeSet<_> = tls::streams(&finished.events).into_keys().map(|(id, _)| id).collect();
    // Twenty connections with two ends each, and the one that the child went on with.
    assert_eq!(ids.len(), 41);
}

/// One side of a connection: this end's address, the other's, and whether it sends.
type Side = (String, String, bool);

/// The bytes of each side of each connection, for threads of this name.
fn sides(finished: &Finished, comm: &str) -> BTreeMap<Side, Vec<u8>> {
    let mut sides = BTreeMap::new();
    let end = |e: &serde_json::Value, side: &str| {
        format!("{}:{}", e[format!("network.{side}.address")], e[format!("network.{side}.port")])
    };
    for event in finished.named("openssl.data").filter(|e| e["thread.name"] == comm) {
        let sends = event["network.io.direction"] == "transmit";
        let side: &mut Vec<u8> = sides.entry((end(event, "local"), end(event, "peer"), sends)).or_default();
        assert_eq!(event["ecapture.stream.offset"], side.len(), "a gap: {event:.300}");
        side.extend(ecapture_tests::capture::payload(event));
    }
    sides
}

/// What both sides of every connection say is the same, each with its own addresses.
fn both_sides_agree(client: &BTreeMap<Side, Vec<u8>>, server: &BTreeMap<Side, Vec<u8>>) {
    assert_eq!(client.len(), server.len());
    for ((local, peer, sends), bytes) in client {
        let other = server.get(&(peer.clone(), local.clone(), !sends));
        let other = other.unwrap_or_else(|| panic!("{local} -> {peer}: not seen by the server"));
        assert!(bytes == other, "{local} -> {peer}: {} bytes are not these {}", bytes.len(), other.len());
    }
}

/// The bodies of HTTP/1.1 answers that follow one another, all with their length.
fn bodies(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while !stream.is_empty() {
        let end = stream.windows(4).position(|w| w == b"\r\n\r\n").expect("end of the header") + 4;
        let head = std::str::from_utf8(&stream[..end]).expect("header");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).expect("length");
        let (body, rest) = stream[end..].split_at(length.parse().expect("number"));
        bodies.push(body);
        stream = rest;
    }
    bodies
}

#[test]
fn curl_and_nginx_to_the_byte() {
    skip_unless_possible!("curl_and_nginx_to_the_byte");
    skip_if!(
        "curl_and_nginx_to_the_byte",
        needs::program("/usr/bin/curl", "curl"),
        needs::program("/usr/sbin/nginx", "nginx-light")
    );
    // `cargo xtask soak` makes a thousand requests, of up to 8 MiB.
    let soak = std::env::var_os("ECAPTURE_TLS_SOAK").is_some();
    let (requests, longest) = if soak { (1000, 8 << 20) } else { (300, 1 << 20) };
    // Two processors for both ends and the capture, at 500 MB/s.
    let ring = ["--ring-size", if soak { "1GiB" } else { "256MiB" }];
    for version in ["--http1.1", "--http2"] {
        let library = Library::installed();
        let nginx = Nginx::start(&library, requests, longest);
        let (_modules, capture) = capture(&library.text(), &ring);
        fetch(&library, &nginx, version, 32);
        let finished = capture.stop();
        finished.assert_whole();
        let (client, server) = (sides(&finished, "curl"), sides(&finished, "nginx"));
        assert!(client.len() >= 2, "{}", client.len());
        both_sides_agree(&client, &server);
        if version == "--http2" {
            let bytes: usize = client.iter().filter(|(side, _)| !side.2).map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes > nginx.files.iter().map(Vec::len).sum::<usize>());
            continue;
        }
        let mut seen = 0;
        for ((local, peer, sends), asked) in &client {
            if !sends {
                continue;
            }
            let asked = std::str::from_utf8(asked).expect("requests");
            let numbers = asked.lines().filter_map(|l| l.strip_prefix("GET /")?.split(' ').next()?.parse().ok());
            let numbers: Vec<usize> = numbers.collect();
            let answers = bodies(&client[&(local.clone(), peer.clone(), false)]);
            assert_eq!(numbers.len(), answers.len());
            for (number, answer) in numbers.iter().zip(answers) {
                assert!(nginx.files[*number] == answer, "file {number}");
                seen += 1;
            }
        }
        assert_eq!(seen, requests);
    }
}

#[test]
fn openssl_1_1_1() {
    skip_unless_possible!("openssl_1_1_1");
    let root = or_skip!("openssl_1_1_1", Suite::Bullseye.root(&["libssl1.1"]));
    let library = Library::of(&root.path().join("usr/lib/x86_64-linux-gnu"), "1.1");
    let calls = tls::calls();
    every_scenario(&library.text(), |name, number| library.run(&calls, name, number));
}

#[test]
#[ignore = "builds four libraries, two minutes each: `cargo xtask soak`"]
fn openssl_from_source() {
    skip_unless_possible!("openssl_from_source");
    let calls = tls::calls();
    let one = |(version, of_crate)| {
        let test = format!("openssl_from_source {version}");
        let library = Library::of(&or_skip!(test, sources::openssl(version, of_crate)), &version[..1]);
        println!("OpenSSL {version}");
        every_scenario(&library.text(), |name, number| library.run(&calls, name, number));
    };
    sources::OPENSSL.into_iter().for_each(one);
}

fn in_a_container(test: &str, suite: Suite) {
    let contained = or_skip!(test, Contained::of(suite));
    every_scenario(&contained.text(), |name, number| contained.run(name, number));
}

#[test]
fn openssl_3_5_with_endbr64() {
    skip_unless_possible!("openssl_3_5_with_endbr64");
    in_a_container("openssl_3_5_with_endbr64", Suite::Trixie);
}

#[test]
fn openssl_3_6_with_endbr64() {
    skip_unless_possible!("openssl_3_6_with_endbr64");
    in_a_container("openssl_3_6_with_endbr64", Suite::Sid);
}

#[test]
fn with_a_ring_that_is_too_small_the_gaps_are_as_long_as_what_is_lost() {
    let test = "with_a_ring_that_is_too_small_the_gaps_are_as_long_as_what_is_lost";
    skip_unless_possible!(test);
    let (library, calls) = (Library::installed(), tls::calls());
    let (_modules, capture) = capture(&library.text(), &["--ring-size", "128KiB"]);
    let said = library.run(&calls, "lengths", 18);
    let finished = capture.stop();
    let totals = &finished.end()["ecapture.session.modules"][0];
    let total = |key: &str| totals[key].as_u64().unwrap();
    let moved = said.iter().filter(|c| !c.function.contains("peek"));
    let events = || finished.named("openssl.data");
    let size = |e: &serde_json::Value| e["ecapture.payload.size"].as_u64().unwrap_or(0);
    // And the end of each connection, which is no call and not shown.
    let ends = said.iter().map(|call| &call.socket).collect::<BTreeSet<_>>().len() as u64;
    assert_eq!(total("produced"), said.len() as u64 + ends);
    assert_eq!(total("seen") + total("lost"), total("produced"));
    let lost_ends = ends + events().count() as u64 + finished.named("openssl.peek").count() as u64 - total("seen");
    assert!(total("lost_bytes") > 0 && total("seen") > 0, "{totals}");
    // Of each call that was lost whole, the fixed part was as well.
    let peeked = finished.named("openssl.peek").map(size).sum::<u64>();
    let peeks: u64 = said.iter().filter(|c| c.function.contains("peek")).map(|c| c.length).sum();
    let missing = moved.clone().map(|c| c.length).sum::<u64>() + peeks - events().map(size).sum::<u64>() - peeked;
    assert_eq!(missing + 88 * (total("lost") - lost_ends) + 16 * lost_ends, total("lost_bytes"));
    // What did arrive is where it belongs: no two calls of a connection begin at the same place.
    let mut places: BTreeMap<(String, bool, u64), &tls::Call> = BTreeMap::new();
    let mut at: BTreeMap<(String, bool), u64> = BTreeMap::new();
    for call in moved {
        let side = (call.socket.clone(), call.function.contains("write"));
        let offset = at.entry(side.clone()).or_default();
        places.insert((side.0, side.1, *offset), call);
        *offset += call.length;
    }
    for event in events().filter(|e| e["ecapture.partial"].is_null()) {
        let [call] = &tls::captured(std::slice::from_ref(event))[..] else { panic!("{event}") };
        let place =
            (call.socket.clone(), call.function.contains("write"), event["ecapture.stream.offset"].as_u64().unwrap());
        assert_eq!(places.get(&place), Some(&call), "at {place:?}");
    }
}

#[test]
fn many_connections_at_the_same_time_take_no_memory() {
    let test = "many_connections_at_the_same_time_take_no_memory";
    skip_unless_possible!(test);
    // `cargo xtask soak` opens as many as 20,000 open files allow, both ends here.
    let count = if std::env::var_os("ECAPTURE_TLS_SOAK").is_some() { 9900 } else { 2000 };
    let (library, calls) = (Library::installed(), tls::calls());
    let (_modules, capture) = capture(&library.text(), &[]);
    // What the children hold that is no ring and no link: those are shared.
    let private = || -> u64 {
        let children = ecapture_tests::capture::children(capture.pid());
        let rollup = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let own = |text: &str| -> u64 {
            let lines =
                text.lines().filter_map(|l| l.strip_prefix("Private_Dirty:").or_else(|| l.strip_prefix("Anonymous:")));
            lines.filter_map(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).max().unwrap_or(0)
        };
        children.values().map(rollup).map(|text| own(&text)).sum()
    };
    let before = private();
    let said = library.run(&calls, "many", count);
    let after = private();
    let finished = capture.stop();
    finished.assert_whole();
    tls::compare(&said, &tls::captured(&finished.events));
    assert_eq!(said.len(), 4 * count as usize);
    println!("{count} connections: {before} KiB before, {after} KiB after");
    assert!(before > 0 && after < before + 16 * 1024, "{before} KiB before, {after} KiB after");
}
