//! The handshake of TLS, as a server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::Stream;
use crate::base::clock;
use crate::base::timers::Timers;

/// A connection after its handshake.
pub struct Accepted {
    /// What is said on it.
    pub stream: Stream,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
    /// The name that the caller asked for.
    pub name: Option<Box<str>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Failed {
    /// It took too long.
    Slow,
    /// The caller went away.
    Gone,
    /// It was no handshake, or nothing could be agreed on.
    Refused(String),
}

/// Accepts TLS as `config` says, in at most `limit`.
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
    timers: &Timers,
) -> Result<Accepted, Failed> {
    let mut timer = timers.at(clock::now() + limit);
    let accepted = tokio::select! {
        biased;
        accepted = TlsAcceptor::from(config).accept(tcp) => accepted,
        () = timer.fired() => return Err(Failed::Slow),
    };
    let stream = accepted.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failed::Refused(error.to_string()),
        _ => Failed::Gone,
    })?;
    let (_, agreed) = stream.get_ref();
    let http2 = agreed.alpn_protocol() == Some(b"h2");
    let name = agreed.server_name().map(Into::into);
    Ok(Accepted { stream: Stream::Boxed(Box::pin(stream)), http2, name })
}
