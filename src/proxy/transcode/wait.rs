//! What a body gives, awaited no longer than the route allows. For bodies that
//! have to be whole before anything can be said: what is streamed is bounded by
//! those who read it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};

use super::super::stack::Call;
use crate::base::clock;
use crate::base::timers::Timer;
use crate::base::{ProxyError, Reason};
use crate::codec::Body;

/// See the module's text.
pub struct Wait {
    call: Rc<Call>,
    end: Option<Timer>,
    quiet: Timer,
    idle: Duration,
}

impl Wait {
    /// By the policy of the call's route, and the time that its caller gives.
    pub fn new(call: &Rc<Call>) -> Self {
        let end = call.bounds.end.map(|end| call.timers().at(end));
        let idle = call.route.policy.idle_timeout;
        Self { call: call.clone(), end, quiet: call.timers().at(clock::now() + idle), idle }
    }

    /// The next frame of `body`.
    pub async fn frame(&mut self, body: &mut Body) -> Option<Result<Frame<Bytes>, ProxyError>> {
        self.quiet.arm(clock::now() + self.idle);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            if self.call.worker().is_stopping(self.call.route.metrics.direction()) {
                let detail = "the time that `drain.deadline` gives was over";
                return Poll::Ready(Some(Err(ProxyError::new(Reason::ShuttingDown, detail))));
            }
            let late = self.end.as_mut().is_some_and(|end| end.poll_fired(cx).is_ready());
            let error = match (late, self.quiet.poll_fired(cx)) {
                (true, _) => ProxyError::new(Reason::Timeout, "the call was not complete in time"),
                (_, Poll::Ready(())) => {
                    let detail = format!("nothing moved for the {:?} of `idle_timeout`", self.idle);
                    ProxyError::new(Reason::StreamIdle, detail)
                }
                (_, Poll::Pending) => return Poll::Pending,
            };
            let rule =
                self.call.route.origin.clone().filter(|_| !(late && self.call.bounds.caller.is_some()));
            Poll::Ready(Some(Err(ProxyError { rule, ..error })))
        })
        .await
    }
}
