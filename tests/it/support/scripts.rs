//! A backend that misbehaves on demand: it serves every request but those to
//! `/bad`, which get the script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pillion::base::Reason;

use super::request;
use super::server::{Server, reset_on_close};
use super::wire::Wire;

/// What the caller must see.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// The backend's answer with this status and body.
    Served(u16, &'static str),
    /// Pillion's answer in its place.
    Error(Reason),
    /// The same; or the backend's answer on another connection, where nothing
    /// could be sent on the first.
    ErrorIfSent(Reason),
    /// The head at most, and then the end of the connection; or Pillion's
    /// answer, where it knew in time.
    Broken(Reason),
    /// Either the answer with this status and no body, or Pillion's.
    Either(u16, Reason),
}

/// One way to misbehave.
pub struct Script {
    pub name: &'static str,
    pub play: Play,
    pub expect: Expect,
}

/// What a script does with its connection. All of them close it at the end.
pub enum Play {
    /// At once, before anything is read.
    BeforeReading(fn(&mut TcpStream)),
    /// After the head was read: these bytes.
    Say(&'static [u8]),
    /// After the head was read: these bytes, and then RST instead of FIN.
    SayAndReset(&'static [u8]),
    /// After the head was read: these bytes, and then silence until the peer ends.
    SayAndWait(&'static [u8]),
    /// After the head was read: these bytes, and then the next requests, for
    /// the answer was whole.
    SayAndServe(&'static [u8]),
    /// After the head was read: anything.
    Do(fn(&mut TcpStream)),
}

/// The backend.
pub struct Misbehaving {
    server: Server,
    armed: Arc<AtomicBool>,
}

impl Misbehaving {
    pub fn start(script: &'static Script) -> Self {
        let armed = Arc::new(AtomicBool::new(matches!(script.play, Play::BeforeReading(_))));
        let arm = armed.clone();
        Self { server: Server::start(move |number, stream| serve(number, stream, script, &arm)), armed }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Whether the next connection will be misbehaved on before it is read.
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.server.open()
    }
}

fn serve(number: usize, mut stream: TcpStream, script: &Script, armed: &AtomicBool) {
    if let Play::BeforeReading(play) = script.play
        && armed.swap(false, Ordering::SeqCst)
    {
        return play(&mut stream);
    }
    let mut wire = Wire::new(stream.try_clone().unwrap());
    while let Ok(mut request) = request::read_head(&mut wire, number) {
        // What plays before it reads has played on another connection.
        if request.target == "/bad" && !matches!(script.play, Play::BeforeReading(_)) {
            match script.play {
                Play::SayAndServe(bytes) if stream.write_all(bytes).is_ok() => continue,
                _ => return play(&mut stream, &script.play),
            }
        }
        request::finish(&mut wire, &mut request);
        assert_eq!(request.bad, None, "{request:#?}");
        let body = &request.target;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn play(stream: &mut TcpStream, play: &Play) {
    // The peer may be gone before a script has said all: that is its right.
    match play {
        Play::BeforeReading(_) => unreachable!("played when the connection came"),
        Play::SayAndServe(_) => {}
        Play::Say(bytes) => drop(stream.write_all(bytes)),
        Play::SayAndReset(bytes) => {
            let _ = stream.write_all(bytes);
            reset_on_close(stream);
        }
        Play::SayAndWait(bytes) => {
            let _ = stream.write_all(bytes);
            wait_for_end(stream);
        }
        Play::Do(act) => act(stream),
    }
}

fn wait_for_end(stream: &mut TcpStream) {
    let mut block = [0; 4096];
    while stream.read(&mut block).is_ok_and(|count| count > 0) {}
}

macro_rules! script {
    ($name:literal, $play:ident $argument:expr, $expect:expr) => {
        Script { name: $name, play: Play::$play($argument), expect: $expect }
    };
}

use Expect::{Broken, Either, Error, ErrorIfSent, Served};
use Reason::{
    MalformedResponse, ResetAfterHeaders, ResetBeforeHeaders, ResponseHeaderTooLarge, StreamIdle, Timeout,
};

/// All of them.
pub static SCRIPTS: &[Script] = &[
    script!("closes before reading", BeforeReading drop_it, ErrorIfSent(ResetBeforeHeaders)),
    script!("resets before reading", BeforeReading reset, ErrorIfSent(ResetBeforeHeaders)),
    script!("closes without an answer", Say b"", Error(ResetBeforeHeaders)),
    script!("resets without an answer", SayAndReset b"", Error(ResetBeforeHeaders)),
    script!("closes in the head", Say b"HTTP/1.1 200 OK\r\nContent-Le", Error(ResetBeforeHeaders)),
    script!("resets in the head", SayAndReset b"HTTP/1.1 200 OK\r\nContent-Le", Error(ResetBeforeHeaders)),
    script!("resets after the head", SayAndReset b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Broken(ResetAfterHeaders)),
    script!("resets in the body", SayAndReset b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!", Broken(ResetAfterHeaders)),
    script!("closes in the body", Say b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!", Broken(ResetAfterHeaders)),
    script!("says more than it promised", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", Served(200, "ok")),
    script!("adds an answer nobody asked for", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", Served(200, "ok")),
    script!("bad chunk size", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", Broken(MalformedResponse)),
    script!("negative chunk size", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", Broken(MalformedResponse)),
    script!("chunk size beyond 64 bits", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n", Broken(MalformedResponse)),
    script!("chunk without CRLF", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", Broken(MalformedResponse)),
    script!("no last chunk", Say b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Broken(ResetAfterHeaders)),
    script!("ends in the trailers", Say b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-a: 1", Broken(ResetAfterHeaders)),
    script!("framing fields in the trailers", SayAndServe b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 5\r\nx-a: 1\r\n\r\n", Served(200, "ok")),
    script!("20,000 interim answers", Do interim_flood, Error(MalformedResponse)),
    script!("103 before 200", SayAndServe b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Served(200, "ok")),
    script!("a head of 1 MiB", Do huge_head, Error(ResponseHeaderTooLarge)),
    script!("a head without an end", Do endless_head, Error(ResponseHeaderTooLarge)),
    script!("10,000 fields", Do many_fields, Error(ResponseHeaderTooLarge)),
    script!("silence", SayAndWait b"", Error(Timeout)),
    script!("silence in the head", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Le", Error(Timeout)),
    script!("silence after the head", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Broken(StreamIdle)),
    script!("garbage", Say b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Error(MalformedResponse)),
    script!("HTTP/0.9", Say b"<html>hello</html>\r\n\r\n", Error(MalformedResponse)),
    script!("chunked and a length", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", Error(MalformedResponse)),
    script!("a length and chunked", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Error(MalformedResponse)),
    script!("two lengths", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\noka", Error(MalformedResponse)),
    script!("two lengths in one field", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\noka", Error(MalformedResponse)),
    script!("a length with a sign", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", Error(MalformedResponse)),
    script!("a length beyond 64 bits", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok", Error(MalformedResponse)),
    script!("gzip, chunked", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Error(MalformedResponse)),
    script!("chunked twice", SayAndWait b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Error(MalformedResponse)),
    script!("chunked in HTTP/1.0", Say b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Error(MalformedResponse)),
    script!("a folded line", SayAndWait b"HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("bare LF", SayAndWait b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Error(MalformedResponse)),
    script!("NUL in a value", SayAndWait b"HTTP/1.1 200 OK\r\nx-a: a\0b\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("bare CR in a value", SayAndWait b"HTTP/1.1 200 OK\r\nx-a: a\rb\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("a space before the colon", SayAndWait b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", Error(MalformedResponse)),
    script!("a line without a colon", SayAndWait b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("status 0", SayAndWait b"HTTP/1.1 0 No\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("status 99", SayAndWait b"HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("status 1000", SayAndWait b"HTTP/1.1 1000 No\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("status with a sign", SayAndWait b"HTTP/1.1 +20 No\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("HTTP/2.0", SayAndWait b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("ICY", SayAndWait b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok", Error(MalformedResponse)),
    script!("101 that nobody asked for", SayAndWait b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", Error(MalformedResponse)),
    script!("204 with a body", SayAndWait b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", Either(204, MalformedResponse)),
    script!("304 with a length", SayAndServe b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Served(304, "")),
    script!("trailers", SayAndServe b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n", Served(200, "ok")),
    script!("until it closes", Say b"HTTP/1.1 200 OK\r\n\r\nok", Served(200, "ok")),
    script!("HTTP/1.0 until it closes", Say b"HTTP/1.0 200 OK\r\n\r\nok", Served(200, "ok")),
    script!("an empty reason", SayAndServe b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", Served(200, "ok")),
    script!("a byte at a time", Do slowly, Served(200, "ok")),
];

fn drop_it(_: &mut TcpStream) {}

fn reset(stream: &mut TcpStream) {
    reset_on_close(stream);
}

fn interim_flood(stream: &mut TcpStream) {
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
    for _ in 0..200 {
        if stream.write_all(&interim).is_err() {
            return;
        }
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    wait_for_end(stream);
}

fn huge_head(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-long: ");
    if stream.write_all(&vec![b'a'; 1 << 20]).is_ok() {
        let _ = stream.write_all(b"\r\nContent-Length: 2\r\n\r\nok");
        wait_for_end(stream);
    }
}

fn endless_head(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-long: ");
    let block = vec![b'a'; 64 * 1024];
    // Ends because the peer does: 1 GiB is beyond any limit of a test.
    for _ in 0..16 * 1024 {
        if stream.write_all(&block).is_err() {
            return;
        }
    }
    panic!("a head of 1 GiB was read");
}

fn many_fields(stream: &mut TcpStream) {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..10_000 {
        head.extend(format!("x{number}: 1\r\n").bytes());
    }
    head.extend(b"Content-Length: 2\r\n\r\nok");
    if stream.write_all(&head).is_ok() {
        wait_for_end(stream);
    }
}

fn slowly(stream: &mut TcpStream) {
    for byte in
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    {
        stream.write_all(&[*byte]).unwrap();
    }
    wait_for_end(stream);
}
