//! Servers that speak first: the greeting comes without a stall, also where
//! nobody says what is spoken.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Chain, free_port};
use crate::support::Server;

/// The first packet of MySQL's protocol, version 10.
const MYSQL: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0aaaaaaaa\0\xff\xf7\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0bbbbbbbbbbbb\0caching_sha2_password\0";
const SMTP: &[u8] = b"220 mail.example ESMTP ready\r\n";

/// How long until the greeting has come, then an answer to a first word.
fn greeted(at: SocketAddr, greeting: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut got = vec![0; greeting.len()];
    stream.read_exact(&mut got).unwrap();
    let took = begun.elapsed();
    assert_eq!(got, greeting);
    stream.write_all(b"hello\r\n").unwrap();
    let mut back = [0; 7];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello\r\n");
    took
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    for (protocol, greeting) in [("mysql", MYSQL), ("smtp", SMTP)] {
        let server = Server::start(move |_, mut stream| {
            stream.write_all(greeting).unwrap();
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                stream.write_all(&bytes[..count]).unwrap();
            }
        });
        let straight = best(server.address(), greeting);
        for named in [protocol, "auto"] {
            let chain = Chain::at(free_port(), server.address(), named);
            let first = greeted(chain.at, greeting);
            let then = best(chain.at, greeting);
            println!(
                "{protocol} as `{named}`: greeted after {:.1} ms at first, {:.1} ms then ({:.1} ms without sidecars)",
                ms(first),
                ms(then),
                ms(straight)
            );
            assert!(then < Duration::from_millis(100), "{then:?}");
        }
    }
}

/// The shortest of some.
fn best(at: SocketAddr, greeting: &[u8]) -> Duration {
    (0..20).map(|_| greeted(at, greeting)).min().unwrap()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
