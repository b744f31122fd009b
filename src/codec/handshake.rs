//! The opening handshake of a WebSocket over HTTP/1.1 (RFC 6455, section 4):
//! the key of the request and what the answer must make of it.
//!
//! HTTP/2 has no such keys (RFC 8441, section 5). Where a WebSocket goes from
//! one to the other, the sidecar plays the part of the side that is missing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use sha1::{Digest as _, Sha1};

/// What is appended to every key (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether the fields ask for, or agree to, a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// A new key. It guards against answers from a cache, and need not be secret.
pub fn key() -> HeaderValue {
    field(&STANDARD.encode(fastrand::u128(..).to_be_bytes()))
}

/// The value of `Sec-WebSocket-Accept` that fits `key`.
pub fn accept(key: &HeaderValue) -> HeaderValue {
    let digest = Sha1::new().chain_update(key.as_bytes().trim_ascii()).chain_update(GUID).finalize();
    field(&STANDARD.encode(digest))
}

/// Whether an answer fits `key`.
pub fn fits(key: &HeaderValue, answer: &HeaderMap) -> bool {
    answer.get(SEC_WEBSOCKET_ACCEPT) == Some(&accept(key))
}

#[allow(clippy::expect_used, reason = "base64 is text")]
fn field(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64 is a field value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard() {
        let accept = accept(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_16_bytes_and_new_each_time() {
        let (one, two) = (key(), key());
        assert_ne!(one, two);
        assert_eq!(STANDARD.decode(one.as_bytes()).unwrap().len(), 16);
        let answer = HeaderMap::from_iter([(SEC_WEBSOCKET_ACCEPT, accept(&one))]);
        assert!(fits(&one, &answer) && !fits(&two, &answer) && !fits(&one, &HeaderMap::new()));
    }
}
