//! DNS as a source: A and AAAA together, SRV for names that ask for it,
//! followed by TTL.
//!
//! Unknown (NXDOMAIN), empty (the name exists without such a record) and failed
//! (SERVFAIL, a timeout, no server) are told apart over the whole search list:
//! if one candidate failed and no other has an address, the answer is a failure.

mod system;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::system::{Files, Shared, System};
use super::answer::Answer;
use super::source::{Outlet, jittered, pause_after_failures};
use crate::base::{Endpoint, UpstreamName};
use crate::config::model::Dns;

/// A name that does not exist is asked for again after this at the latest.
const NEGATIVE: Duration = Duration::from_secs(5);
/// From one name that is not known to the next that is asked for again.
const AGAIN: Duration = Duration::from_millis(20);
/// No answer is asked for again sooner than this.
const LEAST: Duration = Duration::from_millis(100);
/// What the hosts file says is looked at again after this.
const HOSTS: Duration = Duration::from_secs(5);
/// Questions at one time; each takes a socket.
const QUESTIONS: usize = 64;
/// Targets of one SRV answer that are resolved.
const TARGETS: usize = 256;

/// The `dns` source, and what `static` uses for hosts that are names.
pub(super) struct Resolver {
    dns: Dns,
    files: Files,
    system: Mutex<Option<Shared>>,
    questions: Semaphore,
    /// When the next name that is not known may be asked for again.
    turn: Mutex<Instant>,
}

/// What DNS says of a name, and how long that holds.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup<T> {
    /// What was asked for.
    Found(T, Duration),
    /// The name exists and has no such record.
    Empty(Duration),
    /// There is no such name.
    Unknown(Duration),
    /// Nobody could say.
    Failed(Arc<str>),
}

impl Resolver {
    pub(super) fn new(dns: Dns) -> Self {
        Self::with_files(dns, Files::default())
    }

    fn with_files(dns: Dns, files: Files) -> Self {
        Self {
            dns,
            files,
            system: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
            turn: Mutex::new(Instant::now()),
        }
    }

    /// Tells the endpoints of `name` as often as their TTL says.
    pub(super) async fn follow(&self, name: &UpstreamName, outlet: &Outlet) {
        let mut failures = 0;
        loop {
            let lookup = if is_service(name.host()) {
                self.service(name.host()).await
            } else {
                let port = name.port().unwrap_or(self.dns.default_port);
                let endpoint = |ip| Endpoint::new(SocketAddr::new(ip, port));
                self.addresses(name.host()).await.map(|all| all.into_iter().map(endpoint).collect())
            };
            failures = if matches!(lookup, Lookup::Failed(_)) { failures + 1 } else { 0 };
            let (answer, pause) = match lookup {
                Lookup::Found(endpoints, ttl) => (Answer::found(endpoints), ttl),
                Lookup::Empty(ttl) => (Answer::Empty, ttl),
                Lookup::Unknown(ttl) => (Answer::Unknown, ttl),
                Lookup::Failed(why) => (Answer::Failed(why), pause_after_failures(failures)),
            };
            let unknown = answer == Answer::Unknown;
            if !outlet.tell(answer).await {
                return;
            }
            tokio::time::sleep(jittered(pause)).await;
            if unknown {
                tokio::time::sleep_until(self.turn()).await;
            }
        }
    }

    /// Names that are not known take turns, so that callers who make up names
    /// make no storm of questions.
    fn turn(&self) -> Instant {
        let mut next = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Instant::now().max(*next);
        *next = turn + AGAIN;
        turn
    }

    /// The IP addresses of `host`.
    pub(super) async fn addresses(&self, host: &str) -> Lookup<Vec<IpAddr>> {
        let Some(name) = host_name(host) else { return Lookup::Unknown(self.dns.max_ttl) };
        let system = self.system();
        let written = system.in_hosts_file(&name);
        if !written.is_empty() {
            return Lookup::Found(usable(written), self.bounded(HOSTS));
        }
        if name.is_localhost() {
            return Lookup::Found(vec![Ipv4Addr::LOCALHOST.into()], self.bounded(HOSTS));
        }
        let Some(client) = &system.client else { return no_server() };
        let mut search = Search::default();
        for candidate in system.candidates(&name) {
            let a = self.ask(client, candidate.clone(), RecordType::A, address);
            let aaaa = self.ask(client, candidate, RecordType::AAAA, address);
            let (a, aaaa) = tokio::join!(a, aaaa);
            if search.ends_with(a.beside(aaaa)) {
                break;
            }
        }
        search.best.map(usable)
    }

