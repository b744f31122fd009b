//! The questions that are asked over HTTP/2 without TLS: a path, and
//! `grpc.health.v1.Health/Check`
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::net::TcpStream;

use super::Unhealthy;
use crate::base::grpc;

/// Bytes that are read of an answer at most.
const MOST: usize = 64 * 1024;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// An answer as a whole.
struct Whole {
    head: Response<()>,
    body: BytesMut,
    trailers: Option<HeaderMap>,
}

/// Whether a GET of `path` is answered with 2xx.
pub async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(), Unhealthy> {
    let request = Request::get(format!("http://{address}{path}"));
    let status = ask(stream, request, Bytes::new()).await?.head.status();
    if status.is_success() { Ok(()) } else { Err(Unhealthy::Status(status.as_u16())) }
}

/// Whether `service` is SERVING.
pub async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), Unhealthy> {
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = ask(stream, request, message(&Question { service: service.to_owned() })).await?;
    if !answer.head.status().is_success() {
        return Err(Unhealthy::Status(answer.head.status().as_u16()));
    }
    let bad = |why: &str| Unhealthy::Http(why.to_owned());
    if grpc::content_type(answer.head.headers()).is_none() {
        return Err(bad("it is not gRPC's"));
    }
    let (code, text) = status(&answer).ok_or_else(|| bad("no grpc-status"))?;
    if code != 0 {
        return Err(Unhealthy::Grpc(code, text));
    }
    let bytes = match answer.body.split_first() {
        Some((0, rest)) => rest.get(4..),
        _ => None,
    };
    let bytes = bytes.ok_or_else(|| bad("no message that could be read"))?;
    match Answer::decode(bytes).map_err(|error| bad(&error.to_string()))?.status {
        1 => Ok(()),
        2 => Err(Unhealthy::NotServing("NOT_SERVING")),
        3 => Err(Unhealthy::NotServing("SERVICE_UNKNOWN")),
        _ => Err(Unhealthy::NotServing("UNKNOWN")),
    }
}

/// The status of gRPC and its message, in the trailers or, where there is
/// nothing else, in the head.
fn status(answer: &Whole) -> Option<(u8, String)> {
    let fields = answer.trailers.as_ref().unwrap_or(answer.head.headers());
    let text = |name: &str| fields.get(name)?.to_str().ok();
    Some((text("grpc-status")?.parse().ok()?, text("grpc-message").unwrap_or_default().to_owned()))
}

/// One message as gRPC frames it.
fn message(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.extend(message.encode_to_vec());
    bytes.freeze()
}

async fn ask(stream: TcpStream, request: http::request::Builder, body: Bytes) -> Result<Whole, Unhealthy> {
    let request = request
        .header("user-agent", concat!("pillion/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|error| Unhealthy::Http(error.to_string()))?;
    let bad = |error: h2::Error| Unhealthy::Http(error.to_string());
    let (sender, mut connection) = h2::client::handshake(stream).await.map_err(bad)?;
    let mut answer = std::pin::pin!(exchange(sender, request, body));
    tokio::select! {
        biased;
        answer = &mut answer => answer.map_err(bad),
        // A server that closes at once ends the connection and answers in one turn.
        _ = &mut connection => answer.await.map_err(bad),
    }
}

async fn exchange(sender: SendRequest<Bytes>, request: Request<()>, body: Bytes) -> Result<Whole, h2::Error> {
    let (answer, mut stream) = sender.ready().await?.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let (head, mut receive) = answer.await?.into_parts();
    let mut whole = Whole { head: Response::from_parts(head, ()), body: BytesMut::new(), trailers: None };
    while let Some(bytes) = receive.data().await {
        let bytes = bytes?;
        receive.flow_control().release_capacity(bytes.len())?;
        if whole.body.len() + bytes.len() <= MOST {
            whole.body.extend_from_slice(&bytes);
        }
    }
    whole.trailers = receive.trailers().await?;
    Ok(whole)
}
