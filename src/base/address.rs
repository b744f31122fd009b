//! Names and addresses. Values of one shape and two meanings have two types.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;

/// The name of a service as a policy's `to:` and a request's authority write it.
///
/// Always lower case. A name may carry a port (`users:50051`): then it is a
/// name of its own, and the port is the one that DNS answers are combined with.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// A host and an optional port, as they stand in `Host`, `:authority` and the
/// target of a CONNECT (RFC 9110, section 7.2; RFC 3986, section 3.2).
///
/// Shares the bytes of the field that it was read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// In lower case.
    text: HeaderValue,
    /// Where the host ends.
    host: usize,
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
        let (host, port) = split_authority(text.as_bytes())?;
        let text = HeaderValue::from_bytes(&text.as_bytes().to_ascii_lowercase()).ok()?;
        Some(Self { text, host, port })
    }

    /// The same for a field's value, whose bytes are shared where they can be.
    pub fn of(value: &HeaderValue) -> Option<Self> {
        let (host, port) = split_authority(value.as_bytes())?;
        let text = if value.as_bytes().iter().any(u8::is_ascii_uppercase) {
            HeaderValue::from_bytes(&value.as_bytes().to_ascii_lowercase()).ok()?
        } else {
            value.clone()
        };
        Some(Self { text, host, port })
    }

    /// The host, in lower case, with brackets where it is an IPv6 address.
    pub fn host(&self) -> &str {
        // What `split_authority` lets pass is ASCII.
        std::str::from_utf8(&self.text.as_bytes()[..self.host]).unwrap_or_default()
    }

    /// The port, where one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// As a field's value.
    pub fn as_value(&self) -> &HeaderValue {
        &self.text
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.text.as_bytes()).unwrap_or_default())
    }
}

/// Where the host ends, and the port.
fn split_authority(text: &[u8]) -> Option<(usize, Option<u16>)> {
    let host = match text.strip_prefix(b"[") {
        Some(rest) => {
            let end = rest.iter().position(|b| *b == b']')?;
            let address = std::str::from_utf8(&rest[..end]).ok()?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            end + 2
        }
        None => {
            let end = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            if end == 0 || !text[..end].iter().all(|b| is_name_byte(*b)) {
                return None;
            }
            end
        }
    };
    match text[host..].split_first() {
        None => Some((host, None)),
        Some((b':', digits)) => Some((host, Some(parse_port(std::str::from_utf8(digits).ok()?)?))),
        Some(_) => None,
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$')
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
