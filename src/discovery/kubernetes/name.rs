//! Which Service a name means, as the DNS of a cluster reads it.

use std::sync::Arc;

use crate::base::UpstreamName;

/// What a name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The namespace of the Service.
    pub namespace: Arc<str>,
    /// The name of the Service.
    pub service: Arc<str>,
    /// The host name of one of its pods.
    pub pod: Option<Arc<str>>,
    /// The port of the Service.
    pub port: Option<u16>,
}

impl Asked {
    /// `users`, `users.shop`, `users.shop.svc` and `users.shop.svc.cluster.local`,
    /// the last two with the host name of a pod before them; `None` for what no
    /// Service can be called.
    pub(super) fn read(name: &UpstreamName, own: &Arc<str>, cluster_domain: &str) -> Option<Self> {
        let host = name.host().strip_suffix('.').unwrap_or(name.host());
        let inside = host.strip_suffix(cluster_domain).and_then(|host| host.strip_suffix('.'));
        let labels: Vec<&str> = inside.unwrap_or(host).split('.').collect();
        let (pod, service, namespace) = match labels[..] {
            [service] if inside.is_none() => (None, service, None),
            [service, namespace] if inside.is_none() => (None, service, Some(namespace)),
            [service, namespace, "svc"] => (None, service, Some(namespace)),
            [pod, service, namespace, "svc"] => (Some(pod), service, Some(namespace)),
            _ => return None,
        };
        if ![Some(service), namespace, pod].into_iter().flatten().all(is_label) {
            return None;
        }
        Some(Self {
            namespace: namespace.map_or_else(|| own.clone(), Arc::from),
            service: service.into(),
            pod: pod.map(Arc::from),
            port: name.port(),
        })
    }
}

/// Whether it has the form of RFC 1123, which names of Services and namespaces have.
fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Option<String> {
        let asked = Asked::read(&UpstreamName::new(name), &"shop".into(), "cluster.local")?;
        let pod = asked.pod.map_or(String::new(), |pod| format!("{pod}@"));
        let port = asked.port.map_or(String::new(), |port| format!(":{port}"));
        Some(format!("{pod}{}/{}{port}", asked.namespace, asked.service))
    }

    #[test]
    fn names_are_read_as_the_cluster_does() {
        for (name, wanted) in [
            ("users", "shop/users"),
            ("Users:8080", "shop/users:8080"),
            ("users.pay", "pay/users"),
            ("users.pay.svc:50051", "pay/users:50051"),
            ("users.pay.svc.cluster.local", "pay/users"),
            ("users.pay.svc.cluster.local.:80", "pay/users:80"),
            ("db-0.db.pay.svc", "db-0@pay/db"),
            ("db-0.db.pay.svc.cluster.local:5432", "db-0@pay/db:5432"),
        ] {
            assert_eq!(read(name).as_deref(), Some(wanted), "{name}");
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in [
            "api.example.com",
            "a.b.c.d",
            "_http._tcp.users",
            "-users",
            "users-",
            "us_ers",
            "users..svc",
            "users.cluster.local",
            "a.users.pay.pod",
            "",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
        assert_eq!(read(&"a".repeat(64)), None);
    }
}
