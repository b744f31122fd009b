//! The answer on its way back: streamed as it comes, watched for silence and
//! for the route's whole timeout, recorded when it ends.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};

use super::ending::Ending;
use super::stack::{self, Call};
use super::websocket::Upgraded;
use crate::base::clock;
use crate::base::timers::Timer;
use crate::base::{ProxyError, Reason};
use crate::codec::{AnswerBody, Body, Takeover};
use crate::telemetry::record::Record;

/// The body of every answer that a caller gets.
pub struct Answer {
    body: Body,
    record: Record,
    call: Option<Rc<Call>>,
    /// Armed while the upstream is silent, with how far the request had come.
    idle: Option<(Timer, u64)>,
    /// The end of the whole call.
    deadline: Option<Timer>,
    takeover: Option<Takeover>,
}

/// Passes on the answer of an upstream.
pub fn pass_on(response: Response<Body>, call: Rc<Call>, mut record: Record) -> Response<Answer> {
    record.answered(response.status());
    let (head, body) = response.into_parts();
    let mut answer = Answer::own(body, record);
    call.ending.replace(Ending::of(call.is_of_http2(), &head.headers, &answer.body));
    if let Body::Tunnel(_) = &answer.body
        && let Body::Tunnel(upstream) = std::mem::take(&mut answer.body)
    {
        // Not the call: it holds the caller's connection, which has to be free.
        let upgraded = Upgraded::of(&call);
        let held = (call.take_active(), call.take_inside());
        answer.takeover = Some(Box::new(move |caller| {
            Box::pin(async move {
                upgraded.relay(caller, upstream).await;
                drop(held);
            })
        }));
    } else if !answer.body.is_end_stream()
        && let Some(end) = call.bounds.end
        && !stack::is_stream(head.status, &head.headers)
    {
        answer.deadline = Some(call.timers().at(end));
    }
    call.wait_for_end();
    if answer.takeover.is_none() {
        answer.call = Some(call);
    }
    Response::from_parts(head, answer)
}

/// Opens a tunnel.
pub fn tunnel(takeover: Takeover, mut record: Record) -> Response<Answer> {
    record.answered(http::StatusCode::OK);
    let mut answer = Answer::own(Body::Empty, record);
    answer.takeover = Some(takeover);
    Response::new(answer)
}

impl Answer {
    /// An answer of Pillion's own.
    pub fn own(body: Body, record: Record) -> Self {
        Self { body, record, call: None, idle: None, deadline: None, takeover: None }
    }

    /// The frame that tells a caller of gRPC of `error`.
    fn last(&self, error: &ProxyError) -> Option<Frame<Bytes>> {
        let call = self.call.as_ref()?;
        call.ending.take().last(error, &call.worker().router().model.service.name)
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.poll_fired(cx).is_ready())
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        let Some(call) = &self.call else { return Poll::Pending };
        call.poll_enough(cx);
        if let Some(deadline) = &mut self.deadline
            && deadline.poll_fired(cx).is_ready()
        {
            return Poll::Ready(late());
        }
        let limit = call.route.policy.idle_timeout;
        let (idle, seen) =
            self.idle.get_or_insert_with(|| (call.timers().at(clock::now() + limit), call.moved()));
        while idle.poll_fired(cx).is_ready() {
            // The caller may still be sending.
            if call.moved() == *seen {
                let detail = format!("nothing moved for the route's {limit:?}");
                return Poll::Ready(ProxyError::new(Reason::StreamIdle, detail));
            }
            *seen = call.moved();
            idle.arm(clock::now() + limit);
        }
        Poll::Pending
    }
}

fn late() -> ProxyError {
    ProxyError::new(Reason::Timeout, "the answer was not complete in time")
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let mut frame = match Pin::new(&mut self.body).poll_frame(cx) {
            // A body that is always ready has to end in time too.
            Poll::Ready(Some(_)) if self.is_late(cx) => {
                // The endpoint has kept up: its caller takes too slowly.
                self.call.as_ref().inspect(|call| call.says_nothing());
                Some(Err(late()))
            }
            Poll::Ready(frame) => frame,
            Poll::Pending => match self.poll_limits(cx) {
                Poll::Ready(error) => Some(Err(error)),
                Poll::Pending => return Poll::Pending,
            },
        };
        self.idle = None;
        match &frame {
            Some(Ok(passing)) => {
                if let Some(call) = &self.call {
                    call.ending.borrow_mut().follow(passing);
                    if let Some(trailers) = passing.trailers_ref() {
                        call.trailed(trailers);
                    }
                }
            }
            Some(Err(error)) => {
                self.record.failed(error.reason);
                if let Some(call) = &self.call {
                    call.cut(error);
                    call.broke_off(error);
                }
                self.body = Body::Empty;
                frame = self.last(error).map(Ok).or(frame);
            }
            None => {}
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

impl AnswerBody for Answer {
    fn takeover(&mut self) -> Option<Takeover> {
        self.takeover.take()
    }

    fn written(&mut self) {
        self.record.finish();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.ended();
        }
    }
}
