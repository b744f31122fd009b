//! The listeners of `gateway`, and the policy of their routes.

use serde_json::{Map, Value, json};

use super::{NOWHERE, Values, entry_prefix, policy, routes_by, text};
use crate::config::Model;
use crate::config::model::{Gateway, Route};

/// All of them, with their routes.
pub(super) fn gateways(model: &Model) -> Value {
    let one = |gateway: &Gateway| {
        let mut values = Values::new(model, &prefix(model, gateway));
        values.put("listen", gateway.listen.to_string());
        let tls = gateway.tls.as_ref();
        values.put("tls.certificates", tls.map(|tls| tls.certificates.len()));
        values.put("tls.min_version", tls.map(|tls| if tls.only_13 { "TLSv1.3" } else { "TLSv1.2" }));
        values.put("tls.handshake_timeout", tls.map(|tls| text(tls.handshake_timeout)));
        values.put("tls.handshakes", tls.map(|tls| tls.handshakes));
        let networks =
            |list: &[crate::base::Network]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        values.put("trusted_proxies", networks(&gateway.trusted_proxies));
        values.put("proxy_protocol", networks(&gateway.proxy_protocol));
        values.put("encoded_slashes", if gateway.encoded_slashes { "keep" } else { "refuse" });
        json!({
            "values": values.shown,
            "routes": routes_by(&gateway.routes, |route| gateway_policy(model, gateway, route)),
        })
    };
    model.gateways.iter().map(one).collect()
}

/// The policy of a route: what it does not say itself may be written in the
/// listener's entry without `route`, or in the entry of its upstream.
pub fn gateway_policy(model: &Model, gateway: &Gateway, route: &Route) -> Map<String, Value> {
    let listener = prefix(model, gateway);
    let upstream = route.to.as_ref().and_then(|to| model.upstreams.get(to));
    let mut prefixes = vec![entry_prefix(model, &route.origin)];
    prefixes.extend(shared(model, &listener));
    prefixes
        .extend(upstream.and_then(|block| block.origin.as_ref()).map(|origin| entry_prefix(model, origin)));
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    policy(model, &prefixes, &route.policy)
}

/// The path of the listener, with a dot.
fn prefix(model: &Model, gateway: &Gateway) -> String {
    gateway.origin.as_ref().map_or_else(|| NOWHERE.to_owned(), |origin| entry_prefix(model, origin))
}

/// The path of the listener's entry without `route`, with a dot.
fn shared(model: &Model, listener: &str) -> Option<String> {
    let entries = (0..).map(|index| format!("{listener}routes[{index}]"));
    let mut entries = entries.take_while(|entry| model.sources.contains_key(entry));
    entries
        .find(|entry| !model.sources.contains_key(&format!("{entry}.route")))
        .map(|entry| format!("{entry}."))
}
