//! TLS goes by its name and passes unharmed.

use std::io::Write;
use std::time::Duration;

use crate::support::hello::hello;
use crate::support::{Client, Server, Sidecar, beside_others, sidecar};

use super::{expect, port};

/// Says its name, and then all that it reads, as it is.
fn named(name: &'static str) -> Server {
    Server::start(move |_, mut stream| {
        let mut block = [0; 4096];
        let mut first = true;
        while let Ok(count @ 1..) = std::io::Read::read(&mut stream, &mut block) {
            let greeting = if std::mem::take(&mut first) { name.as_bytes() } else { b"" };
            if stream.write_all(&[greeting, &block[..count]].concat()).is_err() {
                return;
            }
        }
    })
}

struct Vaults {
    sidecar: Sidecar,
    _servers: Vec<Server>,
}

fn vaults() -> Vaults {
    let servers = vec![named("VAULT"), named("ALL"), named("SELF"), named("WRITTEN"), named("PLAIN")];
    let at = |index: usize| servers[index].address();
    let sidecar = sidecar("front")
        .upstream("vault", at(0))
        .upstream("all", at(1))
        .upstream("git.example", at(2))
        .upstream("written.test", at(3))
        .upstream("users:8443", at(4))
        .upstream("users:443", at(4))
        .with(|model| {
            model.limits.header_timeout = Duration::from_secs(2);
            let sni = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
            port(model, "vault", |upstream| upstream.sni = sni(&["vault.example", "*.vault.example"]));
            port(model, "all", |upstream| upstream.sni = sni(&["*.deep.example"]));
            port(model, "git.example", |_| {});
        })
        .start();
    Vaults { sidecar, _servers: servers }
}

#[track_caller]
fn reaches(client: &mut Client, hello: &[u8], server: &str) {
    client.send(hello);
    expect(client, &[server.as_bytes(), hello].concat());
    client.send(b"\x17\x03\x03\0\x01x");
    expect(client, b"\x17\x03\x03\0\x01x");
}

#[test]
fn the_outbound_listener_routes_by_the_name() {
    let _turn = beside_others();
    let vaults = vaults();
    for (name, server) in [
        ("vault.example", "VAULT"),
        ("VAULT.Example", "VAULT"),
        ("a.b.vault.example", "VAULT"),
        ("x.deep.example", "ALL"),
        ("git.example", "SELF"),
        ("written.test", "WRITTEN"),
        ("vault", "VAULT"),
    ] {
        for fragment in [16, 4096] {
            let mut client = Client::connect(vaults.sidecar.at.outbound);
            reaches(&mut client, &hello(Some(name), fragment), server);
        }
    }
}

#[test]
fn a_hello_may_come_a_byte_at_a_time() {
    let _turn = beside_others();
    let vaults = vaults();
    let hello = hello(Some("vault.example"), 40);
    let mut client = Client::connect(vaults.sidecar.at.outbound);
    for byte in &hello {
        client.send([*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    expect(&mut client, &[b"VAULT", &hello[..]].concat());
}

#[test]
fn what_has_no_name_or_no_known_name_is_closed() {
    let _turn = beside_others();
    let vaults = vaults();
    let before = |reason| vaults.sidecar.metrics().get("pillion_errors_total", &[("reason", reason)]);
    for (bytes, reason) in [
        (hello(None, 100), "no_route"),
        (b"\x16\x03\x01\0\x05\x01\0\0\x01\0".to_vec(), "no_route"),
        (hello(Some("nobody.test"), 100), "unknown_upstream"),
        // Never whole.
        (hello(Some("vault.example"), 100)[..60].to_vec(), "no_route"),
    ] {
        let counted = before(reason);
        let mut client = Client::connect(vaults.sidecar.at.outbound);
        client.send(&bytes);
        assert!(client.is_ended(), "{reason}");
        vaults.sidecar.metric_is("pillion_errors_total", &[("reason", reason)], counted + 1.0);
    }
}

#[test]
fn a_tunnel_goes_where_the_policy_says_or_where_it_was_to_go() {
    let _turn = beside_others();
    let vaults = vaults();
    for (to, name, server) in [
        ("users:443", Some("vault.example"), "VAULT"),
        ("users:443", Some("written.test"), "PLAIN"),
        ("users:443", None, "PLAIN"),
        ("users:8443", Some("vault.example"), "VAULT"),
        ("users:8443", Some("users"), "PLAIN"),
    ] {
        let mut client = Client::connect(vaults.sidecar.at.outbound);
        client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
        assert_eq!(client.read("CONNECT").status, 200);
        reaches(&mut client, &hello(name, 100), server);
    }
}

#[test]
fn a_port_of_one_upstream_leads_there_whatever_the_name() {
    let _turn = beside_others();
    let vaults = vaults();
    let mut client = Client::connect(vaults.sidecar.at.upstreams["all"]);
    reaches(&mut client, &hello(Some("vault.example"), 100), "ALL");
}
