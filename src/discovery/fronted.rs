//! One instance, found once. A service that registers itself with Consul stands
//! there twice when its sidecar registers it too: under the port where it
//! listens, and under the sidecar's. Callers must find the sidecar's alone.
//!
//! The sidecar's entry says in its metadata which plain entries are the same
//! instance. It may only speak of what is surely on its own machine: an instance
//! elsewhere must not vanish.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::clients::consul::Instance;

/// Metadata of a sidecar's entry: where the service listens, as `host:port`.
pub(super) const FOR: &str = "pillion-for";
/// Metadata of a sidecar's entry: ids of entries on the same node that were seen
/// to be the service itself, one a line.
pub(super) const FOR_IDS: &str = "pillion-for-ids";

/// Leaves out the plain entries of services whose sidecar stands there too,
/// whether that is healthy or not: a service whose sidecar is sick or draining
/// is not to be called past it.
pub(super) fn leave_out_plain(instances: &mut Vec<Instance>) {
    let fronted = Fronted::by(instances);
    let keep: Vec<bool> = instances.iter().map(|instance| !fronted.holds(instance)).collect();
    let mut keep = keep.into_iter();
    instances.retain(|_| keep.next().unwrap_or(true));
}

/// Whether an entry with this metadata is one of a sidecar.
pub(super) fn is_sidecar(meta: &BTreeMap<String, String>) -> bool {
    meta.contains_key(FOR)
}

/// What the sidecars among some instances stand for.
#[derive(Default)]
struct Fronted {
    /// Node and id.
    seen: HashSet<(String, String)>,
    /// Node and port, where the service listens on loopback or everywhere.
    here: HashSet<(String, u16)>,
    /// Address and port.
    at: HashSet<(String, u16)>,
}

impl Fronted {
    fn by(instances: &[Instance]) -> Self {
        let mut all = Self::default();
        for sidecar in instances {
            let Some(listens) = sidecar.meta.get(FOR) else { continue };
            let ids = sidecar.meta.get(FOR_IDS).map_or("", String::as_str).lines();
            all.seen.extend(ids.map(|id| (sidecar.node.clone(), id.to_owned())));
            let Ok(listens) = listens.parse::<SocketAddr>() else { continue };
            let (ip, port) = (listens.ip(), listens.port());
            if ip.is_loopback() || ip.is_unspecified() {
                all.here.insert((sidecar.node.clone(), port));
            } else {
                all.at.insert((ip.to_string(), port));
            }
            if !is_loopback(&sidecar.address) {
                all.at.insert((sidecar.address.clone(), port));
            }
        }
        all
    }

    fn holds(&self, plain: &Instance) -> bool {
        if is_sidecar(&plain.meta) {
            return false;
        }
        // Loopback is the machine of whoever says it.
        let place = match is_loopback(&plain.address) {
            true => self.here.contains(&(plain.node.clone(), plain.port)),
            false => self.at.contains(&(plain.address.clone(), plain.port)),
        };
        place || self.seen.contains(&(plain.node.clone(), plain.id.clone()))
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(node: &str, at: &str) -> Instance {
        let (address, port) = at.rsplit_once(':').unwrap();
        Instance {
            node: node.into(),
            id: format!("plain {at}"),
            address: address.into(),
            port: port.parse().unwrap(),
            ..Instance::default()
        }
    }

    fn sidecar(node: &str, at: &str, listens: &str, ids: &[&str]) -> Instance {
        let mut instance = Instance { id: format!("sidecar {at}"), ..plain(node, at) };
        instance.meta.insert(FOR.into(), listens.into());
        if !ids.is_empty() {
            instance.meta.insert(FOR_IDS.into(), ids.join("\n"));
        }
        instance
    }

    /// The ids of what is left.
    fn left(instances: &[Instance]) -> Vec<String> {
        let mut instances = instances.to_vec();
        leave_out_plain(&mut instances);
        instances.into_iter().map(|instance| instance.id).collect()
    }

    #[test]
    fn the_sidecar_stands_for_the_service_behind_it() {
        for (what, entry) in [
            ("the same address", plain("a", "10.0.0.1:8080")),
            ("loopback of the same node", plain("a", "127.0.0.1:8080")),
            ("another loopback", plain("a", "127.0.0.2:8080")),
            ("by name", plain("a", "localhost:8080")),
            ("entered at another agent, by the same address", plain("b", "10.0.0.1:8080")),
        ] {
            let front = sidecar("a", "10.0.0.1:8702", "127.0.0.1:8080", &[]);
            assert_eq!(left(&[entry.clone(), front.clone()]), ["sidecar 10.0.0.1:8702"], "{what}");
            assert_eq!(left(&[front, entry]), ["sidecar 10.0.0.1:8702"], "{what}, the other way round");
        }
        let front = sidecar("a", "10.0.0.1:8702", "10.0.7.7:8080", &[]);
        assert_eq!(
            left(&[plain("b", "10.0.7.7:8080"), front]),
            ["sidecar 10.0.0.1:8702"],
            "where it listens"
        );
        let front = sidecar("a", "10.0.0.1:8702", "127.0.0.1:8080", &["x", "plain other.host:9"]);
        assert_eq!(
            left(&[plain("a", "other.host:9"), front]),
            ["sidecar 10.0.0.1:8702"],
            "seen to be the same"
        );
    }

    #[test]
    fn an_instance_elsewhere_is_not_hidden() {
        for (what, entry) in [
            ("another machine", plain("b", "10.0.0.2:8080")),
            ("loopback of another node", plain("b", "127.0.0.1:8080")),
            ("localhost of another node", plain("b", "localhost:8080")),
            ("another port", plain("a", "10.0.0.1:8081")),
            ("another address that shares the agent", plain("a", "10.0.0.9:8080")),
            ("an id of another node", plain("b", "seen:9")),
        ] {
            let front = sidecar("a", "10.0.0.1:8702", "127.0.0.1:8080", &["plain seen:9"]);
            assert_eq!(left(&[entry.clone(), front]).len(), 2, "{what}");
        }
        let front = sidecar("a", "10.0.0.1:8702", "10.0.7.7:8080", &[]);
        assert_eq!(left(&[plain("a", "127.0.0.1:8080"), front]).len(), 2, "it listens elsewhere");
        let front = sidecar("a", "10.0.0.1:8702", "nonsense", &[]);
        assert_eq!(left(&[plain("a", "10.0.0.1:8080"), front]).len(), 2, "what can't be read hides nothing");
    }

    #[test]
    fn sidecars_do_not_hide_each_other() {
        let (one, two) = (
            sidecar("a", "10.0.0.1:8702", "127.0.0.1:8080", &["sidecar 10.0.0.1:8703"]),
            sidecar("a", "10.0.0.1:8703", "127.0.0.1:8702", &[]),
        );
        assert_eq!(left(&[one, two]).len(), 2);
        assert_eq!(left(&[plain("a", "10.0.0.1:1"), plain("a", "127.0.0.1:2")]).len(), 2);
    }
}
