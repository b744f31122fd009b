//! Bytes pass both ways, each direction with its own end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::server::reset_on_close;
use crate::support::{PATIENCE, Sidecar, beside_others, sidecar};

use super::{port, port_of};

/// Both ends of a stream through a sidecar, and the sidecar.
fn pair() -> (TcpStream, TcpStream, Sidecar) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let sidecar = sidecar("front")
        .upstream("db", listener.local_addr().unwrap())
        .with(|model| port(model, "db", |upstream| upstream.protocol = pillion::base::Protocol::Tcp))
        .start();
    let near = TcpStream::connect(port_of(&sidecar, "db")).unwrap();
    let (far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (near, far, sidecar)
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn each_direction_has_its_own_end() {
    let _turn = beside_others();
    let (mut near, mut far, sidecar) = pair();
    near.write_all(b"last words").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    far.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last words");
    // Long after its end, the other direction still carries.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(50));
        far.write_all(b"answer").unwrap();
        assert_eq!(read(&mut near, 6), b"answer");
    }
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    sidecar.metric_is("pillion_tcp_bytes_total", &[], 28.0);
    sidecar.metric_is("pillion_connections_open", &[], 0.0);
}

#[test]
fn a_reset_is_passed_on_as_a_reset_in_both_directions() {
    let _turn = beside_others();
    for near_resets in [true, false] {
        let (mut near, mut far, sidecar) = pair();
        near.write_all(b"x").unwrap();
        read(&mut far, 1);
        let (resets, mut told) = if near_resets { (near, far) } else { (far, near) };
        reset_on_close(&resets);
        drop(resets);
        let error = told.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "near resets: {near_resets}");
        sidecar.metric_is("pillion_connections_open", &[], 0.0);
    }
}

#[test]
fn what_was_said_before_a_refusal_arrives() {
    let _turn = beside_others();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let sidecar = sidecar("front")
        .upstream("db", listener.local_addr().unwrap())
        .with(|model| port(model, "db", |upstream| upstream.protocol = pillion::base::Protocol::Tcp))
        .start();
    for round in 0..50 {
        let mut near = TcpStream::connect(port_of(&sidecar, "db")).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writer = near.try_clone().unwrap();
        let writing = std::thread::spawn(move || while writer.write_all(&[7; 16 * 1024]).is_ok() {});
        read(&mut far, 1);
        far.write_all(&[9; 20_000]).unwrap();
        // With bytes that it has not read, this is a reset.
        drop(far);
        assert!(read(&mut near, 20_000).iter().all(|byte| *byte == 9), "round {round}");
        drop(near);
        writing.join().unwrap();
    }
}

#[test]
fn a_direction_that_nobody_reads_does_not_stop_the_other() {
    let _turn = beside_others();
    let (mut near, mut far, _sidecar) = pair();
    near.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let block = vec![7; 1 << 20];
    // Nobody reads at the far end, until all buffers on the way are full.
    let mut stuffed = 0;
    while let Ok(wrote @ 1..) = near.write(&block) {
        stuffed += wrote;
    }
    for number in 0..100_u8 {
        far.write_all(&[number]).unwrap();
        assert_eq!(read(&mut near, 1), [number]);
    }
    near.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), stuffed);
    assert!(got.iter().all(|byte| *byte == 7));
}

#[test]
fn large_streams_arrive_whole_both_ways_at_once() {
    let _turn = beside_others();
    let (near, far, _sidecar) = pair();
    let block: Vec<u8> =
        (0..8 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::thread::scope(|scope| {
        for stream in [&near, &far] {
            let block = &block;
            scope.spawn(move || {
                let mut writer = stream;
                writer.write_all(block).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (mut reader, mut got) = (stream, Vec::new());
                reader.read_to_end(&mut got).unwrap();
                assert!(got == *block, "{} bytes of {}", got.len(), block.len());
            });
        }
    });
}
