//! A listener on a free port of loopback with a thread for each connection,
//! all of them joined at the end: a panic in one of them fails the test.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long anything in a test may be silent before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Serves until it is ended or dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    accepted: AtomicUsize,
    open: Mutex<Vec<(usize, TcpStream)>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// `serve` is called for each connection with its number, from 0. The
    /// connection is closed when `serve` returns.
    pub fn start(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Self::on(listener, serve)
    }

    /// The same on a listener of the test's own.
    pub fn on(listener: TcpListener, serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serve = Arc::new(serve);
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared, &serve)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Closes the listener and every connection, and joins every thread.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the acceptor; it may have gone already.
        let _ = TcpStream::connect(self.address);
        let mut outcomes = vec![acceptor.join()];
        for (_, stream) in self.shared.open.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap());
        outcomes.extend(threads.into_iter().map(JoinHandle::join));
        if !std::thread::panicking() {
            for outcome in outcomes {
                outcome.expect("a thread of a test's server panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.finish();
    }
}

fn accept<F>(listener: &TcpListener, shared: &Arc<Shared>, serve: &Arc<F>)
where
    F: Fn(usize, TcpStream) + Send + Sync + 'static,
{
    for (number, stream) in listener.incoming().enumerate() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        stream.set_write_timeout(Some(PATIENCE * 3)).unwrap();
        shared.open.lock().unwrap().push((number, stream.try_clone().unwrap()));
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let (all, serve) = (shared.clone(), serve.clone());
        let thread = std::thread::spawn(move || {
            serve(number, stream);
            all.open.lock().unwrap().retain(|(other, _)| *other != number);
        });
        shared.threads.lock().unwrap().push(thread);
    }
}

/// Makes the end of `stream` a RST instead of a FIN.
pub fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// An address of loopback on which nobody listens and nobody will: it stays
/// bound, without listening, as long as the value lives.
pub struct Deaf(socket2::Socket);

impl Deaf {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// Polls `check` until it is true.
#[track_caller]
pub fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !check() {
        assert!(std::time::Instant::now() < deadline, "still not true after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
