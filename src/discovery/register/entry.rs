//! What is entered: the service under its sidecar's address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};

use crate::base::Protocol;
use crate::clients::consul::{Address, Check, Locality, Probe, Registered, Service, Status, Target};
use crate::config::Model;
use crate::config::model::{self, HealthQuestion, Register};
use crate::discovery::fronted::{FOR, FOR_IDS, is_sidecar};

/// For one name to be looked up.
const LOOK_UP: Duration = Duration::from_secs(1);
/// The longest value of metadata, as in Consul.
const VALUE: usize = 512;
/// For one question of the agent, and from one to the next, where
/// `service.health` does not say.
const HEALTH: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// Where the agent is, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Whether it runs on this machine.
    pub local: bool,
    /// The address from which it is reached, where it runs elsewhere.
    pub from: Option<IpAddr>,
}

/// Looks where the agent is. Nothing is sent.
pub(super) async fn place(agent: &Address) -> Result<Place, String> {
    let Some((host, port)) = agent.target() else { return Ok(Place { local: true, from: None }) };
    let failed = |why: &dyn std::fmt::Display| format!("{host}: {why}");
    let found = tokio::time::timeout(LOOK_UP, lookup_host((host, port))).await;
    let mut found = found.map_err(|_| failed(&"not looked up in time"))?.map_err(|error| failed(&error))?;
    let to = found.next().ok_or_else(|| failed(&"no address"))?;
    let any = if to.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) };
    let socket = UdpSocket::bind(any).await.map_err(|error| failed(&error))?;
    socket.connect(to).await.map_err(|error| failed(&error))?;
    let from = socket.local_addr().map_err(|error| failed(&error))?.ip();
    let local = to.ip().is_loopback() || from == to.ip();
    Ok(Place { local, from: (!local).then_some(from) })
}

/// The ids of entries of the agent that are the service itself, past its
/// sidecar.
pub(super) async fn plain(model: &Model, place: Place, all: &BTreeMap<String, Registered>) -> Vec<String> {
    let mut ids = Vec::new();
    let Some(listens) = model.service.address else { return ids };
    for (id, entry) in all {
        let ours = entry.name.eq_ignore_ascii_case(model.service.name.as_str())
            && entry.port == listens.port()
            && !is_sidecar(&entry.meta)
            && !id.contains('\n');
        if ours && is_here(&entry.address, place).await {
            ids.push(id.clone());
        }
    }
    ids
}

/// Whether an entry with this address is on this machine. Loopback may be that
/// of another container that shares the agent.
async fn is_here(address: &str, place: Place) -> bool {
    if address.is_empty() {
        return place.local;
    }
    let ip = match address.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => match tokio::time::timeout(LOOK_UP, lookup_host((address, 0))).await {
            Ok(Ok(mut found)) => match found.next() {
                Some(found) => found.ip(),
                None => return false,
            },
            _ => return false,
        },
    };
    match ip.is_loopback() || ip.is_unspecified() {
        true => place.local,
        false => UdpSocket::bind((ip, 0)).await.is_ok(),
    }
}

