//! HTTP/2, both sides, with the `h2` crate (RFC 9113).

mod batch;
pub mod client;
mod exchange;
mod extended;
mod floods;
mod incoming;
mod kept;
mod send;
pub mod server;
mod stream;
mod tunnel;

pub use incoming::Incoming;
pub use stream::Responder;

/// Window of one stream in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Window of one connection in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of one stream that may wait to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a peer may open and reset before anybody has looked at them.
const PENDING_RESETS: usize = 20;
/// What small DATA frames that nobody has read yet may cost: 256 less their
/// length each. Of frames that come after we have given up their stream the
/// `h2` crate takes it for good, and ends the connection when nothing is left,
/// so a connection must not grow old on them (see [`GIVEN_UP`]).
const SMALL_FRAMES: usize = 16 * 1024 * 1024;
/// Streams that may be given up before their end on one connection until it
/// takes no more.
const GIVEN_UP: usize = 256;
