//! What discovery does for calls that are under way, with real sources.

mod dns;
mod local;
mod upstreams;

use std::net::{IpAddr, SocketAddr, TcpListener};

use serde_json::Value;

use crate::support::{Recorder, get};

/// Servers on addresses of loopback of their own, all on one port.
fn on_one_port(ips: &[&str]) -> (u16, Vec<Recorder>) {
    let bind = |port: u16| -> Option<Vec<TcpListener>> {
        let mut port = port;
        let mut all = Vec::new();
        for ip in ips {
            let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), port)).ok()?;
            port = listener.local_addr().unwrap().port();
            all.push(listener);
        }
        Some(all)
    };
    let listeners = (0..100).find_map(|_| bind(0)).expect("one port on all of them");
    let port = listeners[0].local_addr().unwrap().port();
    let server = |listener| Recorder::on(listener, crate::support::backend::echo_path);
    (port, listeners.into_iter().map(server).collect())
}

/// What the admin port shows of an upstream; null where it is not followed.
fn shown(admin: SocketAddr, name: &str) -> Value {
    let answer = get(admin, &admin.to_string(), "/clusters");
    let clusters: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let all = clusters["upstreams"].as_array().unwrap();
    all.iter().find(|one| one["upstream"] == name).cloned().unwrap_or_default()
}
