//! The examples of RFC 7541, appendix C, and a decoder that missed the beginning.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{Block, Broken, Decoder, STATIC, is_block};
use crate::stream::{exchange::Header, http2::huffman};

/// An encoder as small as one can be: what it is told to do it does, and its table is the truth.
#[derive(Debug)]
pub(in crate::stream::http2) struct Encoder {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    capacity: usize,
}

/// How a field is to be written, if it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stream::http2) enum How {
    Indexed,
    Inserted,
    Plain,
    Never,
}

impl Encoder {
    pub fn new() -> Self {
        Self { table: VecDeque::new(), capacity: 4096 }
    }

    pub fn resize(&mut self, capacity: usize, out: &mut Vec<u8>) {
        integer(0x20, 5, capacity, out);
        self.capacity = capacity;
        self.evict();
    }

    pub fn field(&mut self, name: &[u8], value: &[u8], how: How, coded: bool, out: &mut Vec<u8>) {
        let fixed = STATIC.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
        let all: Vec<_> = fixed.chain(self.table.iter().cloned()).collect();
        if how == How::Indexed
            && let Some(at) = all.iter().position(|entry| entry.0 == name && entry.1 == value)
        {
            integer(0x80, 7, at + 1, out);
            return;
        }
        let (first, bits) = match how {
            How::Inserted | How::Indexed => (0x40, 6),
            How::Plain => (0, 4),
            How::Never => (0x10, 4),
        };
        match all.iter().rposition(|entry| entry.0 == name) {
            Some(at) => integer(first, bits, at + 1, out),
            None => {
                out.push(first);
                string(name, coded, out);
            }
        }
        string(value, coded, out);
        if first == 0x40 {
            self.table.push_front((name.to_vec(), value.to_vec()));
            self.evict();
        }
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<(Vec<u8>, Vec<u8>)>| -> usize {
            table.iter().map(|(name, value)| 32 + name.len() + value.len()).sum()
        };
        while size(&self.table) > self.capacity {
            self.table.pop_back();
        }
    }
}