/// The entry, with `status` until its check says more.
pub(super) fn entry(
    model: &Model,
    register: &Register,
    inbound: SocketAddr,
    place: Place,
    plain: &[String],
    status: Status,
) -> Option<Service> {
    let listens = model.service.address?;
    let name = model.service.name.as_str();
    let reach = register.address.as_ref();
    let address = match reach {
        Some(reach) => reach.host.to_string(),
        None if !inbound.ip().is_unspecified() => inbound.ip().to_string(),
        // The node's own.
        None => place.from.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let port = reach.and_then(|reach| reach.port).unwrap_or(inbound.port());
    // The same after a crash and a restart, also where the port of `inbound` is
    // any free one; another one for each container that shares the agent.
    let fixed =
        reach.and_then(|reach| reach.port).or(Some(model.listen.inbound.port()).filter(|port| *port > 0));
    let dash = if address.is_empty() { "" } else { "-" };
    let id = format!("{name}-pillion{dash}{address}-{}", fixed.unwrap_or(listens.port()));
    let locality = &model.service.locality;
    let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let known = locality.region.is_some() || locality.zone.is_some();
    Some(Service {
        name: name.to_owned(),
        port,
        tags: model.service.tags.iter().map(ToString::to_string).collect(),
        meta: meta(model, register, listens, plain),
        weights: Some((register.weight, register.weight)),
        checks: vec![Check {
            id: check_id(&id),
            name: "the service, as its sidecar finds it".to_owned(),
            probe: probe(model, register, inbound, place, (&address, port)),
            status,
            deregister_after: Some(register.deregister_after),
        }],
        locality: known.then(|| Locality { region: text(&locality.region), zone: text(&locality.zone) }),
        id,
        address,
    })
}

/// The id of the check of the entry with this id.
pub(super) fn check_id(id: &str) -> String {
    format!("{id}-health")
}

/// The same entry, sick until its sidecar says otherwise.
pub(super) fn hidden(mut entry: Service, why: &str) -> Service {
    for check in &mut entry.checks {
        check.probe = Probe::Ttl(Duration::from_secs(60));
        check.status = Status::Critical;
        check.name = why.to_owned();
    }
    entry
}

fn meta(
    model: &Model,
    register: &Register,
    listens: SocketAddr,
    plain: &[String],
) -> BTreeMap<String, String> {
    let mut meta: BTreeMap<String, String> =
        register.metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut add = |key: &str, value: &str| _ = meta.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    add(FOR, &listens.to_string());
    let mut ids = String::new();
    for id in plain {
        if ids.len() + id.len() < VALUE {
            ids += if ids.is_empty() { "" } else { "\n" };
            ids += id;
        }
    }
    if !ids.is_empty() {
        add(FOR_IDS, &ids);
    }
    if model.service.protocol != Protocol::Auto {
        add("protocol", model.service.protocol.as_str());
    }
    for (key, value) in [("region", &model.service.locality.region), ("zone", &model.service.locality.zone)] {
        if let Some(value) = value {
            add(key, value);
        }
    }
    meta
}

fn probe(
    model: &Model,
    register: &Register,
    inbound: SocketAddr,
    place: Place,
    (address, port): (&str, u16),
) -> Probe {
    // The agent comes in where callers do, or by loopback where it can.
    let target = match place.local && register.address.is_none() {
        true if inbound.ip().is_unspecified() && inbound.is_ipv6() => format!("[::1]:{port}"),
        true if inbound.ip().is_unspecified() => format!("127.0.0.1:{port}"),
        true => inbound.to_string(),
        false if address.contains(':') => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let health = model.service.health.as_ref();
    let target = match (register.check, health.map(|health| &health.question)) {
        (model::Check::Http, Some(HealthQuestion::Path(path))) => {
            Target::Http(format!("http://{target}{path}"))
        }
        (model::Check::Grpc, Some(HealthQuestion::Grpc(name))) if name.is_empty() => Target::Grpc(target),
        (model::Check::Grpc, Some(HealthQuestion::Grpc(name))) => Target::Grpc(format!("{target}/{name}")),
        (model::Check::Ttl(ttl), _) => return Probe::Ttl(ttl),
        // Refused by the configuration.
        _ => Target::Tcp(target),
    };
    let (interval, timeout) = health.map_or(HEALTH, |health| (health.interval, health.timeout));
    Probe::Asked { target, interval, timeout }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Health, Reach};

    const HERE: Place = Place { local: true, from: None };

    fn elsewhere() -> Place {
        Place { local: false, from: Some(([10, 0, 0, 5], 0).into()).map(|at: SocketAddr| at.ip()) }
    }

    fn model(inbound: u16, question: Option<HealthQuestion>) -> Model {
        let mut model = Model::minimal("users");
        model.service.address = Some(([127, 0, 0, 1], 8080).into());
        model.listen.inbound = ([0, 0, 0, 0], inbound).into();
        let (interval, timeout) = (Duration::from_secs(7), Duration::from_secs(2));
        model.service.health = question.map(|question| Health { question, interval, timeout });
        model
    }

    fn made(model: &Model, register: &Register, inbound: &str, place: Place) -> Service {
        entry(model, register, inbound.parse().unwrap(), place, &[], Status::Passing).unwrap()
    }

    #[test]
    fn the_address_is_one_that_callers_reach() {
        let named = |port| Register {
            address: Some(Reach { host: "users.example".into(), port }),
            ..Register::default()
        };
        for (register, inbound, place, address, port, id) in [
            (Register::default(), "0.0.0.0:8702", HERE, "", 8702, "users-pillion-8702"),
            (Register::default(), "[::]:8702", elsewhere(), "10.0.0.5", 8702, "users-pillion-10.0.0.5-8702"),
            (Register::default(), "10.1.1.1:8702", HERE, "10.1.1.1", 8702, "users-pillion-10.1.1.1-8702"),
            (named(None), "0.0.0.0:8702", HERE, "users.example", 8702, "users-pillion-users.example-8702"),
            (
                named(Some(9)),
                "0.0.0.0:8702",
                elsewhere(),
                "users.example",
                9,
                "users-pillion-users.example-9",
            ),
        ] {
            let made = made(&model(8702, None), &register, inbound, place);
            assert_eq!((&*made.address, made.port, &*made.id), (address, port, id));
        }
        // Any free port is another one after a restart; the service's is not.
        let made = made(&model(0, None), &Register::default(), "127.0.0.1:34567", HERE);
        assert_eq!((made.port, &*made.id), (34567, "users-pillion-127.0.0.1-8080"));
    }

    #[test]
    fn the_agent_asks_where_it_can() {
        let path = || Some(HealthQuestion::Path("/health".into()));
        let grpc = |name: &str| Some(HealthQuestion::Grpc(name.into()));
        let asks = |check| Register { check, ..Register::default() };
        for (check, question, inbound, place, target) in [
            (model::Check::Http, path(), "0.0.0.0:1", HERE, Target::Http("http://127.0.0.1:1/health".into())),
            (model::Check::Http, path(), "[::]:1", HERE, Target::Http("http://[::1]:1/health".into())),
            (
                model::Check::Http,
                path(),
                "[::]:1",
                elsewhere(),
                Target::Http("http://10.0.0.5:1/health".into()),
            ),
            (model::Check::Grpc, grpc(""), "127.0.0.7:1", HERE, Target::Grpc("127.0.0.7:1".into())),
            (
                model::Check::Grpc,
                grpc("a.B"),
                "[fd00::1]:1",
                elsewhere(),
                Target::Grpc("[fd00::1]:1/a.B".into()),
            ),
        ] {
            let made = made(&model(1, question), &asks(check), inbound, place);
            let (interval, timeout) = (Duration::from_secs(7), Duration::from_secs(2));
            assert_eq!(made.checks[0].probe, Probe::Asked { target, interval, timeout });
            assert_eq!(made.checks[0].deregister_after, Some(Duration::from_secs(600)));
        }
        let told = made(&model(1, path()), &Register::default(), "0.0.0.0:1", HERE);
        assert_eq!(told.checks[0].probe, Probe::Ttl(Duration::from_secs(15)));
        let hidden = hidden(told, "why");
        assert_eq!((hidden.checks[0].status, &*hidden.checks[0].name), (Status::Critical, "why"));
    }

    #[test]
    fn a_service_that_takes_no_calls_is_not_entered() {
        let model = Model::minimal("users");
        let inbound = ([127, 0, 0, 1], 1).into();
        assert_eq!(entry(&model, &Register::default(), inbound, HERE, &[], Status::Passing), None);
    }

    #[tokio::test]
    async fn only_what_is_surely_the_service_itself_counts() {
        let entry = |name: &str, address: &str, port: u16, sidecar: bool| {
            let meta = sidecar.then(|| (FOR.to_owned(), "x".to_owned()));
            Registered {
                name: name.into(),
                address: address.into(),
                port,
                meta: meta.into_iter().collect(),
                ..Registered::default()
            }
        };
        let all = [
            ("no address", entry("users", "", 8080, false)),
            ("loopback", entry("Users", "127.0.0.9", 8080, false)),
            ("localhost", entry("users", "localhost", 8080, false)),
            ("elsewhere", entry("users", "192.0.2.1", 8080, false)),
            ("another port", entry("users", "127.0.0.1", 8081, false)),
            ("another name", entry("orders", "127.0.0.1", 8080, false)),
            ("a sidecar", entry("users", "127.0.0.1", 8080, true)),
            ("two\nlines", entry("users", "127.0.0.1", 8080, false)),
        ];
        let all: BTreeMap<String, Registered> =
            all.into_iter().map(|(id, entry)| (id.to_owned(), entry)).collect();
        let model = model(1, None);
        assert_eq!(plain(&model, HERE, &all).await, ["localhost", "loopback", "no address"]);
        assert!(
            plain(&model, elsewhere(), &all).await.is_empty(),
            "loopback of an agent elsewhere is not ours"
        );
        let ids = plain(&model, HERE, &all).await;
        let inbound = ([127, 0, 0, 1], 1).into();
        let made = super::entry(&model, &Register::default(), inbound, HERE, &ids, Status::Passing).unwrap();
        assert_eq!(made.meta[FOR_IDS], "localhost\nloopback\nno address");
        assert_eq!(made.meta[FOR], "127.0.0.1:8080");
    }

    #[tokio::test]
    async fn the_agent_is_on_this_machine_or_not() {
        for address in ["http://127.0.0.1:8500", "unix:///run/consul.sock", "[::1]:1", "localhost:8500"] {
            assert_eq!(place(&address.parse().unwrap()).await, Ok(HERE), "{address}");
        }
        // No such machine is asked: a route to it is enough.
        if let Ok(found) = place(&"192.0.2.1:8500".parse().unwrap()).await {
            assert!(!found.local && found.from.is_some_and(|from| !from.is_loopback()), "{found:?}");
        }
    }
}
