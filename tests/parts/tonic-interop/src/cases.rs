//! The cases
//! (<https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>).

use std::fmt::Debug;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::api::test_service_client::TestServiceClient;
use crate::api::unimplemented_method_client;
use crate::api::unimplemented_service_client::UnimplementedServiceClient;
use crate::messages::{
    EchoStatus, Empty, InputRequest, OutputRequest, ResponseParameters, SimpleRequest, length, payload,
};
use crate::{ECHO_INITIAL, ECHO_TRAILING, Failure};

const REQUESTS: [usize; 4] = [27182, 8, 1828, 45904];
const RESPONSES: [usize; 4] = [31415, 9, 2653, 58979];
const LARGE: (usize, usize) = (271_828, 314_159);
const INITIAL: &str = "test_initial_metadata_value";
const TRAILING: &[u8] = b"\xab\xab\xab\x00\xff";

type Client = TestServiceClient<Channel>;

/// Runs the case `name` on `channel`.
pub async fn run(name: &str, channel: Channel) -> Result<(), Failure> {
    let client = TestServiceClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    match name {
        "empty_unary" => empty_unary(client).await,
        "large_unary" => large_unary(client).await,
        "client_streaming" => client_streaming(client).await,
        "server_streaming" => server_streaming(client).await,
        "ping_pong" => ping_pong(client).await,
        "empty_stream" => empty_stream(client).await,
        "timeout_on_sleeping_server" => timeout_on_sleeping_server(client).await,
        "cancel_after_begin" => cancel_after_begin(client).await,
        "cancel_after_first_response" => cancel_after_first_response(client).await,
        "status_code_and_message" => status_of(client, "test status message").await,
        "special_status_message" => {
            status_of(client, "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n").await
        }
        "custom_metadata" => custom_metadata(client).await,
        "unimplemented_method" => {
            let mut client = unimplemented_method_client::TestServiceClient::new(channel);
            fails(client.unimplemented_call(Empty {}).await, Code::Unimplemented, None)
        }
        "unimplemented_service" => {
            let mut client = UnimplementedServiceClient::new(channel);
            fails(client.unimplemented_call(Empty {}).await, Code::Unimplemented, None)
        }
        _ => Err("no such case".into()),
    }
}

fn same<T: PartialEq + Debug>(got: T, wanted: T) -> Result<(), Failure> {
    if got == wanted { Ok(()) } else { Err(format!("{got:?} in place of {wanted:?}").into()) }
}

fn fails<T>(outcome: Result<T, Status>, code: Code, message: Option<&str>) -> Result<(), Failure> {
    let Err(status) = outcome else { return Err("it did not fail".into()) };
    if status.code() != code {
        return Err(format!("{status} in place of {code:?}").into());
    }
    message.map_or(Ok(()), |message| same(status.message(), message))
}

fn duplex(request: usize, response: usize) -> OutputRequest {
    let wanted = ResponseParameters { size: response as i32, interval_us: 0 };
    OutputRequest { response_parameters: vec![wanted], payload: payload(request), response_status: None }
}

async fn empty_unary(mut client: Client) -> Result<(), Failure> {
    same(client.empty_call(Empty {}).await?.into_inner(), Empty {})
}

fn large() -> SimpleRequest {
    SimpleRequest { response_size: LARGE.1 as i32, payload: payload(LARGE.0), response_status: None }
}

async fn large_unary(mut client: Client) -> Result<(), Failure> {
    let answer = client.unary_call(large()).await?.into_inner();
    same(answer.payload, payload(LARGE.1))
}

async fn client_streaming(mut client: Client) -> Result<(), Failure> {
    let requests = REQUESTS.map(|size| InputRequest { payload: payload(size) });
    let answer = client.input_call(tokio_stream::iter(requests)).await?.into_inner();
    same(answer.aggregated_payload_size as usize, REQUESTS.iter().sum())
}

async fn server_streaming(mut client: Client) -> Result<(), Failure> {
    let wanted = RESPONSES.map(|size| ResponseParameters { size: size as i32, interval_us: 0 });
    let request = OutputRequest { response_parameters: wanted.to_vec(), ..OutputRequest::default() };
    let mut answers = client.output_call(request).await?.into_inner();
    let mut sizes = Vec::new();
    while let Some(answer) = answers.next().await {
        sizes.push(length(&answer?.payload));
    }
    same(&sizes[..], &RESPONSES[..])
}

