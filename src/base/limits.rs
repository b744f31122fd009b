//! The caps of the rule "no unbounded thing".

use std::time::Duration;

/// What one caller or one upstream may take; the section `limits`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of one head; default 64 KiB.
    pub header_bytes: usize,
    /// Fields of one head; default 128.
    pub header_fields: usize,
    /// Bytes of one request target; default 8 KiB.
    pub target: usize,
    /// From the first byte of a head to its end; default 10 s.
    pub header_timeout: Duration,
    /// Longest pause within a request body; default 30 s.
    pub body_idle: Duration,
    /// How long an HTTP/2 stream may wait for its caller to take bytes; default 5 min.
    pub stream_idle: Duration,
    /// How long a connection may wait for its next request; default 2 min.
    pub connection_idle: Duration,
    /// Age at which a connection is closed after the request at hand; default 1 h.
    pub connection_age: Duration,
    /// Connections accepted at one time, over all workers; default 20,000.
    pub connections: usize,
    /// Concurrent streams of one HTTP/2 connection; default 100.
    pub streams: u32,
    /// Streams of one HTTP/2 connection that the peer may reset in 10 s; default 200.
    pub resets: u32,
    /// PING, SETTINGS, PRIORITY and empty frames that a peer may send in 10 s
    /// beyond one for each stream; default 1,000.
    pub control_frames: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_fields: 128,
            target: 8 * 1024,
            header_timeout: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            stream_idle: Duration::from_secs(300),
            connection_idle: Duration::from_secs(120),
            connection_age: Duration::from_secs(3600),
            connections: 20_000,
            streams: 100,
            resets: 200,
            control_frames: 1_000,
        }
    }
}
