//! The form of one entry of the local registry: a small JSON file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::base::{Endpoint, Protocol, Standing, UpstreamName};
use crate::config::model::Service;

/// The version that is written, and the newest that is read.
pub(super) const VERSION: u32 = 1;
/// A larger file is no entry.
pub(super) const ENTRY_BYTES: usize = 16 * 1024;

/// One instance of a service. Fields that are not known are skipped, so that a
/// later version may add some; a change of meaning takes a new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub version: u32,
    /// The service's name.
    pub name: String,
    /// The inbound address of its sidecar.
    pub address: SocketAddr,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// It ends, and still serves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// The sidecar's process, for people; whether it lives is told by its lock.
    pub pid: u32,
    /// When the entry was made, in seconds since 1970.
    pub started: u64,
}

impl Entry {
    /// The entry of `service` behind the sidecar that listens on `inbound`.
    pub(super) fn new(service: &Service, inbound: SocketAddr, standing: Standing, started: u64) -> Self {
        Self {
            version: VERSION,
            name: service.name.as_str().to_owned(),
            address: reachable(inbound),
            protocol: service.protocol,
            tags: service.tags.iter().map(ToString::to_string).collect(),
            region: service.locality.region.as_deref().map(str::to_owned),
            zone: service.locality.zone.as_deref().map(str::to_owned),
            terminating: standing == Standing::Terminating,
            pid: std::process::id(),
            started,
        }
    }

    /// Reads an entry; the error is for a person.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        if text.len() > ENTRY_BYTES {
            return Err(format!("it is larger than {ENTRY_BYTES} bytes"));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("its version is {version}; {VERSION} is the one that is known"));
        }
        let mut entry: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        entry.name.make_ascii_lowercase();
        if entry.name.is_empty() || entry.address.port() == 0 || entry.address.ip().is_unspecified() {
            return Err("it holds no name or no address to connect to".into());
        }
        Ok(entry)
    }

    pub(super) fn upstream(&self) -> UpstreamName {
        UpstreamName::new(&self.name)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            region: self.region.as_deref().map(Into::into),
            zone: self.zone.as_deref().map(Into::into),
            standing: if self.terminating { Standing::Terminating } else { Standing::Ready },
            protocol: self.protocol,
            ..Endpoint::new(self.address)
        }
    }
}

/// A sidecar that listens on every address is reached on loopback from the same machine.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Model;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let model = Model::minimal("Users");
        let entry = Entry::new(&model.service, "0.0.0.0:8702".parse().unwrap(), Standing::Ready, 7);
        assert_eq!(entry.address, "127.0.0.1:8702".parse().unwrap());
        assert_eq!(Entry::read(&serde_json::to_vec(&entry).unwrap()), Ok(entry));
        let six = Entry::new(&model.service, "[::]:1".parse().unwrap(), Standing::Terminating, 7);
        assert_eq!(six.endpoint().standing, Standing::Terminating);
        assert_eq!(six.address, "[::1]:1".parse().unwrap());
    }

    #[test]
    fn what_is_no_entry_is_refused_with_a_reason() {
        let good = r#""name":"A","address":"127.0.0.1:1","pid":1,"started":1"#;
        let later = format!(r#"{{"version":1,{good},"later":true}}"#);
        assert_eq!(Entry::read(later.as_bytes()).unwrap().name, "a");
        for text in [
            String::new(),
            "\u{0}".into(),
            "[]".into(),
            format!(r#"{{"version":2,{good}}}"#),
            format!("{{{good}}}"),
            r#"{"version":1,"name":"","address":"127.0.0.1:1","pid":1,"started":1}"#.into(),
            r#"{"version":1,"name":"a","address":"0.0.0.0:1","pid":1,"started":1}"#.into(),
            r#"{"version":1,"name":"a","address":"127.0.0.1:0","pid":1,"started":1}"#.into(),
            r#"{"version":1,"name":"a","address":"localhost:1","pid":1,"started":1}"#.into(),
            format!(r#"{{"version":1,{good},"pad":"{}"}}"#, "x".repeat(ENTRY_BYTES)),
        ] {
            assert!(Entry::read(text.as_bytes()).is_err(), "{text:.60}");
        }
    }
}
