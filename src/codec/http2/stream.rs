//! One stream of a server's connection: a request, its answer, or a tunnel.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use pin_project_lite::pin_project;

use super::send::{self, Sender};
use super::server::Active;
use super::tunnel::Tunnel;
use super::{Incoming, extended};
use crate::base::clock;
use crate::base::timers::Timer;
use crate::base::{ProxyError, Reason};
use crate::codec::guard::{self, RequestFacts};
use crate::codec::pace::{Moved, Pace};
use crate::codec::{AnswerBody, Body, Exchange, Handler, Interim, ServerContext, Stream, Takeover, Upgrade};

/// The way back for a stream's heads.
#[derive(Clone)]
pub struct Responder(Rc<RefCell<SendResponse<Bytes>>>);

/// What a stream needs from its first to its last byte.
struct Served<H> {
    method: Method,
    responder: Responder,
    context: Rc<ServerContext>,
    handler: Rc<H>,
    active: Active,
}

/// What is left to do once the head of an answer is sent.
enum Answering<B> {
    Done,
    Tunnel(Takeover, Tunnel),
    Body(Sender<B>),
}

pin_project! {
    /// A call that ends early, without an answer, when the caller resets the stream.
    struct Calling<F> {
        #[pin]
        call: F,
        responder: Responder,
    }
}

impl<F: Future> Future for Calling<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(response) = this.call.poll(cx) {
            return Poll::Ready(Some(response));
        }
        this.responder.poll_reset(cx).map(|()| None)
    }
}

/// Serves a stream in a task of its own. What needs no waiting is done here, so
/// that the task is no larger than it must be.
pub fn spawn<H: Handler>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    shared: (&Rc<ServerContext>, &Rc<H>),
    active: Active,
) {
    let (mut head, receive) = request.into_parts();
    join_cookies(&mut head.headers);
    let served = Served {
        method: head.method.clone(),
        responder: Responder(Rc::new(RefCell::new(respond))),
        context: shared.0.clone(),
        handler: shared.1.clone(),
        active,
    };
    match served.check(&mut head) {
        Ok(facts) => {
            let (body, tunnel, moved) = served.body(&head, receive, facts.upgrade);
            let exchange = Exchange {
                received: served.active.started(),
                authority: facts.authority,
                upgrade: facts.upgrade,
                interim: Interim::Http2(served.responder.clone()),
                moved,
            };
            let call = served.handler.call(Request::from_parts(head, body), exchange);
            let responder = served.responder.clone();
            // One after the other in the same room, which an `async` block would not do.
            tokio::task::spawn_local(
                Calling { call, responder }.then(|response| served.end(response, tunnel)),
            );
        }
        Err(error) => {
            let response = served.handler.refuse(error);
            tokio::task::spawn_local(served.end(Some(response), None));
        }
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

impl<H: Handler> Served<H> {
    fn check(&self, head: &mut request::Parts) -> Result<RequestFacts, ProxyError> {
        let facts = extended::check(head)?;
        let target = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
        if target > self.context.limits.target {
            let detail = "the target is longer than limits.target";
            return Err(ProxyError::unsent(Reason::TargetTooLong, detail).over("target"));
        }
        if head.headers.len() > self.context.limits.header_fields {
            let detail = "more fields than limits.header_fields";
            return Err(ProxyError::unsent(Reason::HeaderTooLarge, detail).over("header_fields"));
        }
        let bytes: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > self.context.limits.header_bytes {
            let detail = "the head is larger than limits.header_bytes";
            return Err(ProxyError::unsent(Reason::HeaderTooLarge, detail).over("header_bytes"));
        }
        Ok(facts)
    }

    /// The request's body. The bytes of a tunnel are not part of it.
    fn body(
        &self,
        head: &request::Parts,
        receive: RecvStream,
        upgrade: Upgrade,
    ) -> (Body, Option<RecvStream>, Option<Moved>) {
        if upgrade != Upgrade::No {
            return (Body::Empty, Some(receive), None);
        }
        if receive.is_end_stream() {
            return (Body::Empty, None, None);
        }
        // A gRPC client may hold a stream open and say nothing for hours.
        let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let grpc = kind.is_some_and(|kind| kind.starts_with(b"application/grpc"));
        let pace = Pace::new(self.context.timers.clone(), (!grpc).then_some(self.context.limits.body_idle));
        let moved = pace.counter();
        (Body::Http2(Incoming::of_request(receive, &head.headers, pace)), None, Some(moved))
    }

    /// Sends the answer, unless the caller is gone.
    async fn end(self, response: Option<Response<H::Body>>, tunnel: Option<RecvStream>) {
        if let Some(response) = response {
            match self.answer(response, tunnel) {
                Answering::Done => {}
                Answering::Tunnel(takeover, tunnel) => {
                    takeover(Stream::Boxed(Box::pin(tunnel))).await;
                }
                Answering::Body(sender) => self.stream(sender).await,
            }
        }
    }

    /// Sends the head of the answer.
    fn answer(&self, response: Response<H::Body>, tunnel: Option<RecvStream>) -> Answering<H::Body> {
        let (mut head, mut body) = response.into_parts();
        let takeover = body.takeover().zip(tunnel);
        if takeover.is_some() {
            extended::accepted(&mut head);
        }
        strip(&mut head.headers);
        head.version = Version::HTTP_2;
        let bodiless = guard::has_no_body(&self.method, head.status);
        let end = takeover.is_none() && (bodiless || body.is_end_stream());
        if !end
            && takeover.is_none()
            && let Some(length) = body.size_hint().exact()
            && !head.headers.contains_key(CONTENT_LENGTH)
        {
            head.headers.insert(CONTENT_LENGTH, length.into());
        }
        self.active.answered();
        let sent = self.responder.0.borrow_mut().send_response(Response::from_parts(head, ()), end);
        let Ok(stream) = sent else { return Answering::Done };
        if end {
            body.written();
            Answering::Done
        } else if let Some((takeover, receive)) = takeover {
            body.written();
            Answering::Tunnel(takeover, Tunnel::new(receive, stream))
        } else {
            Answering::Body(Sender::new(stream, body))
        }
    }

    async fn stream(&self, mut sender: Sender<H::Body>) {
        let (context, mut timer) = (&self.context, None::<(Timer, u64)>);
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = sender.poll(cx) {
                return Poll::Ready(Some(result));
            }
            let Some(at) = sender.stalled_at() else {
                timer = None;
                return Poll::Pending;
            };
            let end = || clock::now() + context.limits.stream_idle;
            let (stalled, since) = timer.get_or_insert_with(|| (context.timers.at(end()), at));
            if *since != at {
                *since = at;
                stalled.arm(end());
            }
            stalled.poll_fired(cx).map(|()| None)
        })
        .await;
        match result {
            Some(Ok(())) => sender.body_mut().written(),
            Some(Err(send::Broken::Body(error))) => sender.reset(send::reset_for(&error)),
            Some(Err(send::Broken::Stream)) => {}
            None => {
                self.handler.limited("stream_idle");
                sender.reset(h2::Reason::CANCEL);
            }
        }
    }
}

/// Fields that HTTP/2 has no place for.
fn strip(headers: &mut HeaderMap) {
    for name in ["connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade"] {
        headers.remove(name);
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
