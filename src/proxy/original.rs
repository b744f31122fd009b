//! Where a captured connection was going: the kernel turned it to one of our
//! listeners (`pillion redirect`) and remembers its first destination.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::connection::Gate;
use crate::config::Model;

/// Ports that there are.
const PORTS: usize = 1 << 16;

/// Where a connection that came in at `own` was going, if that is elsewhere.
/// One question to the kernel.
pub fn of(tcp: &TcpStream, peer: SocketAddr, own: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(tcp);
    // On a socket for both families, one of IPv4 is asked as such.
    let asked = match peer.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    // No connection tracking, or nothing tracked: nobody turned it.
    let original = canonical(asked.ok()?.as_socket()?);
    let own = canonical(own);
    let direct = original.port() == own.port() && (own.ip().is_unspecified() || own.ip() == original.ip());
    (!direct).then_some(original)
}

/// The address without IPv6's dress of an IPv4 address, and without what only
/// the kernel needs.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether `original`, to which `peer` wanted to speak, is a listener of this
/// sidecar that must not be reached by way of `gate`.
pub fn is_own(gate: &Gate, original: SocketAddr, peer: SocketAddr, model: &Model) -> bool {
    let listen = &model.listen;
    let local_ports = model.upstreams.values().filter_map(|upstream| upstream.listen);
    // To call the own service through the own inbound port is odd, but no loop.
    let inbound = (*gate == Gate::Inbound).then_some([listen.inbound, listen.probes]);
    let own = [listen.outbound, listen.admin].into_iter().chain(inbound.into_iter().flatten());
    let is_port = own.chain(local_ports).any(|address| address.port() == original.port());
    is_port
        && (*gate == Gate::Inbound
            || original.ip().is_loopback()
            || original.ip() == peer.ip().to_canonical())
}

/// Whether `ip` is an address of this machine. Some other program's turning of
/// a connection (a load balancer's) shows a first destination that is not.
pub fn is_local(tcp: &TcpStream, ip: IpAddr) -> bool {
    tcp.local_addr().is_ok_and(|local| local.ip().to_canonical() == ip) || UdpSocket::bind((ip, 0)).is_ok()
}

/// The connections that captured ones were continued with, so that one that
/// comes back is known: by where it comes from and where it goes. The port alone
/// is not enough: callers on other machines have the same.
#[derive(Clone, Default)]
pub struct Dialled(Arc<OnceLock<Box<[AtomicU32]>>>);

/// Held while the connection lives.
pub struct Mark {
    dialled: Dialled,
    port: u16,
    to: u32,
}

impl Dialled {
    /// Remembers `tcp`.
    pub fn mark(&self, tcp: &TcpStream) -> Option<Mark> {
        let local = tcp.local_addr().ok()?;
        let (port, to) = (local.port(), hash(local.ip(), tcp.peer_addr().ok()?));
        let table = self.0.get_or_init(|| (0..PORTS).map(|_| AtomicU32::new(0)).collect());
        table[usize::from(port)].store(to, Ordering::Release);
        Some(Mark { dialled: self.clone(), port, to })
    }

    /// Whether a connection from `peer` to `original` is one of those.
    pub fn holds(&self, peer: SocketAddr, original: SocketAddr) -> bool {
        let held = self.0.get().map(|table| table[usize::from(peer.port())].load(Ordering::Acquire));
        held == Some(hash(peer.ip(), original))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(table) = self.dialled.0.get() {
            let slot = &table[usize::from(self.port)];
            // The port may have been taken anew, for somewhere else.
            let _ = slot.compare_exchange(self.to, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Never 0. FNV-1a.
fn hash(from: IpAddr, to: SocketAddr) -> u32 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let bytes = octets(from).into_iter().chain(octets(to.ip())).chain(to.port().to_be_bytes());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_that_nobody_turned_has_no_other_destination() {
        for bind in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(bind).await.unwrap();
            let own = listener.local_addr().unwrap();
            let _caller = TcpStream::connect(("127.0.0.1", own.port())).await.unwrap();
            let (tcp, peer) = listener.accept().await.unwrap();
            assert_eq!(of(&tcp, peer, own), None, "{bind}");
        }
    }

    #[tokio::test]
    async fn what_was_dialled_is_known_while_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(to).await.unwrap();
        let (_accepted, peer) = listener.accept().await.unwrap();
        let dialled = Dialled::default();
        assert!(!dialled.holds(peer, to));
        let mark = dialled.mark(&tcp);
        assert!(dialled.holds(peer, to));
        let elsewhere = SocketAddr::new(to.ip(), to.port() ^ 1);
        assert!(!dialled.holds(peer, elsewhere), "another destination from the same port");
        let other = SocketAddr::from(([10, 0, 0, 7], peer.port()));
        assert!(!dialled.holds(other, to), "another machine's caller has the same port");
        let mapped = format!("[::ffff:127.0.0.1]:{}", peer.port()).parse().unwrap();
        assert!(dialled.holds(mapped, to), "the same in the dress of IPv6");
        drop(mark);
        assert!(!dialled.holds(peer, to));
    }

    #[test]
    fn the_sidecars_own_listeners_are_known() {
        let mut model = Model::minimal("users");
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        model.listen.inbound = address("0.0.0.0:8702");
        model.listen.outbound = address("127.0.0.1:8701");
        model.listen.admin = address("127.0.0.1:8700");
        model.listen.probes = address("0.0.0.0:8790");
        let (pod, other) = (address("10.0.0.1:40000"), address("10.0.0.2:40000"));
        let mapped = address("[::ffff:10.0.0.1]:40000");
        for (gate, original, peer, own) in [
            (Gate::Outbound, "10.0.0.1:8701", pod, true),
            (Gate::Outbound, "127.0.0.1:8700", pod, true),
            (Gate::Outbound, "10.0.0.1:8701", mapped, true),
            (Gate::Outbound, "10.0.0.1:8702", pod, false),
            (Gate::Outbound, "10.0.0.2:8701", pod, false),
            (Gate::Inbound, "10.0.0.1:8701", other, true),
            (Gate::Inbound, "10.0.0.1:8790", other, true),
            (Gate::Inbound, "10.0.0.1:9100", other, false),
        ] {
            assert_eq!(is_own(&gate, address(original), peer, &model), own, "{gate:?} {original}");
        }
    }
}
