//! Whether the fronted service answers: its health path, its
//! `grpc.health.v1.Health`, or an accepted connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::base::{Protocol, ProxyProtocol};
use crate::clients::health::{self, Question, Unhealthy};
use crate::config::Model;
use crate::config::model::{HealthQuestion, Service};

/// From one question to the next: first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// For one question, where the service's `health` does not say.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Questions in a row without a healthy answer, after which a service is sick.
const MISSES: u32 = 3;

/// Asks until the service answers. Every `report`, tells `missed` what was met.
/// A service that listens nowhere is healthy.
pub async fn wait_healthy(service: &Service, report: Duration, mut missed: impl FnMut(&Unhealthy)) {
    let Some(address) = service.address else { return };
    let mut pause = PAUSE.0;
    let mut next_report = tokio::time::Instant::now() + report;
    while let Err(unhealthy) = ask(service, address).await {
        if tokio::time::Instant::now() >= next_report {
            missed(&unhealthy);
            next_report += report;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// As [`wait_healthy`], of the service as reloads have it.
pub async fn until_healthy(
    model: &mut watch::Receiver<Arc<Model>>,
    report: Duration,
    mut missed: impl FnMut(&Unhealthy),
) {
    loop {
        let service = model.borrow_and_update().service.clone();
        tokio::select! {
            () = wait_healthy(&service, report, &mut missed) => return,
            () = changed(model) => {}
        }
    }
}

/// Waits for a reload; for ever where there will be none.
async fn changed(model: &mut watch::Receiver<Arc<Model>>) {
    if model.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Asks every `service.health.interval` until [`MISSES`] questions in a row
/// have met no healthy answer. Follows reloads. A service that has no
/// `service.health` is taken to be well.
pub async fn until_sick(model: &mut watch::Receiver<Arc<Model>>) -> Unhealthy {
    let mut misses = 0;
    loop {
        let service = model.borrow_and_update().service.clone();
        let (Some(address), Some(health)) = (service.address, &service.health) else {
            changed(model).await;
            continue;
        };
        tokio::time::sleep(health.interval).await;
        match ask(&service, address).await {
            Ok(()) => misses = 0,
            Err(unhealthy) => {
                misses += 1;
                if misses == MISSES {
                    return unhealthy;
                }
            }
        }
    }
}

async fn ask(service: &Service, address: SocketAddr) -> Result<(), Unhealthy> {
    let timeout = service.health.as_ref().map_or(TIMEOUT, |health| health.timeout);
    let question = match service.health.as_ref().map(|health| &health.question) {
        Some(HealthQuestion::Grpc(name)) => Question::Grpc(name),
        // HTTP is not spoken there: a connection is enough.
        Some(HealthQuestion::Path(_)) if service.protocol.is_opaque() => Question::Connection,
        Some(HealthQuestion::Path(path)) => match service.protocol {
            Protocol::Http2 | Protocol::Grpc => Question::Path2(path),
            _ => Question::Path(path),
        },
        None => Question::Connection,
    };
    let header = service.proxy_protocol.map_or(&b""[..], ProxyProtocol::own_header);
    health::ask(address, question, header, timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Health;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn service(address: SocketAddr, path: Option<&str>) -> Service {
        let health = path.map(|path| Health {
            question: HealthQuestion::Path(path.into()),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
        });
        Service { address: Some(address), health, ..Model::minimal("users").service }
    }

    #[tokio::test]
    async fn a_service_is_asked_until_it_answers_with_2xx() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for answer in
                ["HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "rubbish\r\n\r\n", "HTTP/1.1 204 Ok\r\n\r\n"]
            {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut seen = Vec::new();
        let service = service(address, Some("/health"));
        let healthy = wait_healthy(&service, Duration::ZERO, |why| seen.push(why.to_string()));
        tokio::time::timeout(Duration::from_secs(10), healthy).await.expect("the third answer is 204");
        server.await.unwrap();
        assert_eq!(seen[0], "status 503");
        assert!(seen[1].starts_with("no usable answer"), "{seen:?}");
    }

    #[tokio::test]
    async fn three_misses_in_a_row_are_sickness_and_fewer_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut model = Model::minimal("users");
        model.service = service(listener.local_addr().unwrap(), Some("/health"));
        model.service.health.as_mut().unwrap().interval = Duration::from_millis(5);
        let server = tokio::spawn(async move {
            let mut asked = 0;
            for status in [503, 500, 200, 503, 503, 204, 503, 503, 503] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 1024];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                let answer = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                asked += 1;
            }
            asked
        });
        let (_keep, mut model) = watch::channel(Arc::new(model));
        let sick = tokio::time::timeout(Duration::from_secs(10), until_sick(&mut model)).await;
        assert_eq!(sick.expect("three in a row").to_string(), "status 503");
        assert_eq!(server.await.unwrap(), 9, "not before the third in a row");
    }

    #[tokio::test]
    async fn a_reload_that_mends_the_check_ends_the_wait() {
        let (deaf, open) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let with = |listener: &TcpListener, path| {
            let mut model = Model::minimal("users");
            model.service = service(listener.local_addr().unwrap(), path);
            Arc::new(model)
        };
        let (reload, mut model) = watch::channel(with(&deaf, Some("/wrong")));
        let mut waits = std::pin::pin!(until_healthy(&mut model, Duration::from_secs(60), |_| {}));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waits).await;
        assert!(early.is_err(), "nothing answers there");
        reload.send_replace(with(&open, None));
        tokio::time::timeout(Duration::from_secs(10), waits).await.expect("the new check is met");
    }

    #[tokio::test]
    async fn an_accepted_connection_is_enough_without_a_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        wait_healthy(&service(listener.local_addr().unwrap(), None), Duration::ZERO, |_| {}).await;
    }
}
