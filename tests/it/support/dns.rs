//! A DNS server over UDP and TCP whose answers change while it runs, and which
//! lies in every way that it is told to.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::server::{Server, until};

/// How the server behaves to every question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As the records say.
    Honest,
    NoSuchName,
    NoData,
    ServFail,
    Refused,
    Silent,
    /// The answer comes after this time.
    Late(Duration),
    /// Everything over UDP is truncated and empty.
    Truncates,
    /// The same, and nobody listens for TCP.
    TruncatesForNobody,
    /// Another answer than the true one, with another id.
    WrongId,
    /// The same from another port.
    WrongPort,
    /// The same to another question.
    WrongName,
    /// The names of the answer are in other letters.
    OtherCase,
    /// The name is an alias of an alias of itself.
    Loop,
    Garbage,
}

/// Serves on one port until it is dropped.
pub struct Dns {
    pub at: SocketAddr,
    zone: Arc<Zone>,
    tcp: Option<Server>,
    udp: Option<JoinHandle<()>>,
}

struct Zone {
    mood: Mutex<Mood>,
    records: Mutex<HashMap<(String, RecordType), Vec<Record>>>,
    /// What an answer says that must not be believed.
    lie: Mutex<Option<IpAddr>>,
    asked: Mutex<Vec<(String, RecordType, bool)>>,
    over: AtomicBool,
}

pub fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

pub fn alias(name: &str, ttl: u32, target: &str) -> Record {
    record(name, ttl, RData::CNAME(CNAME(Name::from_ascii(target).unwrap())))
}

pub fn service(name: &str, ttl: u32, (priority, weight): (u16, u16), port: u16, target: &str) -> Record {
    record(name, ttl, RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())))
}

impl Dns {
    pub fn start() -> Self {
        let zone = Arc::new(Zone {
            mood: Mutex::new(Mood::Honest),
            records: Mutex::default(),
            lie: Mutex::default(),
            asked: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let mut dns = Self { at: ([127, 0, 0, 1], 0).into(), zone, tcp: None, udp: None };
        dns.rise();
        dns
    }

    /// Serves again after [`Dns::fall`], on the same port.
    pub fn rise(&mut self) {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind(self.at).ok()?;
                // The same port may be taken for TCP.
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .expect("a port for both");
        self.at = udp.local_addr().unwrap();
        self.zone.over.store(false, Ordering::SeqCst);
        let zone = self.zone.clone();
        self.tcp = Some(Server::on(tcp, move |_, stream| serve_tcp(&stream, &zone)));
        let zone = self.zone.clone();
        self.udp = Some(std::thread::spawn(move || serve_udp(&udp, &zone)));
    }

    /// Closes its sockets: questions are refused by the machine.
    pub fn fall(&mut self) {
        self.zone.over.store(true, Ordering::SeqCst);
        self.tcp.take();
        if let Some(udp) = self.udp.take() {
            let ended = udp.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the DNS server panicked");
        }
    }

    pub fn mood(&self, mood: Mood) {
        *self.zone.mood.lock().unwrap() = mood;
    }

    /// What false answers say.
    pub fn lie(&self, ip: &str) {
        *self.zone.lie.lock().unwrap() = Some(ip.parse().unwrap());
    }

    /// Changes the records of `name`, a full name with its last dot.
    pub fn set(&self, name: &str, kind: RecordType, records: Vec<Record>) {
        self.zone.records.lock().unwrap().insert((name.to_owned(), kind), records);
    }

    /// Changes the addresses of `name`.
    pub fn addresses(&self, name: &str, ttl: u32, ips: &[IpAddr]) {
        for (kind, v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
            let ours = ips.iter().filter(|ip| ip.is_ipv4() == v4);
            self.set(name, kind, ours.map(|ip| record(name, ttl, (*ip).into())).collect());
        }
    }

    /// How often `name` was asked for, with one type, and how often over TCP.
    pub fn asked(&self, name: &str, kind: RecordType) -> (usize, usize) {
        let asked = self.zone.asked.lock().unwrap();
        let all: Vec<_> = asked.iter().filter(|(n, k, _)| n == name && *k == kind).collect();
        (all.len(), all.iter().filter(|(_, _, tcp)| *tcp).count())
    }

    /// Questions of any kind.
    pub fn questions(&self) -> usize {
        self.zone.asked.lock().unwrap().len()
    }

    /// Waits for so many more questions.
    #[track_caller]
    pub fn more(&self, name: &str, count: usize) {
        let before = self.asked(name, RecordType::A).0;
        until("the DNS server is asked", || self.asked(name, RecordType::A).0 >= before + count);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.fall();
    }
}

fn serve_udp(socket: &UdpSocket, zone: &Arc<Zone>) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = [0; 4096];
    let mut late = Vec::new();
    while !zone.over.load(Ordering::SeqCst) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let Some(reply) = zone.answer(&buffer[..length], false) else { continue };
        // Who asked may have gone.
        match *zone.mood.lock().unwrap() {
            Mood::Late(time) => {
                let socket = socket.try_clone().unwrap();
                late.push(std::thread::spawn(move || {
                    std::thread::sleep(time);
                    let _ = socket.send_to(&reply, peer);
                }));
            }
            Mood::WrongPort => drop(other.send_to(&reply, peer)),
            _ => drop(socket.send_to(&reply, peer)),
        }
    }
    late.into_iter().for_each(|thread| thread.join().unwrap());
}