    /// The endpoints that the SRV records of `host` name: the targets of the
    /// best priority that has any.
    async fn service(&self, host: &str) -> Lookup<Vec<Endpoint>> {
        let Some(name) = host_name(host) else { return Lookup::Unknown(self.dns.max_ttl) };
        let system = self.system();
        let Some(client) = &system.client else { return no_server() };
        let mut search = Search::default();
        for candidate in system.candidates(&name) {
            if search.ends_with(self.ask(client, candidate, RecordType::SRV, service).await) {
                break;
            }
        }
        let (mut records, mut ttl) = match search.best {
            Lookup::Found(records, ttl) => (records, ttl),
            Lookup::Empty(ttl) => return Lookup::Empty(ttl),
            Lookup::Unknown(ttl) => return Lookup::Unknown(ttl),
            Lookup::Failed(why) => return Lookup::Failed(why),
        };
        // A single target of "." says that the service is decidedly not there.
        records.retain(|record| !record.target.is_root());
        records.sort_by_key(|record| (record.priority, u16::MAX - record.weight));
        records.truncate(TARGETS);
        let mut failed = None;
        for same in records.chunk_by(|a, b| a.priority == b.priority) {
            let targets: Vec<_> = same.iter().map(|record| self.target(record.target.clone())).collect();
            let mut endpoints = Vec::new();
            for (record, lookup) in same.iter().zip(join_all(targets).await) {
                match lookup {
                    Lookup::Found(addresses, one) => {
                        ttl = ttl.min(one);
                        let weight = u32::from(record.weight).clamp(1, 1000);
                        let endpoint =
                            |ip| Endpoint { weight, ..Endpoint::new(SocketAddr::new(ip, record.port)) };
                        endpoints.extend(addresses.into_iter().map(endpoint));
                    }
                    Lookup::Failed(why) => failed = Some(why),
                    Lookup::Empty(_) | Lookup::Unknown(_) => {}
                }
            }
            if !endpoints.is_empty() {
                return Lookup::Found(endpoints, ttl);
            }
        }
        failed.map_or(Lookup::Empty(ttl), Lookup::Failed)
    }

    async fn target(&self, mut target: Name) -> Lookup<Vec<IpAddr>> {
        target.set_fqdn(true);
        self.addresses(&target.to_ascii()).await
    }

    async fn ask<T>(
        &self,
        client: &TokioResolver,
        name: Name,
        kind: RecordType,
        read: impl Fn(&Record) -> Option<T>,
    ) -> Lookup<Vec<T>> {
        let Ok(_permit) = self.questions.acquire().await else { return Lookup::Failed("stopped".into()) };
        client.clear_cache();
        // Two attempts, and a little for hickory's own bookkeeping.
        let limit = self.dns.timeout * 2 + Duration::from_millis(250);
        let lookup = match tokio::time::timeout(limit, client.lookup(name, kind)).await {
            Ok(lookup) => lookup,
            Err(_) => Err(NetError::Timeout),
        };
        match lookup {
            Ok(lookup) => {
                let ttl =
                    lookup.answers().iter().map(|record| lifetime(record.ttl)).min().unwrap_or_default();
                let found: Vec<T> = lookup.answers().iter().filter_map(read).collect();
                let ttl = Duration::from_secs(ttl.into());
                if found.is_empty() {
                    Lookup::Empty(self.negative(ttl))
                } else {
                    Lookup::Found(found, self.bounded(ttl))
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let ttl = self.negative(Duration::from_secs(none.negative_ttl.unwrap_or_default().into()));
                match none.response_code {
                    ResponseCode::NXDomain => Lookup::Unknown(ttl),
                    _ => Lookup::Empty(ttl),
                }
            }
            Err(NetError::Timeout) => Lookup::Failed(TIMED_OUT.into()),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => {
                Lookup::Failed(format!("the server answered {code}").into())
            }
            Err(error) => Lookup::Failed(error.to_string().into()),
        }
    }

    fn system(&self) -> Shared {
        let mut held = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(system) if system.is_current(&self.files) => system.clone(),
            _ => held.insert(Arc::new(System::read(&self.files, &self.dns))).clone(),
        }
    }

    fn bounded(&self, ttl: Duration) -> Duration {
        ttl.min(self.dns.max_ttl).max(self.dns.min_ttl).max(LEAST)
    }

