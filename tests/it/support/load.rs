//! Callers that call without a pause, on kept connections, until they are told
//! to end. Every call that was taken must be answered with its own path.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Request;

use super::client::{Client, Response};
use super::h2peer;
use super::server::{PATIENCE, until};
use super::wire::Bad;

/// Calls that one HTTP/2 caller has at hand at one time.
pub const STREAMS: usize = 4;

/// A load on one or more listeners.
#[derive(Default)]
pub struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// Microseconds between two calls of a caller.
    pause: AtomicU64,
    answered: AtomicUsize,
    /// Connections made after a first one.
    again: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// What a load has seen.
pub struct Tally {
    pub answered: usize,
    pub again: usize,
    pub failed: Vec<String>,
}

impl Load {
    pub fn new() -> Self {
        Self::default()
    }

    /// `count` more callers of HTTP/1 at `address`, which call `host`.
    pub fn http1(mut self, count: usize, address: SocketAddr, host: &'static str) -> Self {
        for _ in 0..count {
            let (caller, shared) = (self.callers.len(), self.shared.clone());
            self.callers.push(std::thread::spawn(move || call_http1(caller, address, host, &shared)));
        }
        self
    }

    /// `count` more callers of HTTP/2, each with [`STREAMS`] calls at a time.
    pub fn http2(mut self, count: usize, address: SocketAddr, host: &'static str) -> Self {
        for _ in 0..count {
            let (caller, shared) = (self.callers.len(), self.shared.clone());
            self.callers.push(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(call_http2(caller, address, host, &shared));
            }));
        }
        self
    }

    /// From now on every caller over HTTP/1 rests so long between two calls: the
    /// machine has something else to do.
    #[allow(dead_code, reason = "the tests with real servers use it")]
    pub fn resting(self, pause: Duration) -> Self {
        let micros = u64::try_from(pause.as_micros()).unwrap();
        self.shared.pause.store(micros, Ordering::SeqCst);
        self
    }

    /// Waits until it is in full swing.
    #[track_caller]
    pub fn running(self) -> Self {
        self.more(100);
        self
    }

    /// Waits until so many more were answered.
    #[track_caller]
    pub fn more(&self, count: usize) {
        let wanted = self.shared.answered.load(Ordering::SeqCst) + count;
        until("the load goes on", || self.shared.answered.load(Ordering::SeqCst) >= wanted);
    }

    /// Waits until every caller was refused a connection.
    pub fn refused(self) -> Tally {
        until("every caller is refused", || self.callers.iter().all(JoinHandle::is_finished));
        self.end()
    }

    pub fn end(self) -> Tally {
        self.shared.over.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.join().expect("a caller panicked");
        }
        let failed = std::mem::take(&mut *self.shared.failed.lock().unwrap());
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        Tally { answered: count(&self.shared.answered), again: count(&self.shared.again), failed }
    }
}

impl Tally {
    #[track_caller]
    pub fn none_failed(&self) {
        let Self { answered, failed, .. } = self;
        assert!(failed.is_empty(), "{} of {answered} failed: {failed:#?}", failed.len());
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&self, what: String) {
        self.failed.lock().unwrap().push(what);
    }
}

fn call_http1(caller: usize, address: SocketAddr, host: &str, shared: &Shared) {
    let mut client: Option<Client> = None;
    for number in 0.. {
        if shared.is_over() {
            return;
        }
        match shared.pause.load(Ordering::SeqCst) {
            0 => {}
            micros => std::thread::sleep(Duration::from_micros(micros)),
        }
        let mut now = match client.take() {
            Some(client) => client,
            // A listener that is closed refuses: nothing was sent.
            None => match TcpStream::connect(address) {
                Ok(stream) => {
                    shared.again.fetch_add(usize::from(number > 0), Ordering::SeqCst);
                    Client::over(stream)
                }
                Err(_) => return,
            },
        };
        let path = format!("/{caller}/{number}");
        let request = match number % 3 {
            0 => format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello"),
            _ => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        };
        let sent = now.stream().write_all(request.as_bytes());
        match sent.map_err(|error| Bad::Cut(error.to_string())).and_then(|()| now.try_read("GET")) {
            Ok(answer) if answer.status == 200 && answer.text() == path => {
                shared.answered();
                if answer.field("connection").as_deref() != Some("close") {
                    client = Some(now);
                }
            }
            Ok(answer) => shared.failed(format!("{path}: {}", describe(&answer))),
            Err(bad) => shared.failed(format!("{path}: {bad:?}")),
        }
    }
}

fn describe(answer: &Response) -> String {
    format!("{} {:?} {}", answer.status, answer.reason(), answer.text())
}

async fn call_http2(caller: usize, address: SocketAddr, host: &'static str, shared: &Arc<Shared>) {
    for connection in 0.. {
        if shared.is_over() {
            return;
        }
        let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return };
        stream.set_nodelay(true).unwrap();
        shared.again.fetch_add(usize::from(connection > 0), Ordering::SeqCst);
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false);
        let (sender, driver) = match builder.handshake::<_, Bytes>(stream).await {
            Ok(both) => both,
            Err(error) => return shared.failed(format!("no handshake: {error}")),
        };
        let driver = tokio::spawn(driver);
        let streams = (0..STREAMS).map(|stream| {
            let prefix = format!("/{caller}/{connection}/{stream}");
            tokio::spawn(call_on_stream(sender.clone(), prefix, host, shared.clone()))
        });
        for stream in streams.collect::<Vec<_>>() {
            stream.await.expect("a caller panicked");
        }
        driver.abort();
    }
}

/// Calls until the connection takes no more.
async fn call_on_stream(
    mut sender: h2::client::SendRequest<Bytes>,
    prefix: String,
    host: &'static str,
    shared: Arc<Shared>,
) {
    for number in 0.. {
        if shared.is_over() {
            return;
        }
        sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(_) => return,
        };
        let path = format!("{prefix}/{number}");
        let request = Request::get(format!("http://{host}{path}")).body(()).unwrap();
        let exchange = h2peer::exchange(sender.clone(), request, Vec::new(), None);
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(got)) if got.status() == 200 && got.body == path.as_bytes() => shared.answered(),
            Ok(Ok(got)) => shared.failed(format!(
                "{path}: {} {:?} {}",
                got.status(),
                got.field("pillion-error"),
                String::from_utf8_lossy(&got.body)
            )),
            // The sidecar says that it has not touched it (RFC 9113, sections 6.8 and 8.7).
            Ok(Err(error)) if is_untouched(&error) => return,
            Ok(Err(error)) => return shared.failed(format!("{path}: {error}")),
            Err(_) => shared.failed(format!("{path}: silence")),
        }
    }
}

fn is_untouched(error: &h2::Error) -> bool {
    let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (left || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}
