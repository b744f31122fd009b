//! One request on a client's connection, until the head of its answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body as _;

use super::client::{Lease, Shared};
use super::kept::Kept;
use super::send::{Broken, Sender};
use super::tunnel::Tunnel;
use super::{Incoming, extended};
use crate::base::{ProxyError, Reason, Sent};
use crate::codec::http1::client::MAX_INTERIM;
use crate::codec::{Body, Failed, SendContext, Stream, Upgrade, guard};

impl Lease {
    /// Sends a request and waits for the head of its answer. The head of the
    /// request is only read, so that the caller can send it again.
    pub async fn send(
        self,
        request: &request::Parts,
        body: Body,
        context: &SendContext<'_>,
    ) -> Result<Response<Body>, Failed> {
        let Self { mut sender, mut in_use } = self;
        let upgrading = context.upgrade == Upgrade::Protocol;
        let mut head = match translate(request, context.fields, &body) {
            Ok(head) => head,
            Err(detail) => {
                let error = ProxyError::unsent(Reason::MalformedRequest, detail);
                return Err(Failed { error, body: None });
            }
        };
        let end = body.is_end_stream() && !upgrading;
        if upgrading {
            extended::ask(&mut head);
        }
        let (response, stream) = match sender.send_request(head, end) {
            Ok(sent) => sent,
            Err(error) => {
                let error = ProxyError::unsent(Reason::ResetBeforeHeaders, error.to_string());
                return Err(Failed { error, body: Some(body) });
            }
        };
        let (mut upload, mut tunnel) = (None, None);
        if upgrading {
            tunnel = Some(stream);
        } else if !end {
            upload = Some(Sender::new(stream, Kept::new(body)));
        }
        let exchange = Exchange { sender: Some(sender), response, shared: &in_use.shared, interims: 0 };
        let answer = exchange.run(&mut upload, context).await;
        let failed = |error| Failed { error, body: None };
        let (mut head, receive) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) if error.sent == Sent::No => {
                return Err(Failed { error, body: upload.and_then(|sender| sender.into_body().again()) });
            }
            Err(error) => return Err(failed(error)),
        };
        in_use.shared.answered();
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
            in_use.over();
            return Ok(Response::from_parts(head, Body::Empty));
        }
        let held = in_use.uploading(upload.filter(|sender| !sender.is_done()));
        let incoming = Incoming::of_answer(receive, &head.headers, held);
        Ok(Response::from_parts(head, Body::Http2(incoming)))
    }
}

/// A request whose answer is waited for.
struct Exchange<'a> {
    /// `None` once the stream is open.
    sender: Option<SendRequest<Bytes>>,
    response: ResponseFuture,
    shared: &'a Shared,
    interims: u32,
}

impl Exchange<'_> {
    async fn run(
        mut self,
        upload: &mut Option<Sender<Kept>>,
        context: &SendContext<'_>,
    ) -> Result<Response<h2::RecvStream>, ProxyError> {
        let shared = self.shared;
        let mut news = std::pin::pin!(shared.news());
        poll_fn(|cx| {
            if self.is_stuck() {
                let detail = "the service allows fewer HTTP/2 streams than a moment ago";
                return Poll::Ready(Err(ProxyError::unsent(Reason::ResetBeforeHeaders, detail)));
            }
            if self.sender.is_some() && news.as_mut().poll(cx).is_ready() {
                news.set(shared.news());
                // Asked again at once, so that it is woken again.
                cx.waker().wake_by_ref();
            }
            if let Some(sender) = upload
                && let Poll::Ready(Err(Broken::Body(error))) = sender.poll(cx)
            {
                sender.reset(h2::Reason::CANCEL);
                return Poll::Ready(Err(error));
            }
            self.poll(cx, context)
        })
        .await
    }

    /// The peer has lowered its limit before the stream was opened: nothing of
    /// it was sent, and nobody knows when it could be.
    fn is_stuck(&mut self) -> bool {
        let Some(sender) = &mut self.sender else { return false };
        // Whoever sends is woken when it opens; the answer wakes all others.
        if sender.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.sender = None;
            return false;
        }
        self.shared.is_over_full()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        context: &SendContext<'_>,
    ) -> Poll<Result<Response<h2::RecvStream>, ProxyError>> {
        while let Poll::Ready(Some(Ok(interim))) = self.response.poll_informational(cx) {
            self.interims += 1;
            let malformed = |detail| Poll::Ready(Err(ProxyError::new(Reason::MalformedResponse, detail)));
            if self.interims > MAX_INTERIM {
                return malformed("more than 64 interim answers");
            }
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                return malformed("101 Switching Protocols, which HTTP/2 does not have");
            }
            context.interim.send(interim.status(), interim.headers());
        }
        let served = self.shared.has_served();
        Pin::new(&mut self.response).poll(cx).map_err(|error| describe(&error, served))
    }
}

/// Why there is no answer. `served`: the connection has given one before.
fn describe(error: &h2::Error, served: bool) -> ProxyError {
    let reset = if error.is_reset() && error.is_remote() { error.reason() } else { None };
    let never_processed = reset == Some(h2::Reason::REFUSED_STREAM)
        // The crate gives this only to streams above the last one that the peer looked at.
        || (error.is_go_away() && error.is_remote());
    let reason = match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_library() => Reason::MalformedResponse,
        _ => Reason::ResetBeforeHeaders,
    };
    let mut made = ProxyError::new(reason, format!("the HTTP/2 stream ended before the answer: {error}"));
    made.reset = reset.map(u32::from);
    if never_processed {
        made.sent = Sent::No;
    } else if served && error.is_io() {
        made.sent = Sent::OnReused;
    }
    made
}

/// The head in HTTP/2's form: Host becomes `:authority`.
fn translate(
    request: &request::Parts,
    fields: &[(HeaderName, HeaderValue)],
    body: &Body,
) -> Result<Request<()>, &'static str> {
    let mut head = Request::new(());
    *head.method_mut() = request.method.clone();
    *head.version_mut() = Version::HTTP_2;
    let mut headers = request.headers.clone();
    let host = headers.remove(HOST);
    headers.remove(EXPECT);
    for (name, value) in fields {
        headers.insert(name.clone(), value.clone());
    }
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