    fn negative(&self, ttl: Duration) -> Duration {
        self.bounded(ttl.min(NEGATIVE))
    }
}

const TIMED_OUT: &str = "no answer in time";

/// The full names that one name may stand for, asked one after the other.
struct Search<T> {
    /// What the names that were asked come to.
    best: Lookup<T>,
}

impl<T> Default for Search<T> {
    fn default() -> Self {
        Self { best: Lookup::Unknown(NEGATIVE) }
    }
}

impl<T> Search<T> {
    /// Takes the answer about the next name. Returns whether to stop.
    fn ends_with(&mut self, lookup: Lookup<T>) -> bool {
        let better = match (&lookup, &self.best) {
            (Lookup::Found(..) | Lookup::Failed(_), _) | (Lookup::Empty(_), Lookup::Unknown(_)) => true,
            (Lookup::Unknown(ttl), Lookup::Unknown(least)) => ttl < least,
            _ => false,
        };
        if better {
            self.best = lookup;
        }
        match &self.best {
            Lookup::Found(..) => true,
            // A server that is silent is silent for the next name as well.
            Lookup::Failed(why) => &**why == TIMED_OUT,
            _ => false,
        }
    }
}

fn no_server<T>() -> Lookup<T> {
    Lookup::Failed("no DNS server is known: /etc/resolv.conf names none".into())
}

impl<T> Lookup<Vec<T>> {
    /// Both answers as one: what either found, else the one that says less.
    fn beside(self, other: Self) -> Self {
        match (self, other) {
            (Self::Found(mut all, a), Self::Found(more, b)) => {
                all.extend(more);
                Self::Found(all, a.min(b))
            }
            (found @ Self::Found(..), _) | (_, found @ Self::Found(..)) => found,
            (failed @ Self::Failed(_), _) | (_, failed @ Self::Failed(_)) => failed,
            (Self::Unknown(a), Self::Unknown(b)) => Self::Unknown(a.min(b)),
            (Self::Empty(a) | Self::Unknown(a), Self::Empty(b) | Self::Unknown(b)) => Self::Empty(a.min(b)),
        }
    }
}

impl<T> Lookup<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(found, ttl) => Lookup::Found(change(found), ttl),
            Self::Empty(ttl) => Lookup::Empty(ttl),
            Self::Unknown(ttl) => Lookup::Unknown(ttl),
            Self::Failed(why) => Lookup::Failed(why),
        }
    }
}

/// What has the most significant bit set stands for no time at all (RFC 2181, 8).
fn lifetime(ttl: u32) -> u32 {
    if ttl > i32::MAX.cast_unsigned() { 0 } else { ttl }
}

fn address(record: &Record) -> Option<IpAddr> {
    record.data.ip_addr()
}

fn service(record: &Record) -> Option<SRV> {
    match &record.data {
        RData::SRV(service) => Some(service.clone()),
        _ => None,
    }
}

/// Whether `host` has the form `_service._proto.…` (RFC 2782).
fn is_service(host: &str) -> bool {
    let mut labels = host.split('.');
    labels.next().is_some_and(|label| label.starts_with('_'))
        && labels.next().is_some_and(|label| label.starts_with('_'))
}

/// `host` as a name that may be asked for; nothing else goes to a server.
fn host_name(host: &str) -> Option<Name> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if host.is_empty() || !host.bytes().all(plain) {
        return None;
    }
    Name::from_ascii(host).ok().filter(|name| !name.is_root())
}

/// Leaves out what a call could not reach: IPv6 where this machine has no route
/// for it, and `::1` beside 127.0.0.1, as most services listen on the latter.
fn usable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let loopback4 = addresses.iter().any(|ip| ip.is_ipv4() && ip.is_loopback());
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let keep = |ip: &IpAddr| v4.is_empty() || (has_route(*ip) && !(loopback4 && ip.is_loopback()));
    let v6: Vec<_> = v6.into_iter().filter(keep).collect();
    v4.into_iter().chain(v6).collect()
}

/// Connecting a datagram socket sends nothing; it only looks for a route.
pub(super) fn has_route(ip: IpAddr) -> bool {
    UdpSocket::bind("[::]:0").is_ok_and(|socket| socket.connect((ip, 9)).is_ok())
}

#[cfg(test)]
pub(super) mod server;
#[cfg(test)]
mod tests;
