//! The body of an HTTP/1 message that is being read.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Transport;
use super::client::Answered;
use super::transport::NoBody;
use crate::base::{ProxyError, Reason};
use crate::codec::pace::Pace;

/// Reads the connection that it belongs to, when it is asked.
pub struct Incoming {
    transport: Rc<Transport>,
    message: u32,
    over: bool,
    /// It failed, and fails again whoever asks: it must never look complete.
    broken: bool,
    source: Source,
}

enum Source {
    Caller(Pace),
    Upstream(Answered),
}

impl Incoming {
    /// The body of a request.
    pub fn of_request(transport: Rc<Transport>, message: u32, pace: Pace) -> Self {
        Self { transport, message, over: false, broken: false, source: Source::Caller(pace) }
    }

    /// The body of an answer. `answered` learns of its end.
    pub fn of_answer(transport: Rc<Transport>, message: u32, answered: Answered) -> Self {
        Self { transport, message, over: false, broken: false, source: Source::Upstream(answered) }
    }

    /// The next part.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if self.broken {
            return Poll::Ready(Some(Err(self.describe(&NoBody::Over))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let frame = match self.transport.poll_body(cx, self.message) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.poll_idle(cx).map(|error| Some(Err(error))),
        };
        if let Source::Caller(pace) = &mut self.source {
            pace.moved();
        }
        self.broken = matches!(frame, Some(Err(_)));
        self.over =
            !self.broken && (!matches!(&frame, Some(Ok(frame)) if frame.is_data()) || self.is_complete());
        if self.over {
            self.complete();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|problem| self.describe(&problem))))
    }

    /// Whether nothing is left.
    pub fn is_end_stream(&self) -> bool {
        self.over
    }

    /// What is known of the length.
    pub fn size_hint(&self) -> SizeHint {
        match self.transport.body_remaining(self.message) {
            _ if self.over => SizeHint::with_exact(0),
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::new(),
        }
    }

    fn is_complete(&self) -> bool {
        self.transport.body_remaining(self.message) == Some(0)
    }

    fn complete(&mut self) {
        if let Source::Upstream(answered) = &mut self.source {
            answered.complete(&self.transport);
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        let Source::Caller(pace) = &mut self.source else { return Poll::Pending };
        let error = ready!(pace.poll_pause(cx));
        self.broken = true;
        Poll::Ready(error)
    }

    fn describe(&self, problem: &NoBody) -> ProxyError {
        use Reason as R;
        let (reason, detail) = match (&self.source, problem) {
            (Source::Caller(_), NoBody::Ended) => {
                (R::ClientClosed, "the caller went away within its request")
            }
            (Source::Caller(_), NoBody::Malformed(detail)) => (R::MalformedRequest, *detail),
            (Source::Caller(_), NoBody::Over) => (R::ClientClosed, "the request's body is over"),
            (Source::Upstream(_), NoBody::Ended) => {
                (R::ResetAfterHeaders, "the service ended the connection within its answer")
            }
            (Source::Upstream(_), NoBody::Malformed(detail)) => (R::MalformedResponse, *detail),
            (Source::Upstream(_), NoBody::Over) => (R::ResetAfterHeaders, "the answer is over"),
        };
        ProxyError::new(reason, detail)
    }
}
