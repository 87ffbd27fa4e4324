use super::*;
use crate::module::testelf::{TestElf, image_of};

fn module() -> TestElf {
    TestElf::new()
        .needed("libc.so.6")
        .note(0xec01, b"text")
        .section(".ecapture.bpf.x", &[7; 300])
        .section(".text", &[9; 9000])
}

fn refused(bytes: &[u8]) -> Refusal {
    image_of(bytes).unwrap_err()
}

#[test]
fn a_sparse_image_has_what_a_judgement_needs_and_not_the_rest() {
    // Behind a gap, so that no neighbour that is wanted brings the code in.
    let elf = module().section(".gap", &[1; 9000]).section(".text", &[9; 9000]).section(".gap", &[1; 9000]);
    let image = elf.image();
    let section = |name: &str| image.sections().iter().rfind(|section| section.name == name).unwrap();
    assert_eq!(image.data(section(".ecapture.bpf.x")), [7; 300]);
    assert!(image.data(section(".note.ecapture")).ends_with(b"text"));
    assert_eq!(image.data(section(".text"))[4000], 0, "code was read for a listing");
    assert_eq!(image.bytes().len(), elf.bytes().len());
    assert_eq!(image.machine(), 62);
}

#[test]
fn a_whole_image_is_the_file() {
    use std::io::Write as _;
    let bytes = module().bytes();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    assert_eq!(Image::whole(&file, bytes.len() as u64).unwrap().bytes(), bytes);
}

#[test]
fn what_is_no_elf_file_is_refused_in_words() {
    for (bytes, words) in [
        (&b""[..], "is empty"),
        (b"hello", "has only 5 bytes"),
        (&[b'x'; 200], "is not an ELF file"),
        (&b"\x7fELF".repeat(40), "known word size"),
    ] {
        let refusal = refused(bytes);
        assert_eq!(refusal.code, Code::Elf);
        assert!(refusal.message.contains(words), "{}", refusal.message);
        assert!(!refusal.remedy.is_empty());
    }
}

#[test]
fn cut_at_every_length_it_is_refused() {
    let bytes = module().bytes();
    for length in 0..bytes.len() {
        assert_eq!(refused(&bytes[..length]).code, Code::Elf, "cut at {length}");
    }
}

#[test]
fn no_flipped_bit_makes_the_reader_panic() {
    let good = module().bytes();
    for at in 0..good.len().min(1200) {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(image) = image_of(&bytes) {
                for section in image.sections() {
                    assert!(section.range.end <= bytes.len());
                }
            }
        }
    }
}

#[test]
fn other_kinds_word_sizes_and_byte_orders() {
    let good = module().bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        refused(&bytes)
    };
    assert!(with(16, 2).message.contains("is an executable"));
    assert!(with(16, 1).message.contains("is an object file"));
    let small = with(4, 1);
    assert_eq!(small.code, Code::Arch);
    assert!(small.message.contains("a 32-bit library for x86_64"), "{}", small.message);
    assert_eq!(with(5, 2).code, Code::Arch);
}

#[test]
fn a_file_over_the_limit_is_not_read() {
    let file = tempfile::tempfile().unwrap();
    let refusal = Image::sparse(&file, MAX_FILE + 1).unwrap_err();
    assert!(refusal.message.contains("the limit is 64 MiB"), "{}", refusal.message);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let refusal = Image::sparse(&file, 4096).unwrap_err();
    assert!(refusal.message.contains("became shorter"), "{}", refusal.message);
}

#[test]
fn ranges_that_overlap_are_read_once() {
    assert_eq!(merged(vec![100..200, 0..150, 150..160, 90_000..90_001, 120..130]), vec![0..200, 90_000..90_001]);
}
