//! Where Consul is, and one connection to it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Error;

/// To connect, and to agree on TLS.
const CONNECT: Duration = Duration::from_secs(3);
/// An agent whose machine has gone is found out after this and three probes.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where Consul is: `http://host:port`, `https://host:port`, `host:port`, or
/// `unix:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// A connection that carries one question after the other. Dropping it ends it.
pub(super) struct Connection {
    pub sender: http1::SendRequest<Full<Bytes>>,
    /// When it was made.
    pub dialed: Instant,
    task: AbortHandle,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Default for Address {
    /// `http://127.0.0.1:8500`.
    fn default() -> Self {
        Self { kind: Kind::Tcp { host: "127.0.0.1".to_owned(), port: 8500, tls: false } }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err("a socket is written as unix:///path".to_owned());
            }
            return Ok(Self { kind: Kind::Unix(path.into()) });
        }
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = whole.parse().map_err(|_| "it is no URL".to_owned())?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err("it must begin with http://, https:// or unix://".to_owned()),
        };
        if uri.path() != "/" || uri.query().is_some() {
            return Err("nothing may follow the host and the port".to_owned());
        }
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it holds a user; an ACL token has its own key".to_owned());
        }
        let host = authority.host();
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            None => {
                if tls {
                    8501
                } else {
                    8500
                }
            }
            Some(_) => authority.port_u16().filter(|port| *port > 0).ok_or("its port is none")?,
        };
        Ok(Self { kind: Kind::Tcp { host: host.to_owned(), port, tls } })
    }
}

impl Address {
    /// Whether it is reached through TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tcp { tls: true, .. })
    }

    /// The IP address or name of its host, without brackets, and its port; `None`
    /// for a socket of this machine.
    pub fn target(&self) -> Option<(&str, u16)> {
        match &self.kind {
            Kind::Tcp { port, .. } => Some((self.host(), *port)),
            Kind::Unix(_) => None,
        }
    }

    /// The IP address or name of its host, without brackets.
    fn host(&self) -> &str {
        match &self.kind {
            Kind::Tcp { host, .. } => host.trim_start_matches('[').trim_end_matches(']'),
            Kind::Unix(_) => "localhost",
        }
    }

    /// The value of `Host`.
    pub(super) fn authority(&self) -> Result<HeaderValue, Error> {
        let text = match &self.kind {
            Kind::Tcp { host, port, .. } => format!("{host}:{port}"),
            Kind::Unix(_) => "localhost".to_owned(),
        };
        HeaderValue::from_str(&text).map_err(|_| Error::Invalid("address"))
    }

    /// The name that is verified, unless `name` says otherwise.
    pub(super) fn server_name(&self, name: Option<&str>) -> Result<ServerName<'static>, Error> {
        let name = name.unwrap_or_else(|| self.host()).to_owned();
        ServerName::try_from(name).map_err(|_| Error::Invalid("server name"))
    }

    /// Connects, in plain text or with `tls`.
    pub(super) async fn connect(
        &self,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> Result<Connection, Error> {
        let connect = async {
            let stream: Box<dyn Stream> = match &self.kind {
                Kind::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Kind::Tcp { port, .. } => {
                    let stream = TcpStream::connect((self.host(), *port)).await?;
                    stream.set_nodelay(true)?;
                    let probe =
                        socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 2);
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&probe.with_retries(3))?;
                    match tls {
                        None => Box::new(stream),
                        Some((config, name)) => {
                            Box::new(TlsConnector::from(config).connect(name, stream).await?)
                        }
                    }
                }
            };
            Ok::<_, std::io::Error>(stream)
        };
        let failed = |why: &dyn fmt::Display| Error::Connection(format!("{self}: {why}"));
        let stream = match tokio::time::timeout(CONNECT, connect).await {
            Ok(connected) => connected.map_err(|error| failed(&error))?,
            Err(_) => return Err(failed(&"no connection in time")),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer is told why it ended.
            let _ = connection.await;
        });
        Ok(Connection { sender, dialed: Instant::now(), task: task.abort_handle() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("dialed", &self.dialed).finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp { host, port, tls: false } => write!(f, "http://{host}:{port}"),
            Kind::Tcp { host, port, tls: true } => write!(f, "https://{host}:{port}"),
            Kind::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
