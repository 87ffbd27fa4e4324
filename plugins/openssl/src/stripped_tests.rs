use super::*;

/// Debian's libssl is read here, not probed.
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

#[test]
fn what_is_found_without_names_is_what_has_the_name() {
    let Ok(bytes) = std::fs::read(LIBSSL) else {
        eprintln!("SKIPPED what_is_found_without_names_is_what_has_the_name: no {LIBSSL}");
        return;
    };
    let elf = Elf::parse(&bytes).unwrap();
    let found = find(&elf).unwrap();
    assert!(!found.boring && found.functions.contains_key("ssl_write_internal"), "{found:x?}");
    for (name, address) in found.functions.iter().filter(|(name, _)| name.starts_with("SSL_")) {
        // Exported names alone: a library has others too, and nobody can compare those.
        let known = elf.symbol(name).map(|s| s.address);
        assert!(known.is_none_or(|known| known == *address), "{name}: {known:x?}, not {address:x}");
    }
    for name in ["SSL_read", "SSL_peek", "SSL_write", "SSL_new", "SSL_clear", "SSL_do_handshake"] {
        assert_eq!(found.functions.get(name), elf.symbol(name).map(|s| s.address).as_ref(), "{name}");
    }
}

#[test]
fn what_reports_nothing_is_not_guessed() {
    let bytes = std::fs::read("/bin/true").unwrap();
    let why = find(&Elf::parse(&bytes).unwrap()).unwrap_err();
    assert!(why.contains("reports errors"), "{why}");
}

#[test]
fn a_spoilt_library_is_no_panic() {
    let Ok(original) = std::fs::read(LIBSSL) else {
        eprintln!("SKIPPED a_spoilt_library_is_no_panic: no {LIBSSL}");
        return;
    };
    let Found { functions, .. } = find(&Elf::parse(&original).unwrap()).unwrap();
    let mut bytes = original.clone();
    let mut state = 0xDEAD_BEEF_CAFE_F00D_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut refused = 0;
    for round in 0..120 {
        let mut places = Vec::new();
        for _ in 0..200 {
            // Headers, the tables, the code around what is looked for.
            let at = match round % 3 {
                0 => random(4096),
                1 => random(bytes.len()),
                _ => usize::try_from(functions["SSL_read"]).unwrap() + random(8192) - 4096,
            };
            bytes[at] = [0, 0x7f, 0xff, 0xe8, 0x0f][random(5)];
            places.push(at);
        }
        refused += u32::from(Elf::parse(&bytes).map_or(true, |elf| find(&elf).is_err()));
        places.into_iter().for_each(|at| bytes[at] = original[at]);
    }
    assert!(refused > 10, "only {refused} of 120");
}
