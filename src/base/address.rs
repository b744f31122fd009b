//! Names and addresses. Values of one shape and two meanings have two types.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The name of a service as a policy's `to:` and a request's authority write it.
///
/// Always lower case. A name may carry a port (`users:50051`): then it is a
/// name of its own, and the port is the one that DNS answers are combined with.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// A host and an optional port, as they stand in `Host`, `:authority` and the
/// target of a CONNECT (RFC 9110, section 7.2; RFC 3986, section 3.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    host: Arc<str>,
    port: Option<u16>,
}

impl UpstreamName {
    /// Makes a name of `text`, in lower case.
    pub fn new(text: &str) -> Self {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            Self(text.to_ascii_lowercase().into())
        } else {
            Self(text.into())
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host part of the name, without a port.
    pub fn host(&self) -> &str {
        split_port(&self.0).0
    }

    /// The port that is part of the name, if it has one.
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).1
    }

    /// The address, where the name is an IP address with a port.
    pub fn as_literal(&self, default_port: u16) -> Option<SocketAddr> {
        let host = self.host().trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port().unwrap_or(default_port)))
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for UpstreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Authority {
    /// Reads `host[:port]`. `None` for anything that two parsers could read
    /// differently: user information, an empty host, a port that is not 1 to
    /// 65535, or a byte that RFC 3986 does not allow in a registered name.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':')?),
                };
                (&text[..address.len() + 2], port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let registered_name =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$');
        if host.is_empty() || !(host.starts_with('[') || host.bytes().all(registered_name)) {
            return None;
        }
        let port = match port {
            None => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        Some(Self { host: host.to_ascii_lowercase().into(), port })
    }

    /// The host, in lower case, with brackets where it is an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, where one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    match plain.then(|| digits.parse().ok()).flatten() {
        Some(0) | None => None,
        port => port,
    }
}

fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, digits)) if host.starts_with('[') || !host.contains(':') => match parse_port(digits) {
            Some(port) => (host, Some(port)),
            None => (text, None),
        },
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (text, host, port) in [
            ("users", "users", None),
            ("Users:80", "users", Some(80)),
            ("10.0.0.7:8080", "10.0.0.7", Some(8080)),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[::1]", "[::1]", None),
        ] {
            let authority = Authority::parse(text).unwrap_or_else(|| panic!("{text} is legal"));
            assert_eq!((authority.host(), authority.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn an_ambiguous_authority_is_refused() {
        for text in [
            "", ":80", "a:", "a:b", "a:0", "a:65536", "a:080808", "user@a", "a/b", "a b", "a,b", "a#b",
            "[::1", "[x]", "[::1]x", "a:1:2", "a\u{0}", "a?b", "a\\b",
        ] {
            assert_eq!(Authority::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_name_may_carry_a_port() {
        let name = UpstreamName::new("Users:50051");
        assert_eq!((name.as_str(), name.host(), name.port()), ("users:50051", "users", Some(50051)));
        assert_eq!(UpstreamName::new("[::1]:80").as_literal(1), Some("[::1]:80".parse().unwrap()));
        assert_eq!(UpstreamName::new("users").port(), None);
    }
}
