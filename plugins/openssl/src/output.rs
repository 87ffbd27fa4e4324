//! How a call is shown. Numbers of events and columns are those of module.toml.

use crate::record::{Call, Data, End, connection};
use ecapture_plugin_api::sdk::Out;

/// Numbers of the `[[event]]`s.
pub mod event {
    pub const DATA: u16 = 0;
    pub const PEEK: u16 = 1;
    pub const SENDFILE: u16 = 2;
    pub const END: u16 = 5;
}

/// Numbers of the columns, the same in all events.
pub mod column {
    pub const DIRECTION: u16 = 0;
    pub const CALL: u16 = 1;
    pub const LENGTH: u16 = 2;
    pub const DURATION: u16 = 3;
    pub const LOCAL_ADDRESS: u16 = 4;
    pub const LOCAL_PORT: u16 = 5;
    pub const PEER_ADDRESS: u16 = 6;
    pub const PEER_PORT: u16 = 7;
    pub const ADDRESS_SOURCE: u16 = 8;
}

/// Number of the `[[stream]]` of the ends of connections.
pub const ENDED: u16 = 3;

/// Most bytes of one event: what is handed to outputs and parsers at once.
pub const PIECE: usize = 1 << 20;

/// Emits one call's events. `process` made it, it ended at `now_ns`, and `missing` of its bytes did not arrive.
pub fn emit(data: &Data<'_>, process: u32, now_ns: u64, missing: u64, out: &mut Out<'_>) {
    let id = data.connection(process);
    let local = data.socket.map(|s| (s.local.0.to_string(), u64::from(s.local.1)));
    let peer = data.socket.map(|s| (s.peer.0.to_string(), u64::from(s.peer.1)));
    let number = match data.call {
        Call::SENDFILE => event::SENDFILE,
        call if call.peeks() => event::PEEK,
        _ => event::DATA,
    };
    // A call of which nothing arrived is an event all the same: it says how much is missing.
    let pieces = data.bytes.len().div_ceil(PIECE).max(1);
    let mut offset = data.offset;
    for (index, piece) in data.bytes.chunks(PIECE).chain(std::iter::once(&[][..])).take(pieces).enumerate() {
        let event = out
            .event(number)
            .text(column::DIRECTION, if data.call.writes() { "transmit" } else { "receive" })
            .text(column::CALL, data.call.name().unwrap_or_default())
            .u64(column::LENGTH, data.length)
            .u64(column::DURATION, now_ns.saturating_sub(data.began_ns))
            .text_if(column::LOCAL_ADDRESS, local.as_ref().map(|l| &l.0))
            .u64_if(column::LOCAL_PORT, local.as_ref().map(|l| l.1))
            .text_if(column::PEER_ADDRESS, peer.as_ref().map(|p| &p.0))
            .u64_if(column::PEER_PORT, peer.as_ref().map(|p| p.1))
            .text_if(column::ADDRESS_SOURCE, data.socket.filter(|s| s.inferred).map(|_| "inferred"))
            .missing(if index + 1 == pieces { missing } else { 0 });
        let event = if number == event::PEEK { event.payload(piece) } else { event.stream(id, offset, piece) };
        if !event.emit() {
            return;
        }
        offset = offset.saturating_add(piece.len() as u64);
    }
}

/// Emits the end of a connection.
pub fn end(end: &End, process: u32, out: &mut Out<'_>) {
    let connection = connection(process, end.ssl, end.birth_ns);
    // If there is no room for it, that is counted; nothing else is to be done here.
    let _ = out.event(event::END).text(0, "ended").connection(connection).emit();
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
