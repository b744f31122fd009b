//! Bodies too large to hold: made of a pattern, checked against it as they come.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::request;
use super::server::Server;
use super::wire::{Framing, Wire};

/// A prime, so that no buffer's size divides it and lost blocks show.
const PERIOD: usize = 65_521;

/// The pattern, twice in a row.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut once = Vec::with_capacity(PERIOD * 2);
    for _ in 0..PERIOD {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        once.push(state.to_le_bytes()[3]);
    }
    once.repeat(2)
});

/// The next part of the pattern at `offset`, at most one period long.
pub fn pattern(offset: u64, most: u64) -> &'static [u8] {
    let at = usize::try_from(offset % PERIOD as u64).unwrap();
    let length = usize::try_from(most).unwrap_or(PERIOD).min(PERIOD);
    &PATTERN[at..at + length]
}

/// Compares what comes with the pattern.
#[derive(Debug, Default)]
pub struct Check {
    pub count: u64,
    pub wrong: bool,
}

impl Check {
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = pattern(self.count, bytes.len() as u64);
            self.wrong |= &bytes[..wanted.len()] != wanted;
            self.count += wanted.len() as u64;
            bytes = &bytes[wanted.len()..];
        }
    }
}

/// Writes `count` bytes of the pattern.
pub fn write(stream: &mut impl Write, count: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < count {
        let part = pattern(done, count - done);
        stream.write_all(part)?;
        done += part.len() as u64;
    }
    Ok(())
}

/// Answers `GET /<count>` with so many bytes of the pattern, `GET
/// /chunked/<count>` with the same in chunks, and a POST with the number of
/// bytes that came, or `wrong`.
pub struct Bulk {
    server: Server,
    written: Arc<AtomicU64>,
}

impl Bulk {
    pub fn start() -> Self {
        let written = Arc::new(AtomicU64::new(0));
        let count = written.clone();
        Self { server: Server::start(move |number, stream| serve(number, stream, &count)), written }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.server.open()
    }

    /// Bytes of bodies that were written into the sockets of the system.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }
}

fn serve(number: usize, mut stream: TcpStream, written: &AtomicU64) {
    let mut wire = Wire::new(stream.try_clone().unwrap());
    while let Ok(request) = request::read_head(&mut wire, number) {
        let mut check = Check::default();
        if wire.body(request.framing, &mut |bytes| check.take(bytes)).is_err() {
            return;
        }
        let answered = if request.framing == Framing::None {
            answer(&mut stream, &request.target, written)
        } else {
            let text = if check.wrong { "wrong".to_owned() } else { check.count.to_string() };
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
        };
        if answered.is_err() {
            return;
        }
    }
}

fn answer(stream: &mut TcpStream, target: &str, written: &AtomicU64) -> std::io::Result<()> {
    let chunked = target.starts_with("/chunked/");
    let count: u64 = target.rsplit('/').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    if chunked {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    } else {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n")?;
    }
    let mut done = 0;
    while done < count {
        let part = pattern(done, count - done);
        if chunked {
            write!(stream, "{:x}\r\n", part.len())?;
        }
        stream.write_all(part)?;
        if chunked {
            stream.write_all(b"\r\n")?;
        }
        done += part.len() as u64;
        written.fetch_add(part.len() as u64, Ordering::SeqCst);
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}
