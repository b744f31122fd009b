//! Streams of messages, one after another: requests from an array or from
//! newline-delimited JSON, answers as lines or as events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use prost::Message as _;
use serde_json::json;

use super::wait::Wait;
use super::{JsonCall, invalid, no_status, untranslatable};
use crate::base::{ProxyError, Reason};
use crate::codec::Body;
use crate::config::model::RequestBody;
use crate::policy::transcode::frames::{self, Messages};
use crate::policy::transcode::split::Values;
use crate::policy::transcode::status::Status;
use crate::policy::transcode::{Fault, message};

/// The request of a client stream, message by message. A rule whose messages
/// don't come from the body sends one.
pub fn request(call: Rc<JsonCall>, body: Body) -> Result<Body, Fault> {
    if matches!(call.called.body, RequestBody::None) {
        let message = message::request(&call.json, &call.called, &call.query, b"", "")?;
        return Ok(Body::full(frames::message(&message)));
    }
    let values = Values::new(call.json.max_message);
    Ok(Body::Boxed(Box::pin(Elements { inner: body, call, values, first: true, ended: false })))
}

/// Whether the messages of the answer are sent as they are.
pub fn is_raw(call: &JsonCall) -> bool {
    match &call.called.response_body {
        None => message::is_raw(&call.called.method.output()),
        Some(field) => field.kind().as_message().is_some_and(message::is_raw),
    }
}

/// A request that is made of the values of its body.
struct Elements {
    inner: Body,
    call: Rc<JsonCall>,
    values: Values,
    first: bool,
    ended: bool,
}

impl Elements {
    /// What comes from the path and the query stands in the first message.
    fn encode(&mut self, value: &[u8]) -> Result<Bytes, Fault> {
        let JsonCall { json, called, query, content_type, .. } = &*self.call;
        if std::mem::take(&mut self.first) {
            return Ok(frames::message(&message::request(json, called, query, value, content_type)?));
        }
        let bytes = message::of_body(json, called, value, content_type)?.encode_to_vec();
        if bytes.len() > json.max_message {
            return Err(Fault::TooLarge(json.max_message));
        }
        Ok(frames::message(&bytes))
    }

    fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let value = match self.values.take()? {
            None if self.ended => self.values.end()?,
            value => value,
        };
        value.map(|value| self.encode(&value)).transpose()
    }
}

impl http_body::Body for Elements {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        loop {
            match self.next() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) if self.ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(fault) => {
                    let error = ProxyError { sent: crate::base::Sent::Yes, ..invalid(fault) };
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => self.ended = true,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.values.push(&data);
                    }
                }
            }
        }
    }
}

/// The answer of a server stream: a line or an event for each message, and one
/// for a failure at the end.
pub struct Lines {
    inner: Body,
    call: Rc<JsonCall>,
    messages: Messages,
    raw: bool,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Lines {
    /// Translates `inner`.
    pub fn new(inner: Body, call: Rc<JsonCall>) -> Self {
        let messages = Messages::new(call.json.max_message);
        Self { inner, raw: is_raw(&call), call, messages, ready: VecDeque::new(), ended: false }
    }

    /// The content type that the first message names; a status if there is none.
    pub async fn first_kind(&mut self, wait: &mut Wait) -> Result<Result<String, Status>, ProxyError> {
        while let Some(frame) = wait.frame(&mut self.inner).await {
            match frame?.into_data() {
                Ok(data) => self.messages.push(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::of(&trailers).filter(|status| status.code != 0);
                    self.end(&trailers)?;
                    return Ok(status.map_or(Ok(String::new()), Err));
                }
            }
            if let Some(bytes) = self.messages.take().map_err(untranslatable)? {
                let (kind, data) =
                    message::answer(&self.call.json, &self.call.called, bytes).map_err(untranslatable)?;
                self.ready.push_back(data.into());
                return Ok(Ok(kind.unwrap_or_default()));
            }
        }
        Err(no_status())
    }

    /// What one message becomes.
    fn line(&self, bytes: Bytes) -> Result<Bytes, ProxyError> {
        let (_, text) = message::answer(&self.call.json, &self.call.called, bytes).map_err(untranslatable)?;
        let around = match (self.raw, self.call.events) {
            (true, _) => return Ok(text.into()),
            (_, true) => (&b"data: "[..], &b"\n\n"[..]),
            (_, false) => (&b"{\"result\":"[..], &b"}\n"[..]),
        };
        Ok([around.0, &text, around.1].concat().into())
    }

    /// The stream has ended, and how.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), ProxyError> {
        self.ended = true;
        let status = Status::of(trailers).ok_or_else(no_status)?;
        if status.code == 0 {
            return self.messages.end().map_err(untranslatable);
        }
        let status = status.to_json(&self.call.json);
        let line = match (self.raw, self.call.events) {
            // Nothing can be said within bytes that are somebody's own.
            (true, _) => {
                let detail = format!("the service ended the stream with {status}");
                return Err(ProxyError::new(Reason::ResetAfterHeaders, detail));
            }
            (_, true) => format!("event: error\ndata: {status}\n\n"),
            (_, false) => format!("{}\n", json!({ "error": status })),
        };
        self.ready.push_back(line.into());
        Ok(())
    }
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(line))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(bytes) = self.messages.take().map_err(untranslatable)? {
                return Poll::Ready(Some(self.line(bytes).map(Frame::data)));
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(no_status())));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.messages.push(&data),
                    Err(frame) => self.end(&frame.into_trailers().unwrap_or_default())?,
                },
            }
        }
    }
}
