//! `egress: registered_only`: a service may call only what is registered.
//!
//! Registered is what a policy names (`to:`), and what a source of discovery
//! other than DNS knows: DNS knows the whole world.

use std::net::SocketAddr;
use std::time::Duration;

use super::connection::Door;
use super::router::Route;
use crate::base::clock;
use crate::base::{ProxyError, Reason};
use crate::config::model::Egress;
use crate::telemetry::record::Direction;

/// Answers that make nobody registered.
const OPEN: [&str; 3] = ["dns", "address", crate::upstream::FIXED];

/// How long a caller waits for what discovery says of a name.
pub const ANSWER: Duration = Duration::from_secs(5);

/// Whether [`admit`] has to be asked.
pub fn is_open(door: &Door, route: &Route) -> bool {
    let router = door.router();
    router.model.egress == Egress::Allow
        || door.direction != Direction::Outbound
        || router.names(&route.upstream.name)
}

/// Refuses what is not registered; waits for discovery's first answer.
pub async fn admit(door: &Door, route: &Route) -> Result<(), ProxyError> {
    if is_open(door, route) {
        return Ok(());
    }
    let upstream = &route.upstream;
    let known = upstream.answered(ANSWER, &door.worker.timers).await.flatten();
    if known.is_some_and(|source| !OPEN.contains(&source)) {
        return Ok(());
    }
    let name = upstream.name.as_str();
    let line = line(name);
    if let Some(untold) = door.worker.notices.due(Reason::EgressDenied, name, clock::now()) {
        tracing::warn!(
            upstream = name,
            untold,
            "egress_denied: `egress` is `registered_only`; this line under `outbound:` allows it: {line}"
        );
    }
    let detail = format!("`{name}` is not registered; this line under `outbound:` allows it: {line}");
    Err(ProxyError::unsent(Reason::EgressDenied, detail))
}

/// The line of a policy file that would allow it.
fn line(name: &str) -> String {
    // An IPv6 address begins a list in YAML unless it is quoted.
    match name.parse::<SocketAddr>() {
        Ok(_) => format!("- to: \"{name}\""),
        Err(_) => format!("- to: {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_yaml() {
        for (name, wanted) in [
            ("users", "- to: users"),
            ("users:8080", "- to: users:8080"),
            ("10.0.0.1:5432", "- to: \"10.0.0.1:5432\""),
            ("[fd00::1]:80", "- to: \"[fd00::1]:80\""),
        ] {
            assert_eq!(line(name), wanted);
            let read: Vec<std::collections::BTreeMap<String, String>> =
                serde_yaml::from_str(&line(name)).unwrap();
            assert_eq!(read[0]["to"], name);
        }
    }
}
