//! `gateway`: listeners for callers from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::ServerConfig;

use super::Route;
use crate::base::tls::Certificates;
use crate::base::{Network, Origin};

/// A listener for callers from outside, and its routes.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Where it listens; tells it from the others. Port 0 binds a free port.
    pub listen: SocketAddr,
    /// How it is encrypted; `None`: it is not.
    pub tls: Option<Tls>,
    /// Proxies before it, whose `Forwarded` and `X-Forwarded-*` are believed;
    /// default none.
    pub trusted_proxies: Vec<Network>,
    /// Callers whose connections begin with a header of the PROXY protocol;
    /// default none.
    pub proxy_protocol: Vec<Network>,
    /// Whether `%2F` and `%5C` may stand in a path; default false.
    pub encoded_slashes: bool,
    /// Its routes, in the order of the file. Those without `to` answer themselves.
    pub routes: Vec<Route>,
    /// Where it stands; `None` for one that no file names.
    pub origin: Option<Origin>,
}

/// TLS that is served.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Which certificate is shown to whom.
    pub certificates: Arc<Certificates>,
    /// What is agreed on.
    pub server: Arc<ServerConfig>,
    /// Whether TLS 1.2 is refused; default false.
    pub only_13: bool,
    /// How long a handshake may take; default 10 s.
    pub handshake_timeout: Duration,
    /// Handshakes at one time, over all workers; default 1000.
    pub handshakes: usize,
}

impl Gateway {
    /// One that listens there, with defaults and without routes.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: Vec::new(),
            encoded_slashes: false,
            routes: Vec::new(),
            origin: None,
        }
    }

    /// Whether a proxy at this address is believed.
    pub fn trusts(&self, ip: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(ip))
    }
}
