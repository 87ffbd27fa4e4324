//! From the bytes of connections to what was said on them.
//!
//! Pure: events with role `stream` go in, exchanges come out; no file, no clock, no output. It runs in the collector, without
//! privileges, on bytes that may be hostile: everything in here is bounded.
//!
//! [`table`] has the connections, [`conversation`] chooses the protocol of one, [`assemble`] puts its calls in order, a
//! [`exchange::Protocol`] reads them; [`said`] is what is told beside exchanges, [`options`] what the user asked for.

pub mod assemble;
pub mod body;
pub mod conversation;
pub mod exchange;
pub mod follow;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod options;
pub mod said;
pub mod sse;
pub mod table;
pub mod websocket;