fn integer(first: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut left = value - most;
    while left >= 128 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn string(bytes: &[u8], coded: bool, out: &mut Vec<u8>) {
    let code = if coded { huffman::encode(bytes) } else { bytes.to_vec() };
    integer(if coded { 0x80 } else { 0 }, 7, code.len(), out);
    out.extend(code);
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Block, Broken> {
    let mut block = Block::default();
    let read = decoder.decode(bytes, &mut block)?;
    assert_eq!(read, bytes.len());
    Ok(block)
}

fn shown(fields: &[Header]) -> Vec<String> {
    let part = |part: &Option<Vec<u8>>| {
        part.as_ref().map_or("?".to_owned(), |part| String::from_utf8_lossy(part).into_owned())
    };
    fields.iter().map(|field| format!("{}: {}", part(&field.name), part(&field.value))).collect()
}

fn table(decoder: &Decoder) -> (Vec<String>, usize) {
    (decoder.entries.iter().map(|entry| shown(std::slice::from_ref(entry)).concat()).collect(), decoder.size)
}

#[test]
fn single_fields() {
    // C.2.1 to C.2.4
    let mut decoder = Decoder::new(false);
    let block = decode(&mut decoder, &hex("400a637573746f6d2d6b65790d637573746f6d2d686561646572")).unwrap();
    assert_eq!(shown(&block.fields), ["custom-key: custom-header"]);
    assert_eq!(table(&decoder), (vec!["custom-key: custom-header".to_owned()], 55));
    let mut decoder = Decoder::new(false);
    assert_eq!(
        shown(&decode(&mut decoder, &hex("040c2f73616d706c652f70617468")).unwrap().fields),
        [":path: /sample/path"]
    );
    assert_eq!(
        shown(&decode(&mut decoder, &hex("100870617373776f726406736563726574")).unwrap().fields),
        ["password: secret"]
    );
    assert_eq!(shown(&decode(&mut decoder, &hex("82")).unwrap().fields), [":method: GET"]);
    assert_eq!(table(&decoder), (vec![], 0));
}

const REQUESTS: [&[&str]; 3] = [
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn requests() {
    // C.3 and C.4
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(false);
        for (block, said) in blocks.into_iter().zip(REQUESTS) {
            assert_eq!(is_block(&hex(block)), Some(true));
            assert_eq!(shown(&decode(&mut decoder, &hex(block)).unwrap().fields), said);
        }
        let entries = ["custom-key: custom-value", "cache-control: no-cache", ":authority: www.example.com"];
        assert_eq!(table(&decoder), (entries.map(str::to_owned).to_vec(), 164));
    }
}

#[test]
fn responses_with_evictions() {
    // C.5 and C.6: a table of 256 bytes
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
         6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d\
         4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let coded = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f\
         3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(false);
        decoder.resize(256);
        let said = blocks.map(|block| shown(&decode(&mut decoder, &hex(block)).unwrap().fields));
        let (first, location) = ("date: Mon, 21 Oct 2013 20:13:21 GMT", "location: https://www.example.com");
        assert_eq!(said[0], [":status: 302", "cache-control: private", first, location]);
        assert_eq!(said[1], [":status: 307", "cache-control: private", first, location]);
        assert_eq!(said[2][..3], [":status: 200", "cache-control: private", "date: Mon, 21 Oct 2013 20:13:22 GMT"]);
        assert_eq!(said[2][4], "content-encoding: gzip");
        assert_eq!(said[2][5], "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
        assert_eq!(decoder.size, 215);
        assert_eq!(decoder.entries.len(), 3);
    }
}

#[test]
fn what_was_inserted_before_is_unknown_and_the_rest_is_exact() {
    let mut decoder = Decoder::new(true);
    let block = decode(&mut decoder, &hex("82be410161bebf 7e0162")).unwrap();
    // :method: GET; 62: unknown; :authority: a inserted; 62: it; 63: unknown; name of 62, value b, inserted
    assert_eq!(
        shown(&block.fields),
        [":method: GET", "?: ?", ":authority: a", ":authority: a", "?: ?", ":authority: b"]
    );
    assert_eq!(block.out_of_range, None);
    // A name that is unknown, a value that is known: index 64 + 2 entries
    let block = decode(&mut decoder, &hex("7f 05 0163 be")).unwrap();
    assert_eq!(shown(&block.fields), ["?: c", "?: c"]);
    // A table of one entry: a known one left it, so whatever is behind is wrong now, not unknown.
    let block = decode(&mut decoder, &hex("3f 21 410164 bf")).unwrap();
    assert_eq!(block.out_of_range, Some(63));
    let block = decode(&mut decoder, &hex("20 410165 be")).unwrap();
    assert_eq!(block.out_of_range, Some(62));
}

#[test]
fn wrong_blocks_are_refused() {
    for wrong in ["80", "ffffffffffff7f", "7fffffffffffffff", "4081ff00", "00 83 ffffff 00"] {
        assert!(Decoder::new(false).decode(&hex(wrong), &mut Block::default()).is_err(), "{wrong}");
    }
    let mut block = Block::default();
    Decoder::new(false).decode(&hex("be"), &mut block).unwrap();
    assert_eq!((block.out_of_range, &block.fields[0]), (Some(62), &Header::default()));
}

#[test]
fn a_bomb_is_bounded() {
    let mut decoder = Decoder::new(false);
    let mut bytes = Vec::new();
    Encoder::new().field(b"x", &[b'a'; 4000], How::Inserted, false, &mut bytes);
    bytes.extend(std::iter::repeat_n(0xbe, 1 << 20));
    let block = decode(&mut decoder, &bytes).unwrap();
    assert!(block.held() < 600 << 10, "{}", block.held());
    assert_eq!(block.dropped + block.fields.len() as u64, (1 << 20) + 1);
    // A table that is said to be 4 GB
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new();
    encoder.resize(usize::try_from(u32::MAX).unwrap(), &mut bytes);
    for _ in 0..300 {
        encoder.field(b"x", &[b'a'; 4000], How::Inserted, false, &mut bytes);
    }
    decode(&mut decoder, &bytes).unwrap();
    assert!(decoder.held() < 512 << 10, "{}", decoder.held());
}

/// A new size of the table, and fields: name, value, how, and whether with Huffman's code.
type Coded = (Option<usize>, Vec<(u8, u8, u8, bool)>);

fn blocks() -> impl Strategy<Value = Vec<Coded>> {
    let size = prop_oneof![Just(0_usize), 30..200_usize, 200..5000_usize];
    let field = (0..12_u8, 0..6_u8, 0..8_u8, any::<bool>());
    prop::collection::vec((prop::option::weighted(0.15, size), prop::collection::vec(field, 1..12)), 1..30)
}

fn name(which: u8) -> Vec<u8> {
    match which {
        0..6 => STATIC[usize::from(which) * 7].0.to_vec(),
        _ => format!("x-{which}").into_bytes(),
    }
}

fn value(name: u8, which: u8) -> Vec<u8> {
    // One of them is larger than most tables.
    if which == 5 { vec![b'v'; 300] } else { format!("{name}/{which}").into_bytes() }
}

proptest! {
    #[test]
    fn from_every_block_on_nothing_is_wrong(blocks in blocks()) {
        let mut encoder = Encoder::new();
        let (mut coded, mut truth) = (Vec::new(), Vec::new());
        for (size, fields) in &blocks {
            let (mut bytes, mut said) = (Vec::new(), Vec::new());
            if let Some(size) = size {
                encoder.resize(*size, &mut bytes);
            }
            for (n, v, how, huffman) in fields {
                let how = match how { 0..4 => How::Indexed, 4..6 => How::Inserted, 6 => How::Plain, _ => How::Never };
                encoder.field(&name(*n), &value(*n, *v), how, *huffman, &mut bytes);
                said.push((name(*n), value(*n, *v)));
            }
            coded.push(bytes);
            truth.push(said);
        }
        for from in 0..coded.len() {
            let mut decoder = Decoder::new(from > 0);
            for (bytes, said) in coded.iter().zip(&truth).skip(from) {
                let block = decode(&mut decoder, bytes).map_err(|_| TestCaseError::fail("broken"))?;
                prop_assert_eq!(block.out_of_range, None);
                prop_assert_eq!(block.fields.len(), said.len());
                for (field, (name, value)) in block.fields.iter().zip(said) {
                    prop_assert!(field.name.as_ref().is_none_or(|seen| seen == name), "{field:?} {name:?}");
                    prop_assert!(field.value.as_ref().is_none_or(|seen| seen == value), "{field:?} {value:?}");
                    prop_assert!(from > 0 || (field.name.is_some() && field.value.is_some()));
                }
            }
        }
    }

    #[test]
    fn no_bytes_are_too_bad(bytes in prop::collection::vec(any::<u8>(), 0..2000), late in any::<bool>()) {
        let mut decoder = Decoder::new(late);
        let mut block = Block::default();
        let _ = decoder.decode(&bytes, &mut block);
        prop_assert!(block.held() + decoder.held() < 1 << 20);
        let _ = is_block(&bytes);
    }
}
