//! Addresses that are bound, and those that collide.

use std::net::SocketAddr;

use super::At;
use crate::base::Origin;
use crate::config::model::Listen;
use crate::config::problem::Problems;
use crate::config::tree::{File, Span};

/// An address that somebody will bind or has bound.
pub(super) struct Port {
    address: SocketAddr,
    what: String,
    origin: Option<Origin>,
    at: Option<(File, Span)>,
}

/// The addresses of the sidecar itself.
pub(super) fn of_listeners(listen: &Listen, at: At<'_>, ports: &mut Vec<Port>) {
    for (key, address) in [
        ("inbound", listen.inbound),
        ("outbound", listen.outbound),
        ("admin", listen.admin),
        ("probes", listen.probes),
    ] {
        if !at.node.lost(key) {
            let at = at.node.get(key).map(|_| at.key(key));
            ports.push(Port::new(address, format!("`listen.{key}`"), at));
        }
    }
}

impl Port {
    pub(super) fn new(address: SocketAddr, what: String, at: Option<At<'_>>) -> Self {
        Self { address, what, origin: at.map(At::origin), at: at.map(|at| (at.file.clone(), at.span)) }
    }

    fn collides(&self, other: &Self) -> bool {
        let (a, b) = (self.address, other.address);
        a.port() != 0
            && a.port() == b.port()
            && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
    }
}

/// Two that want the same port; the later one is reported.
pub(super) fn collisions(ports: &[Port], problems: &mut Problems) {
    for (index, port) in ports.iter().enumerate() {
        let Some(other) = ports[..index].iter().find(|other| other.collides(port)) else { continue };
        let (shown, other) = if port.at.is_some() { (port, other) } else { (other, port) };
        let Some((file, span)) = &shown.at else { continue };
        let place = match &other.origin {
            Some(origin) => format!(" ({origin})"),
            None => " (its default)".into(),
        };
        let message = format!("port {} is taken by {}{place}", shown.address.port(), other.what);
        problems.push(file.problem(*span, message));
    }
}
