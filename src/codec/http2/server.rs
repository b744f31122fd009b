//! The server's side of an HTTP/2 connection: a task for each stream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{COOKIE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::floods::{Allowed, Counted, Exceeded};
use super::send::{self, Sender};
use super::tunnel::Tunnel;
use super::{CONNECTION_WINDOW, Incoming, PENDING_RESETS, SEND_BUFFER, STREAM_WINDOW};
use crate::base::ProxyError;
use crate::base::timers::Timer;
use crate::codec::{AnswerBody, Body, Exchange, Handler, Interim, ServerContext, Stream, Upgrade, guard};

/// How long a connection that is told to go may take to hear it.
const GOODBYE: Duration = Duration::from_secs(1);

/// The way back for a stream's heads.
#[derive(Clone)]
pub struct Responder(Rc<RefCell<SendResponse<Bytes>>>);

/// Serves `io` until either side ends it.
pub async fn serve<S, H>(io: S, context: Rc<ServerContext>, handler: Rc<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let limits = &context.limits;
    let allowed = Allowed { control: limits.control_frames, resets: limits.resets };
    let (io, exceeded) = Counted::client(io, allowed);
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .handshake::<_, Bytes>(io);
    let mut timer = context.timers.at(Instant::now() + limits.header_timeout);
    let connection = tokio::select! {
        biased;
        connection = handshake => connection,
        () = timer.fired() => return handler.limited("header_timeout"),
    };
    let Ok(connection) = connection else { return };
    let activity = Rc::new(Activity { streams: Cell::new(0), last: Cell::new(Instant::now()) });
    timer.arm(Instant::now() + limits.connection_idle);
    let server = Server {
        accepted: Instant::now(),
        going: false,
        gone: false,
        connection,
        exceeded,
        timer,
        activity,
        context,
        handler,
    };
    server.run().await;
}

struct Server<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection: h2::server::Connection<Counted<S>, Bytes>,
    exceeded: Exceeded,
    timer: Timer,
    accepted: Instant,
    activity: Rc<Activity>,
    context: Rc<ServerContext>,
    handler: Rc<H>,
    /// Told to go after the streams at hand.
    going: bool,
    /// Told to go at once.
    gone: bool,
}

struct Activity {
    streams: Cell<usize>,
    last: Cell<Instant>,
}

/// Counts a stream for as long as its task runs.
struct Active(Rc<Activity>);

impl<S, H> Server<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(limit) = self.exceeded.get()
                && !self.gone
            {
                self.handler.limited(limit);
                self.gone = true;
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                self.timer.arm(Instant::now() + GOODBYE);
            }
            if self.gone {
                return match self.connection.poll_closed(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => self.timer.poll_fired(cx),
                };
            }
            if self.context.draining.get() && !self.going {
                self.go();
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.exceeded.get().is_some() => {}
                Poll::Pending => {
                    std::task::ready!(self.timer.poll_fired(cx));
                    if self.poll_idle() {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    fn go(&mut self) {
        self.going = true;
        self.connection.graceful_shutdown();
    }

    /// The timer has fired: ends a connection that is idle or old. Returns
    /// whether it is over.
    fn poll_idle(&mut self) -> bool {
        let context = self.context.clone();
        let limits = &context.limits;
        let idle =
            self.activity.streams.get() == 0 && self.activity.last.get().elapsed() >= limits.connection_idle;
        let old = self.accepted.elapsed() >= limits.connection_age;
        if idle && self.going {
            return true;
        }
        if idle {
            self.handler.limited("connection_idle");
        }
        if (idle || old) && !self.going {
            self.go();
            self.activity.last.set(Instant::now());
        }
        self.timer.arm(Instant::now() + limits.connection_idle.min(Duration::from_secs(30)));
        false
    }

    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let active = Active::begin(&self.activity);
        let (context, handler) = (self.context.clone(), self.handler.clone());
        tokio::task::spawn_local(async move {
            serve_stream(request, respond, &context, &*handler).await;
            drop(active);
        });
    }
}

impl Active {
    fn begin(activity: &Rc<Activity>) -> Self {
        activity.streams.set(activity.streams.get() + 1);
        Self(activity.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.last.set(Instant::now());
    }
}

impl Responder {
    /// Passes on a 1xx answer.
    pub fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        // A stream that is gone needs no interim answer.
        let _ = self.0.borrow_mut().send_informational(response);
    }

    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll_reset(cx).map(|_| ())
    }
}

