//! HTTP/1.0 and HTTP/1.1, both sides (RFC 9112).

pub mod client;
pub mod decode;
pub mod encode;
pub mod head;
mod incoming;
mod output;
pub mod server;
mod switch;
mod transport;

pub use incoming::Incoming;
pub use transport::Transport;
