use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// `brotli -q 9` of `"Hello, "` eighty times, made with Google's encoder.
const BROTLI: &[u8] = include_bytes!("fixtures/hello.br");

fn hello() -> Vec<u8> {
    b"Hello, ".repeat(80)
}

fn read(limits: BodyLimits, encodings: &[&str], wire: &[u8], piece: usize) -> Body {
    let mut reader = BodyReader::new(limits, encodings.iter().map(|e| e.as_bytes()));
    wire.chunks(piece.max(1)).for_each(|piece| reader.push(piece));
    reader.finish()
}

fn whole(encodings: &[&str], wire: &[u8], piece: usize) -> Vec<u8> {
    let body = read(BodyLimits::default(), encodings, wire, piece);
    assert_eq!(body.problem, None, "{encodings:?}");
    assert_eq!((body.decoded, body.wire), (body.bytes.len() as u64, wire.len() as u64));
    body.bytes
}

#[test]
fn every_coding_in_pieces_of_every_size() {
    let text: Vec<u8> = (0..200_000_u32).flat_map(|n| (n.wrapping_mul(n) / 7).to_le_bytes()).take(300_000).collect();
    for piece in [1, 2, 3, 7, 1000, 70_000, 1 << 20] {
        assert_eq!(whole(&["gzip"], &gzip(&text), piece), text);
        assert_eq!(whole(&["x-GZIP"], &gzip(b""), piece), b"");
        assert_eq!(whole(&["deflate"], &zlib(&text), piece), text);
        assert_eq!(whole(&["deflate"], &raw(&text), piece), text);
        assert_eq!(whole(&["zstd"], &zstd(&text), piece), text);
        assert_eq!(whole(&["br"], BROTLI, piece), hello());
        assert_eq!(whole(&["identity", ""], &text, piece), text);
    }
}

#[test]
fn several_codings_are_undone_from_the_last_to_the_first() {
    let text = b"several in a row".repeat(500);
    assert_eq!(whole(&["gzip, zstd", "deflate"], &zlib(&zstd(&gzip(&text))), 11), text);
    let many = vec!["gzip"; 9];
    assert_eq!(read(BodyLimits::default(), &many, b"x", 1).problem.unwrap(), "9 encodings in a row");
}

#[test]
fn several_members_are_one_body() {
    let both = [gzip(b"one "), gzip(b"two")].concat();
    assert_eq!(whole(&["gzip"], &both, 5), b"one two");
    let both = [zstd(b"one "), b"\x5a\x2a\x4d\x18\x03\0\0\0xyz".to_vec(), zstd(b"two")].concat();
    assert_eq!(whole(&["zstd"], &both, 5), b"one two");
}

#[test]
fn a_bomb_is_cut_and_marked() {
    let zeros = vec![0; 40 << 20];
    let limits = BodyLimits { keep: 1000, decode: 1 << 20 };
    for (name, bomb) in [("gzip", gzip(&zeros)), ("deflate", zlib(&zeros)), ("zstd", zstd(&zeros))] {
        let body = read(limits, &[name], &bomb, 4096);
        assert_eq!(body.bytes, vec![0; 1000], "{name}");
        assert!(body.decoded > limits.decode && body.decoded < 2 << 20, "{name}: {}", body.decoded);
        assert_eq!(body.problem.as_deref(), Some("more than 1048576 bytes when decoded: the rest was left out"));
        assert_eq!(body.wire, bomb.len() as u64);
    }
    let twice = gzip(&gzip(&zeros));
    let body = read(limits, &["gzip", "gzip"], &twice, 100);
    assert!(body.problem.is_some() && body.decoded < 2 << 20);
}

#[test]
fn what_is_not_kept_is_counted() {
    let body = read(BodyLimits { keep: 3, decode: 100 }, &[], &[7; 1000], 9);
    assert_eq!((body.bytes.as_slice(), body.decoded, body.is_cut(), body.problem), (&[7; 3][..], 1000, true, None));
    let body = read(BodyLimits { keep: 0, decode: 0 }, &["gzip"], &gzip(b"x"), 9);
    assert_eq!((body.decoded, body.is_cut(), body.problem), (0, false, None));
}

#[test]
fn behind_a_gap_nothing_is_kept() {
    for (encodings, wire) in [(&[][..], b"front".to_vec()), (&["gzip"], gzip(&hello()))] {
        let mut reader = BodyReader::new(BodyLimits::default(), encodings.iter().map(|e: &&str| e.as_bytes()));
        reader.push(&wire);
        reader.gap(0);
        assert_eq!(reader.body.problem, None);
        let before = reader.body.bytes.clone();
        reader.gap(7);
        reader.push(b"behind");
        let body = reader.finish();
        assert_eq!((&body.bytes, body.missing, body.wire), (&before, 7, wire.len() as u64 + 6));
        assert_eq!(body.problem.as_deref(), Some("7 bytes of it were lost"));
    }
}

#[test]
fn broken_and_unknown_codings_are_said() {
    let problem = |encodings: &[&str], wire: &[u8]| read(BodyLimits::default(), encodings, wire, 50).problem.unwrap();
    assert_eq!(problem(&["gzip, rot13"], b"x"), "encoding \"rot13\" is not known");
    assert_eq!(problem(&["gzip"], b"plain text"), "broken gzip data: it does not begin as such");
    assert!(problem(&["zstd"], b"plain text").contains("does not begin"));
    assert!(problem(&["br"], &[0xff; 40]).starts_with("broken br data"));
    let whole = gzip(&hello());
    assert_eq!(problem(&["gzip"], &whole[..whole.len() - 12]), "it ends before the end of its gzip data");
    // A window of 128 MiB, which no sender of this may use.
    assert!(problem(&["zstd"], &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 1, 0, 0]).starts_with("broken zstd data"));
}

#[test]
fn memory_is_told() {
    let mut reader = BodyReader::new(BodyLimits::default(), std::iter::once(&b"br"[..]));
    reader.push(BROTLI);
    assert!(reader.held() > 32 << 10 && reader.held() < 64 << 10, "{}", reader.held());
}

proptest! {
    #[test]
    fn what_was_encoded_comes_out(text in prop::collection::vec(0_u8..4, 0..3000), piece in 1_usize..400) {
        prop_assert_eq!(&whole(&["gzip"], &gzip(&text), piece), &text);
        prop_assert_eq!(&whole(&["deflate"], &zlib(&text), piece), &text);
        prop_assert_eq!(&whole(&["zstd"], &zstd(&text), piece), &text);
    }

    #[test]
    fn spoilt_bytes_are_no_panic_and_no_flood(
        text in prop::collection::vec(any::<u8>(), 0..2000),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        piece in 1_usize..400,
    ) {
        let limits = BodyLimits { keep: 500, decode: 10_000 };
        for (name, mut wire) in [("gzip", gzip(&text)), ("deflate", raw(&text)), ("zstd", zstd(&text)), ("br", BROTLI.to_vec())] {
            for (at, value) in &edits {
                let at = at.index(wire.len());
                wire[at] = *value;
            }
            let body = read(limits, &[name], &wire, piece);
            prop_assert!(body.bytes.len() <= 500 && body.decoded < 10_000 + (1 << 20), "{}", body.decoded);
        }
        for name in ["gzip", "deflate", "zstd", "br"] {
            read(limits, &[name], &text, piece);
        }
    }
}