fn serve_tcp(mut stream: &TcpStream, zone: &Zone) {
    let mut length = [0; 2];
    while *zone.mood.lock().unwrap() != Mood::TruncatesForNobody && stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let Some(reply) = zone.answer(&question, true) else { return };
        let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
        if stream.write_all(&[&length[..], &reply].concat()).is_err() {
            return;
        }
    }
}

impl Zone {
    fn answer(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let (name, kind) = (query.name().to_ascii().to_ascii_lowercase(), query.query_type());
        self.asked.lock().unwrap().push((name.clone(), kind, tcp));
        let mood = *self.mood.lock().unwrap();
        let records = self.records.lock().unwrap().get(&(name.clone(), kind)).cloned();
        let mut message = Message::response(question.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        message.add_query(query);
        match mood {
            Mood::Silent => return None,
            Mood::Garbage => {
                return Some(question.metadata.id.to_be_bytes().into_iter().chain([0xff; 40]).collect());
            }
            Mood::ServFail => message.metadata.response_code = ResponseCode::ServFail,
            Mood::Refused => message.metadata.response_code = ResponseCode::Refused,
            Mood::NoSuchName => nothing(&mut message, ResponseCode::NXDomain),
            Mood::NoData => nothing(&mut message, ResponseCode::NoError),
            Mood::Truncates | Mood::TruncatesForNobody if !tcp => message.metadata.truncation = true,
            Mood::WrongId | Mood::WrongPort | Mood::WrongName => self.lie_in(&mut message, &name, kind, mood),
            Mood::Loop => {
                let other = format!("loop.{name}");
                message.add_answers([alias(&name, 0, &other), alias(&other, 0, &name)]);
            }
            Mood::OtherCase => {
                message.queries =
                    vec![Query::query(Name::from_ascii(name.to_ascii_uppercase()).unwrap(), kind)];
                for mut record in records.unwrap_or_default() {
                    record.name = Name::from_ascii(record.name.to_ascii().to_ascii_uppercase()).unwrap();
                    message.add_answer(record);
                }
            }
            _ => match records {
                Some(records) if !records.is_empty() => drop(message.add_answers(records)),
                Some(_) => nothing(&mut message, ResponseCode::NoError),
                None => nothing(&mut message, ResponseCode::NXDomain),
            },
        }
        Some(message.to_vec().unwrap())
    }

    /// An answer that looks well and must not be believed.
    fn lie_in(&self, message: &mut Message, name: &str, kind: RecordType, mood: Mood) {
        let lie = self.lie.lock().unwrap().expect("a lie to tell");
        let about = if mood == Mood::WrongName { "other.test." } else { name };
        if mood == Mood::WrongId {
            message.metadata.id = message.metadata.id.wrapping_add(1);
        }
        if mood == Mood::WrongName {
            message.queries = vec![Query::query(Name::from_ascii(about).unwrap(), kind)];
        }
        if kind == RecordType::A {
            message.add_answer(record(about, 60, lie.into()));
        }
    }
}

/// There is nothing, which holds for no time at all.
fn nothing(message: &mut Message, code: ResponseCode) {
    message.metadata.response_code = code;
    let root = Name::from_ascii("test.").unwrap();
    message.add_authority(record("test.", 0, RData::SOA(SOA::new(root.clone(), root, 1, 1, 1, 1, 0))));
}
