//! What gRPC needs of a sidecar: cancellation, deadlines, large messages, peers
//! with few streams, and peers that go.

mod calls;
mod deadline;
mod fallback;
mod goaway;
pub mod peer;
mod small_frames;
mod streams;
mod within;

use bytes::Bytes;
use http::Request;

/// A call of `pay.v1.Pay/Charge`.
fn call() -> Request<()> {
    post("http://users/pay.v1.Pay/Charge")
}

fn post(url: &str) -> Request<()> {
    let head = Request::post(url).header("content-type", "application/grpc").header("te", "trailers");
    head.body(()).unwrap()
}

/// One message: its flag, its length and its bytes.
fn message(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], &length[..], bytes].concat().into()
}
