//! The client's side of an HTTP/2 connection: many requests at a time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body as _;
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use super::batch::{Batch, batched};
use super::extended;
use super::send::{Broken, Sender};
use super::tunnel::Tunnel;
use super::{CONNECTION_WINDOW, Incoming, SEND_BUFFER, STREAM_WINDOW};
use crate::base::Limits;
use crate::base::{ProxyError, Reason, Sent};
use crate::codec::http1::client::MAX_INTERIM;
use crate::codec::{Body, Failed, SendContext, Stream, Upgrade, guard};

/// Streams that we open at most on one connection, whatever the peer allows.
const MAX_STREAMS: usize = 100;

/// A connection that takes requests. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

struct Shared {
    active: Cell<usize>,
    closed: Cell<bool>,
    last_used: Cell<Instant>,
    task: Cell<Option<AbortHandle>>,
    /// Asks the peer for a sign.
    ping: RefCell<Option<h2::PingPong>>,
    /// The peer's SETTINGS have come.
    settled: OnceCell<()>,
}

/// Counts a stream for as long as it lives, and ends what still sends on it.
pub struct InUse {
    shared: Rc<Shared>,
    upload: Option<AbortHandle>,
}

impl Connection {
    /// Speaks the preface on `stream`.
    pub async fn handshake(stream: Stream, limits: &Limits) -> Result<Self, ProxyError> {
        let batch = Batch::new(stream);
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .enable_push(false)
            .handshake::<_, Bytes>(batch.clone());
        let (sender, mut connection) = batched(&batch, handshake).await.map_err(|error| {
            ProxyError::unsent(Reason::ConnectFailed, format!("the HTTP/2 preface failed: {error}"))
        })?;
        let shared = Rc::new(Shared {
            active: Cell::new(0),
            closed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            task: Cell::new(None),
            ping: RefCell::new(connection.ping_pong()),
            settled: OnceCell::new(),
        });
        let closing = shared.clone();
        let task = tokio::task::spawn_local(async move {
            // Its error reaches every stream.
            let _ = batched(&batch, connection).await;
            closing.closed.set(true);
        });
        shared.task.set(Some(task.abort_handle()));
        Ok(Self { sender, shared })
    }

    /// Whether another stream can be opened at once.
    pub fn has_room(&self) -> bool {
        !self.is_closed()
            && self.shared.active.get() < MAX_STREAMS.min(self.sender.current_max_send_streams())
    }

    /// Whether it can take no more requests.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Streams that are open now.
    pub fn active(&self) -> usize {
        self.shared.active.get()
    }

    /// Since when no stream has begun or ended.
    pub fn last_used(&self) -> Instant {
        self.shared.last_used.get()
    }

    /// Whether an upgrade with this head and body can be asked for over HTTP/2.
    pub fn can_upgrade(request: &request::Parts, body: &Body) -> bool {
        extended::can_carry(request, body)
    }

    /// Whether an upgrade can be asked for here, with an extended CONNECT. Waits
    /// for the peer's SETTINGS, which say so.
    pub async fn takes_upgrades(&self) -> bool {
        if !self.sender.is_extended_connect_protocol_enabled() {
            self.shared.settled.get_or_init(|| self.shared.settle()).await;
        }
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// Ends it, with the streams that it has.
    pub fn close(&self) {
        self.shared.closed.set(true);
        if let Some(task) = self.shared.task.take() {
            task.abort();
        }
    }

    /// Sends a request and waits for the head of its answer. The head of the
    /// request is only read, so that the caller can send it again.
    pub async fn send(
        &self,
        request: &request::Parts,
        body: Body,
        context: &SendContext<'_>,
    ) -> Result<Response<Body>, Failed> {
        let in_use = InUse::begin(&self.shared);
        let unsent = |detail: String, body| Failed {
            error: ProxyError::unsent(Reason::ResetBeforeHeaders, detail),
            body: Some(body),
        };
        let upgrading = context.upgrade == Upgrade::Protocol;
        let mut sender = match self.sender.clone().ready().await {
            Ok(sender) => sender,
            Err(error) => {
                self.shared.closed.set(true);
                return Err(unsent(format!("the HTTP/2 connection is closing: {error}"), body));
            }
        };
        let mut head = match translate(request, &body) {
            Ok(head) => head,
            Err(detail) => {
                return Err(Failed {
                    error: ProxyError::unsent(Reason::MalformedRequest, detail),
                    body: None,
                });
            }
        };
        let end = body.is_end_stream() && !upgrading;
        if upgrading {
            extended::ask(&mut head);
        }
        let (response, stream) = match sender.send_request(head, end) {
            Ok(sent) => sent,
            Err(error) => return Err(unsent(error.to_string(), body)),
        };
        let (mut upload, mut tunnel) = (None, None);
        if upgrading {
            tunnel = Some(stream);
        } else if !end {
            upload = Some(Sender::new(stream, body));
        }
        let failed = |error| Failed { error, body: None };
        let answer = exchange(response, &mut upload, context).await;
        let (mut head, receive) = answer.map_err(failed)?.into_parts();
        guard::check_http2_response(&head.headers).map_err(failed)?;
        if let Some(mut stream) = tunnel {
            if head.status.is_success() {
                extended::switched(&mut head, request);
                let tunnel = Tunnel::held(receive, stream, in_use);
                return Ok(Response::from_parts(head, Body::Tunnel(Stream::Boxed(Box::pin(tunnel)))));
            }
            // Only fails where the stream is gone.
            let _ = stream.send_data(Bytes::new(), true);
        }
        if receive.is_end_stream() {
            return Ok(Response::from_parts(head, Body::Empty));
        }
        let held = in_use.uploading(upload);
        let incoming = Incoming::of_answer(receive, &head.headers, held);
        Ok(Response::from_parts(head, Body::Http2(incoming)))
    }
}

impl Shared {
    /// Waits for the answer to a ping: by then the SETTINGS have come, which are
    /// the first that a peer sends. Ready also when the connection has ended.
    async fn settle(&self) {
        poll_fn(|cx| match &mut *self.ping.borrow_mut() {
            Some(ping) => {
                // One that is under way already will do.
                let _ = ping.send_ping(h2::Ping::opaque());
                ping.poll_pong(cx).map(|_| ())
            }
            None => Poll::Ready(()),
        })
        .await;
    }
}

impl InUse {
    fn begin(shared: &Rc<Shared>) -> Self {
        shared.active.set(shared.active.get() + 1);
        shared.last_used.set(Instant::now());
        Self { shared: shared.clone(), upload: None }
    }

