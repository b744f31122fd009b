//! Makes a connection to an endpoint.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::base::timers::Timers;
use crate::base::{ProxyError, Reason};

/// Connects, in at most `limit`.
pub async fn connect(address: SocketAddr, limit: Duration, timers: &Timers) -> Result<TcpStream, ProxyError> {
    let mut timer = timers.at(Instant::now() + limit);
    let connected = tokio::select! {
        biased;
        connected = TcpStream::connect(address) => connected,
        () = timer.fired() => {
            let detail = format!("{address} did not take a connection within {limit:?}");
            return Err(ProxyError::unsent(Reason::ConnectTimeout, detail));
        }
    };
    let stream = connected.map_err(|error| describe(address, &error))?;
    // A socket that can't be told still works.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn describe(address: SocketAddr, error: &io::Error) -> ProxyError {
    let (reason, what) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (Reason::ConnectRefused, "refused the connection"),
        io::ErrorKind::TimedOut => (Reason::ConnectTimeout, "did not take the connection"),
        _ => (Reason::ConnectFailed, "could not be reached"),
    };
    ProxyError::unsent(reason, format!("{address} {what}: {error}"))
}
