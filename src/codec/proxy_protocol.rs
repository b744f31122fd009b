//! The PROXY protocol, versions 1 and 2: who the caller of a connection is, said
//! before its first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). No IO here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::ProxyProtocol;

/// What the first bytes of a connection hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The header is not complete yet.
    More,
    /// A whole header.
    Whole {
        /// The caller; `None` where the sender speaks for itself, or does not know.
        source: Option<SocketAddr>,
        /// Bytes of the header.
        length: usize,
    },
    /// No header, or one that breaks the rules.
    Wrong,
}

/// The longest header of version 1, with its CRLF.
const LONGEST_V1: usize = 107;
/// The longest header of version 2 that is taken: the addresses take 216 bytes
/// at most, the rest is for values that are skipped.
const LONGEST_V2: usize = 16 + 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header at the beginning of `bytes`.
pub fn read(bytes: &[u8]) -> Header {
    let begins = |with: &[u8]| with.starts_with(&bytes[..bytes.len().min(with.len())]);
    if begins(b"PROXY ") {
        read_v1(bytes)
    } else if begins(SIGNATURE) {
        read_v2(bytes)
    } else {
        Header::Wrong
    }
}

fn read_v1(bytes: &[u8]) -> Header {
    let looked = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = looked.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LONGEST_V1 { Header::More } else { Header::Wrong };
    };
    let line = std::str::from_utf8(&looked[..end]).unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words[..] {
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", family, source, destination, from, to] => v1_address(family, source, from)
            .filter(|_| v1_address(family, destination, to).is_some())
            .map(Some),
        _ => None,
    };
    source.map_or(Header::Wrong, |source| Header::Whole { source, length: end + 2 })
}

fn v1_address(family: &str, ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = match family {
        "TCP4" => ip.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => ip.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    Some(SocketAddr::new(ip, port.parse().ok().filter(|_| digits)?))
}

fn read_v2(bytes: &[u8]) -> Header {
    let Some((head, rest)) = bytes.split_at_checked(16) else { return Header::More };
    let (version, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if !matches!(version, 0x20 | 0x21) || 16 + length > LONGEST_V2 {
        return Header::Wrong;
    }
    if rest.len() < length {
        return Header::More;
    }
    let content = &rest[..length];
    let source = match (version, family) {
        (0x20, _) => Some(None),
        (_, 0x11) => v2_address::<4>(content).map(Some),
        (_, 0x21) => v2_address::<16>(content).map(Some),
        // Not known, or a socket of this machine: nothing to tell a caller by.
        (_, 0x00 | 0x31) => Some(None),
        _ => None,
    };
    source.map_or(Header::Wrong, |source| Header::Whole { source, length: 16 + length })
}

/// The source of a pair of addresses of `N` bytes, which two ports follow.
fn v2_address<const N: usize>(content: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let source: [u8; N] = content.get(..N)?.try_into().ok()?;
    let ports = content.get(2 * N..2 * N + 4)?;
    Some(SocketAddr::new(source.into(), u16::from_be_bytes([ports[0], ports[1]])))
}

/// The header that tells of a connection from the first to the second address;
/// without them, of one of our own.
pub fn write(version: ProxyProtocol, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = addresses else { return version.own_header().to_vec() };
    let (from, to) = (source.port(), destination.port());
    let (source, destination) = same_family(source.ip(), destination.ip());
    match version {
        ProxyProtocol::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
        }
        ProxyProtocol::V2 => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let (family, length) = if source.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
            let mut header = [&SIGNATURE[..], &[0x21, family, 0, length]].concat();
            header.extend(octets(source));
            header.extend(octets(destination));
            header.extend(from.to_be_bytes());
            header.extend(to.to_be_bytes());
            header
        }
    }
}

/// Both as IPv4 where they are, else both as IPv6.
fn same_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        ip @ IpAddr::V6(_) => ip,
    };
    match (a.to_canonical(), b.to_canonical()) {
        (a @ IpAddr::V4(_), b @ IpAddr::V4(_)) => (a, b),
        (a, b) => (wide(a), wide(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(source in address(), destination in address(), tail: Vec<u8>) {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let header = write(version, Some((source, destination)));
                prop_assert!(header.len() <= LONGEST_V1);
                for length in 0..header.len() {
                    prop_assert_eq!(read(&header[..length]), Header::More);
                }
                let all = [&header[..], &tail].concat();
                let Header::Whole { source: Some(read), length } = read(&all) else {
                    return Err(TestCaseError::fail(format!("{all:?}")));
                };
                prop_assert_eq!(length, header.len());
                prop_assert_eq!(read.ip().to_canonical(), source.ip().to_canonical());
                prop_assert_eq!(read.port(), source.port());
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = read(&[b"PROXY ", &bytes[..]].concat());
            let v2 = read(&[&SIGNATURE[..], &bytes].concat());
            if let Header::Whole { length, .. } = v2 {
                prop_assert!(length <= LONGEST_V2 && length <= 12 + bytes.len());
            }
        }

        #[test]
        fn a_changed_header_never_panics(at in 0_usize..60, value: u8, source in address()) {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let mut header = write(version, Some((source, source)));
                let at = at % header.len();
                header[at] = value;
                let _ = read(&header);
            }
        }
    }

    #[test]
    fn headers_of_no_caller_are_taken() {
        let whole = |bytes: &[u8]| Header::Whole { source: None, length: bytes.len() };
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let header = write(version, None);
            assert_eq!(read(&header), whole(&header));
        }
        let long = b"PROXY UNKNOWN ffff:f::ffff ffff:f::ffff 65535 65535\r\n";
        assert_eq!(read(long), whole(long));
        let unspecified = [&SIGNATURE[..], &[0x21, 0, 0, 3, 1, 2, 3]].concat();
        assert_eq!(read(&unspecified), whole(&unspecified));
        let unix = [&SIGNATURE[..], &[0x21, 0x31, 0, 216], &[0; 216]].concat();
        assert_eq!(read(&unix), whole(&unix));
    }

    #[test]
    fn values_after_the_addresses_are_skipped() {
        let addresses = [1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 0];
        let header = [&SIGNATURE[..], &[0x21, 0x11, 0, 17], &addresses, &[4, 0, 2, 9, 9]].concat();
        let source = Some("1.2.3.4:80".parse().unwrap());
        assert_eq!(read(&header), Header::Whole { source, length: header.len() });
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for wrong in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80 90 \r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 080 90\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 +80 90\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80 65536\r\n",
            b"PROXY TCP4 ::1 ::1 80 90\r\n",
            b"PROXY TCP6 1.2.3.4 5.6.7.8 80 90\r\n",
            b"PROXY  TCP4 1.2.3.4 5.6.7.8 80 90\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 80 90\r\n",
            b"proxy TCP4 1.2.3.4 5.6.7.8 80 90\r\n",
        ] {
            assert_eq!(read(wrong), Header::Wrong, "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(read(&[b"PROXY TCP4 ", &[b'1'; 200][..]].concat()), Header::Wrong);
        for (version, family, length) in
            [(0x11, 0x11, 12), (0x22, 0x11, 12), (0x21, 0x12, 12), (0x21, 0x11, 11)]
        {
            let header = [&SIGNATURE[..], &[version, family, 0, length], &[0; 12]].concat();
            assert_eq!(read(&header), Header::Wrong, "{version:#x} {family:#x} {length}");
        }
        assert_eq!(read(&[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat()), Header::Wrong);
    }
}
