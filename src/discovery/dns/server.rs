//! A DNS server for tests, whose answers can be changed while it runs.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// What the server says of one name and type.
#[derive(Clone)]
pub(in crate::discovery) enum Reply {
    Records(Vec<Record>),
    /// NXDOMAIN with a negative TTL.
    NoSuchName(u32),
    /// The name exists, without such a record.
    NoData,
    ServFail,
    Silence,
    /// Truncated over UDP, whole over TCP.
    Large(Vec<Record>),
}

/// Answers on the same port over UDP and TCP until it is dropped.
pub(in crate::discovery) struct Server {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Zone {
    replies: HashMap<(String, RecordType), Reply>,
    /// Name, type and whether over TCP.
    asked: Vec<(String, RecordType, bool)>,
}

impl Server {
    pub(in crate::discovery) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The same port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, zone) = (udp.local_addr().unwrap(), Arc::<Mutex<Zone>>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, zone.clone()));
        tasks.spawn(serve_tcp(tcp, zone.clone()));
        Self { address, zone, _tasks: tasks }
    }

    /// Changes what is said of `name`, a full name with its last dot.
    pub(in crate::discovery) fn set(&self, name: &str, kind: RecordType, reply: Reply) {
        self.zone.lock().unwrap().replies.insert((name.to_owned(), kind), reply);
    }

    /// Changes the addresses of `name`; A and AAAA that are not given are there no more.
    pub(in crate::discovery) fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).partition(IpAddr::is_ipv4);
        for (kind, all) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
            let records: Vec<_> = all.into_iter().map(|ip| record(name, ttl, ip.into())).collect();
            self.set(name, kind, if records.is_empty() { Reply::NoData } else { Reply::Records(records) });
        }
    }

    /// Says the same of every kind of address of `name`.
    pub(in crate::discovery) fn both(&self, name: &str, reply: &Reply) {
        self.set(name, RecordType::A, reply.clone());
        self.set(name, RecordType::AAAA, reply.clone());
    }

    /// How often `name` was asked for.
    pub(in crate::discovery) fn times(&self, name: &str, kind: RecordType) -> usize {
        let zone = self.zone.lock().unwrap();
        zone.asked.iter().filter(|(asked, of, _)| asked == name && *of == kind).count()
    }

    /// Every name that was asked for, in turn and without repetition.
    pub(in crate::discovery) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.zone.lock().unwrap().asked.iter().map(|asked| asked.0.clone()).collect();
        names.dedup();
        names
    }

    /// Whether a question came over TCP.
    pub(in crate::discovery) fn used_tcp(&self) -> bool {
        self.zone.lock().unwrap().asked.iter().any(|(_, _, tcp)| *tcp)
    }
}

pub(in crate::discovery) fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

pub(in crate::discovery) fn srv(
    name: &str,
    ttl: u32,
    priority: u16,
    weight: u16,
    port: u16,
    target: &str,
) -> Record {
    record(name, ttl, RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())))
}

pub(in crate::discovery) fn cname(name: &str, ttl: u32, target: &str) -> Record {
    record(name, ttl, RData::CNAME(CNAME(Name::from_ascii(target).unwrap())))
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = answer(&buffer[..length], &zone, false) {
            socket.send_to(&reply, peer).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let zone = zone.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; length.into()];
                stream.read_exact(&mut question).await.unwrap();
                if let Some(reply) = answer(&question, &zone, true) {
                    stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            }
        });
    }
}

fn answer(question: &[u8], zone: &Mutex<Zone>, tcp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let name = query.name().to_ascii().to_ascii_lowercase();
    let mut zone = zone.lock().unwrap();
    zone.asked.push((name.clone(), query.query_type(), tcp));
    let reply = zone.replies.get(&(name, query.query_type())).cloned();
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(query);
    match reply.unwrap_or(Reply::NoSuchName(1)) {
        Reply::Records(records) => {
            message.add_answers(records);
        }
        Reply::Large(records) if tcp => {
            message.add_answers(records);
        }
        Reply::Large(_) => message.metadata.truncation = true,
        Reply::NoSuchName(ttl) => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(soa(ttl));
        }
        Reply::NoData => {
            message.add_authority(soa(1));
        }
        Reply::ServFail => message.metadata.response_code = ResponseCode::ServFail,
        Reply::Silence => return None,
    }
    Some(message.to_vec().unwrap())
}

fn soa(ttl: u32) -> Record {
    let root = Name::from_ascii("test.").unwrap();
    let seconds = i32::try_from(ttl).unwrap();
    record("test.", ttl, RData::SOA(SOA::new(root.clone(), root, 1, seconds, seconds, seconds, ttl)))
}
