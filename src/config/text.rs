//! Values that are written as text and mean more: each has a parser, and a name
//! under which the schema knows it (`format`). The check of a file's shape and
//! the typed reading use the same parser, so that they can't disagree.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::model::{After, Reach as Reachable};
use super::units;
use crate::base::Network as IpNetwork;
use crate::base::{Authority, UpstreamName};

/// A host and a port; the host is an IP address or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

macro_rules! formats {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ty) = $format:literal $label:literal $pattern:literal $parse:path;)*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name(pub $inner);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    $parse(&text).map(Self).map_err(serde::de::Error::custom)
                }
            }

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    $format.into()
                }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({"type": "string", "format": $format, "pattern": $pattern})
                }
            }
        )*

        /// What is wrong with `text` as a value of this format; an unknown
        /// format takes every text.
        pub fn check(format: &str, text: &str) -> Result<(), String> {
            match format {
                $($format => $parse(text).map(|_| ()),)*
                _ => Ok(()),
            }
        }

        /// What a value of this format is called in a message.
        pub fn label(format: &str) -> &'static str {
            match format {
                $($format => $label,)*
                _ => "text",
            }
        }
    };
}

formats! {
    /// Longer than zero.
    Span(Duration) = "pillion-duration" "a duration such as `2s`" r"^([0-9.]+(us|ms|s|m|h|d))+$|\$\{" units::duration;
    /// Perhaps zero.
    Pause(Duration) = "pillion-pause" "a duration such as `2s`" r"^([0-9.]+(us|ms|s|m|h|d))+$|\$\{" units::pause;
    /// How long to wait for a slow answer.
    Patience(After) = "pillion-patience" "a percentile such as `p95` or a duration such as `50ms`" r"^(p[0-9.]+|([0-9.]+(us|ms|s|m|h|d))+)$|\$\{" units::patience;
    /// Bytes.
    Size(u64) = "pillion-size" "a size such as `64KiB`" r"^[0-9.]+([KMG]i?)?B$|\$\{" units::size;
    /// A share.
    Percent(f64) = "pillion-percent" "a percentage such as `20%`" r"^[0-9.]+%$|\$\{" units::percent;
    /// So many in a time.
    Rate(super::model::Rate) = "pillion-rate" "a rate such as `50/s`" r"^[0-9]+/(s|min|h|day)$|\$\{" units::rate;
    /// What a policy is called.
    Label(String) = "pillion-label" "a name such as `per-client`" r"^[A-Za-z0-9_.-]{1,64}$|\$\{" label_name;
    /// From the shorter to the longer.
    Range(pair::Pair) = "pillion-range" "a range such as `25ms..250ms`" r"^.+\.\..+$|\$\{" units::range;
    /// An address to bind.
    Bind(SocketAddr) = "pillion-bind" "an address such as `127.0.0.1:8080`" r"^.+:[0-9]+$|\$\{" bind;
    /// An address to connect to.
    Target(HostPort) = "pillion-address" "an address such as `10.0.0.7:8080`" r"^.+:[0-9]+$|\$\{" target;
    /// A host that others reach, whose port may be missing.
    Reach(Reachable) = "pillion-reach" "a host such as `10.0.0.5` or `10.0.0.5:8702`" r"^.+$" reach;
    /// The address of a server, whose port may be missing.
    Server(SocketAddr) = "pillion-server" "an address such as `10.0.0.2` or `10.0.0.2:53`" r"^.+$" server;
    /// Addresses with one beginning.
    Network(IpNetwork) = "pillion-network" "a network such as `10.0.0.0/8`" r"^[0-9a-fA-F.:]+(/[0-9]+)?$|\$\{" network;
    /// The name of one's own service.
    ServiceName(UpstreamName) = "pillion-service" "a name such as `users`" r"^.+$" service_name;
    /// The name of a service that is called.
    Upstream(UpstreamName) = "pillion-upstream" "a name such as `users`" r"^.+$" upstream;
    /// A host of a route.
    Host(String) = "pillion-host" "a host such as `users.example`" r"^.+$" host;
    /// A path of a probe.
    UrlPath(String) = "pillion-path" "a path such as `/health`" r"^/|\$\{" path;
    /// A service of gRPC, or all of them.
    GrpcService(String) = "pillion-grpc-service" "a service of gRPC such as `shop.v1.Users`, or `\"\"` for the server as a whole" r"^[A-Za-z0-9_.]*$|\$\{" grpc_service;
    /// Where Consul is.
    ConsulAddress(String) = "pillion-consul" "an address such as `http://127.0.0.1:8500`" r"^.+$" consul_address;
    /// Where Redis is.
    RedisAddress(String) = "pillion-redis" "an address such as `redis://127.0.0.1:6379`" r"^.+$" redis_address;
    /// Where keys are fetched.
    JwksUrl(String) = "pillion-jwks-url" "a URL such as `https://id.example/keys.json`" r"^https?://.+$|\$\{" jwks_url;
    /// A call that nobody sends.
    Called(crate::config::Call) = "pillion-call" "a call such as `GET http://users/v1/users`" r"^.+$" called;
    /// A word that is not empty.
    Word(String) = "pillion-word" "text" r"^.+$" word;
    /// The name of a header field.
    Header(http::HeaderName) = "pillion-header" "the name of a header" r"^.+$" header;
}

mod pair {
    /// Two durations.
    pub type Pair = (std::time::Duration, std::time::Duration);
}

