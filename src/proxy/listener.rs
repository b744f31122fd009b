//! Listeners: bound first, then served, one socket for each worker, among which
//! the kernel spreads the connections (`SO_REUSEPORT`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::connection::{self, Gate};
use super::worker::Worker;
use super::{captured, gateway, original};
use crate::base::drain::{Stage, Watch};

/// Connections that the kernel holds for each listener until they are accepted.
const BACKLOG: i32 = 4096;
/// The pause after a failed accept, such as one for want of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// Binds `count` listeners to one address. An address that somebody else
/// listens on is an error, which `SO_REUSEPORT` alone would hide.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    bind_as(address, count, false)
}

/// The same for an address of IPv6, whose listeners take nothing of IPv4.
pub fn bind_ipv6(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    bind_as(address, count, true)
}

fn bind_as(address: SocketAddr, count: usize, only_ipv6: bool) -> io::Result<Vec<TcpListener>> {
    // Held without sharing until it is bound, so that of two sidecars that start
    // at one time only one gets it.
    let _held = match address.port() {
        0 => None,
        _ => {
            let held = socket(address, false, only_ipv6)?;
            socket2::SockRef::from(&held).set_reuse_port(true)?;
            Some(held)
        }
    };
    let first = socket(address, true, only_ipv6)?;
    let bound = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(socket(bound, true, only_ipv6)?);
    }
    Ok(all)
}

fn socket(address: SocketAddr, shared: bool, only_ipv6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if only_ipv6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts and serves until the drain closes the listener. What the kernel has
/// taken by then is still served.
pub async fn accept(listener: TcpListener, gate: Gate, worker: Rc<Worker>, mut drain: Watch) {
    let _accepting = worker.accepting(gate.direction());
    let Ok(own) = listener.local_addr() else { return };
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        tokio::select! {
            biased;
            () = drain.reached(Stage::Draining) => break,
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => admit(tcp, (peer, own), &gate, &worker),
                Err(error) => {
                    worker.limited("descriptors");
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    // The kernel is asked, not the reactor, which may not have heard yet.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((tcp, peer)) = listener.accept() {
        if tcp.set_nonblocking(true).is_ok()
            && let Ok(tcp) = tokio::net::TcpStream::from_std(tcp)
        {
            admit(tcp, (peer, own), &gate, &worker);
        }
    }
}

/// Serves a connection from the first to the second address.
fn admit(
    tcp: tokio::net::TcpStream,
    (peer, own): (SocketAddr, SocketAddr),
    gate: &Gate,
    worker: &Rc<Worker>,
) {
    let share = worker.context(gate.direction()).limits.connections / worker.router().model.workers.max(1);
    if worker.connections() >= share.max(1) {
        worker.limited("connections");
        return;
    }
    let open = worker.open(gate.direction());
    if let Gate::Gateway(listen) = gate {
        tokio::task::spawn_local(gateway::serve(tcp, peer, *listen, open));
        return;
    }
    let original = match gate {
        Gate::Inbound | Gate::Outbound => original::of(&tcp, peer, own),
        Gate::Upstream(_) | Gate::Gateway(_) => None,
    };
    match original {
        None => tokio::task::spawn_local(connection::serve(tcp, peer, gate.clone(), open)),
        Some(original) => tokio::task::spawn_local(captured::serve(tcp, peer, gate.clone(), open, original)),
    };
}
