//! A backend that records what it was sent, byte by byte, and answers.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::request::{self, Request};
use super::server::{Server, until};
use super::wire::Wire;

/// Records every request that the strict reader takes, and tells of every one
/// that it doesn't.
pub struct Recorder {
    server: Server,
    seen: Arc<Mutex<Vec<Request>>>,
}

/// The target as the body.
pub fn echo_path(request: &Request) -> Vec<u8> {
    let body = &request.target;
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The plainest answer.
pub fn ok(_: &Request) -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
}

impl Recorder {
    /// Answers `ok` to everything and keeps connections.
    pub fn start() -> Self {
        Self::answering(ok)
    }

    /// Answers what `answer` says; an answer with `Connection: close` ends the connection.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind(("127.0.0.1", 0)).unwrap(), answer)
    }

    /// The same on a listener of the test's own.
    pub fn on(listener: TcpListener, answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let record = seen.clone();
        let server = Server::on(listener, move |number, stream| serve(number, &stream, &record, &answer));
        Self { server, seen }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn connections(&self) -> usize {
        self.server.accepted()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.server.open()
    }

    /// What was recorded since the last call.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// Waits for `count` requests and takes them.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Request> {
        until("the backend has its requests", || self.seen.lock().unwrap().len() >= count);
        self.take()
    }

    /// Ends every connection and returns what was recorded since the last [`Recorder::take`].
    pub fn end(self) -> Vec<Request> {
        let Self { server, seen } = self;
        server.end();
        std::mem::take(&mut *seen.lock().unwrap())
    }

    /// The one request that was recorded, whole and strict.
    #[track_caller]
    pub fn only(&self) -> Request {
        let mut all = self.wait(1);
        assert_eq!(all.len(), 1, "{all:#?}");
        let request = all.remove(0);
        assert_eq!(request.bad, None, "{request:#?}");
        request
    }
}

fn serve(
    number: usize,
    mut stream: &TcpStream,
    record: &Mutex<Vec<Request>>,
    answer: &(impl Fn(&Request) -> Vec<u8> + Send + Sync),
) {
    let mut wire = Wire::new(stream);
    while let Some(request) = request::read(&mut wire, number) {
        let bad = request.bad.is_some();
        let bytes = answer(&request);
        record.lock().unwrap().push(request);
        if bad || stream.write_all(&bytes).is_err() {
            return;
        }
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).to_ascii_lowercase();
        if head.contains("connection: close") {
            return;
        }
    }
}
