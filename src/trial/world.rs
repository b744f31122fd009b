//! The world of one test: a worker of the sidecar, with what it needs around it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::Failure;
use super::judge;
use super::service::{Seen, Services, ToServices};
use crate::base::directory::{Directory, Subscription};
use crate::base::{Endpoint, EndpointSet, Resolution, UpstreamName, clock};
use crate::codec::Stream;
use crate::config::model::{Step, Test};
use crate::config::{Call, Model};
use crate::policy::routes::find;
use crate::proxy::{self, Door, Instance, Rates, Worker};
use crate::telemetry::Metrics;
use crate::telemetry::record::Direction;
use crate::upstream::{self, Board, Keepers, Quotas};

/// Bytes on their way in one direction between the caller and the sidecar.
const PIPE: usize = 64 * 1024;
/// How long a caller waits: as long as it takes, for nothing waits for ever.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// In which copies are sent.
const A_MOMENT: Duration = Duration::from_millis(1);
/// The source of the endpoints.
const SOURCE: &str = "test";

/// What the caller got.
pub struct Got {
    /// The answer; `None` where the connection ended without one.
    pub answer: Option<Answer>,
    /// When, after the call.
    pub took: Duration,
    /// What came to the called services meanwhile.
    pub seen: Vec<Seen>,
}

/// An answer.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, and its trailers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// The rest of the world leads to the machine's network again.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        upstream::lead_to(None);
    }
}

/// Runs a test on a paused clock, which moves when nobody has anything to do.
pub async fn run(model: Arc<Model>, test: &Test) -> Result<(), Failure> {
    clock::follow();
    let services = Services::new();
    let _restored = Restored;
    upstream::lead_to(Some(Rc::new(ToServices(services.clone()))));
    let worker = worker(&model, test, &services);
    for step in &test.steps {
        let copied = copied(&model, &step.call);
        services.set_aside(copied.clone());
        tokio::time::sleep(step.after).await;
        if let Some(outcomes) = &step.upstream {
            services.follow(outcomes.clone()).await;
        }
        for turn in 0..step.times {
            if turn > 0 {
                tokio::time::sleep(step.every).await;
            }
            services.take_seen();
            let began = clock::now();
            let answer = tokio::time::timeout(PATIENCE, call(&worker, step)).await.ok().flatten();
            let took = clock::now() - began;
            if copied.is_some() {
                // Nobody waits for a copy but who wants to see it.
                tokio::time::sleep(A_MOMENT).await;
            }
            let got = Got { answer, took, seen: services.take_seen() };
            if let Err(why) = judge::judge(&model, step, &got) {
                let nth = if step.times > 1 {
                    format!("call {} of {}: ", turn + 1, step.times)
                } else {
                    String::new()
                };
                let seen = got.seen.iter().map(judge::shown).collect();
                return Err(Failure { origin: step.origin.clone(), why: format!("{nth}{why}"), seen });
            }
        }
    }
    Ok(())
}

/// The service that gets copies of a call.
fn copied(model: &Model, call: &Call) -> Option<UpstreamName> {
    let found = find(call, model);
    let block = || Some(&model.upstreams.get(found.to.as_ref()?)?.policy);
    let policy = found.route.map(|route| &route.policy).or_else(block)?;
    policy.mirror.as_ref().map(|mirror| mirror.to.clone())
}

fn worker(model: &Arc<Model>, test: &Test, services: &Rc<Services>) -> Rc<Worker> {
    let metrics = Metrics::new();
    let (directory, names) = Directory::new();
    let (board, wanted) = Board::new(directory);
    let quotas = Quotas::new(metrics.clone());
    quotas.apply(model);
    let (_sender, config) = tokio::sync::watch::channel(model.clone());
    spawn_local(discover(names, test.endpoints, services.clone()));
    let keepers = Keepers { board: board.clone(), wanted, config, metrics: metrics.clone() };
    // All are healthy.
    spawn_local(keepers.run(Rc::new(|_| Box::pin(async { Ok(()) }))));
    if let Some(address) = model.service.address {
        services.listen(address, &model.service.name);
    }
    let name = model.service.name.as_str();
    let counts = (quotas, Rates::new(metrics.clone(), name, (Arc::new(|_| None), Arc::new(|_| None))));
    let worker = Worker::new(model.clone(), board, counts, &metrics, Instance::new(name), None);
    services.keep_time_by(&worker.timers);
    let timers = worker.timers.clone();
    spawn_local(async move { timers.drive().await });
    let relieved = worker.clone();
    spawn_local(async move { relieved.table.relieve().await });
    spawn_local(worker.clone().keep_house());
    worker
}

/// Every name is known, and has so many addresses of the network for benchmarks
/// (RFC 2544).
async fn discover(mut names: mpsc::UnboundedReceiver<Subscription>, count: u8, services: Rc<Services>) {
    let mut known = BTreeMap::new();
    while let Some(subscription) = names.recv().await {
        let next = u8::try_from(known.len()).unwrap_or(u8::MAX);
        let number = *known.entry(subscription.name.clone()).or_insert(next);
        let address = |last| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, number, last)), 80);
        let endpoints: Vec<Endpoint> = (1..=count).map(|last| Endpoint::new(address(last))).collect();
        endpoints.iter().for_each(|one| services.listen(one.address, &subscription.name));
        let set = EndpointSet { endpoints: endpoints.into(), source: SOURCE, as_of: std::time::UNIX_EPOCH };
        subscription.sender.send_replace(Resolution::Found(set));
    }
}

/// Makes a call on a connection of its own.
async fn call(worker: &Rc<Worker>, step: &Step) -> Option<Answer> {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let direction = if step.call.to.is_some() { Direction::Outbound } else { Direction::Inbound };
    let door = Rc::new(Door {
        worker: worker.clone(),
        direction,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        gateway: None,
        fixed: None,
        original: None,
        tunnel: true,
        context: worker.context(direction),
    });
    spawn_local(proxy::serve_on(door, Stream::Boxed(Box::pin(theirs))));
    let request = request(&step.call, &step.body, worker.router().model.service.name.as_str())?;
    let mut response = match step.call.is_grpc() {
        true => over_http2(ours, request).await?,
        false => over_http1(ours, request).await?,
    };
    let status = response.status();
    let mut headers = std::mem::take(response.headers_mut());
    let body = response.into_body().collect().await.ok()?;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    Some(Answer { status, headers, body: body.to_bytes() })
}

fn request(call: &Call, body: &Bytes, service: &str) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(if call.is_grpc() { framed(body) } else { body.clone() }));
    *request.method_mut() = call.head.method.clone();
    *request.headers_mut() = call.head.headers.clone();
    let host = match call.head.headers.get(HOST) {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(service).ok()?,
    };
    if call.is_grpc() {
        request.headers_mut().remove(HOST);
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        *request.version_mut() = Version::HTTP_2;
        let path = call.head.uri.path_and_query()?.as_str();
        *request.uri_mut() = format!("http://{}{path}", host.to_str().ok()?).parse().ok()?;
    } else {
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = call.head.uri.clone();
    }
    Some(request)
}

/// One message of gRPC.
fn framed(bytes: &Bytes) -> Bytes {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], bytes].concat().into()
}

type Answered = http::Response<hyper::body::Incoming>;

async fn over_http1(stream: DuplexStream, request: Request<Full<Bytes>>) -> Option<Answered> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    spawn_local(connection);
    sender.send_request(request).await.ok()
}

async fn over_http2(stream: DuplexStream, request: Request<Full<Bytes>>) -> Option<Answered> {
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream)).await.ok()?;
    spawn_local(connection);
    sender.send_request(request).await.ok()
}
