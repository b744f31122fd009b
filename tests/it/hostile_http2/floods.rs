//! Floods of what costs the sender nothing. Each must end its connection,
//! hardly grow the memory, and leave others served.
//!
//! The sidecar is a process of its own, so that the growth that is measured is
//! its own.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use crate::support::bulk::Bulk;
use crate::support::frames::{
    self, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Outcome, RawH2, block, frame, kind,
};
use crate::support::{PATIENCE, Process, Recorder, get, process};

const MIB: u64 = 1 << 20;

/// What ends a flood.
enum End {
    /// GOAWAY with ENHANCE_YOUR_CALM.
    Calm,
    /// The end of the connection in any way.
    Any,
}

/// A sidecar that speaks HTTP/1 with `at`.
fn before(at: SocketAddr) -> Process {
    process("front")
        .upstream("backend", &[at])
        .policy("version: 1\noutbound: [{to: backend, protocol: http1}]\n")
        .start()
}

/// Sends `step` until the connection ends, on new connections until it was
/// sent `total` times.
fn flood(
    total: usize,
    end: &End,
    start: impl Fn(&mut RawH2),
    mut step: impl FnMut(&mut RawH2, usize) -> io::Result<()>,
) {
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    warm(&sidecar);
    backend.take();
    let before = sidecar.resident();
    let mut grown = 0;
    let (mut sent, mut connections) = (0, 0);
    while sent < total {
        let mut raw = RawH2::connect(sidecar.outbound);
        start(&mut raw);
        connections += 1;
        let began = Instant::now();
        let mut on_this = 0;
        let ended = loop {
            // The last connection has to be ended too, however late it began.
            if sent >= 2 * total {
                break Ok(());
            }
            if let Err(error) = step(&mut raw, on_this) {
                break Err(error);
            }
            (sent, on_this) = (sent + 1, on_this + 1);
        };
        grown = grown.max(sidecar.resident().saturating_sub(before));
        if let Err(error) = ended {
            let stuck = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!stuck, "the sidecar neither reads nor ends the connection");
        }
        let (ended, code) = raw.ended();
        assert!(ended, "after {sent} in {:?} the connection lives on", began.elapsed());
        if let End::Calm = end {
            assert_eq!(code, Some(ENHANCE_YOUR_CALM), "after {sent}");
        }
        backend.take();
    }
    println!("{sent} steps on {connections} connections: memory grew by {} KiB", grown / 1024);
    assert!(grown < 32 * MIB, "memory grew by {} KiB over {connections} connections", grown / 1024);
    warm(&sidecar);
}

/// A call of another client.
fn warm(sidecar: &Process) {
    assert_eq!(get(sidecar.outbound, "backend", "/").status, 200);
    let mut raw = RawH2::connect(sidecar.outbound);
    raw.send(&frames::get(1, "backend")).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Answer(200));
}

/// An open call that waits for its body, on stream 1.
fn open_post(raw: &mut RawH2) {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "backend")];
    raw.send(&frame(kind::HEADERS, END_HEADERS, 1, &block(&fields))).unwrap();
}

/// One frame, a hundred times in a row, ten thousand times.
fn of_frames(frame: &[u8], start: impl Fn(&mut RawH2)) {
    let hundred = frame.repeat(100);
    flood(10_000, &End::Calm, start, |raw, _| raw.send(&hundred));
}

#[test]
fn a_million_rapid_resets() {
    let reset = |stream| frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    flood(
        10_000,
        &End::Calm,
        |_| {},
        |raw, step| {
            let first = u32::try_from(step).unwrap() * 200 + 1;
            let streams = (first..first + 200).step_by(2);
            let hundred: Vec<u8> =
                streams.flat_map(|stream| [frames::get(stream, "backend"), reset(stream)].concat()).collect();
            raw.send(&hundred)
        },
    );
}

#[test]
fn a_million_streams_that_make_the_server_reset() {
    // A malformed head is an error of the stream: the server must reset it.
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "backend"),
        ("connection", "close"),
    ];
    let head = block(&fields);
    let one = |stream| frame(kind::HEADERS, END_HEADERS, stream, &head);
    of_streams(&End::Calm, one);
}

#[test]
fn a_million_window_updates_by_nothing() {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "backend")];
    let head = block(&fields);
    let one = |stream| {
        let open = frame(kind::HEADERS, END_HEADERS, stream, &head);
        [open, frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    };
    of_streams(&End::Any, one);
}

/// A hundred streams at a time, ten thousand times.
fn of_streams(end: &End, one: impl Fn(u32) -> Vec<u8>) {
    flood(
        10_000,
        end,
        |_| {},
        |raw, step| {
            let first = u32::try_from(step).unwrap() * 200 + 1;
            raw.send(&(first..first + 200).step_by(2).flat_map(&one).collect::<Vec<u8>>())
        },
    );
}

