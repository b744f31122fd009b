//! From options to rules: no tool and no kernel is asked here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Where names are asked for: never captured unless it is named.
const DNS: u16 = 53;

/// What is to be captured, and where it is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Calls that the service makes; `None` leaves them alone.
    pub outbound: Option<Outbound>,
    /// Calls to the service; `None` leaves them alone.
    pub inbound: Option<Inbound>,
}

/// What is captured of the calls that the service makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The sidecar's port.
    pub to: u16,
    /// Users whose traffic is left alone: the sidecar's.
    pub skip_uids: Vec<u32>,
    /// Groups whose traffic is left alone.
    pub skip_gids: Vec<u32>,
    /// Destinations' ports that are left alone.
    pub skip_ports: Vec<Ports>,
    /// Destinations that are left alone.
    pub skip_ranges: Vec<Cidr>,
    /// If there are any, nothing but these ports.
    pub only_ports: Vec<Ports>,
    /// If there are any, nothing but these destinations.
    pub only_ranges: Vec<Cidr>,
    /// The sidecar's own calls to the service's port on this machine's address
    /// go to its inbound port, as those of other machines do.
    pub own_service: Option<OwnService>,
}

/// The service behind the sidecar, as far as the rules must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnService {
    /// Its port.
    pub port: u16,
    /// The sidecar's inbound port.
    pub to: u16,
}

/// What is captured of the calls to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The sidecar's port.
    pub to: u16,
    /// Ports that are left alone; those of the sidecar are among them.
    pub skip_ports: Vec<Ports>,
    /// If there are any, nothing but these ports.
    pub only_ports: Vec<Ports>,
}

/// A port, or all from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub RangeInclusive<u16>);

/// Addresses with the same beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    bits: u8,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a packet must be for a rule to hold; all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It goes to an address of this machine.
    ToLoopbackDevice,
    /// It does not go to 127.0.0.0/8 or ::1.
    NotToLoopback,
    /// It goes there.
    To(Cidr),
    /// It goes to one of these ports.
    Port(Ports),
    /// A process of this user sends it.
    Uid(u32),
    /// A process of this group sends it.
    Gid(u32),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is left alone.
    Leave,
    /// It goes to this port of the sidecar.
    Redirect(u16),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// When it holds.
    pub when: Vec<Match>,
    /// What it does.
    pub action: Action,
}

/// The rules of one family, each list in the order in which it is asked. Only
/// the first packet of a TCP connection comes to them, and to `inbound` only
/// what goes to this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For what this machine sends.
    pub output: Option<Vec<Rule>>,
    /// For what comes to this machine.
    pub inbound: Option<Vec<Rule>>,
}

impl Plan {
    /// The rules for one family.
    pub fn rules(&self, family: Family) -> Rules {
        Rules {
            output: self.outbound.as_ref().map(|outbound| outbound.rules(family)),
            inbound: self.inbound.as_ref().map(Inbound::rules),
        }
    }
}

impl Outbound {
    fn rules(&self, family: Family) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(own) = self.own_service {
            rules.extend(self.skip_uids.iter().map(|uid| Rule {
                when: vec![
                    Match::NotToLoopback,
                    Match::ToLoopbackDevice,
                    Match::Port(Ports(own.port..=own.port)),
                    Match::Uid(*uid),
                ],
                action: Action::Redirect(own.to),
            }));
        }
        let mut leave = |what: Match| rules.push(Rule { when: vec![what], action: Action::Leave });
        leave(Match::ToLoopbackDevice);
        self.skip_uids.iter().for_each(|uid| leave(Match::Uid(*uid)));
        self.skip_gids.iter().for_each(|gid| leave(Match::Gid(*gid)));
        if !names_dns(&self.only_ports) {
            leave(Match::Port(Ports(DNS..=DNS)));
        }
        self.skip_ports.iter().for_each(|ports| leave(Match::Port(ports.clone())));
        let of_family = |ranges: &[Cidr]| -> Vec<Cidr> {
            ranges.iter().filter(|range| range.family() == family).copied().collect()
        };
        of_family(&self.skip_ranges).into_iter().for_each(|range| leave(Match::To(range)));
        // Nothing but ranges of the other family: nothing of this one.
        let ranges = of_family(&self.only_ranges);
        if ranges.is_empty() == self.only_ranges.is_empty() {
            let ranges = any_or(&ranges, |range| Match::To(*range));
            let ports = any_or(&self.only_ports, |ports| Match::Port(ports.clone()));
            for range in &ranges {
                for port in &ports {
                    let when = range.iter().chain(port).cloned().collect();
                    rules.push(Rule { when, action: Action::Redirect(self.to) });
                }
            }
        }
        rules
    }
}

