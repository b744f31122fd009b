//! A double of the API server, for what a real one does seldom: cut streams,
//! forgotten versions, errors, slow and large answers. It speaks HTTP/1.1
//! without TLS. `tests/netns/kubernetes.rs` has the real server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// Its drop ends it.
pub(super) struct Double {
    pub(super) kubeconfig: NamedTempFile,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    world: Mutex<World>,
    /// What happens to streams that are open: a line of a kind of objects, or
    /// their end.
    lines: broadcast::Sender<Option<(String, String)>>,
}

#[derive(Default)]
struct World {
    version: u64,
    /// Nothing is remembered of versions before this one.
    forgotten: u64,
    /// By kind (`services`) and name.
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, String, String)>,
    /// Each request, such as `list services any` and `watch services 7`.
    asked: Vec<String>,
    mood: Mood,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Mood {
    #[default]
    Fine,
    /// This status; 429 asks for a second of rest.
    Status(u16),
    /// Nothing at all.
    Silent,
    /// Each watch ends at once.
    Curt,
    /// A few bytes at a time.
    Slow,
}

impl Double {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { world: Mutex::default(), lines: broadcast::channel(1024).0 });
        let router = Router::new()
            .route("/api/v1/namespaces/{namespace}/{kind}", get(answer))
            .route("/apis/discovery.k8s.io/v1/namespaces/{namespace}/{kind}", get(answer))
            .with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { kubeconfig: kubeconfig(address), shared, task }
    }

    fn world<T>(&self, with: impl FnOnce(&mut World) -> T) -> T {
        with(&mut self.shared.world.lock().unwrap())
    }

    pub(super) fn mood(&self, mood: Mood) {
        self.world(|world| world.mood = mood);
    }

    /// All requests since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        self.world(|world| std::mem::take(&mut world.asked))
    }

    /// How many requests there were since [`Self::asked`].
    pub(super) fn times_asked(&self) -> usize {
        self.world(|world| world.asked.len())
    }

    /// Puts an object there, or takes it away.
    pub(super) fn put(&self, kind: &str, name: &str, object: Option<Value>) {
        self.world(|world| {
            world.version += 1;
            let key = (kind.to_owned(), name.to_owned());
            let (event, mut object) = match object {
                Some(object) => {
                    let is_new = world.objects.insert(key, object.clone()).is_none();
                    (if is_new { "ADDED" } else { "MODIFIED" }, object)
                }
                None => ("DELETED", world.objects.remove(&key).expect("it was there")),
            };
            object["metadata"]["resourceVersion"] = world.version.to_string().into();
            let line = json!({"type": event, "object": object}).to_string();
            world.history.push((world.version, kind.to_owned(), line.clone()));
            let _ = self.shared.lines.send(Some((kind.to_owned(), line)));
        });
    }

    /// A line in each open watch of a kind.
    pub(super) fn say(&self, kind: &str, line: &Value) {
        let _ = self.shared.lines.send(Some((kind.to_owned(), line.to_string())));
    }

    /// A bookmark in each open watch of a kind. Returns its version.
    pub(super) fn bookmark(&self, kind: &str) -> String {
        let version = self.world(|world| {
            world.version += 100;
            world.version.to_string()
        });
        let object = json!({"kind": "Any", "apiVersion": "v1", "metadata": {"resourceVersion": version}});
        self.say(kind, &json!({"type": "BOOKMARK", "object": object}));
        version
    }

    /// Ends all open streams.
    pub(super) fn cut(&self) {
        let _ = self.shared.lines.send(None);
    }

    /// Forgets all history.
    pub(super) fn compact(&self) {
        self.world(|world| {
            world.version += 1;
            world.forgotten = world.version;
        });
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn kubeconfig(address: SocketAddr) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, \
         contexts: [{{name: a, context: {{cluster: a, user: a, namespace: shop}}}}], \
         clusters: [{{name: a, cluster: {{server: 'http://{address}'}}}}], users: [{{name: a, user: {{token: t}}}}]}}"
    );
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Path((_, kind)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let word = |key: &str| query.get(key).map_or("", String::as_str);
    let (watches, version) = (word("watch") == "true", word("resourceVersion"));
    let verb = if watches { "watch" } else { "list" };
    let mood = {
        let mut world = shared.world.lock().unwrap();
        world.asked.push(format!("{verb} {kind} {version}").trim_end().to_owned());
        world.mood
    };
    match mood {
        Mood::Status(code) => return status(code),
        Mood::Silent => std::future::pending().await,
        Mood::Curt if watches => return Body::empty().into_response(),
        _ => {}
    }
    if watches { watch(&shared, &kind, version) } else { list(&shared, &kind, mood) }
}

fn list(shared: &Shared, kind: &str, mood: Mood) -> Response {
    let world = shared.world.lock().unwrap();
    let items: Vec<_> =
        world.objects.iter().filter(|((of, _), _)| of == kind).map(|(_, it)| it.clone()).collect();
    let text =
        json!({"metadata": {"resourceVersion": world.version.to_string()}, "items": items}).to_string();
    if mood != Mood::Slow {
        return Body::from(text).into_response();
    }
    let pieces: Vec<_> = text.as_bytes().chunks(text.len() / 10 + 1).map(Bytes::copy_from_slice).collect();
    let slowly = stream::unfold(pieces.into_iter(), |mut pieces| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, Infallible>(pieces.next()?), pieces))
    });
    Body::from_stream(slowly).into_response()
}

fn watch(shared: &Shared, kind: &str, version: &str) -> Response {
    let world = shared.world.lock().unwrap();
    let version: u64 = version.parse().expect("a watch begins at a version");
    if version < world.forgotten {
        return status(410);
    }
    let missed = world.history.iter().filter(|(at, of, _)| *at > version && of == kind);
    let missed: Vec<_> = missed.map(|(_, _, line)| format!("{line}\n")).collect();
    let (lines, kind) = (shared.lines.subscribe(), kind.to_owned());
    let stream = stream::unfold((missed.into_iter(), lines), move |(mut missed, mut lines)| {
        let kind = kind.clone();
        async move {
            if let Some(line) = missed.next() {
                return Some((Ok::<_, Infallible>(line), (missed, lines)));
            }
            loop {
                let (of, line) = lines.recv().await.ok()??;
                if of == kind {
                    return Some((Ok(format!("{line}\n")), (missed, lines)));
                }
            }
        }
    });
    Body::from_stream(stream).into_response()
}

fn status(code: u16) -> Response {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the mood is {code}"), "reason": "Mood", "code": code});
    if code == 429 {
        status["details"] = json!({"retryAfterSeconds": 1});
    }
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}
