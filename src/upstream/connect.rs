//! Makes connections to endpoints, and counts them.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::quota::{Place, Quota};
use crate::base::clock;
use crate::base::timers::Timers;
use crate::base::{ProxyError, ProxyProtocol, Reason, UpstreamName};
use crate::codec::Stream;

/// How long a connection may be quiet before its host is asked whether it lives.
const QUIET: Duration = Duration::from_secs(15);
/// The pause between two such questions.
const PROBE: Duration = Duration::from_secs(5);
use crate::telemetry::{Metrics, names};

thread_local! {
    static IN_PLACE: RefCell<Option<Rc<dyn Network>>> = const { RefCell::new(None) };
}

/// What connections of this thread lead to, in place of the machine's network:
/// for tests of policies, which send nothing.
pub trait Network {
    /// Connects to `address`, and holds `place` as long as the connection is open.
    fn connect(&self, address: SocketAddr, place: Box<dyn Any>) -> io::Result<Stream>;
}

/// From now on every connection of this thread leads to `network`; with `None`
/// to the machine's own.
pub fn lead_to(network: Option<Rc<dyn Network>>) {
    IN_PLACE.set(network);
}

/// Counts the connections to one upstream, by how they ended.
pub struct Connects {
    metrics: Metrics,
    name: UpstreamName,
    /// How callers are told; `None` where they are not.
    pub proxy_protocol: Cell<Option<ProxyProtocol>>,
    /// The name as a label, once there was a connection.
    label: OnceCell<String>,
    /// How many there may be.
    pub quota: Arc<Quota>,
}

impl Connects {
    /// Counts for the upstream `name`.
    pub fn new(metrics: Metrics, name: UpstreamName, quota: Arc<Quota>) -> Rc<Self> {
        Rc::new(Self { metrics, name, proxy_protocol: Cell::new(None), label: OnceCell::new(), quota })
    }

    /// What a connection that belongs to no caller begins with.
    pub fn own_header(&self) -> &'static [u8] {
        self.proxy_protocol.get().map_or(b"", ProxyProtocol::own_header)
    }

    /// Connects, in at most `limit`, says `header`, and holds `place` as long as
    /// the connection is open.
    pub async fn connect(
        &self,
        place: Place,
        address: SocketAddr,
        header: &[u8],
        limit: Duration,
        timers: &Timers,
    ) -> Result<Stream, ProxyError> {
        let made = match IN_PLACE.with_borrow(Clone::clone) {
            Some(network) => {
                network.connect(address, Box::new(place)).map_err(|error| describe(address, &error))
            }
            None => connect(address, header, limit, timers)
                .await
                .map(|tcp| Stream::Held(Box::new((tcp, Box::new(place))))),
        };
        let result = match &made {
            Ok(_) => "ok",
            Err(error) if error.reason == Reason::ConnectRefused => "refused",
            Err(error) if error.reason == Reason::ConnectTimeout => "timeout",
            Err(_) => "failed",
        };
        let label = self.label.get_or_init(|| self.metrics.label(self.name.as_str()));
        self.metrics.counter(&names::UPSTREAM_CONNECTS, &[label, result]).increment(1);
        made
    }
}

async fn connect(
    address: SocketAddr,
    header: &[u8],
    limit: Duration,
    timers: &Timers,
) -> Result<TcpStream, ProxyError> {
    let mut timer = timers.at(clock::now() + limit);
    let connected = tokio::select! {
        biased;
        connected = begin(address, header) => connected,
        () = timer.fired() => {
            let detail = format!("{address} did not take a connection within {limit:?}");
            return Err(ProxyError::unsent(Reason::ConnectTimeout, detail));
        }
    };
    let stream = connected.map_err(|error| describe(address, &error))?;
    // A socket that can't be told still works.
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(&stream);
    let _ = socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(QUIET).with_interval(PROBE));
    Ok(stream)
}

async fn begin(address: SocketAddr, header: &[u8]) -> io::Result<TcpStream> {
    let mut tcp = TcpStream::connect(address).await?;
    if !header.is_empty() {
        tcp.write_all(header).await?;
    }
    Ok(tcp)
}

fn describe(address: SocketAddr, error: &io::Error) -> ProxyError {
    let (reason, what) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (Reason::ConnectRefused, "refused the connection"),
        io::ErrorKind::TimedOut => (Reason::ConnectTimeout, "did not take the connection"),
        _ => (Reason::ConnectFailed, "could not be reached"),
    };
    ProxyError::unsent(reason, format!("{address} {what}: {error}"))
}
