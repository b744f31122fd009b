//! Whether something answers: a path, its `grpc.health.v1.Health`, or an
//! accepted connection.

mod http2;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// A GET of this path over HTTP/1.1, which is answered with 2xx.
    Path(&'a str),
    /// The same over HTTP/2.
    Path2(&'a str),
    /// `grpc.health.v1.Health/Check` for this service; empty for the server as a
    /// whole.
    Grpc(&'a str),
    /// Whether a connection is accepted.
    Connection,
}

/// What the last question met.
#[derive(Debug)]
pub enum Unhealthy {
    /// No connection.
    Connect(io::Error),
    /// No answer in time.
    Timeout,
    /// An answer that is not HTTP, or none.
    Http(String),
    /// A status that is not 2xx.
    Status(u16),
    /// A status of gRPC that is not 0, and its message.
    Grpc(u8, String),
    /// `grpc.health.v1.Health` says so.
    NotServing(&'static str),
}

/// Asks once, in at most `timeout`. `header` is what a connection begins with.
pub async fn ask(
    address: SocketAddr,
    question: Question<'_>,
    header: &[u8],
    timeout: Duration,
) -> Result<(), Unhealthy> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.map_err(Unhealthy::Connect)?;
        stream.write_all(header).await.map_err(Unhealthy::Connect)?;
        match question {
            Question::Connection => Ok(()),
            Question::Grpc(name) => Box::pin(http2::check(stream, address, name)).await,
            Question::Path2(path) => Box::pin(http2::get(stream, address, path)).await,
            Question::Path(path) => Box::pin(get(stream, address, path)).await,
        }
    };
    tokio::time::timeout(timeout, asked).await.unwrap_or(Err(Unhealthy::Timeout))
}

async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(), Unhealthy> {
    let bad = |error: &dyn fmt::Display| Unhealthy::Http(error.to_string());
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| bad(&error))?;
    let request = http::Request::get(path)
        .header("host", address.to_string())
        .header("user-agent", concat!("pillion/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| bad(&error))?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // A server that closes at once ends the connection and answers in one turn.
        _ = connection => answer.await,
    };
    let status = answer.map_err(|error| bad(&error))?.status();
    if status.is_success() { Ok(()) } else { Err(Unhealthy::Status(status.as_u16())) }
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection ({error})"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Http(why) => write!(f, "no usable answer ({why})"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(5, _) => {
                f.write_str("grpc.health.v1.Health does not know the service of `health.grpc`")
            }
            Self::Grpc(12, _) => f.write_str(
                "UNIMPLEMENTED: the server has no grpc.health.v1.Health; register it, or ask a `path`",
            ),
            Self::Grpc(code, message) => write!(f, "gRPC status {code} ({message})"),
            Self::NotServing(status) => write!(f, "grpc.health.v1.Health says {status}"),
        }
    }
}
