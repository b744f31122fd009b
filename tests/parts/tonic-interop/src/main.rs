//! tonic's side of the interoperability cases.
//!
//! ```text
//! tonic-interop server                  a server of grpc.testing.TestService
//! tonic-interop client TARGET WAY CASE… runs cases
//! tonic-interop errors TARGET WAY       one call that fails: what the library makes of it
//! ```
//!
//! TARGET is an address or a name with a port; WAY is `-`, the authority to
//! send in place of TARGET, or `proxy=ADDRESS` for a tunnel (tonic itself knows
//! no proxy variables). A server prints `listening ADDRESS`.

mod api {
    include!(concat!(env!("OUT_DIR"), "/grpc.testing.TestService.rs"));
    include!(concat!(env!("OUT_DIR"), "/grpc.testing.UnimplementedService.rs"));
    include!(concat!(env!("OUT_DIR"), "/unimplemented_method.rs"));
}
mod cases;
mod messages;
mod server;

use std::process::ExitCode;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

use api::test_service_client::TestServiceClient;
use messages::Empty;

/// For one case.
const LIMIT: Duration = Duration::from_secs(20);
/// Metadata that the server sends back before its answer.
const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// Metadata that it sends back after it.
const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["server"] => server::serve().await.map_err(|error| error.to_string()),
        ["client", target, way, ref cases @ ..] => run(target, way, cases).await,
        ["errors", target, way] => tell_error(target, way).await.map_err(|error| error.to_string()),
        _ => Err("server, client or errors".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn connect(target: &str, way: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?;
    if let Some(proxy) = way.strip_prefix("proxy=") {
        let tunnel = Tunnel::new(format!("http://{proxy}").parse()?, HttpConnector::new());
        return Ok(endpoint.connect_with_connector(tunnel).await?);
    }
    let endpoint = match way {
        "-" => endpoint,
        authority => endpoint.origin(format!("http://{authority}").parse()?),
    };
    Ok(endpoint.connect().await?)
}

/// Runs cases side by side, each on a connection of its own.
async fn run(target: &str, way: &str, names: &[&str]) -> Result<(), String> {
    let tasks = tokio::task::LocalSet::new();
    let outcomes = tasks.run_until(async {
        let one = |name: &str| {
            let (target, way, name) = (target.to_owned(), way.to_owned(), name.to_owned());
            tokio::task::spawn_local(async move {
                let case = async { cases::run(&name, connect(&target, &way).await?).await };
                match tokio::time::timeout(LIMIT, case).await {
                    Ok(Ok(())) => (format!("{name} ok"), true),
                    Ok(Err(error)) => (format!("{name} {error}"), false),
                    Err(_) => (format!("{name} still at it after {LIMIT:?}"), false),
                }
            })
        };
        let running: Vec<_> = names.iter().map(|name| one(name)).collect();
        let mut good = true;
        for case in running {
            let (line, passed) = case.await.unwrap_or_else(|panic| (panic.to_string(), false));
            println!("{line}");
            good &= passed;
        }
        good
    });
    if outcomes.await { Ok(()) } else { Err("not all cases passed".into()) }
}

async fn tell_error(target: &str, way: &str) -> Result<(), Failure> {
    let mut client = TestServiceClient::new(connect(target, way).await?);
    let Err(status) = client.empty_call(Empty {}).await else { return Err("the call did not fail".into()) };
    let mut details = Vec::new();
    if let Some(info) = status.get_details_error_info() {
        details.push(serde_json::json!({
            "reason": info.reason, "domain": info.domain, "metadata": info.metadata,
        }));
    }
    if let Some(retry) = status.get_details_retry_info().and_then(|retry| retry.retry_delay) {
        details.push(serde_json::json!({ "retry_ms": retry.as_millis() as u64 }));
    }
    let told = serde_json::json!({
        "code": i32::from(status.code()), "message": status.message(), "details": details,
    });
    println!("{told}");
    Ok(())
}