async fn ping_pong(mut client: Client) -> Result<(), Failure> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    send.send(duplex(REQUESTS[0], RESPONSES[0])).await?;
    let mut answers = client.duplex_call(ReceiverStream::new(receive)).await?.into_inner();
    for turn in 0..REQUESTS.len() {
        let answer = answers.message().await?.ok_or("an early end")?;
        same(length(&answer.payload), RESPONSES[turn])?;
        if let Some(next) = REQUESTS.get(turn + 1) {
            send.send(duplex(*next, RESPONSES[turn + 1])).await?;
        }
    }
    drop(send);
    same(answers.message().await?, None)
}

async fn empty_stream(mut client: Client) -> Result<(), Failure> {
    let mut answers = client.duplex_call(tokio_stream::empty()).await?.into_inner();
    same(answers.message().await?, None)
}

async fn timeout_on_sleeping_server(mut client: Client) -> Result<(), Failure> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let silent = OutputRequest { payload: payload(27182), ..OutputRequest::default() };
    send.send(silent).await?;
    let mut request = Request::new(ReceiverStream::new(receive));
    request.set_timeout(Duration::from_millis(1));
    let outcome = async { client.duplex_call(request).await?.into_inner().message().await };
    // tonic's own timer says CANCELLED, its server's or the sidecar's the other.
    match outcome.await {
        Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => Ok(()),
        other => Err(format!("{other:?} in place of a passed deadline").into()),
    }
}

/// Dropping a call is tonic's way to cancel it. What shares its connection
/// goes on.
async fn cancel_after_begin(mut client: Client) -> Result<(), Failure> {
    let (_send, receive) = tokio::sync::mpsc::channel::<InputRequest>(1);
    let mut other = client.clone();
    let call = tokio::task::spawn_local(async move { client.input_call(ReceiverStream::new(receive)).await });
    tokio::task::yield_now().await;
    call.abort();
    match call.await {
        Err(ended) if ended.is_cancelled() => {}
        other => return Err(format!("{other:?} in place of a call that was cancelled").into()),
    }
    same(other.empty_call(Empty {}).await?.into_inner(), Empty {})
}

async fn cancel_after_first_response(mut client: Client) -> Result<(), Failure> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    send.send(duplex(27182, 31415)).await?;
    let mut answers = client.duplex_call(ReceiverStream::new(receive)).await?.into_inner();
    let answer = answers.message().await?.ok_or("no answer")?;
    same(length(&answer.payload), 31415)?;
    drop((answers, send));
    same(client.empty_call(Empty {}).await?.into_inner(), Empty {})
}

async fn status_of(mut client: Client, message: &str) -> Result<(), Failure> {
    let response_status = Some(EchoStatus { code: 2, message: message.into() });
    let request = SimpleRequest { response_status: response_status.clone(), ..SimpleRequest::default() };
    fails(client.unary_call(request).await, Code::Unknown, Some(message))?;
    let request = OutputRequest { response_status, ..OutputRequest::default() };
    let outcome = async {
        let requests = tokio_stream::once(request);
        client.duplex_call(requests).await?.into_inner().message().await
    };
    fails(outcome.await, Code::Unknown, Some(message))
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(ECHO_INITIAL, MetadataValue::from_static(INITIAL));
    request.metadata_mut().insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(TRAILING));
    request
}

fn came_back(initial: &MetadataMap, trailing: &MetadataMap) -> Result<(), Failure> {
    let initial = initial.get(ECHO_INITIAL).ok_or("no initial metadata")?;
    same(initial.to_str()?, INITIAL)?;
    let trailing = trailing.get_bin(ECHO_TRAILING).ok_or("no trailing metadata")?;
    same(&trailing.to_bytes()?[..], TRAILING)
}

async fn custom_metadata(mut client: Client) -> Result<(), Failure> {
    // A unary answer of tonic holds initial and trailing metadata in one map.
    let answer = client.unary_call(with_metadata(large())).await?;
    came_back(answer.metadata(), answer.metadata())?;
    same(length(&answer.get_ref().payload), LARGE.1)?;
    let requests = tokio_stream::once(duplex(LARGE.0, LARGE.1));
    let (initial, mut answers, _) = client.duplex_call(with_metadata(requests)).await?.into_parts();
    let answer = answers.message().await?.ok_or("no answer")?;
    same(length(&answer.payload), LARGE.1)?;
    same(answers.message().await?, None)?;
    came_back(&initial, &answers.trailers().await?.ok_or("no trailers")?)
}