    /// Goes on sending while the answer is read.
    fn uploading(mut self, upload: Option<Sender<Body>>) -> Self {
        self.upload = upload.map(|mut sender| {
            sender.body_mut().wait_for_ever();
            let task = tokio::task::spawn_local(async move {
                if let Err(Broken::Body(_)) = poll_fn(|cx| sender.poll(cx)).await {
                    sender.reset(h2::Reason::CANCEL);
                }
            });
            task.abort_handle()
        });
        self
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.shared.active.set(self.shared.active.get() - 1);
        self.shared.last_used.set(Instant::now());
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

async fn exchange(
    mut response: ResponseFuture,
    upload: &mut Option<Sender<Body>>,
    context: &SendContext<'_>,
) -> Result<Response<h2::RecvStream>, ProxyError> {
    let mut interims = 0;
    poll_fn(|cx| {
        if let Some(sender) = upload {
            match sender.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(Broken::Body(error))) => {
                    sender.reset(h2::Reason::CANCEL);
                    return Poll::Ready(Err(error));
                }
                // The answer, or the error, is on the other side.
                Poll::Ready(Ok(()) | Err(Broken::Stream)) => *upload = None,
            }
        }
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            interims += 1;
            if interims > MAX_INTERIM {
                let detail = "more than 64 interim answers";
                return Poll::Ready(Err(ProxyError::new(Reason::MalformedResponse, detail)));
            }
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                let detail = "101 Switching Protocols, which HTTP/2 does not have";
                return Poll::Ready(Err(ProxyError::new(Reason::MalformedResponse, detail)));
            }
            context.interim.send(interim.status(), interim.headers());
        }
        std::pin::Pin::new(&mut response).poll(cx).map_err(|error| describe(&error))
    })
    .await
}

fn describe(error: &h2::Error) -> ProxyError {
    let never_processed = (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
        // The crate gives this only to streams above the last one that the peer looked at.
        || (error.is_go_away() && error.is_remote());
    let reason = match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_library() => Reason::MalformedResponse,
        _ => Reason::ResetBeforeHeaders,
    };
    let mut made = ProxyError::new(reason, format!("the HTTP/2 stream ended before the answer: {error}"));
    if never_processed {
        made.sent = Sent::No;
    }
    made
}

/// The head in HTTP/2's form: Host becomes `:authority`.
fn translate(request: &request::Parts, body: &Body) -> Result<Request<()>, &'static str> {
    let mut head = Request::new(());
    *head.method_mut() = request.method.clone();
    *head.version_mut() = Version::HTTP_2;
    let mut headers = request.headers.clone();
    let host = headers.remove(HOST);
    headers.remove(EXPECT);
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let authority = match &host {
        Some(host) => host.as_bytes(),
        None => request.uri.authority().ok_or("no authority")?.as_str().as_bytes(),
    };
    let path = match request.uri.path_and_query() {
        Some(path) if !path.as_str().is_empty() => path.clone(),
        _ => PathAndQuery::from_static("/"),
    };
    *head.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|_| "an authority that HTTP/2 can't carry")?;
    *head.headers_mut() = headers;
    Ok(head)
}
