//! Real databases and brokers behind two sidecars: nothing fails, nothing is
//! lost, also while the files of both change.

mod banners;
mod chain;
mod client;
mod kafka;
mod postgres;
mod rabbitmq;
mod redis;
mod server;
mod sizes;

use std::net::SocketAddr;

use crate::support::until;
use chain::{Chain, free_port};
use client::Script;
use server::Server;

/// Both ways to name what a server speaks: not at all (`auto`), and outright.
/// At the full sizes `work` is done on each, in peace and then while the
/// configuration changes, which it is told; in small, each of these once.
#[track_caller]
fn both_ways(port: u16, server: SocketAddr, protocol: &'static str, work: impl Fn(SocketAddr, bool)) {
    for protocol in [protocol, "auto"] {
        let chain = Chain::at(port, server, protocol);
        let before = chain.descriptors();
        if sizes::full() || protocol != "auto" {
            work(chain.at, false);
        }
        if sizes::full() || protocol == "auto" {
            chain.reloading(|| work(chain.at, true));
        }
        until("the descriptors are closed", || chain.descriptors() <= before + 2);
        let carried = chain.carried();
        assert!(carried > 1e6, "only {carried} bytes went through the sidecars");
        println!("{protocol}: {carried} bytes through the sidecars");
    }
}

/// What a driver sees when its server is killed is its own clean error, and a
/// new connection works soon after the server is back.
#[track_caller]
fn killed_and_started_again(name: &'static str, mut server: Server) {
    let chain = Chain::at(free_port(), server.at, "auto");
    let mut script = Script::start("again.py", chain.at, &[name]);
    script.says("works");
    server.kill();
    script.tell("killed");
    let error = script.says("error");
    script.tell("still down");
    let refused = script.says("error");
    server.again();
    script.tell("back");
    let took: f64 = script.says("works").parse().unwrap();
    script.ends();
    println!("{name}: `{error}`, then `{refused}`; works again after {took:.2} s");
    assert!(chain.failed() >= 1.0, "the sidecars count what they could not reach");
    assert!(took < 3.0, "a new connection works after {took} s only");
}