#[test]
fn a_flood_of_continuation_frames() {
    let field = frames::block(&[("x-a", &"v".repeat(16_000))]);
    let start = |raw: &mut RawH2| raw.send(&frame(kind::HEADERS, END_STREAM, 1, &block(&[]))).unwrap();
    let one = frame(kind::CONTINUATION, 0, 1, &field);
    flood(4_000, &End::Any, start, |raw, _| raw.send(&one));
}

#[test]
fn a_flood_of_empty_continuation_frames() {
    let start = |raw: &mut RawH2| raw.send(&frame(kind::HEADERS, END_STREAM, 1, &block(&[]))).unwrap();
    let hundred = frame(kind::CONTINUATION, 0, 1, &[]).repeat(100);
    flood(10_000, &End::Any, start, |raw, _| raw.send(&hundred));
}

#[test]
fn a_header_bomb() {
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    warm(&sidecar);
    backend.take();
    let before = sidecar.resident();
    // One field of 4,000 bytes in the table, then 16,000 references to it: 64 MB.
    let mut bomb =
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "backend")]);
    bomb.extend(frames::indexed_field("x", &[b'a'; 3_900]));
    bomb.extend([0xbe; 12_000]);
    let mut grown = 0;
    for _ in 0..200 {
        let mut raw = RawH2::connect(sidecar.outbound);
        raw.send(&frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).unwrap();
        let outcome = raw.outcome(1);
        let refused = matches!(
            outcome,
            Outcome::Answer(431) | Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Closed
        );
        assert!(refused, "{outcome:?}");
        grown = grown.max(sidecar.resident().saturating_sub(before));
    }
    println!("200 bombs: memory grew by {} KiB", grown / 1024);
    assert!(grown < 32 * MIB, "memory grew by {} KiB", grown / 1024);
    assert!(backend.take().is_empty(), "a bomb reached the backend");
    warm(&sidecar);
}

#[test]
fn a_flood_of_pings() {
    of_frames(&frame(kind::PING, 0, 0, &[7; 8]), |_| {});
}

#[test]
fn a_flood_of_settings() {
    of_frames(&frame(kind::SETTINGS, 0, 0, &[]), |_| {});
}

#[test]
fn a_flood_of_settings_that_resize_the_table() {
    let table = |size: u8| frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, size, 0]);
    of_frames(&[table(0), table(16)].concat(), |_| {});
}

#[test]
fn a_flood_of_priorities() {
    of_frames(&frame(kind::PRIORITY, 0, 7, &[0, 0, 0, 0, 15]), |_| {});
}

#[test]
fn a_flood_of_window_updates() {
    of_frames(&frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), |_| {});
}

#[test]
fn a_flood_of_empty_data() {
    of_frames(&frame(kind::DATA, 0, 1, &[]), open_post);
}

#[test]
fn a_flood_of_unknown_frames() {
    of_frames(&frame(0xbe, 0, 0, &[]), |_| {});
}

#[test]
fn a_flood_of_padding() {
    // 255 bytes of padding around nothing.
    let mut payload = vec![0; 256];
    payload[0] = 255;
    let hundred = frame(kind::DATA, 8, 1, &payload).repeat(100);
    flood(10_000, &End::Any, open_post, |raw, _| raw.send(&hundred));
}

/// Answers of 8 MiB on 100 streams that the client does not read.
#[test]
fn answers_that_are_not_read_hold_little() {
    let backend = Bulk::start();
    let sidecar = before(backend.address());
    assert_eq!(get(sidecar.outbound, "backend", "/8388608").body.len() as u64, 8 * MIB);
    // A window of nothing, and the largest one.
    for window in [0, 0x7fff_ffff] {
        let (before, written) = (sidecar.resident(), backend.written());
        let mut raw = RawH2::with_settings(sidecar.outbound, &[(4, window)]);
        raw.send(&frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])).unwrap();
        for stream in (1..200).step_by(2) {
            let fields =
                [(":method", "GET"), (":scheme", "http"), (":path", "/8388608"), (":authority", "backend")];
            raw.send(&frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields))).unwrap();
        }
        let mut grown = 0;
        let mut still = (written, Instant::now());
        // Until the backend has not got rid of a byte for half a second.
        while still.1.elapsed() < PATIENCE / 40 {
            grown = grown.max(sidecar.resident().saturating_sub(before));
            if backend.written() != still.0 {
                still = (backend.written(), Instant::now());
            }
            assert_eq!(get(sidecar.probes, "p", "/livez").status, 200);
        }
        assert!(still.0 > written, "the answers have begun");
        assert!(grown < 32 * MIB, "memory grew by {} KiB with a window of {window}", grown / 1024);
    }
}
