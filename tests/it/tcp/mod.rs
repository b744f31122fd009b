//! Opaque TCP: what is spoken, where it goes, and what passes.

mod connections;
mod detection;
mod proxy_protocol;
mod proxy_protocol_out;
mod relay;
mod sni;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pillion::base::UpstreamName;
use pillion::config::model::{Model, Upstream};

use crate::support::{Client, Server, Sidecar};

/// An entry of the upstream `name` with a local port on loopback.
fn port(model: &mut Model, name: &str, edit: impl FnOnce(&mut Upstream)) {
    let mut upstream = Upstream { listen: Some(([127, 0, 0, 1], 0).into()), ..Upstream::default() };
    edit(&mut upstream);
    model.upstreams.insert(UpstreamName::new(name), upstream);
}

fn port_of(sidecar: &Sidecar, name: &str) -> SocketAddr {
    sidecar.at.upstreams[name]
}

/// Sends back in capitals what it reads.
fn echo(mut stream: TcpStream) {
    let mut block = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        if stream.write_all(&block[..count].to_ascii_uppercase()).is_err() {
            return;
        }
    }
}

/// Greets, and then echoes.
fn greeter() -> Server {
    Server::start(|_, mut stream| {
        if stream.write_all(b"220 ready\r\n").is_ok() {
            echo(stream);
        }
    })
}

#[track_caller]
fn expect(client: &mut Client, wanted: &[u8]) {
    let mut got = Vec::new();
    let length = crate::support::wire::Framing::Length(wanted.len() as u64);
    let read = client.wire().body(length, &mut |bytes| got.extend(bytes));
    assert!(read.is_ok(), "{read:?} after {:?}", String::from_utf8_lossy(&got));
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
}

/// How long until the greeting came.
#[track_caller]
fn greeted(client: &mut Client) -> Duration {
    let start = Instant::now();
    expect(client, b"220 ready\r\n");
    start.elapsed()
}
