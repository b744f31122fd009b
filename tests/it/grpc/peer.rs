//! A server of HTTP/2 whose every move is the test's.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::sync::oneshot;

/// How it serves.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Streams of one connection.
    pub streams: Option<u32>,
    /// Says GOAWAY after so many requests on a connection: the code, or none
    /// for a graceful one, which serves them to their ends.
    pub leaves_after: Option<(usize, Option<h2::Reason>)>,
    /// The windows of a connection and of its streams.
    pub window: Option<u32>,
    /// Ends the connection a moment after its first request.
    pub ends: bool,
}

/// Ends when it is dropped.
pub struct Peer {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Served = Pin<Box<dyn Future<Output = ()>>>;
type Handler = Rc<dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> Served>;

impl Peer {
    /// `handler` is made in the peer's thread.
    pub fn start<F, H>(rules: Rules, make: F) -> Self
    where
        F: FnOnce() -> H + Send + 'static,
        H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Served + 'static,
    {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let count = connections.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let handler: Handler = Rc::new(make());
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(&listener, &rules, &handler, &count) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, connections, stop: Some(stop), thread: Some(thread) }
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the peer panicked");
            }
        }
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    rules: &Rules,
    handler: &Handler,
    count: &Arc<AtomicUsize>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        count.fetch_add(1, Ordering::SeqCst);
        tokio::task::spawn_local(serve(stream, rules.clone(), handler.clone()));
    }
}

async fn serve(stream: tokio::net::TcpStream, rules: Rules, handler: Handler) {
    let mut builder = h2::server::Builder::new();
    if let Some(streams) = rules.streams {
        builder.max_concurrent_streams(streams);
    }
    if let Some(window) = rules.window {
        builder.initial_window_size(window).initial_connection_window_size(window);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut served = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(handler(request, respond));
        served += 1;
        if rules.ends {
            let soon = tokio::time::sleep(std::time::Duration::from_millis(100));
            tokio::select! { _ = connection.accept() => {} () = soon => {} }
            return;
        }
        if let Some((after, code)) = rules.leaves_after
            && served == after
        {
            match code {
                None => connection.graceful_shutdown(),
                Some(code) => connection.abrupt_shutdown(code),
            }
        }
    }
}

/// Answers a call of gRPC with no message and status 0.
pub fn ok(mut respond: SendResponse<Bytes>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    // The caller may be gone.
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let _ = stream.send_trailers(trailers);
}
