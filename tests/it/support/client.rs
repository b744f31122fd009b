//! A client that sends exactly the bytes it is told and reads strictly.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::server::PATIENCE;
use super::wire::{self, Bad, Fields, Framing, Wire};

/// One HTTP/1 connection.
pub struct Client {
    wire: Wire<TcpStream>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub fields: Fields,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The 1xx answers before it.
    pub interim: Vec<(u16, Fields)>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<String> {
        wire::one(&self.fields, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `pillion-error`.
    pub fn reason(&self) -> Option<String> {
        self.field("pillion-error")
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
    }

    /// The same on a connection that is there.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { wire: Wire::new(stream) }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.wire.stream
    }

    pub fn wire(&mut self) -> &mut Wire<TcpStream> {
        &mut self.wire
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).unwrap();
        self
    }

    /// Sends bytes as they are; the peer may have ended already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.wire.stream.write_all(bytes.as_ref())
    }

    pub fn close_sending(&mut self) -> &mut Self {
        let _ = self.wire.stream.shutdown(Shutdown::Write);
        self
    }

    /// The next answer to a request of `method`, or why there is none.
    pub fn try_read(&mut self, method: &str) -> Result<Response, Bad> {
        let mut interim = Vec::new();
        let mut answer = loop {
            let head = self.read_head()?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            interim.push((head.status, head.fields));
        };
        answer.interim = interim;
        let bodiless = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
        let tunnel = method == "CONNECT" && answer.status < 300;
        answer.framing = match wire::framing(&answer.fields)? {
            _ if bodiless || tunnel => Framing::None,
            Some(framing) => framing,
            None => Framing::UntilClose,
        };
        let mut body = Vec::new();
        answer.trailers = self.wire.body(answer.framing, &mut |bytes| body.extend_from_slice(bytes))?;
        answer.body = body;
        Ok(answer)
    }

    /// The next head, of a 1xx answer too.
    pub fn read_head(&mut self) -> Result<Response, Bad> {
        let line = self.wire.line(true)?;
        let text = String::from_utf8_lossy(&line).into_owned();
        let mut parts = text.splitn(3, ' ');
        let (version, status) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let digits = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
        if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !digits || parts.next().is_none() {
            return wire::rule(format!("a status line of {text:?}"));
        }
        Ok(Response {
            version: version.to_owned(),
            status: status.parse().unwrap(),
            fields: self.wire.fields()?,
            framing: Framing::None,
            body: Vec::new(),
            trailers: Fields::new(),
            interim: Vec::new(),
        })
    }

    /// The next answer, which must come.
    #[track_caller]
    pub fn read(&mut self, method: &str) -> Response {
        self.try_read(method).unwrap_or_else(|bad| panic!("no answer: {bad:?}"))
    }

    /// The next answer to a GET.
    #[track_caller]
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).read("GET")
    }

    /// Whether the peer ends the connection, by FIN or RST, without a further byte.
    pub fn is_ended(&mut self) -> bool {
        self.wire.unread().is_empty()
            && match self.wire.fill() {
                Ok(more) => !more,
                Err(bad) => !bad.is_silence(),
            }
    }

    /// All bytes until the peer ends, or what came before a RST.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = self.wire.body(Framing::UntilClose, &mut |bytes| all.extend_from_slice(bytes));
        all
    }
}

/// One request on a connection of its own.
#[track_caller]
pub fn call(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    let bytes = bytes.as_ref();
    let method = bytes.split(|b| *b == b' ').next().unwrap_or_default();
    Client::connect(address).send(bytes).read(&String::from_utf8_lossy(method))
}

/// A GET on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    Client::connect(address).get(host, path)
}
