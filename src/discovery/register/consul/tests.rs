use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::clients::health::Unhealthy;
use crate::config::model;
use crate::discovery::register::Standing;

const TTL: Duration = Duration::from_secs(15);

/// One whose entry stands, after `error` has come ten times.
fn after(error: &Error) -> Times {
    let wanted = Wanted {
        options: Options::default(),
        register: Register { check: Check::Ttl(TTL), ..Register::default() },
    };
    let client = Client::new(Options::default()).unwrap();
    let mut keeper = Keeper::new(client, wanted, ([127, 0, 0, 1], 1).into(), Gauge::noop());
    keeper.held = Some(Held { id: "a".into(), plain: Vec::new(), hidden: false });
    for _ in 0..10 {
        let now = Instant::now();
        keeper.times = Times { enter: now, tell: now, look: now };
        keeper.failed(error);
    }
    keeper.times
}

#[tokio::test]
async fn a_check_is_told_in_time_whatever_fails() {
    let now = Instant::now();
    let retry_after = Some(Duration::from_secs(60));
    let busy = after(&Error::Status { code: 429, text: String::new(), retry_after });
    assert!(busy.enter >= now + Duration::from_secs(60), "it asked to be left alone");
    assert!(busy.tell <= Instant::now() + TTL / 3, "the entry would be critical");
    let down = after(&Error::Connection("refused".into()));
    let latest = down.enter.max(down.tell).max(down.look);
    assert!(latest <= Instant::now() + RESTARTS, "its agent may start again at any time");
    let odd = after(&Error::Malformed("odd".into()));
    assert!(odd.look > now + TTL / 2, "an agent that answers is given its time");
}

/// An agent that takes its time for each answer. Tells what it is asked.
async fn slow_agent() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (asked, questions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 16 << 10];
                // Small requests come in one piece.
                while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..length]);
                    let _ = asked.send(text.into_owned());
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, questions)
}

#[tokio::test]
async fn what_changes_while_the_agent_is_being_told_is_told_next() {
    let (address, mut questions) = slow_agent().await;
    let register = Some(Register { check: Check::Ttl(TTL), ..Register::default() });
    let source = model::Consul { address: address.into(), register, ..model::Consul::default() };
    let mut model = Model::minimal("users");
    model.service.address = Some(([127, 0, 0, 1], 8080).into());
    model.discovery = vec![Source::Consul(Box::new(source))];
    let (_model, model) = watch::channel(Arc::new(model));
    let mut standing = Standing::enter(model, ([127, 0, 0, 1], 8702).into(), &Metrics::new());
    let mut comes = async |what: &str| {
        let in_time = tokio::time::timeout(Duration::from_secs(2), async {
            while !questions.recv().await.expect("it is asked").contains(what) {}
        });
        in_time.await.unwrap_or_else(|_| panic!("no `{what}` in time"));
    };
    comes("/v1/agent/check/update/").await;
    // The answer to that has not come.
    standing.sick(&Unhealthy::Status(503));
    comes("critical").await;
    standing.terminate();
    comes("/v1/agent/service/deregister/").await;
}