fn bind(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    Err(match text.parse::<u16>() {
        Ok(port) => format!("an address needs a host: write `127.0.0.1:{port}` or `0.0.0.0:{port}`"),
        Err(_) if text.parse::<IpAddr>().is_ok() => format!("an address needs a port: write `{text}:8080`"),
        Err(_) => match text.strip_prefix("localhost:") {
            Some(port) => format!("an address is numbers: write `127.0.0.1:{port}`"),
            None => format!("`{text}` is no address: write it like `127.0.0.1:8080`"),
        },
    })
}

fn target(text: &str) -> Result<HostPort, String> {
    let wrong = || format!("`{text}` is no address: write it like `10.0.0.7:8080`");
    let authority = Authority::parse(text).ok_or_else(wrong)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    match authority.port() {
        Some(port) => Ok(HostPort { host, port }),
        None => Err(format!("an address needs a port: write `{text}:8080`")),
    }
}

fn reach(text: &str) -> Result<Reachable, String> {
    let wrong =
        || format!("`{text}` is no host: write it like `10.0.0.5`, `orders.example` or `10.0.0.5:8702`");
    let (host, port) = match text.parse::<IpAddr>() {
        Ok(ip) => (ip.to_string(), None),
        Err(_) => {
            let authority = Authority::parse(text).ok_or_else(wrong)?;
            (authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(), authority.port())
        }
    };
    match host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) || port == Some(0) {
        true => Err(format!("nobody reaches `{text}`: write the address or the name that callers use")),
        false => Ok(Reachable { host: host.into(), port }),
    }
}

fn server(text: &str) -> Result<SocketAddr, String> {
    match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(address), _) => Ok(address),
        (_, Ok(ip)) => Ok(SocketAddr::new(ip, 53)),
        _ => Err(format!("`{text}` is no address: write it like `10.0.0.2` or `10.0.0.2:53`")),
    }
}

fn network(text: &str) -> Result<IpNetwork, String> {
    text.parse()
}

fn service_name(text: &str) -> Result<UpstreamName, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match text.bytes().all(legal) && !text.is_empty() && text.len() <= 253 {
        true => Ok(UpstreamName::new(text)),
        false => Err(format!("`{text}` is no name: use letters, digits, `-`, `.` and `_`")),
    }
}

fn upstream(text: &str) -> Result<UpstreamName, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("a name has no `{scheme}://`: write `{}`", rest.trim_end_matches('/')));
    }
    match Authority::parse(text).filter(|_| text.len() <= 259) {
        Some(_) => Ok(UpstreamName::new(text)),
        None => Err(format!("`{text}` is no name of a service: write it like `users` or `users:8080`")),
    }
}

/// A URL without a path, with `http://` where no scheme is written.
pub fn consul_address(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no address: write it like `http://127.0.0.1:8500`");
    if let Some(path) = text.strip_prefix("unix://") {
        return match path.starts_with('/') && !path.chars().any(char::is_control) {
            true => Ok(text.to_owned()),
            false => Err(format!("`{text}` is no socket: write it like `unix:///run/consul.sock`")),
        };
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("`{scheme}` is none of `http`, `https`, `unix`"));
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let authority = Authority::parse(host).ok_or_else(wrong)?;
    match authority.port() {
        Some(0) => Err(wrong()),
        _ => Ok(format!("{scheme}://{host}")),
    }
}

fn host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    match Authority::parse(name) {
        Some(authority) if authority.port().is_none() => Ok(text.to_ascii_lowercase()),
        Some(_) => Err("a host of a route has no port".into()),
        None => Err(format!("`{text}` is no host: write it like `users.example` or `*.example`")),
    }
}

fn path(text: &str) -> Result<String, String> {
    match text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is no path: write it like `/health`")),
    }
}

fn grpc_service(text: &str) -> Result<String, String> {
    match text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.')) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is no service of gRPC: write it like `shop.v1.Users`, or `\"\"`")),
    }
}

fn called(text: &str) -> Result<crate::config::Call, String> {
    text.parse()
}

fn jwks_url(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no URL: write it like `https://id.example/keys.json`");
    let url: http::Uri = text.parse().map_err(|_| wrong())?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    match url.authority() {
        Some(authority) if known && !authority.as_str().contains('@') => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

fn word(text: &str) -> Result<String, String> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err("an empty text, or one with control characters".into()),
        false => Ok(text.to_owned()),
    }
}

/// The text is not told: it may hold a password.
fn redis_address(text: &str) -> Result<String, String> {
    let wrong = "this is no address of Redis: write it like `redis://127.0.0.1:6379`";
    if let Some(path) = text.strip_prefix("unix://") {
        return if path.starts_with('/') { Ok(text.to_owned()) } else { Err(wrong.into()) };
    }
    let Some(rest) = text.strip_prefix("redis://") else {
        return Err(match text.starts_with("rediss://") {
            true => {
                "TLS to Redis is not known here: let a sidecar or a proxy on this machine speak it".into()
            }
            false => wrong.into(),
        });
    };
    let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
    let database = database.is_empty() || database.bytes().all(|b| b.is_ascii_digit());
    match Authority::parse(host).filter(|host| database && host.port() != Some(0)) {
        Some(_) => Ok(text.to_owned()),
        None => Err(wrong.into()),
    }
}

fn label_name(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match text.bytes().all(legal) && (1..=64).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is no name: use up to 64 letters, digits, `-`, `.` and `_`")),
    }
}

fn header(text: &str) -> Result<http::HeaderName, String> {
    if text.starts_with(':') {
        return Err(format!("`{text}` is no header: use `host:` or the route's path and method"));
    }
    http::HeaderName::try_from(text).map_err(|_| format!("`{text}` is no name of a header"))
}
