//! How an answer of gRPC ends that breaks off after its head: with a status,
//! which a library tells its user, in place of a reset or of a cut connection.

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http_body::{Body as _, Frame};

use super::reply;
use crate::base::{ProxyError, UpstreamName, grpc};
use crate::codec::Body;
use crate::policy::transcode::frames::{self, Follower};
use crate::policy::transcode::web::{Decoder, Web};

/// See the module's text.
#[derive(Default)]
pub enum Ending {
    /// It is cut: there is no place for a status.
    #[default]
    Cut,
    /// With trailers: gRPC over HTTP/2.
    Trailers,
    /// With the last frame of gRPC-Web.
    Web(Box<Followed>),
}

/// The frames of an answer of gRPC-Web: trailers stand only between messages.
pub struct Followed {
    web: Web,
    decoder: Decoder,
    frames: Follower,
    /// What has passed is not what it says it is.
    broken: bool,
}

impl Ending {
    /// How an answer can be ended. `http2` is what its caller speaks.
    pub fn of(http2: bool, headers: &HeaderMap, body: &Body) -> Self {
        let grpc = |kind: &&HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
        let Some(kind) = headers.get(CONTENT_TYPE).filter(grpc) else { return Self::Cut };
        // What was counted can't be followed by anything.
        if headers.contains_key(CONTENT_LENGTH) || body.size_hint().exact().is_some() {
            return Self::Cut;
        }
        match Web::answered(kind) {
            Some(web) => {
                let (decoder, frames) = (Decoder::default(), Follower::default());
                Self::Web(Box::new(Followed { web, decoder, frames, broken: false }))
            }
            None if http2 && grpc::content_type(headers).is_some() => Self::Trailers,
            None => Self::Cut,
        }
    }

    /// A frame of the answer passes.
    pub fn follow(&mut self, frame: &Frame<Bytes>) {
        if let (Self::Web(followed), Some(data)) = (self, frame.data_ref()) {
            followed.follow(data);
        }
    }

    /// The last frame of an answer that broke off for `error`; `service` is
    /// whose sidecar speaks. A reset of the service's own stays one.
    pub fn last(self, error: &ProxyError, service: &UpstreamName) -> Option<Frame<Bytes>> {
        match self {
            Self::Trailers if error.reset.is_none() => Some(Frame::trailers(fields(error, service))),
            Self::Web(followed) if followed.is_between() => {
                let trailers = frames::trailers(&fields(error, service));
                Some(Frame::data(followed.web.encode(trailers)))
            }
            _ => None,
        }
    }
}

impl Followed {
    fn follow(&mut self, data: &Bytes) {
        if !self.web.text_out {
            return self.frames.follow(data);
        }
        match self.decoder.push(data) {
            Ok(plain) => self.frames.follow(&plain),
            Err(_) => self.broken = true,
        }
    }

    fn is_between(&self) -> bool {
        !self.broken && self.decoder.end().is_ok() && self.frames.is_between()
    }
}

/// The status of an error, as trailers.
fn fields(error: &ProxyError, service: &UpstreamName) -> HeaderMap {
    let kind = HeaderValue::from_static("application/grpc");
    let (response, _) = reply::grpc(error, &error.reason.facts(), service.as_str(), kind);
    let mut fields = response.into_parts().0.headers;
    fields.remove(CONTENT_TYPE);
    fields
}
