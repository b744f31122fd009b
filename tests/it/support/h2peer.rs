//! HTTP/2 on both sides of a sidecar, through the `h2` crate.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::server::{PATIENCE, until};

/// One request as the HTTP/2 backend saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: http::request::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub connection: usize,
}

/// What the backend answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub interim: Vec<Response<()>>,
    pub head: Response<()>,
    pub body: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
    /// Ends the stream with this code in place of its end; before the head
    /// where the body is empty.
    pub reset: Option<h2::Reason>,
}

/// A backend of HTTP/2 with prior knowledge.
pub struct H2Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Answering = dyn Fn(&Seen) -> Answer + Send + Sync;

impl Answer {
    pub fn text(body: &'static str) -> Self {
        Self { body: vec![Bytes::from_static(body.as_bytes())], ..Self::default() }
    }
}

impl H2Backend {
    pub fn start() -> Self {
        Self::answering(|_| Answer::text("ok"))
    }

    pub fn answering(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let (record, answer): (_, Arc<Answering>) = (seen.clone(), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, &record, &answer, stopped));
        });
        Self { address, seen, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    #[track_caller]
    pub fn only(&self) -> Seen {
        until("the backend has its request", || !self.seen.lock().unwrap().is_empty());
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the HTTP/2 backend panicked");
            }
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    record: &Arc<Mutex<Vec<Seen>>>,
    answer: &Arc<Answering>,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    for number in 0.. {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = &mut stopped => break,
        };
        connections.spawn(connection(number, stream, record.clone(), answer.clone()));
    }
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        assert!(!ended.is_err_and(|error| error.is_panic()), "a connection's task panicked");
    }
}

async fn connection(number: usize, stream: TcpStream, record: Arc<Mutex<Vec<Seen>>>, answer: Arc<Answering>) {
    // A peer that goes away, or speaks no HTTP/2, is no failure of the backend.
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(serve(number, request, respond, record.clone(), answer.clone()));
        while let Some(ended) = streams.try_join_next() {
            ended.expect("a stream's task panicked");
        }
    }
    while let Some(ended) = streams.join_next().await {
        ended.expect("a stream's task panicked");
    }
}

async fn serve(
    connection: usize,
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Answering>,
) {
    let (head, body) = request.into_parts();
    let Ok((body, trailers)) = collect(body).await else { return };
    let seen = Seen { head, body, trailers, connection };
    let answer = answer(&seen);
    record.lock().unwrap().push(seen);
    for interim in answer.interim {
        respond.send_informational(interim).unwrap();
    }
    if let (Some(code), true) = (answer.reset, answer.body.is_empty()) {
        respond.send_reset(code);
        return;
    }
    let ends = answer.body.is_empty() && answer.trailers.is_none();
    let Ok(stream) = respond.send_response(answer.head, ends) else { return };
    if !ends {
        // The peer may end the stream early: that is for the test to judge.
        let _ = send_body(stream, answer.body, answer.trailers, answer.reset).await;
    }
}

/// One HTTP/2 connection to a sidecar.
pub struct H2Client {
    pub sender: h2::client::SendRequest<Bytes>,
    connection: Option<tokio::task::JoinHandle<Result<(), h2::Error>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What the client got.
#[derive(Debug)]
pub struct Got {
    pub head: http::response::Parts,
    pub interim: Vec<Response<()>>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Got {
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name).map(|value| value.to_str().unwrap())
    }
}

impl H2Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_after(address, b"")
    }

    /// The same with some bytes in front.
    pub fn connect_after(address: SocketAddr, first: &[u8]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, connection) = runtime.block_on(async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(first).await.unwrap();
            let mut builder = h2::client::Builder::new();
            // No more than a sidecar takes, before it has said how many that is.
            builder.enable_push(false).initial_max_send_streams(100);
            builder.handshake::<_, Bytes>(stream).await.unwrap()
        });
        let connection = Some(runtime.spawn(connection));
        Self { sender, connection, runtime: Some(runtime) }
    }

    /// What requests are sent with.
    pub fn sender(&self) -> h2::client::SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Runs something on the client's runtime.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, future).await.expect("in time") })
    }

    /// One exchange without a body.
    #[track_caller]
    pub fn get(&self, url: &str) -> Got {
        self.call(Request::get(url).body(()).unwrap(), Vec::new(), None)
    }

    #[track_caller]
    pub fn call(&self, request: Request<()>, body: Vec<Bytes>, trailers: Option<HeaderMap>) -> Got {
        self.try_call(request, body, trailers).unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    pub fn try_call(
        &self,
        request: Request<()>,
        body: Vec<Bytes>,
        trailers: Option<HeaderMap>,
    ) -> Result<Got, h2::Error> {
        self.block_on(exchange(self.sender.clone(), request, body, trailers))
    }
}

impl Drop for H2Client {
    fn drop(&mut self) {
        let (Some(runtime), Some(connection)) = (self.runtime.take(), self.connection.take()) else { return };
        connection.abort();
        let ended = runtime.block_on(connection);
        if !std::thread::panicking() {
            assert!(!ended.is_err_and(|error| error.is_panic()), "the HTTP/2 client panicked");
        }
    }
}

/// Sends a request and reads its answer to the end.
pub async fn exchange(
    sender: h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: Vec<Bytes>,
    trailers: Option<HeaderMap>,
) -> Result<Got, h2::Error> {
    let ends = body.is_empty() && trailers.is_none();
    let (mut answer, stream) = sender.ready().await?.send_request(request, ends)?;
    let sending = async {
        if !ends {
            // The answer tells what became of it.
            let _ = send_body(stream, body, trailers, None).await;
        }
    };
    let receiving = async {
        let mut interim = Vec::new();
        while let Some(head) = poll_fn(|cx| answer.poll_informational(cx)).await {
            interim.push(head?);
        }
        let (head, body) = answer.await?.into_parts();
        let (body, trailers) = collect(body).await?;
        Ok(Got { head, interim, body, trailers })
    };
    tokio::join!(receiving, sending).0
}

async fn send_body(
    mut stream: h2::SendStream<Bytes>,
    body: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    reset: Option<h2::Reason>,
) -> Result<(), h2::Error> {
    let last = body.len();
    for (index, mut bytes) in body.into_iter().enumerate() {
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len());
            let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
            let part = bytes.split_to(room?.min(bytes.len()));
            let ends = index + 1 == last && bytes.is_empty() && trailers.is_none() && reset.is_none();
            stream.send_data(part, ends)?;
        }
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    } else if let Some(code) = reset {
        stream.send_reset(code);
    } else if last == 0 {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

/// Reads a body to its end.
pub async fn collect(mut body: h2::RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        all.extend_from_slice(&bytes);
    }
    Ok((all, body.trailers().await?))
}