async fn serve_stream<H: Handler>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    context: &ServerContext,
    handler: &H,
) {
    let (mut head, receive) = request.into_parts();
    join_cookies(&mut head.headers);
    let responder = Responder(Rc::new(RefCell::new(respond)));
    let method = head.method.clone();
    let facts = match guard::check_http2_request(&head).and_then(|facts| check_limits(&head, context, facts))
    {
        Ok(facts) => facts,
        Err(error) => {
            let response = handler.refuse(error);
            return answer(response, &method, &responder, context, handler, None).await;
        }
    };
    // The bytes of a tunnel are not the body of its request.
    let (body, receive) = match facts.upgrade {
        Upgrade::Connect => (Body::Empty, Some(receive)),
        _ if receive.is_end_stream() => (Body::Empty, None),
        _ => {
            let idle = context.limits.body_idle;
            let incoming = Incoming::of_request(receive, &head.headers, context.timers.clone(), idle);
            (Body::Http2(incoming), None)
        }
    };
    let exchange = Exchange {
        received: Instant::now(),
        authority: facts.authority,
        upgrade: facts.upgrade,
        interim: Interim::Http2(responder.clone()),
    };
    let call = handler.call(Request::from_parts(head, body), exchange);
    let mut call = std::pin::pin!(call);
    let response = poll_fn(|cx| {
        if let Poll::Ready(response) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        responder.poll_reset(cx).map(|()| None)
    })
    .await;
    if let Some(response) = response {
        answer(response, &method, &responder, context, handler, receive).await;
    }
}

/// HTTP/2 may cut a cookie into crumbs; nobody else may see them
/// (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().and(crumbs.next()).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_maybe_shared(Bytes::from(crumbs.join(&b"; "[..]))) {
        headers.insert(COOKIE, whole);
    }
}

fn check_limits(
    head: &http::request::Parts,
    context: &ServerContext,
    facts: guard::RequestFacts,
) -> Result<guard::RequestFacts, ProxyError> {
    use crate::base::Reason as R;
    let target = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if target > context.limits.target {
        let detail = "the target is longer than limits.target";
        return Err(ProxyError::unsent(R::TargetTooLong, detail).over("target"));
    }
    if head.headers.len() > context.limits.header_fields {
        let detail = "more fields than limits.header_fields";
        return Err(ProxyError::unsent(R::HeaderTooLarge, detail).over("header_fields"));
    }
    Ok(facts)
}

async fn answer<H: Handler>(
    response: Response<H::Body>,
    method: &Method,
    responder: &Responder,
    context: &ServerContext,
    handler: &H,
    tunnel: Option<RecvStream>,
) {
    let (mut head, mut body) = response.into_parts();
    for name in ["connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade"] {
        head.headers.remove(name);
    }
    head.version = http::Version::HTTP_2;
    let takeover = body.takeover().zip(tunnel);
    let bodiless =
        *method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let end = takeover.is_none() && (bodiless || body.is_end_stream());
    if !end
        && takeover.is_none()
        && let Some(length) = body.size_hint().exact()
        && !head.headers.contains_key(http::header::CONTENT_LENGTH)
    {
        head.headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    let sent = responder.0.borrow_mut().send_response(Response::from_parts(head, ()), end);
    let Ok(stream) = sent else { return };
    if end {
        return body.written();
    }
    if let Some((takeover, receive)) = takeover {
        body.written();
        drop(body);
        return takeover(Stream::Boxed(Box::pin(Tunnel::new(receive, stream)))).await;
    }
    stream_body(Sender::new(stream, body), context, handler).await;
}

async fn stream_body<H: Handler>(mut sender: Sender<H::Body>, context: &ServerContext, handler: &H) {
    let mut timer: Option<Timer> = None;
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = sender.poll(cx) {
            return Poll::Ready(Some(result));
        }
        if !sender.is_stalled() {
            timer = None;
            return Poll::Pending;
        }
        let stalled =
            timer.get_or_insert_with(|| context.timers.at(Instant::now() + context.limits.stream_idle));
        stalled.poll_fired(cx).map(|()| None)
    })
    .await;
    match result {
        Some(Ok(())) => sender.body_mut().written(),
        Some(Err(send::Broken::Body(error))) => sender.reset(send::reset_for(error.reason)),
        Some(Err(send::Broken::Stream)) => {}
        None => {
            handler.limited("stream_idle");
            sender.reset(Reason::CANCEL);
        }
    }
}
