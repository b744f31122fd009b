//! Against a double of an agent: a real one can't be made to lie, to stall, or
//! to refuse at a chosen moment. Real ones are in `tests/real/consul`.

mod hosts;
mod reload;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::base::UpstreamName;
use crate::base::directory::Directory;
use crate::config::model::{self, ConsulToken};
use crate::discovery::answer::Answer;
use crate::discovery::source::{self, Chain, Feed};
use crate::discovery::tests::model;

/// What the agent says now.
#[derive(Clone)]
struct State {
    index: u64,
    /// The instances of each service.
    body: Value,
    /// A whole answer in place of all that.
    instead: Option<String>,
    /// Connections made before this many are cut.
    cut: usize,
}

struct Agent {
    address: String,
    state: watch::Sender<State>,
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Seen {
    /// The first line and the token of each question.
    asked: Vec<(String, String)>,
    /// Questions that are held now, and the most there were.
    open: usize,
    most: usize,
    connections: usize,
}

impl Agent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = watch::Sender::new(State { index: 100, body: json!([]), instead: None, cut: 0 });
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (receiver, counted) = (state.subscribe(), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = {
                    let mut seen = counted.lock().unwrap();
                    seen.connections += 1;
                    seen.connections
                };
                tokio::spawn(connection(stream, receiver.clone(), counted.clone(), number));
            }
        });
        Self { address, state, seen, task: task.abort_handle() }
    }

    fn say(&self, index: u64, body: Value) {
        self.state.send_modify(|state| (state.index, state.body, state.instead) = (index, body, None));
    }

    fn instead(&self, answer: &str) {
        self.state.send_modify(|state| state.instead = Some(answer.into()));
    }

    /// As after a restart: all connections end, and this is what it knows.
    fn restart(&self, index: u64, body: Value) {
        let connections = self.seen.lock().unwrap().connections;
        self.state.send_modify(|state| {
            (state.index, state.body, state.instead, state.cut) = (index, body, None, connections);
        });
    }

    fn asked(&self) -> usize {
        self.seen.lock().unwrap().asked.len()
    }

    fn model(&self) -> model::Consul {
        model::Consul { address: self.address.as_str().into(), ..model::Consul::default() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    mut stream: TcpStream,
    mut state: watch::Receiver<State>,
    seen: Arc<Mutex<Seen>>,
    number: usize,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            tokio::select! {
                byte = stream.read_u8() => match byte {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                },
                _ = state.wait_for(|state| state.cut >= number) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap().to_owned();
        let token = head.lines().find_map(|line| line.strip_prefix("x-consul-token: ")).unwrap_or_default();
        let index = line.split(['?', '&', ' ']).find_map(|part| part.strip_prefix("index=")?.parse().ok());
        let wait =
            line.split(['?', '&', ' ']).find_map(|part| part.strip_prefix("wait=")?.strip_suffix("ms"));
        let wait = Duration::from_millis(wait.map_or(0, |wait| wait.parse().unwrap()));
        {
            let mut seen = seen.lock().unwrap();
            seen.asked.push((line, token.to_owned()));
            seen.open += 1;
            seen.most = seen.most.max(seen.open);
        }
        let news = state.wait_for(|state| {
            state.cut >= number
                || state.instead.is_some()
                || index.is_none_or(|index: u64| state.index > index)
        });
        let mut byte = [0];
        let now = tokio::select! {
            now = timeout(wait, news) => now.map(|now| now.unwrap().clone()).ok(),
            _ = stream.read(&mut byte) => {
                seen.lock().unwrap().open -= 1;
                return;
            }
        };
        let now = now.unwrap_or_else(|| state.borrow().clone());
        seen.lock().unwrap().open -= 1;
        if now.cut >= number {
            return;
        }
        let body = now.body.to_string();
        let whole = format!(
            "HTTP/1.1 200 OK\r\nX-Consul-Index: {}\r\nX-Consul-KnownLeader: true\r\nContent-Length: {}\r\n\r\n{body}",
            now.index,
            body.len()
        );
        let answer = now.instead.unwrap_or(whole);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn instances(all: &[(u16, &str)]) -> Value {
    let one = |(port, status): &(u16, &str)| {
        json!({
            "Node": {"Node": "n", "Address": "10.0.0.9"},
            "Service": {"ID": port.to_string(), "Address": "10.0.0.1", "Port": port},
            "Checks": [{"Status": status}],
        })
    };
    Value::Array(all.iter().map(one).collect())
}

/// A source that is asked about one name.
struct Asked {
    answers: mpsc::Receiver<(u64, Answer)>,
    last: Option<Answer>,
    chain: Chain,
    _feed: Feed,
}

fn ask(consul: model::Consul, name: &str, old: &[source::Source]) -> Asked {
    let chain =
        source::chain(&model(vec![model::Source::Consul(Box::new(consul))]), old, &Directory::new().0);
    let (sender, answers) = mpsc::channel(64);
    let feed = chain[0].ask(&UpstreamName::new(name), 1, &sender);
    Asked { answers, last: None, chain, _feed: feed }
}

impl Asked {
    async fn next(&mut self) -> String {
        let (_, answer) = timeout(Duration::from_secs(10), self.answers.recv()).await.unwrap().unwrap();
        let text = short(&answer);
        self.last = Some(answer);
        text
    }

    /// Waits for an answer, and returns how long it took.
    async fn until(&mut self, wanted: &str) -> Duration {
        let start = Instant::now();
        loop {
            let seen = self.next().await;
            if seen == wanted {
                return start.elapsed();
            }
        }
    }

    /// Whatever is said for `time` is this, failures aside.
    async fn only(&mut self, time: Duration, wanted: &str) {
        let end = Instant::now() + time;
        while let Ok(Some((_, answer))) = tokio::time::timeout_at(end, self.answers.recv()).await {
            let text = short(&answer);
            assert!(text == wanted || text.starts_with("failed"), "{text}, not {wanted}");
        }
    }
}

fn short(answer: &Answer) -> String {
    match answer {
        Answer::Found(all) => all.iter().map(|one| one.address.to_string()).collect::<Vec<_>>().join(" "),
        Answer::Failed(why) => format!("failed {why}"),
        other => format!("{other:?}"),
    }
}

const SECOND: Duration = Duration::from_secs(1);
const BOTH: &str = "10.0.0.1:1 10.0.0.1:2";

#[tokio::test]
async fn what_changes_is_told_within_a_second() {
    let agent = Agent::start().await;
    let mut asked = ask(agent.model(), "users", &[]);
    assert_eq!(asked.next().await, "Unknown");
    agent.say(101, instances(&[(1, "passing")]));
    assert!(asked.until("10.0.0.1:1").await < SECOND);
    agent.say(102, instances(&[(1, "passing"), (2, "warning")]));
    assert!(asked.until(BOTH).await < SECOND);
    sleep(SECOND * 2).await;
    agent.say(103, instances(&[(1, "critical"), (2, "passing")]));
    assert!(asked.until("10.0.0.1:2").await < SECOND);
    agent.say(104, instances(&[(1, "critical")]));
    assert!(asked.until("Empty").await < SECOND);
    assert!(agent.seen.lock().unwrap().asked[0].0.starts_with("GET /v1/health/service/users HTTP"));
}

#[tokio::test]
async fn an_agent_without_its_memory_evicts_nothing() {
    let agent = Agent::start().await;
    agent.say(100, instances(&[(1, "passing"), (2, "passing")]));
    let mut asked = ask(agent.model(), "users", &[]);
    asked.until(BOTH).await;
    agent.restart(9, json!([]));
    asked.only(SECOND * 3, BOTH).await;
    agent.say(12, instances(&[(1, "passing")]));
    asked.only(SECOND, BOTH).await;
    agent.say(13, instances(&[(1, "passing"), (2, "critical")]));
    assert!(asked.until("10.0.0.1:1").await < SECOND * 2);
    // An index that falls without a new connection, as behind a client agent.
    agent.say(14, instances(&[(1, "passing"), (2, "passing")]));
    asked.until(BOTH).await;
    let far = agent.state.borrow().index;
    agent.say(far + 1000, instances(&[(1, "passing"), (2, "passing")]));
    asked.next().await;
    agent.instead("HTTP/1.1 200 OK\r\nX-Consul-Index: 3\r\nContent-Length: 2\r\n\r\n[]");
    asked.only(SECOND * 2, BOTH).await;
}

#[tokio::test]
async fn what_is_lost_for_long_is_given_up() {
    let agent = Agent::start().await;
    agent.say(100, instances(&[(1, "passing"), (2, "passing")]));
    let keep_lost = SECOND * 2;
    let mut asked = ask(model::Consul { keep_lost, ..agent.model() }, "users", &[]);
    asked.until(BOTH).await;
    agent.restart(9, instances(&[(2, "passing")]));
    let took = asked.until("10.0.0.1:2").await;
    assert!(took > SECOND && took < SECOND * 5, "{took:?}");
}

#[tokio::test]
async fn failures_of_every_kind_change_nothing_and_are_no_storm() {
    let agent = Agent::start().await;
    agent.say(100, instances(&[(1, "passing"), (2, "passing")]));
    let mut asked = ask(agent.model(), "users", &[]);
    asked.until(BOTH).await;
    for bad in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 17\r\n\r\nNo cluster leader",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 13\r\n\r\nACL not found",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 200\r\nContent-Length: 9\r\n\r\n[{\"Node\":",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 200\r\nX-Consul-Results-Filtered-By-ACLs: true\r\nContent-Length: 2\r\n\r\n[]",
        "rubbish\r\n\r\n",
    ] {
        let before = agent.asked();
        agent.instead(bad);
        let failed = asked.next().await;
        assert!(failed.starts_with("failed"), "{bad}: {failed}");
        asked.only(SECOND * 2, BOTH).await;
        assert!(agent.asked() - before < 12, "{bad}: {}", agent.asked() - before);
        agent.restart(101, instances(&[(1, "passing"), (2, "passing")]));
        asked.until(BOTH).await;
    }
    agent.instead("HTTP/1.1 503 Busy\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n");
    asked.next().await;
    let before = agent.asked();
    sleep(SECOND * 3).await;
    assert_eq!(agent.asked(), before, "it is left alone for as long as it asks");
}

#[tokio::test]
async fn a_new_token_is_used_at_once_and_to_be_nobody_evicts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "one").unwrap();
    let agent = Agent::start().await;
    agent.say(100, instances(&[(1, "passing"), (2, "passing")]));
    let with_token = model::Consul { token: ConsulToken::File(path.clone()), ..agent.model() };
    let mut asked = ask(with_token, "users", &[]);
    asked.until(BOTH).await;
    agent.instead("HTTP/1.1 403 Forbidden\r\nContent-Length: 13\r\n\r\nACL not found");
    asked.only(SECOND * 3, BOTH).await;
    std::fs::write(&path, "another").unwrap();
    agent.say(100, json!([]));
    let new = || agent.seen.lock().unwrap().asked.iter().any(|(_, token)| token == "another");
    let start = Instant::now();
    while !new() {
        assert!(start.elapsed() < SECOND * 2, "the new token is not used");
        sleep(Duration::from_millis(20)).await;
    }
    asked.only(SECOND, BOTH).await;
    // A reload that makes us nobody.
    let mut after = ask(agent.model(), "users", &asked.chain);
    assert_eq!(after.next().await, BOTH);
}

#[tokio::test]
async fn churn_is_asked_about_less_than_once_a_second() {
    let agent = Agent::start().await;
    let mut asked = ask(agent.model(), "users", &[]);
    let start = Instant::now();
    let mut index = 100;
    while start.elapsed() < SECOND * 6 {
        index += 1;
        let port = u16::try_from(index % 50).unwrap() + 1;
        agent.say(index, instances(&[(port, "passing"), (100, "passing")]));
        sleep(Duration::from_millis(20)).await;
        while asked.answers.try_recv().is_ok() {}
    }
    assert!((7..=15).contains(&agent.asked()), "8 at once, then one every 1.05 s: {}", agent.asked());
}

#[tokio::test]
async fn more_upstreams_than_connections_take_turns() {
    let agent = Agent::start().await;
    let consul = model::Consul { connections: 2, ..agent.model() };
    let chain =
        source::chain(&model(vec![model::Source::Consul(Box::new(consul))]), &[], &Directory::new().0);
    let (sender, mut answers) = mpsc::channel(64);
    let feeds: Vec<_> =
        (0..6).map(|n| chain[0].ask(&UpstreamName::new(&format!("s{n}")), n, &sender)).collect();
    let all = |wanted: &'static str, answers: &mut mpsc::Receiver<(u64, Answer)>| {
        let mut left: std::collections::HashSet<u64> = (0..6).collect();
        let start = Instant::now();
        let receive = async move |answers: &mut mpsc::Receiver<(u64, Answer)>| {
            while !left.is_empty() {
                let (feed, answer) = timeout(SECOND * 10, answers.recv()).await.unwrap().unwrap();
                if short(&answer) == wanted {
                    left.remove(&feed);
                }
            }
            start.elapsed()
        };
        let _ = &answers;
        receive
    };
    all("Unknown", &mut answers)(&mut answers).await;
    agent.say(101, instances(&[(1, "passing")]));
    let took = all("10.0.0.1:1", &mut answers)(&mut answers).await;
    assert!(took < SECOND * 5, "{took:?}");
    assert!(agent.seen.lock().unwrap().most <= 2);
    drop(feeds);
    let start = Instant::now();
    while agent.seen.lock().unwrap().open > 0 {
        assert!(start.elapsed() < SECOND, "a question is still held that nobody asks");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_agent_that_refuses_connections_is_asked_less_at_once() {
    let agent = Agent::start().await;
    let consul = model::Consul { connections: 6, ..agent.model() };
    let chain =
        source::chain(&model(vec![model::Source::Consul(Box::new(consul))]), &[], &Directory::new().0);
    let (sender, mut answers) = mpsc::channel(64);
    let _feeds: Vec<_> =
        (0..6).map(|n| chain[0].ask(&UpstreamName::new(&format!("s{n}")), n, &sender)).collect();
    tokio::spawn(async move { while answers.recv().await.is_some() {} });
    sleep(SECOND).await;
    assert_eq!(agent.seen.lock().unwrap().open, 5, "the sixth place is for those that are not held");
    agent.instead("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n");
    sleep(SECOND / 4).await;
    agent.say(200, instances(&[(1, "passing")]));
    sleep(SECOND * 4).await;
    assert_eq!(agent.seen.lock().unwrap().open, 4, "one place less, and no fewer than four");
}

#[tokio::test]
async fn a_prepared_query_is_run_again_and_again() {
    let agent = Agent::start().await;
    let found =
        |all: &[(u16, &str)]| json!({"Service": "users", "Datacenter": "dc1", "Nodes": instances(all)});
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    agent.instead(gone);
    let keep_lost = SECOND * 2;
    let mut consul = model::Consul { query_interval: SECOND / 5, keep_lost, ..agent.model() };
    consul.queries.insert(UpstreamName::new("users"), "near-users".into());
    let mut asked = ask(consul, "users:8080", &[]);
    assert_eq!(asked.next().await, "Unknown");
    agent.say(100, found(&[(1, "passing")]));
    asked.until("10.0.0.1:1").await;
    agent.say(100, found(&[]));
    asked.until("Empty").await;
    agent.say(100, found(&[(1, "passing"), (2, "passing")]));
    asked.until(BOTH).await;
    agent.instead(gone);
    asked.only(SECOND, BOTH).await;
    asked.until("Empty").await;
    assert!(agent.seen.lock().unwrap().asked[0].0.starts_with("GET /v1/query/near-users/execute HTTP"));
}

#[tokio::test]
async fn only_what_was_asked_for_is_found() {
    let agent = Agent::start().await;
    let one = |port: u16, tag: &str, meta: &str, status: &str, address: &str| {
        json!({
            "Node": {"Node": "n", "Address": "10.0.0.9"},
            "Service": {"ID": port.to_string(), "Address": address, "Port": port, "Tags": [tag, "all"],
                "Meta": {"version": meta, "zone": "a"}, "Weights": {"Passing": 7, "Warning": 0}},
            "Checks": [{"Status": status}],
        })
    };
    let all = json!([
        one(1, "v2", "2", "passing", ""),
        one(2, "v1", "2", "passing", "10.0.0.1"),
        one(3, "v2", "1", "passing", "10.0.0.1"),
        one(4, "v2", "2", "warning", "10.0.0.1"),
        one(0, "v2", "2", "passing", "localhost"),
        one(5, "v2", "2", "passing", "0.0.0.0"),
    ]);
    agent.say(100, all);
    let mut consul = agent.model();
    consul.instances.tags = vec!["v2".into(), "all".into()];
    consul.instances.metadata.insert("version".into(), "2".into());
    let mut asked = ask(consul, "users.service.consul:8080", &[]);
    assert_eq!(asked.next().await, "10.0.0.9:1 127.0.0.1:8080");
    let Some(Answer::Found(found)) = &asked.last else { panic!() };
    assert_eq!((found[0].weight, found[0].zone.as_deref()), (7, Some("a")));
    assert!(agent.seen.lock().unwrap().asked[0].0.starts_with("GET /v1/health/service/users HTTP"));
}
