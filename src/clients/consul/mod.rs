//! A client of Consul's HTTP API.
//!
//! The requests are those of `consulrs`, and our own made the same way with
//! `rustify_derive` where it has none. They are only built by `rustify`; what
//! sends them is our own hyper and rustls, so that every answer comes with its
//! status and header fields, is bounded in size and time, and ends with the
//! future that waits for it. What those crates would panic on (a token that is
//! no header value, a URL that is too long) is refused here before they see it.
//!
//! Nothing outside this folder sees `consulrs` or `rustify`.

mod agent;
mod answer;
mod catalog;
mod connection;
mod endpoints;
mod kv;
mod pool;
mod tls;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consulrs::api::features::ConsistencyMode;
use consulrs::api::{EndpointMiddleware, Features};
use rustify::endpoint::Endpoint;

pub use self::agent::{Agent, Check, Probe, Registered, Service, Status, Target};
pub use self::answer::{Answer, Error};
pub use self::catalog::{Found, Instance, Read, Selection};
pub use self::connection::Address;
pub use self::endpoints::Locality;
pub use self::token::Token;

use self::pool::{Pool, Reply, Sent};

/// The longest name, id, datacenter, namespace or `near` that is sent.
const MAX_WORD: usize = 256;
/// The longest filter that is sent.
const MAX_FILTER: usize = 2048;
/// A question without a wait is answered within this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach Consul.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The agent, or a server. Default `http://127.0.0.1:8500`.
    pub address: Address,
    /// The ACL token.
    pub token: Token,
    /// The files of TLS, with an `https` address.
    pub tls: Tls,
    /// Sent with every question; the agent's own by default.
    pub datacenter: Option<String>,
    /// Consul Enterprise: sent with everything.
    pub namespace: Option<String>,
}

/// The files of TLS. They are read again when they change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// Whom to trust, as PEM; the roots of the system by default.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, as PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, as PEM.
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate must have; the address's host by
    /// default.
    pub server_name: Option<String>,
}

/// A blocking question: it is answered when the index has moved past `index`,
/// or after `wait`.
///
/// It is only held by an agent that is known to have given that index: on a
/// connection that was made after `heard` it is answered at once. An agent that
/// was started again without its state would hold it for the whole of `wait`,
/// as its own index is lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The index of the last answer, never 0.
    pub index: u64,
    /// How long Consul may hold the question; it adds up to a sixteenth.
    pub wait: Duration,
    /// When that answer came.
    pub heard: Instant,
}

/// A client. Cheap to clone; clones share connections. Dropping the future of a
/// question ends its connection.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    token: token::Held,
    datacenter: Option<String>,
    namespace: Option<http::HeaderValue>,
}

impl Client {
    /// Checks the options. Nothing is sent and no file is read yet.
    pub fn new(options: Options) -> Result<Self, Error> {
        let namespace = match &options.namespace {
            Some(namespace) => {
                word("namespace", namespace)?;
                Some(http::HeaderValue::from_str(namespace).map_err(|_| Error::Invalid("namespace"))?)
            }
            None => None,
        };
        options.datacenter.as_deref().map_or(Ok(()), |datacenter| word("datacenter", datacenter))?;
        let token = token::Held::new(options.token)?;
        let pool = Pool::new(options.address, options.tls)?;
        Ok(Self { shared: Arc::new(Shared { pool, token, datacenter: options.datacenter, namespace }) })
    }

    /// Whether the token is another one than that of generation `seen`; see
    /// [`Answer::token`]. Reads the token's file if it has changed.
    pub fn token_changed(&self, seen: u64) -> bool {
        self.shared.token.current().is_ok_and(|(_, generation)| generation != seen)
    }

    /// Sends what `endpoint` describes, and takes any answer whatever its status.
    async fn send<E: Endpoint>(&self, endpoint: E, how: How) -> Result<Received, Error> {
        let (token, generation) = self.shared.token.current()?;
        let middleware =
            EndpointMiddleware { features: how.features(), token: None, version: "v1".to_owned() };
        // Any base will do: the connection is already one to the agent.
        let request = endpoint
            .with_middleware(&middleware)
            .request("http://consul")
            .map_err(|error| Error::Malformed(error.to_string()))?;
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let target = target.trim_end_matches('?');
        let held = how.blocking.map(|blocking| (blocking.held(target), blocking.heard));
        let held = match held {
            Some((held, heard)) => Some((held.parse().map_err(|_| Error::Invalid("url"))?, heard)),
            None => None,
        };
        let mut head = http::Request::builder().method(request.method().as_str()).uri(target);
        if let Some(token) = token {
            head = head.header("x-consul-token", token);
        }
        if let Some(namespace) = &self.shared.namespace {
            head = head.header("x-consul-namespace", namespace.clone());
        }
        let request = head.body(request.into_body()).map_err(|_| Error::Invalid("request"))?;
        let Sent { reply, dialed } = self.shared.pool.send(request, held, how.limit()).await?;
        Ok(Received { reply, dialed, token: generation })
    }

    /// The same, and anything but success is an error.
    async fn call<E: Endpoint>(&self, endpoint: E, how: How) -> Result<Received, Error> {
        let received = self.send(endpoint, how).await?;
        if received.reply.status.is_success() { Ok(received) } else { Err(received.reply.into_error()) }
    }
}

/// What comes with an endpoint.
#[derive(Clone, Debug, Default)]
struct How {
    blocking: Option<Blocking>,
    filter: Option<String>,
    read: Read,
}

/// An answer that has not been read yet.
struct Received {
    reply: Reply,
    dialed: Instant,
    token: u64,
}

impl Blocking {
    /// The target of a question with what makes it one to be held.
    fn held(&self, target: &str) -> String {
        let mark = if target.contains('?') { '&' } else { '?' };
        format!("{target}{mark}index={}&wait={}ms", self.index, self.wait.as_millis())
    }
}

impl How {
    fn limit(&self) -> Duration {
        self.blocking.map_or(TIMEOUT, |blocking| blocking.wait + blocking.wait / 16 + TIMEOUT)
    }

    fn features(&self) -> Option<Features> {
        Some(Features {
            // It depends on the connection, which is not known yet.
            blocking: None,
            cached: None,
            filter: self.filter.clone(),
            mode: match self.read {
                Read::Default => None,
                Read::Stale => Some(ConsistencyMode::STALE),
                Read::Consistent => Some(ConsistencyMode::CONSISTENT),
            },
        })
    }
}

/// Refuses what can't stand in a URL as one segment.
fn word(what: &'static str, text: &str) -> Result<(), Error> {
    let bad = text.is_empty() || text.len() > MAX_WORD || text.contains(char::is_control);
    // The library that puts URLs together leaves these two segments out.
    if bad || text == "." || text == ".." { Err(Error::Invalid(what)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
