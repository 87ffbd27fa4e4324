//! The two traits of the hot path, as `abi_stable` trait objects.

use super::data::{EventV1, ModuleError, RecordV1};
use abi_stable::{
    sabi_trait,
    sabi_trait::prelude::TD_Opaque,
    sabi_types::RMut,
    std_types::{RBox, RResult, RSlice, RStr},
};

/// Takes what a decoder makes. Implemented by the host, lent to the module for one call.
#[sabi_trait]
pub trait EventSink {
    /// Takes one event; everything it borrows is copied before this returns. `false` means that the host will throw
    /// away whatever else this call emits (the run is ending): the decoder should return soon. It never means "come
    /// again": back-pressure blocks inside `emit`.
    fn emit(&mut self, event: &EventV1<'_>) -> bool;

    /// The record with this index in the batch can't be decoded; what it emitted before stays. The decoder goes on with
    /// the next. Counted by the host; the first reasons are shown.
    #[sabi(last_prefix_field)]
    fn undecodable(&mut self, record: u32, reason: RStr<'_>);
}

/// A module's event decoder. One a worker, called from one thread, its state lives as long as the worker.
#[sabi_trait]
pub trait Decoder {
    /// Decodes records in their order. `ROk(n)`: the first `n` records were dealt with, fewer than given only after
    /// `emit` said `false`. `RErr`: the decoder can't go on at all (it panicked, or its state is beyond repair);
    /// `record` names the culprit, those before it are done, those after it were not looked at, and the host makes a
    /// new decoder that starts behind it. A record that merely makes no sense is no error but
    /// [`EventSink::undecodable`].
    fn decode_batch(
        &mut self,
        records: RSlice<'_, RecordV1<'_>>,
        sink: &mut EventSink_TO<'_, RMut<'_, ()>>,
    ) -> RResult<u32, ModuleError>;

    /// Called about every 100 ms, between batches: for state that ages. `now_ns` is `CLOCK_MONOTONIC`, and no record
    /// that is older will come.
    fn tick(&mut self, now_ns: u64, sink: &mut EventSink_TO<'_, RMut<'_, ()>>) -> RResult<(), ModuleError>;

    /// Called once, after the last record of a run: what is still held back goes out now.
    #[sabi(last_prefix_field)]
    fn finish(&mut self, sink: &mut EventSink_TO<'_, RMut<'_, ()>>) -> RResult<(), ModuleError>;
}

/// A sink lent for one call.
pub type SinkMut<'a> = EventSink_TO<'a, RMut<'a, ()>>;

/// A decoder owned by the host; dropping it runs the module's own code.
pub type DecoderBox = Decoder_TO<'static, RBox<()>>;

/// Lends a host's sink to a decoder.
pub fn sink_mut<S: EventSink>(sink: &mut S) -> SinkMut<'_> {
    EventSink_TO::from_ptr(RMut::new(sink), TD_Opaque)
}

/// Boxes a decoder for the host.
pub fn decoder_box<D: Decoder + 'static>(decoder: D) -> DecoderBox {
    Decoder_TO::from_value(decoder, TD_Opaque)
}
