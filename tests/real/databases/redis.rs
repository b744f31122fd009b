//! Redis: `redis-benchmark`, redis-py, and raw connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Chain, Server, client, free_port};
use crate::support::until;

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// Asks with one command on a connection of its own.
fn ask(at: SocketAddr, words: &[&str]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&command(words)).unwrap();
    let mut bytes = [0; 512];
    let count = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).trim_end().to_owned()
}

/// Runs `redis-benchmark` until the time is over, and holds what it counted
/// against what the server has.
fn load(at: SocketAddr, server: SocketAddr, seconds: u64) {
    let until = Instant::now() + Duration::from_secs(seconds);
    let (count, mut rounds) = (if seconds < 30 { 1_600 } else { 16_000 }, 0);
    while rounds == 0 || Instant::now() < until {
        for (clients, pipeline) in [("50", "1"), ("200", "16")] {
            assert_eq!(ask(server, &["FLUSHALL"]), "+OK");
            let mut program = Command::new("redis-benchmark");
            program.args(["-h", "127.0.0.1", "-p", &at.port().to_string(), "-n", &count.to_string()]);
            program.args(["-c", clients, "-P", pipeline, "-d", "200", "--csv"]);
            let said = client::run(program.args(["-t", "ping,set,get,incr,lpush,rpop,sadd,hset,mset"]));
            assert!(said.contains("\"INCR\"") && !said.to_lowercase().contains("error"), "{said}");
            let counter = ask(server, &["GET", "counter:__rand_int__"]);
            assert_eq!(counter.lines().last(), Some(count.to_string().as_str()), "increments");
            rounds += 1;
        }
    }
    println!("redis-benchmark: {rounds} rounds of 10 commands, {count} times each");
}

#[test]
fn redis_through_two_sidecars() {
    let server = Server::start("redis", &[]);
    super::both_ways(free_port(), server.at, "redis", |at, sizes| {
        load(at, server.at, sizes.seconds);
        client::python("redis_all.py", at, &[&sizes.quiet.to_string()]);
    });
}

#[test]
fn many_short_connections_leave_no_descriptor() {
    let server = Server::start("redis", &[]);
    let chain = Chain::at(free_port(), server.at, "redis");
    assert_eq!(ask(chain.at, &["PING"]), "+PONG");
    let before = chain.descriptors();
    let begun = Instant::now();
    for number in 0..2_000 {
        // Some leave without a word, in the middle, or without hearing the answer.
        match number % 4 {
            0 => drop(TcpStream::connect(chain.at).unwrap()),
            1 => TcpStream::connect(chain.at).unwrap().write_all(b"*1\r\n$4\r\nPI").unwrap(),
            2 => TcpStream::connect(chain.at).unwrap().write_all(&command(&["PING"])).unwrap(),
            _ => assert_eq!(ask(chain.at, &["PING"]), "+PONG"),
        }
    }
    println!("2000 short connections in {:?}", begun.elapsed());
    until("every descriptor is closed", || chain.descriptors() <= before);
}

/// Typed by hand, a command looks like HTTP. Named outright, it passes.
#[test]
fn a_command_that_is_typed_by_hand_passes_where_redis_is_named() {
    let server = Server::start("redis", &[]);
    let chain = Chain::at(free_port(), server.at, "redis");
    let mut stream = TcpStream::connect(chain.at).unwrap();
    stream.write_all(b"GET nothing\r\n").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"$-1\r\n");
}

#[test]
fn redis_killed_and_started_again() {
    super::killed_and_started_again("redis", Server::start("redis", &[]));
}
