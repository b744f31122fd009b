//! Against a double of an agent: a script of bytes. A real one can't be made to
//! answer garbage, to break off, or to be slow at a chosen byte. What a real
//! one says is in `tests/real/consul`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Answers each question with the next of `answers`; then is silent. An empty
/// answer closes the connection.
struct Double {
    address: Address,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Double {
    async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (asked, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let (seen, counted) = (asked.clone(), connections.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                *counted.lock().unwrap() += 1;
                let (answers, seen) = (answers.clone(), seen.clone());
                tokio::spawn(async move {
                    while let Some(question) = question(&mut stream).await {
                        seen.lock().unwrap().push(question);
                        let next = answers.lock().unwrap().next();
                        match next.as_deref() {
                            Some("") => return,
                            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                            None => std::future::pending().await,
                        }
                    }
                });
            }
        });
        Self { address, asked, connections }
    }

    fn client(&self) -> Client {
        let token = Token::Text("t0ken".into());
        let options = Options {
            address: self.address.clone(),
            token,
            datacenter: Some("dc2".into()),
            ..Options::default()
        };
        Client::new(options).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One question, its head and its body; `None` at the end of the connection.
async fn question(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok()?;
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let field = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= field.unwrap_or(0usize) {
                return Some(text.into_owned());
            }
        }
    }
}

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

const ENTRIES: &str = r#"[
 {"Node":{"Node":"n1","Address":"10.0.0.1"},
  "Service":{"ID":"users-1","Service":"users","Tags":["v2"],"Address":"","Port":8080,
   "Meta":{"zone":"a"},"Weights":{"Passing":10,"Warning":2},"Locality":{"Region":"eu","Zone":"eu-1a"}},
  "Checks":[{"Status":"passing"},{"Status":"warning"}]},
 {"Node":{"Node":"n2","Address":"10.0.0.2","Locality":{"Region":"eu","Zone":"eu-1b"}},
  "Service":{"ID":"users-2","Service":"users","Tags":null,"Address":"users.internal","Port":0,"Meta":null},
  "Checks":[{"Status":"passing"},{"Status":"critical"}]},
 {"Node":{"Node":"n3","Address":"10.0.0.3"},"Service":{"ID":"users-3","Service":"users"},"Checks":null}]"#;

#[tokio::test]
async fn instances_come_with_what_consul_says_of_the_answer() {
    let fields = "X-Consul-Index: 42\r\nX-Consul-KnownLeader: true\r\nX-Consul-LastContact: 7\r\n";
    let double =
        Double::start(vec![ok("", "[]"), ok(fields, ENTRIES), ok("X-Consul-Index: 0\r\n", "null")]).await;
    let client = double.client();
    let selection = Selection {
        filter: Some("Service.Port != 1".into()),
        near: Some("_agent".into()),
        read: Read::Stale,
        ..Selection::default()
    };
    client.instances("users", &Selection::default(), None).await.unwrap();
    let blocking = Some(Blocking { index: 41, wait: Duration::from_secs(30), heard: Instant::now() });
    let answer = client.instances("users", &selection, blocking).await.unwrap();
    assert_eq!((answer.index, answer.known_leader), (Some(42), true));
    assert_eq!(answer.last_contact, Some(Duration::from_millis(7)));
    let [first, second, third] = &answer.value[..] else { panic!("{answer:?}") };
    assert_eq!((first.address.as_str(), first.port, first.weights), ("10.0.0.1", 8080, (10, 2)));
    assert_eq!(
        (first.status, second.status, third.status),
        (Status::Warning, Status::Critical, Status::Passing)
    );
    assert_eq!(first.locality.as_ref().unwrap().zone, "eu-1a");
    assert_eq!(second.locality.as_ref().unwrap().zone, "eu-1b", "that of the node");
    assert_eq!((second.address.as_str(), third.weights), ("users.internal", (1, 1)));

    let answer = client.instances("users", &Selection::default(), None).await.unwrap();
    assert!(answer.value.is_empty(), "null is an empty list");
    assert_eq!(answer.index, None, "0 is no index");
    assert_eq!(*double.connections.lock().unwrap(), 1, "the connection is used again");
    let asked = double.asked();
    let target = asked[1].lines().next().unwrap().to_owned();
    for part in [
        "GET /v1/health/service/users?",
        "dc=dc2",
        "near=_agent",
        "index=41",
        "wait=30000ms",
        "stale",
        "filter=Service.Port+%21%3D+1",
    ] {
        assert!(target.contains(part), "{part} in {target}");
    }
    assert!(asked[1].to_lowercase().contains("\r\nx-consul-token: t0ken\r\n"), "{}", asked[0]);
    assert!(!asked[2].contains("index="), "{}", asked[2]);
}

