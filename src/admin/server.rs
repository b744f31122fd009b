//! The server under both ports. It is small on purpose and everything in it is
//! bounded: connections, bytes of a head, the time for a head, a connection's age.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::guard::Peer;
use crate::base::drain::{Stage, Watch};

/// Connections at one time; a further one waits to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Bytes of one head, and of what is buffered of a connection.
const MAX_HEAD: usize = 32 * 1024;
/// For a head, and for the next one on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Whatever happens on it, a connection ends then.
const MAX_AGE: Duration = Duration::from_secs(120);
/// After an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `drain` reaches [`Stage::Stopped`]: a
/// sidecar that drains still answers its probes. Runs in a tokio runtime.
pub async fn serve(listener: std::net::TcpListener, router: Router, mut drain: Watch) {
    let bound = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    match bound {
        Ok(listener) => {
            tokio::select! {
                () = accept(listener, router) => {}
                () = drain.reached(Stage::Stopped) => {}
            }
        }
        Err(error) => tracing::error!(%error, "the admin listener can't be used"),
    }
}

/// Ends by being dropped, and its connections with it.
async fn accept(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, Peer(peer), router).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the admin listener could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: Router) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(MAX_AGE, served).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, peer = %peer.0, "an admin connection ended badly"),
    }
}

async fn answer(router: Router, request: hyper::Request<hyper::body::Incoming>) -> axum::response::Response {
    match router.oneshot(request.map(axum::body::Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
