//! What `pillion run` says when it has started: one block for a person, one
//! event for a machine.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::app::Addresses;
use crate::config::Model;
use crate::config::model::Source;

/// Of static upstreams, so many are named.
const NAMES: usize = 5;

/// Tells that the sidecar has started.
pub fn started(model: &Model, file: Option<&str>, addresses: &Addresses, block: bool) {
    if block {
        eprint!("{}", text(model, file, addresses));
        return;
    }
    tracing::info!(
        service = %model.service.name,
        file = file.unwrap_or("defaults"),
        inbound = %addresses.inbound,
        outbound = %addresses.outbound,
        admin = %addresses.admin,
        probes = %addresses.probes,
        "started"
    );
}

fn text(model: &Model, file: Option<&str>, addresses: &Addresses) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let service = match model.service.address {
        Some(address) => format!("{} on {address}", model.service.name),
        None => {
            let port = if file.is_some() { "`service.port`" } else { "--port" };
            format!("{}, which only calls (to take calls, say where it listens: {port})", model.service.name)
        }
    };
    line("service", &service);
    line("config", file.unwrap_or("none: defaults"));
    line("policies", &policies(model));
    line("discovery", &discovery(model));
    line("inbound", &addresses.inbound.to_string());
    line("outbound", &addresses.outbound.to_string());
    for (name, address) in &addresses.upstreams {
        line("", &format!("{address} → {name}"));
    }
    for address in addresses.gateways.values() {
        line("gateway", &address.to_string());
    }
    line("admin", &format!("http://{}", from_here(addresses.admin)));
    line("probes", &format!("http://{}/readyz", from_here(addresses.probes)));
    line("call", &format!("curl -x http://{} http://NAME/", from_here(addresses.outbound)));
    format!("pillion {}\n{text}", env!("CARGO_PKG_VERSION"))
}

/// An address of all interfaces is none that a browser takes.
pub fn from_here(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn policies(model: &Model) -> String {
    let files: BTreeSet<_> =
        model.sources.keys().filter_map(|path| path.split_once('#')).map(|p| p.0).collect();
    let outside = model.gateways.iter().map(|gateway| gateway.routes.len()).sum::<usize>();
    let routes = match model.inbound.len() + model.outbound.len() + outside {
        0 => "no routes".to_owned(),
        1 => "1 route".to_owned(),
        routes => format!("{routes} routes"),
    };
    match files.len() {
        0 => format!("no files, {routes}"),
        _ => format!("{}, {routes}", files.into_iter().collect::<Vec<_>>().join(" ")),
    }
}

fn discovery(model: &Model) -> String {
    let one = |source: &Source| match source {
        Source::Local(local) => format!("local ({})", local.directory.display()),
        Source::Static(upstreams) => {
            let names: Vec<_> = upstreams.keys().map(ToString::to_string).take(NAMES).collect();
            let more = if upstreams.len() > NAMES { ", …" } else { "" };
            format!("static ({}{more})", names.join(", "))
        }
        Source::Consul(consul) => format!("consul ({})", consul.address),
        Source::Kubernetes(_) => "kubernetes".to_owned(),
        Source::Dns(_) => "dns".to_owned(),
    };
    let all: Vec<_> = model.discovery.iter().map(one).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_names_what_a_newcomer_asks_for() {
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses {
            inbound: address(8702),
            outbound: address(8701),
            admin: address(8700),
            probes: (Ipv4Addr::UNSPECIFIED, 8790).into(),
            upstreams: [("users".into(), address(9001))]
                .map(|(name, at): (String, _)| (crate::base::UpstreamName::new(&name), at))
                .into(),
            gateways: [(address(1), address(8443))].into(),
        };
        let text = text(&Model::minimal("orders"), Some("pillion.yaml"), &addresses);
        for part in [
            "orders, which only calls",
            "pillion.yaml",
            "127.0.0.1:9001 → users",
            "curl -x http://127.0.0.1:8701",
            "http://127.0.0.1:8790/readyz",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
