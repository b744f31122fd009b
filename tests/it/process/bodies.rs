//! Bodies that are larger than the memory that a sidecar may take.

use std::net::SocketAddr;

use super::{MIB, growth};
use crate::support::bulk::{self, Bulk, Check};
use crate::support::wire::{self, Framing};
use crate::support::{Client, get, process};

/// Size of the large bodies; `PILLION_TEST_MIB=1024` for the full size.
fn size() -> u64 {
    std::env::var("PILLION_TEST_MIB").map_or(256, |text| text.parse::<u64>().expect("a number")) * MIB
}

#[test]
fn a_large_body_goes_through_two_sidecars_unchanged_both_ways() {
    let backend = Bulk::start();
    let near_service = process("users").service(backend.address(), "http1").start();
    let near_caller = process("front").upstream("users", &[near_service.inbound]).start();
    let address = near_caller.outbound;
    assert_eq!(get(address, "users", "/1000000").body.len(), 1_000_000, "warm");
    for (what, moves) in MOVES {
        let began = std::time::Instant::now();
        let (grown, ()) = growth(&[&near_service, &near_caller], || moves(address));
        println!("{what} of {} MiB: {:?}, memory grew by {grown:?}", size() / MIB, began.elapsed());
        assert!(grown.iter().all(|grown| *grown < 8 * MIB), "{what}: memory grew by {grown:?}");
    }
}

type Move = (&'static str, fn(SocketAddr));

const MOVES: [Move; 4] = [
    ("download", |address| download(address, &format!("/{}", size()))),
    ("download in chunks", |address| download(address, &format!("/chunked/{}", size()))),
    ("upload", |address| upload(address, false)),
    ("upload in chunks", |address| upload(address, true)),
];

fn download(address: SocketAddr, path: &str) {
    let mut client = Client::connect(address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: users\r\n\r\n"));
    let head = client.read_head().unwrap();
    assert_eq!(head.status, 200);
    let framing = wire::framing(&head.fields).unwrap().expect("a framing");
    assert_eq!(framing == Framing::Chunked, path.starts_with("/chunked"));
    let mut check = Check::default();
    client.wire().body(framing, &mut |bytes| check.take(bytes)).unwrap();
    assert_eq!((check.count, check.wrong), (size(), false), "{path}");
}

fn upload(address: SocketAddr, chunked: bool) {
    let mut client = Client::connect(address);
    let head = "POST / HTTP/1.1\r\nHost: users\r\n";
    if chunked {
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        let mut done = 0;
        while done < size() {
            let part = bulk::pattern(done, size() - done);
            client.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
            done += part.len() as u64;
        }
        client.send("0\r\n\r\n");
    } else {
        client.send(format!("{head}Content-Length: {}\r\n\r\n", size()));
        bulk::write(&mut client.stream(), size()).unwrap();
    }
    assert_eq!(client.read("POST").text(), size().to_string());
}
