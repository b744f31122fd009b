//! Real databases and brokers behind two sidecars: nothing fails, nothing is
//! lost, also while the files of both change.

mod banners;
pub mod chain;
mod client;
mod kafka;
mod postgres;
mod rabbitmq;
mod redis;
mod sizes;

use std::net::SocketAddr;

use crate::server::Server;
use crate::support::until;
use chain::{Chain, free_port};
use client::Script;
use sizes::{SMALL, Sizes};

/// Both ways to name what a server speaks: not at all (`auto`), and outright.
/// `work` is done in peace on what is named, and while the configuration changes
/// on what is not. At the full sizes, what is named does both.
#[track_caller]
fn both_ways(port: u16, server: SocketAddr, protocol: &'static str, work: impl Fn(SocketAddr, &Sizes)) {
    let full = sizes::full();
    for protocol in [protocol, "auto"] {
        let chain = Chain::at(port, server, protocol);
        let before = chain.descriptors();
        match &full {
            _ if protocol == "auto" => chain.reloading(&SMALL, || work(chain.at, &SMALL)),
            None => work(chain.at, &SMALL),
            Some(full) => {
                work(chain.at, full);
                chain.reloading(full, || work(chain.at, full));
            }
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
