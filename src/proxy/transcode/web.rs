//! The bodies of gRPC-Web.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use http::{HeaderValue, Response};
use http_body::Frame;

use super::{invalid, is_grpc, no_status};
use crate::base::ProxyError;
use crate::codec::Body;
use crate::policy::transcode::frames;
use crate::policy::transcode::web::{Decoder, Web};

/// The body of a request in gRPC's form: only the base64 has to go.
pub fn request(web: Web, body: Body) -> Body {
    match web.text_in {
        true => Body::Boxed(Box::pin(Plain { inner: body, decoder: Decoder::default(), ended: false })),
        false => body,
    }
}

/// The answer in the caller's form. One that is not gRPC's stays as it is.
pub fn answer(web: Web, response: Response<Body>) -> Response<Body> {
    if !is_grpc(response.headers()) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let kind = web.outer_type(head.headers.get(CONTENT_TYPE));
    head.headers.insert(CONTENT_TYPE, kind);
    head.headers.remove(CONTENT_LENGTH);
    let status = status_fields(&mut head.headers);
    let body = match status.is_empty() {
        true => Body::Boxed(Box::pin(Trailed { inner: body, web, ended: false })),
        false => Body::full(web.encode(frames::trailers(&status))),
    };
    Response::from_parts(head, body)
}

/// An error of the sidecar's own: the fields of its status become the body.
pub fn error(kind: &HeaderValue, web: Web, headers: &mut HeaderMap) -> Body {
    headers.insert(CONTENT_TYPE, web.outer_type(Some(&Web::inner_type(kind))));
    let status = status_fields(headers);
    Body::full(web.encode(frames::trailers(&status)))
}

/// Takes a status out of a head: of an answer that has no message (trailers only).
fn status_fields(headers: &mut HeaderMap) -> HeaderMap {
    const FIELDS: [HeaderName; 3] = [
        HeaderName::from_static("grpc-status"),
        HeaderName::from_static("grpc-message"),
        HeaderName::from_static("grpc-status-details-bin"),
    ];
    let mut status = HeaderMap::new();
    for name in FIELDS {
        if let Some(value) = headers.remove(&name) {
            status.insert(name, value);
        }
    }
    status
}

/// A request without its base64.
struct Plain {
    inner: Body,
    decoder: Decoder,
    ended: bool,
}

impl http_body::Body for Plain {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        while !self.ended {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => {
                    self.ended = true;
                    if let Err(fault) = self.decoder.end() {
                        return Poll::Ready(Some(Err(invalid(fault))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    match self.decoder.push(&data) {
                        Ok(plain) if plain.is_empty() => {}
                        Ok(plain) => return Poll::Ready(Some(Ok(Frame::data(plain)))),
                        Err(fault) => {
                            self.ended = true;
                            return Poll::Ready(Some(Err(invalid(fault))));
                        }
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

/// An answer with its trailers at the end of the body.
struct Trailed {
    inner: Body,
    web: Web,
    ended: bool,
}

impl http_body::Body for Trailed {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {
                self.ended = true;
                return Poll::Ready(Some(Err(no_status())));
            }
        };
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                self.ended = true;
                frames::trailers(&frame.into_trailers().unwrap_or_default())
            }
        };
        Poll::Ready(Some(Ok(Frame::data(self.web.encode(bytes)))))
    }
}
