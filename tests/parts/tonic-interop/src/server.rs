//! The server of `grpc.testing.TestService`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body_util::BodyExt;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status, Streaming};
use tower::Service;

use crate::api::test_service_server::{TestService, TestServiceServer};
use crate::messages::{
    EchoStatus, Empty, InputRequest, InputResponse, OutputRequest, OutputResponse, SimpleRequest,
    SimpleResponse, length, payload,
};
use crate::{ECHO_INITIAL, ECHO_TRAILING};

struct Server;

type Answers = Pin<Box<dyn Stream<Item = Result<OutputResponse, Status>> + Send>>;

/// Serves on a free port until the process is ended.
pub async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("listening {}", listener.local_addr()?);
    let service = Echo(TestServiceServer::new(Server).max_decoding_message_size(usize::MAX));
    let incoming = TcpListenerStream::new(listener);
    Ok(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}

/// Sends the metadata back that a caller asks for: tonic gives a service no way
/// to set the trailers of a call that succeeds.
#[derive(Clone)]
struct Echo<S>(S);

impl<S: NamedService> NamedService for Echo<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Echo<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let initial = request.headers().get(ECHO_INITIAL).cloned();
        let trailing = request.headers().get(ECHO_TRAILING).cloned();
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            if let Some(value) = initial {
                answer.headers_mut().insert(ECHO_INITIAL, value);
            }
            let Some(value) = trailing else { return Ok(answer) };
            let trailers = HeaderMap::from_iter([(http::HeaderName::from_static(ECHO_TRAILING), value)]);
            Ok(answer.map(|body| Body::new(body.with_trailers(async { Some(Ok(trailers)) }))))
        })
    }
}

/// Fails as the caller asks.
fn refuse(wanted: &Option<EchoStatus>) -> Result<(), Status> {
    match wanted {
        Some(wanted) if wanted.code != 0 => {
            Err(Status::new(Code::from_i32(wanted.code), wanted.message.clone()))
        }
        _ => Ok(()),
    }
}

fn answers(request: &OutputRequest) -> Vec<OutputResponse> {
    let sizes = request.response_parameters.iter();
    sizes.map(|wanted| OutputResponse { payload: payload(wanted.size.unsigned_abs() as usize) }).collect()
}

#[tonic::async_trait]
impl TestService for Server {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        refuse(&request.get_ref().response_status)?;
        let size = request.get_ref().response_size.unsigned_abs() as usize;
        Ok(Response::new(SimpleResponse { payload: payload(size) }))
    }

    type StreamingOutputCallStream = Answers;

    async fn output_call(&self, request: Request<OutputRequest>) -> Result<Response<Answers>, Status> {
        let answers = answers(request.get_ref()).into_iter().map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn input_call(
        &self,
        request: Request<Streaming<InputRequest>>,
    ) -> Result<Response<InputResponse>, Status> {
        let (mut requests, mut total) = (request.into_inner(), 0);
        while let Some(request) = requests.message().await? {
            total += length(&request.payload);
        }
        let aggregated_payload_size = i32::try_from(total).map_err(|_| Status::out_of_range("too much"))?;
        Ok(Response::new(InputResponse { aggregated_payload_size }))
    }

    type FullDuplexCallStream = Answers;

    async fn duplex_call(
        &self,
        request: Request<Streaming<OutputRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let (send, receive) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let next = match requests.message().await {
                    Ok(Some(request)) => refuse(&request.response_status).map(|()| request),
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                match next {
                    Ok(request) => {
                        for answer in answers(&request) {
                            if send.send(Ok(answer)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(status) => return drop(send.send(Err(status)).await),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