impl Inbound {
    fn rules(&self) -> Vec<Rule> {
        let leave = |ports: &Ports| Rule { when: vec![Match::Port(ports.clone())], action: Action::Leave };
        let redirect = |port: Option<Match>| Rule {
            when: port.into_iter().collect(),
            action: Action::Redirect(self.to),
        };
        let ports = any_or(&self.only_ports, |ports| Match::Port(ports.clone()));
        let dns = (!names_dns(&self.only_ports)).then_some(&Ports(DNS..=DNS)).map(leave);
        dns.into_iter()
            .chain(self.skip_ports.iter().map(leave))
            .chain(ports.into_iter().map(redirect))
            .collect()
    }
}

/// Whether port 53 is asked for by name.
fn names_dns(only: &[Ports]) -> bool {
    only.iter().any(|ports| ports.0.contains(&DNS))
}

/// A condition for each, or where there is none no condition.
fn any_or<T>(list: &[T], condition: impl Fn(&T) -> Match) -> Vec<Option<Match>> {
    if list.is_empty() { vec![None] } else { list.iter().map(|item| Some(condition(item))).collect() }
}

impl Cidr {
    /// Its family.
    pub fn family(&self) -> Family {
        match self.ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The only address of it, if it has only one.
    pub fn single(&self) -> Option<IpAddr> {
        (self.bits == longest(self.ip)).then_some(self.ip)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

fn longest(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// `ip` without what stands behind its first `bits`.
fn network(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(ip) => {
            Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range: write it like `10.0.0.0/8`, `10.1.2.3` or `fd00::/8`");
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let bits = match bits {
            None => longest(ip),
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= longest(ip)).ok_or_else(wrong)?,
        };
        match network(ip, bits) {
            _ if bits == 0 => Err(format!("`{text}` is every address: use --no-outbound")),
            begin if begin != ip => Err(format!("`{text}` begins in its middle: write `{begin}/{bits}`")),
            _ => Ok(Self { ip, bits }),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no port: write it like `5432` or `5000-5010`");
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("`{text}` is empty: write `{last}-{first}`"));
        }
        Ok(Self(first..=last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_ports_are_read() {
        for (text, shown) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32"), ("fd00::/8", "fd00::/8")]
        {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), shown);
        }
        for (text, part) in [
            ("10.0.0.1/8", "write `10.0.0.0/8`"),
            ("fd00::1/64", "write `fd00::/64`"),
            ("0.0.0.0/0", "--no-outbound"),
            ("::/0", "--no-outbound"),
            ("10.0.0.0/33", "no range"),
            ("10.0.0.0/x", "no range"),
            ("users", "no range"),
            ("", "no range"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!("5432".parse::<Ports>().unwrap(), Ports(5432..=5432));
        assert_eq!("5000-5010".parse::<Ports>().unwrap(), Ports(5000..=5010));
        assert_eq!("5000:5010".parse::<Ports>().unwrap(), Ports(5000..=5010));
        for text in ["0", "", "-", "70000", "5-", "9-5", "a"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }
}
