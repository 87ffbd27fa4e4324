use super::*;
use proptest::prelude::*;

/// Debian's libssl is read here, not probed.
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

#[test]
fn the_systems_library_is_told_by_its_symbols() {
    let Ok(bytes) = std::fs::read(LIBSSL) else {
        eprintln!("SKIPPED the_systems_library_is_told_by_its_symbols: no {LIBSSL}");
        return;
    };
    let found = detect(&bytes).unwrap();
    assert_eq!(found.product, "OpenSSL");
    assert!(found.version.starts_with("3."), "{found:?}");
    let probed = |symbol: &str| found.hooks.iter().filter(|h| h.symbol == symbol && h.at == Place::Named).count();
    assert_eq!((probed("SSL_read"), probed("SSL_write"), probed("SSL_new"), probed("SSL_clear")), (2, 2, 1, 1));
    assert_eq!(probed("SSL_free"), 1);
    assert_eq!(probed("SSL_write_ex") + probed("SSL_write_ex2"), 2, "one of the two, never both");
    assert_eq!(found.notes, Vec::<String>::new());
    let behind: Vec<&str> =
        found.hooks.iter().filter(|h| matches!(h.at, Place::Behind(_))).filter_map(|h| h.group).collect();
    assert_eq!(behind, ["read", "read", "peek", "peek", "write", "write"]);
    let stand_in = |symbol: &str| found.fallbacks.iter().any(|f| f.0 == symbol);
    assert!(stand_in("SSL_write") && stand_in("SSL_peek_ex") && !stand_in("SSL_write_early_data"), "{found:?}");
}

#[test]
fn a_program_without_tls_is_refused_with_what_to_do() {
    let bytes = std::fs::read("/proc/self/exe").unwrap();
    let why = detect(&bytes).unwrap_err();
    assert!(why.contains("SSL_read") && why.contains("exports"), "{why}");
    assert!(detect(b"#!/bin/sh\n").unwrap_err().contains("not a program"));
}

#[test]
fn versions_of_interfaces() {
    assert_eq!(interface(b"OPENSSL_3.0.3"), Some([3, 0, 3]));
    assert_eq!(interface(b"OPENSSL_1_1_1"), Some([1, 1, 1]));
    for other in [&b"OPENSSL_init_ssl"[..], b"OPENSSL_3.0", b"OPENSSL_1_1_1_2", b"OPENSSL_3.0.x", b"xOPENSSL_3.0.0"] {
        assert_eq!(interface(other), None, "{}", String::from_utf8_lossy(other));
    }
}

proptest! {
    #[test]
    fn a_spoilt_library_is_no_panic(at in 0_usize..4096, with in prop::collection::vec(any::<u8>(), 1..64)) {
        // The test program itself: it has headers, symbols and strings like any other.
        thread_local!(static OWN: Vec<u8> = std::fs::read("/proc/self/exe").unwrap().into_iter().take(1 << 20).collect());
        OWN.with(|own| {
            let mut bytes = own.clone();
            let end = (at + with.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
            let _ = detect(&bytes);
        });
    }
}

#[test]
fn calls_have_the_numbers_of_the_decoder() {
    let names: Vec<&str> = CALLS.iter().map(|c| c.0).collect();
    assert_eq!(names, crate::record::Call::NAMES[..names.len()]);
    for (symbol, _, _, number) in BEHIND {
        assert_eq!(crate::record::Call(number).name(), Some(symbol));
    }
}
