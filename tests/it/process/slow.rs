//! Callers that take their time.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{echo_http1, everywhere, growth, settled};
use crate::support::bulk::Bulk;
use crate::support::{Client, get, process, until};

/// With the limits that a sidecar has when nobody says anything.
#[test]
fn three_hundred_callers_of_a_byte_in_3_s_are_cut_within_15_s() {
    const PAUSE: Duration = Duration::from_secs(3);
    const IN_TIME: Duration = Duration::from_secs(15);
    let backend = echo_http1();
    let sidecar =
        process("front").service(backend.address(), "auto").upstream("users", &[backend.address()]).start();
    let began = Instant::now();
    let mut slow: Vec<Slow> = Vec::new();
    for (address, _) in everywhere(&sidecar) {
        // One half writes the head of HTTP/1, the other that of HTTP/2.
        slow.extend((0..300).map(|number| Slow::connect(address, number % 2 == 0)));
    }
    let (mut first_cut, mut served, mut longest) = (None, 0, Duration::ZERO);
    for byte in 0.. {
        slow.iter_mut().for_each(|one| one.write(byte));
        let due = PAUSE * (byte + 1);
        while !slow.is_empty() && began.elapsed() < due {
            for (address, host) in everywhere(&sidecar) {
                let asked = Instant::now();
                assert_eq!(get(address, host, "/other").text(), "/other");
                (longest, served) = (longest.max(asked.elapsed()), served + 1);
            }
            slow.retain_mut(|one| !one.is_cut());
            if slow.len() < 600 {
                first_cut.get_or_insert(began.elapsed());
            }
            assert!(began.elapsed() < IN_TIME, "{} are not cut: {:?}", slow.len(), which(&slow));
        }
        if slow.is_empty() {
            break;
        }
    }
    println!("cut after {first_cut:?} to {:?}; {served} others, the slowest {longest:?}", began.elapsed());
    assert!(first_cut.is_some_and(|after| after > Duration::from_secs(9)), "cut before the time");
    assert!(served > 50 && longest < Duration::from_secs(2), "{served} others, the slowest {longest:?}");
    until("they are counted", || {
        sidecar.metrics().get("pillion_limited_total", &[("limit", "header_timeout")]) == 600.0
    });
}

/// Listeners and protocols that are left.
fn which(slow: &[Slow]) -> BTreeSet<String> {
    slow.iter().map(|one| format!("{:?} {}", one.stream.peer_addr(), one.head[0] == b'G')).collect()
}

struct Slow {
    stream: TcpStream,
    head: &'static [u8],
}

impl Slow {
    fn connect(address: SocketAddr, http1: bool) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let head: &[u8] = if http1 { b"GET / HTTP/1.1\r\n" } else { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" };
        Self { stream, head }
    }

    fn write(&mut self, byte: u32) {
        // It may have been cut a moment ago; the next look tells.
        let _ = self.stream.write(&self.head[byte as usize..][..1]);
    }

    fn is_cut(&mut self) -> bool {
        let mut block = [0; 2048];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

#[test]
fn fifty_slow_readers_of_large_answers_hold_little() {
    const COUNT: u64 = 50;
    let backend = Bulk::start();
    let sidecar =
        process("front").service(backend.address(), "http1").upstream("users", &[backend.address()]).start();
    for (address, host) in everywhere(&sidecar) {
        for _ in 0..4 {
            assert_eq!(get(address, host, "/1000000").body.len(), 1_000_000, "warm");
        }
        let (grown, clients) = growth(&[&sidecar], || {
            let clients: Vec<Client> = (0..COUNT)
                .map(|_| {
                    let mut client = Client::connect(address);
                    client.send(format!("GET /1073741824 HTTP/1.1\r\nHost: {host}\r\n\r\n"));
                    client
                })
                .collect();
            settled(|| backend.written());
            clients
        });
        let each = grown[0] / COUNT;
        println!("{host}: {each} bytes for each slow reader");
        assert!(each < 128 << 10, "{each} bytes for each of {COUNT} at {host}");
        drop(clients);
        until("the backend is quiet", || backend.open() <= 2);
    }
}