#[tokio::test]
async fn whatever_comes_in_place_of_an_answer_is_an_error() {
    let long = format!("HTTP/1.1 429 Slow\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n", u64::MAX);
    let status = "HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nslow".to_owned();
    let huge = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n{1}",
        pool::MAX_ANSWER + 1,
        "x".repeat(64 << 10)
    );
    let answers = vec![
        long,
        status,
        ok("", "{\"half\":"),
        "not HTTP at all\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]".into(),
        huge,
    ];
    let double = Double::start(answers).await;
    let client = double.client();
    let ask = || async { client.instances("users", &Selection::default(), None).await.unwrap_err() };
    assert_eq!(ask().await.retry_after(), Some(Duration::from_secs(60)), "no longer than a minute");
    let error = ask().await;
    assert_eq!((error.status(), error.retry_after()), (Some(429), Some(Duration::from_secs(3))));
    assert_eq!(error.to_string(), "status 429: slow");
    assert!(matches!(ask().await, Error::Malformed(_)));
    assert!(matches!(ask().await, Error::Connection(_)));
    let half = tokio::time::timeout(Duration::from_millis(300), ask()).await;
    assert!(half.is_err(), "an answer that stops midway is waited for");
    drop(half);
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_question() {
    let double =
        Double::start(vec![ok("", "{}"), String::new(), ok("", "{}"), String::new(), String::new()]).await;
    let client = double.client();
    let before = Instant::now();
    client.services().await.unwrap();
    let answer = client.services().await.expect("asked again on a new connection");
    assert!(answer.dialed > before);
    assert_eq!(*double.connections.lock().unwrap(), 2);
    assert!(matches!(client.services().await, Err(Error::Connection(_))), "twice and no more");
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_leaves_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let client = Client::new(Options { address, ..Options::default() }).unwrap();
    let blocking = Some(Blocking { index: 1, wait: Duration::from_secs(60), heard: Instant::now() });
    let asking = tokio::spawn(async move { client.kv("a/b", blocking).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let asked = question(&mut stream).await.unwrap();
    assert!(
        asked.starts_with("GET /v1/kv/a/b?raw=true HTTP"),
        "not to be held by who never gave the index: {asked}"
    );
    asking.abort();
    assert_eq!(question(&mut stream).await, None);
}

#[tokio::test]
async fn what_is_registered_is_written_as_consul_reads_it() {
    let double = Double::start(vec![ok("", ""), ok("", ""), ok("", "")]).await;
    let client = double.client();
    let check = Check {
        id: "users-1:ttl".into(),
        name: "it answers".into(),
        probe: Probe::Ttl(Duration::from_secs(15)),
        status: Status::Critical,
        deregister_after: Some(Duration::from_secs(60)),
    };
    let mut service = Service {
        id: "users-1".into(),
        name: "users".into(),
        address: "10.0.0.1".into(),
        port: 8702,
        tags: vec!["v2".into()],
        meta: [("pillion-sidecar".to_owned(), "1".to_owned())].into(),
        weights: Some((3, 1)),
        checks: vec![check],
        locality: None,
    };
    client.register(&service).await.unwrap();
    service.locality = Some(Locality { region: "eu".into(), zone: "eu-1a".into() });
    client.register(&service).await.unwrap();
    client.update_check("users-1:ttl", Status::Passing, "fine").await.unwrap();
    let asked = double.asked();
    let body = |index: usize| -> serde_json::Value {
        serde_json::from_str(asked[index].split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    assert!(asked[0].starts_with("PUT /v1/agent/service/register HTTP/1.1\r\n"), "{}", asked[0]);
    let first = body(0);
    assert_eq!(
        (&first["ID"], &first["Port"], &first["Weights"]["Passing"]),
        (&"users-1".into(), &8702.into(), &3.into())
    );
    let check = &first["Checks"][0];
    assert_eq!((&check["TTL"], &check["Status"]), (&"15000ms".into(), &"critical".into()));
    assert_eq!(check["DeregisterCriticalServiceAfter"], "60000ms");
    assert!(first.get("Locality").is_none(), "older agents refuse what they don't know");
    assert_eq!((&body(1)["Locality"]["Zone"], &body(1)["Name"]), (&"eu-1a".into(), &"users".into()));
    assert!(asked[2].starts_with("PUT /v1/agent/check/update/users-1:ttl"), "{}", asked[2]);
    assert_eq!((&body(2)["Status"], &body(2)["Output"]), (&"passing".into(), &"fine".into()));
}

#[tokio::test]
async fn a_port_that_cannot_be_spoils_no_other_entry() {
    let services = r#"{"a":{"ID":"a","Service":"a","Port":70000},"b":{"ID":"b","Service":"b","Port":-1},
        "c":{"ID":"c","Service":"c","Port":80}}"#;
    let found = ENTRIES.replace("8080", "70000");
    let double = Double::start(vec![ok("", services), ok("", &found)]).await;
    let client = double.client();
    let services = client.services().await.unwrap().value;
    assert_eq!(services.values().map(|one| one.port).collect::<Vec<_>>(), [0, 0, 80]);
    let found = client.instances("users", &Selection::default(), None).await.unwrap().value;
    assert_eq!((found.len(), found[0].port), (3, 0));
}

#[tokio::test]
async fn values_are_read_whole_and_their_absence_is_an_answer() {
    let none = "HTTP/1.1 404 Not Found\r\nX-Consul-Index: 9\r\nContent-Length: 0\r\n\r\n".to_owned();
    let double = Double::start(vec![ok("X-Consul-Index: 7\r\n", "42ms"), none]).await;
    let client = double.client();
    let answer = client.kv("pillion/timeout", None).await.unwrap();
    assert_eq!((answer.value.as_deref(), answer.index), (Some(&b"42ms"[..]), Some(7)));
    let answer = client.kv("pillion/timeout", None).await.unwrap();
    assert_eq!((answer.value, answer.index), (None, Some(9)));
    assert!(
        double.asked()[0].starts_with("GET /v1/kv/pillion/timeout?dc=dc2&raw=true "),
        "{}",
        double.asked()[0]
    );
}

#[tokio::test]
async fn what_other_libraries_would_panic_on_is_refused() {
    let client = Client::new(Options::default()).unwrap();
    for key in ["", "/a", "a/../b", "./a", "a\nb", &"k".repeat(600)] {
        assert_eq!(client.kv(key, None).await.unwrap_err(), Error::Invalid("key"), "{key:?}");
    }
    for id in ["", ".", "..", "a\r\nb", &"i".repeat(300)] {
        assert_eq!(client.deregister(id).await.unwrap_err(), Error::Invalid("service id"), "{id:?}");
    }
    let selection = Selection { filter: Some("x".repeat(70_000)), ..Selection::default() };
    assert_eq!(client.instances("a", &selection, None).await.unwrap_err(), Error::Invalid("filter"));
    let bad = Options { token: Token::Text("a\nb".into()), ..Options::default() };
    assert!(matches!(Client::new(bad), Err(Error::Token(_))));
    let bad = Options { namespace: Some("a\nb".into()), ..Options::default() };
    assert!(Client::new(bad).is_err());
}

#[test]
fn addresses_are_read_as_consul_users_write_them() {
    let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
    assert_eq!(read("127.0.0.1:8500").unwrap(), "http://127.0.0.1:8500");
    assert_eq!(read("http://consul").unwrap(), "http://consul:8500");
    assert_eq!(read("https://consul.example").unwrap(), "https://consul.example:8501");
    assert_eq!(read("https://[::1]:8501/").unwrap(), "https://[::1]:8501");
    assert_eq!(read("unix:///run/consul.sock").unwrap(), "unix:///run/consul.sock");
    for bad in [
        "",
        "http://",
        "ftp://a",
        "http://a/v1",
        "http://u:p@a",
        "http://a:0",
        "http://a:99999",
        "http://a:",
        "unix://a",
        "a b",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}
