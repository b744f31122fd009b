//! What an entry without `route` says of its upstream as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{At, fitness, protocol, set};
use crate::base::{Origin, UpstreamName};
use crate::config::form;
use crate::config::model::{Connections, RoutePolicy, Upstream};
use crate::config::problem::Problems;

/// The names of TLS that entries claim, and where.
pub(super) type Claims = BTreeMap<Arc<str>, Origin>;

/// The upstream of an entry.
pub(super) fn upstream(
    form: &form::Outbound,
    policy: RoutePolicy,
    at: At<'_>,
    claims: &mut Claims,
    problems: &mut Problems,
) -> Upstream {
    Upstream {
        protocol: protocol(form.protocol),
        proxy_protocol: form.proxy_protocol.map(Into::into),
        listen: form.listen.as_ref().map(|bind| bind.0),
        sni: sni(form, at, claims, problems),
        connections: form.connections.as_ref().map(connections),
        fitness: fitness::fitness(form, at, problems),
        policy,
        origin: Some(at.key("to").origin()),
    }
}

/// Reports what belongs to the whole upstream and stands in a route.
pub(super) fn not_in_a_route(form: &form::Outbound, at: At<'_>, problems: &mut Problems) {
    for (key, written) in [
        ("protocol", form.protocol.is_some()),
        ("proxy_protocol", form.proxy_protocol.is_some()),
        ("listen", form.listen.is_some()),
        ("sni", form.sni.is_some()),
        ("connections", form.connections.is_some()),
        ("health_check", form.health_check.is_some()),
        ("ejection", form.ejection.is_some()),
        ("slow_start", form.slow_start.is_some()),
        ("locality", form.locality.is_some()),
        ("panic", form.panic.is_some()),
    ] {
        if written {
            let message = format!("`{key}` belongs to the whole upstream, not to one route");
            let help = "move it to the entry of this upstream without `route`";
            problems.push(at.word(key).problem(message).help(help));
        }
    }
}

fn connections(form: &form::Connections) -> Connections {
    let mut connections = Connections::default();
    set(&mut connections.max, form.max);
    set(&mut connections.pending, form.pending);
    set(&mut connections.wait, form.wait.as_ref().map(|d| d.0));
    connections
}

fn sni(form: &form::Outbound, at: At<'_>, claims: &mut Claims, problems: &mut Problems) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    for (index, host) in form.sni.iter().flatten().enumerate() {
        let at = at.key("sni").item(index);
        let name: Arc<str> = host.0.as_str().into();
        if name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[') {
            problems.push(at.problem("TLS has no addresses in place of a name: write a name"));
            continue;
        }
        if let Some(first) = claims.get(&name) {
            problems.push(at.problem(format!("`{}` is taken by the entry at {first}", at.shown())));
            continue;
        }
        claims.insert(name.clone(), at.origin());
        names.push(name);
    }
    names
}

/// Reports a name that one entry claims and that is another upstream's own.
pub(super) fn check_sni(
    upstreams: &BTreeMap<UpstreamName, Upstream>,
    places: &BTreeMap<Origin, At<'_>>,
    problems: &mut Problems,
) {
    for (name, upstream) in upstreams {
        for sni in &upstream.sni {
            let other = upstreams.iter().find(|(other, block)| {
                *other != name && block.origin.is_some() && other.host() == &**sni && is_https(other)
            });
            let place = upstream.origin.as_ref().and_then(|origin| places.get(origin));
            if let (Some((other, _)), Some(at)) = (other, place) {
                let message =
                    format!("`sni` takes `{sni}` away from the upstream `{other}`, whose name it is");
                problems.push(at.key("sni").problem(message));
            }
        }
    }
}

/// Whether TLS to the host of this name is for this upstream.
fn is_https(name: &UpstreamName) -> bool {
    matches!(name.port(), None | Some(443))
}
