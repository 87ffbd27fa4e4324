use super::*;
use proptest::prelude::*;

/// A message of the kernel side.
pub(crate) fn message(call: u32, offset: u64, family: u16, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0x7f00_1000_u64, 77, offset, bytes.len() as u64, 100] {
        out.extend(word.to_le_bytes());
    }
    out.extend(call.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    for half in [family, 40000, 443, 0] {
        out.extend(half.to_le_bytes());
    }
    let (local, peer): ([u8; 16], [u8; 16]) = match family {
        2 => {
            let mut both = ([0; 16], [0; 16]);
            both.0[..4].copy_from_slice(&[127, 0, 0, 1]);
            both.1[..4].copy_from_slice(&[127, 0, 0, 2]);
            both
        }
        _ => (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets(),
            Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets(),
        ),
    };
    out.extend(local);
    out.extend(peer);
    out.extend(bytes);
    out
}

#[test]
fn every_field_is_where_the_header_says() {
    let message = message(6, 5, 2, b"hello");
    let data = Data::parse(&message).unwrap();
    assert_eq!((data.ssl, data.birth_ns, data.offset, data.length, data.began_ns), (0x7f00_1000, 77, 5, 5, 100));
    assert_eq!((data.call.name(), data.bytes), (Some("SSL_write"), &b"hello"[..]));
    let socket = data.socket.unwrap();
    assert_eq!(socket.local, (Ipv4Addr::new(127, 0, 0, 1).into(), 40000));
    assert_eq!(socket.peer, (Ipv4Addr::new(127, 0, 0, 2).into(), 443));
}

#[test]
fn addresses_of_the_sixth_version_and_none() {
    let six = message(1, 0, 10, b"");
    let socket = Data::parse(&six).unwrap().socket.unwrap();
    assert_eq!(socket.local.0.to_string(), "2001:db8::1");
    assert_eq!(socket.peer.0.to_string(), "10.0.0.9", "IPv4 through an IPv6 socket is IPv4");
    assert_eq!(Data::parse(&message(1, 0, 0, b"")).unwrap().socket, None);
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(Data::parse(&[0; FIXED - 1]), Err(Malformed::Short(FIXED - 1)));
    for call in [0, 10, 15, u32::MAX] {
        assert_eq!(Data::parse(&message(call, 0, 2, b"")), Err(Malformed::Call(call)));
    }
    assert_eq!(Data::parse(&message(1, 0, 7, b"")), Err(Malformed::Family(7)));
}

#[test]
fn connections_differ_by_process_object_and_birth() {
    let bytes = message(1, 0, 0, b"");
    let data = Data::parse(&bytes).unwrap();
    let other = Data { birth_ns: 78, ..Data::parse(&bytes).unwrap() };
    let moved = Data { ssl: 0x7f00_1010, ..Data::parse(&bytes).unwrap() };
    let all = [data.connection(1), data.connection(2), other.connection(1), moved.connection(1)];
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    assert_eq!(data.connection(1), Data::parse(&bytes).unwrap().connection(1));
}

#[test]
fn an_end_names_the_connection_of_the_data_before() {
    let bytes = message(1, 0, 0, b"");
    let end = End::parse(&bytes[..16]).unwrap();
    assert_eq!(connection(5, end.ssl, end.birth_ns), Data::parse(&bytes).unwrap().connection(5));
    assert_eq!(End::parse(&bytes[..15]), Err(Malformed::Short(15)));
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Data::parse(&bytes), End::parse(&bytes));
    }
}

#[test]
fn a_call_reads_or_looks_or_writes() {
    for number in 1..=14 {
        let call = Call(number);
        let name = call.name().unwrap();
        assert_eq!(call.peeks(), name.contains("peek"), "{name}");
        assert_eq!(call.writes(), name.contains("write") || name.contains("sendfile"), "{name}");
    }
}
