//! Bodies that may not be larger than the route allows.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::router::Route;
use crate::base::{Origin, ProxyError, Reason};
use crate::codec::Body;

/// A body whose size nobody has told.
struct Bounded {
    body: Body,
    left: u64,
    limit: Limit,
}

/// What bounds a body.
#[derive(Clone)]
struct Limit {
    reason: Reason,
    most: u64,
    rule: Option<Origin>,
}

/// The body of a request, where it is not larger than the route allows or its
/// size is not known; then it fails where it becomes too large.
pub fn request(route: &Route, body: Body) -> Result<Body, ProxyError> {
    let most = route.policy.shaping.as_ref().and_then(|shaping| shaping.sizes.request);
    bounded(body, most, Reason::RequestTooLarge, route)
}

/// The same for the body of an answer.
pub fn response(route: &Route, body: Body) -> Result<Body, ProxyError> {
    let most = route.policy.shaping.as_ref().and_then(|shaping| shaping.sizes.response);
    bounded(body, most, Reason::ResponseTooLarge, route)
}

fn bounded(body: Body, most: Option<u64>, reason: Reason, route: &Route) -> Result<Body, ProxyError> {
    let Some(most) = most else { return Ok(body) };
    let hint = body.size_hint();
    if hint.lower() > most {
        let error = Limit { reason, most, rule: route.origin.clone() }.error();
        // Nothing of a request has gone out yet.
        let sent = if reason == Reason::RequestTooLarge { crate::base::Sent::No } else { error.sent };
        return Err(ProxyError { sent, ..error });
    }
    // What is known to be small enough stays as it is, and can be replayed.
    if hint.upper().is_some_and(|upper| upper <= most) || matches!(body, Body::Tunnel(_)) {
        return Ok(body);
    }
    let limit = Limit { reason, most, rule: route.origin.clone() };
    Ok(Body::Boxed(Box::pin(Bounded { body, left: most, limit })))
}

impl Limit {
    fn error(&self) -> ProxyError {
        let (key, most) = match self.reason {
            Reason::RequestTooLarge => ("max_request_body", self.most),
            _ => ("max_response_body", self.most),
        };
        let detail = format!("the body is larger than the {most} bytes of `{key}`");
        ProxyError { rule: self.rule.clone(), ..ProxyError::new(self.reason, detail) }
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    // The rest is not read.
                    self.body = Body::Empty;
                    return Poll::Ready(Some(Err(self.limit.error())));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
