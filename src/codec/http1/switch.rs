//! The change of protocol that a request asks for (RFC 9110, section 7.8), and
//! whether the answer agrees to it.

use http::header::UPGRADE;
use http::{HeaderMap, HeaderValue, StatusCode, Version, request, response};

use crate::codec::{Upgrade, handshake};

/// What was asked for beside an answer.
pub struct Asked {
    upgrade: Upgrade,
    /// The caller speaks HTTP/2, to which any success is a tunnel.
    extended: bool,
    /// The key of a WebSocket whose caller has none, being of HTTP/2.
    key: Option<HeaderValue>,
}

impl Asked {
    /// What `request` asks for.
    pub fn of(request: &request::Parts, upgrade: Upgrade) -> Self {
        let extended = upgrade == Upgrade::Protocol && request.version == Version::HTTP_2;
        let key = (extended && handshake::is_websocket(&request.headers)).then(handshake::key);
        Self { upgrade, extended, key }
    }

    /// The key to send.
    pub fn key(&self) -> Option<&HeaderValue> {
        self.key.as_ref()
    }

    /// Refuses a change of protocol that was not asked for, or not as it says.
    /// `whole`: all of the request was sent.
    pub fn check(
        &self,
        head: &response::Parts,
        request: &HeaderMap,
        whole: bool,
    ) -> Result<(), &'static str> {
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            return match self.extended && head.status.is_success() {
                true => Err("a success without the change of protocol that was asked for"),
                false => Ok(()),
            };
        }
        if self.upgrade != Upgrade::Protocol || !same_protocol(request, &head.headers) {
            return Err("101 Switching Protocols, which was not asked for");
        }
        if !whole {
            return Err("101 Switching Protocols before the request was whole");
        }
        match &self.key {
            Some(key) if !handshake::fits(key, &head.headers) => {
                Err("a Sec-WebSocket-Accept that does not fit the key")
            }
            _ => Ok(()),
        }
    }
}

fn same_protocol(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let name =
        |headers: &HeaderMap| headers.get(UPGRADE).map(HeaderValue::as_bytes).map(<[u8]>::to_ascii_lowercase);
    name(request).is_some() && name(request) == name(answer)
}
