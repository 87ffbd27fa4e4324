//! What the border between host and module costs for a record: the same decoder called directly, and through the module's
//! file, in one process.

use std::time::Instant;

use ecap_bench::Decoder;
use ecapture_plugin_api::abi::abi_stable::prefix_type::PrefixTypeTrait;
use ecapture_plugin_api::abi::abi_stable::std_types::{RResult, RSlice, RStr};
use ecapture_plugin_api::abi::{self, DecoderBox, EventSink, EventV1, HostApiV1, RecordV1};
use ecapture_plugin_api::plan::Config;
use ecapture_plugin_api::sdk::{Decode, Out, Record, testing};
use ecapture_tests::capture::bin_dir;

use crate::stats::Rounds;

const RECORDS: usize = 64;
const CALLS: usize = 20_000;
const ROUNDS: usize = 9;

/// Looks at everything that it is given, so that nothing can be left out.
#[derive(Default)]
struct Sum(u64);

impl EventSink for Sum {
    fn emit(&mut self, event: &EventV1<'_>) -> bool {
        self.0 += event.columns.iter().map(|c| c.bits + c.bytes.len() as u64).sum::<u64>();
        true
    }

    fn undecodable(&mut self, _: u32, reason: RStr<'_>) {
        panic!("{reason}");
    }
}

extern "C" fn log(_: u32, _: RStr<'_>) {}

pub fn run() {
    let data: Vec<[u8; 48]> = (0..RECORDS).map(|n| [u8::try_from(n).unwrap_or(0); 48]).collect();
    let records: Vec<RecordV1<'_>> = data.iter().map(|d| testing::record(d)).collect();
    let api = abi::load(&bin_dir().join("libecap_bench.so")).unwrap_or_else(|e| panic!("{e}"));
    let host = HostApiV1 { log }.leak_into_prefix();
    for mode in ["events", "count"] {
        let config = Config::new(mode, Default::default()).to_json();
        let mut module = api.new_decoder()(host, config.as_str().into()).into_result().expect("a decoder");
        let mut own = Decoder { quiet: mode == "count", seen: 0 };
        let (mut direct, mut whole, mut single) = (Rounds::default(), Rounds::default(), Rounds::default());
        for _ in 0..ROUNDS {
            direct.push(ns_a_record(|| direct_call(&mut own, &records)));
            whole.push(ns_a_record(|| through(&mut module, &records, RECORDS)));
            single.push(ns_a_record(|| through(&mut module, &records, 1)));
        }
        println!("decoder in mode {mode}, ns a record (rounds {ROUNDS}, {} records each)", RECORDS * CALLS);
        println!("  called directly            {direct}");
        println!("  through the module, 64     {whole}   {:.2} x direct", whole.median() / direct.median());
        println!("  through the module, 1      {single}   {:.2} x direct", single.median() / direct.median());
        println!("  the border costs           {:+.1} ns a record in calls of 64", whole.median() - direct.median());
    }
}

fn ns_a_record(mut call: impl FnMut() -> u64) -> f64 {
    let begin = Instant::now();
    let mut sum = 0_u64;
    for _ in 0..CALLS {
        sum = sum.wrapping_add(call());
    }
    let time = begin.elapsed();
    std::hint::black_box(sum);
    time.as_secs_f64() * 1e9 / (RECORDS * CALLS) as f64
}

fn direct_call(decoder: &mut Decoder, records: &[RecordV1<'_>]) -> u64 {
    let mut sink = Sum::default();
    let mut out = Out::new(&mut sink);
    for (index, raw) in (0_u32..).zip(std::hint::black_box(records)) {
        let record = Record::new(raw, index);
        out.set_record(&record);
        decoder.decode(&record, &mut out).unwrap_or_else(|e| panic!("{}", e.message()));
    }
    sink.0
}

fn through(decoder: &mut DecoderBox, records: &[RecordV1<'_>], at_once: usize) -> u64 {
    let mut sink = Sum::default();
    for call in std::hint::black_box(records).chunks(at_once) {
        match decoder.decode_batch(RSlice::from_slice(call), &mut abi::sink_mut(&mut sink)) {
            RResult::ROk(done) => assert_eq!(done as usize, call.len()),
            RResult::RErr(error) => panic!("{}", error.message),
        }
    }
    sink.0
}
