//! The body of an HTTP/2 message that is being read.

use std::fmt::Display;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

use crate::base::{ProxyError, Reason, Side};
use crate::codec::guard;
use crate::codec::pace::Pace;

/// Gives the peer more room as its bytes are taken.
pub struct Incoming {
    stream: RecvStream,
    /// Bytes still to come, where the head said how many there are.
    declared: Option<u64>,
    over: bool,
    /// It failed, and fails again whoever asks: it must never look complete.
    broken: bool,
    side: Side,
    pace: Option<Pace>,
    /// Held for as long as the stream lives.
    held: Option<super::client::InUse>,
}

impl Incoming {
    /// The body of a request.
    pub fn of_request(stream: RecvStream, headers: &HeaderMap, pace: Pace) -> Self {
        Self {
            declared: declared(headers),
            over: false,
            broken: false,
            side: Side::Client,
            pace: Some(pace),
            held: None,
            stream,
        }
    }

    /// The body of an answer. `held` counts the stream as long as it lives.
    pub fn of_answer(stream: RecvStream, headers: &HeaderMap, held: super::client::InUse) -> Self {
        Self {
            declared: declared(headers),
            over: false,
            broken: false,
            side: Side::Upstream,
            pace: None,
            held: Some(held),
            stream,
        }
    }

    /// The next part.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if self.broken {
            return Poll::Ready(Some(Err(self.describe(&"it has failed before"))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        match self.stream.poll_data(cx) {
            Poll::Pending => return self.poll_idle(cx).map(|error| Some(Err(error))),
            Poll::Ready(Some(Ok(data))) => {
                self.moved();
                // Only fails where the stream is gone, which the next poll tells.
                let _ = self.stream.flow_control().release_capacity(data.len());
                self.declared = self.declared.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(self.fail(&error)))),
            Poll::Ready(None) => {}
        }
        let trailers = match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers,
            Err(error) => return Poll::Ready(Some(Err(self.fail(&error)))),
        };
        self.moved();
        if let Some(Err(detail)) = trailers.as_ref().map(guard::check_http2_fields) {
            self.broken = true;
            let reason = match self.side {
                Side::Upstream => Reason::MalformedResponse,
                _ => Reason::MalformedRequest,
            };
            return Poll::Ready(Some(Err(ProxyError::new(reason, detail))));
        }
        self.over = true;
        self.let_go();
        Poll::Ready(trailers.map(|mut trailers| {
            guard::strip_trailers(&mut trailers);
            Ok(Frame::trailers(trailers))
        }))
    }

    /// Whether nothing is left.
    pub fn is_end_stream(&self) -> bool {
        !self.broken && (self.over || self.stream.is_end_stream())
    }

    /// What is known of the length.
    pub fn size_hint(&self) -> SizeHint {
        match self.declared {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }

    /// The stream ends, for whoever counts it.
    fn let_go(&mut self) {
        if let Some(mut held) = self.held.take()
            && (self.over || self.stream.is_end_stream())
        {
            held.over();
        }
    }

    fn moved(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.moved();
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        let Some(pace) = &mut self.pace else { return Poll::Pending };
        let error = ready!(pace.poll_pause(cx));
        self.broken = true;
        Poll::Ready(error)
    }

    fn fail(&mut self, error: &h2::Error) -> ProxyError {
        self.broken = true;
        let library = error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR);
        match (self.side, library) {
            (Side::Upstream, true) => ProxyError::new(Reason::MalformedResponse, ended(error)),
            (Side::Client, true) => ProxyError::new(Reason::MalformedRequest, ended(error)),
            _ => {
                let reset = if error.is_reset() && error.is_remote() { error.reason() } else { None };
                ProxyError { reset: reset.map(u32::from), ..self.describe(error) }
            }
        }
    }

    fn describe(&self, problem: &dyn Display) -> ProxyError {
        let reason = match self.side {
            Side::Upstream => Reason::ResetAfterHeaders,
            _ => Reason::ClientClosed,
        };
        ProxyError::new(reason, ended(problem))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn ended(problem: &dyn Display) -> String {
    format!("the HTTP/2 stream ended within the body: {problem}")
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
