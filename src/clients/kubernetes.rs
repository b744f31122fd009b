//! The API of Kubernetes: lists and watches of one kind of object.
//!
//! Calls share HTTP/2 connections, 40 each (kube's own transport would take one
//! connection for each watch), which are asked every 10 s whether they still live.
//! `kube` knows where the server is and who we are: the service account of a pod,
//! whose token and authority it reads again every minute, or a kubeconfig.

mod spread;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config, Error, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tower::{BoxError, ServiceBuilder, service_fn};

use self::spread::Spread;
use super::chain;

/// For a connection, and for the head of an answer.
const CONNECT: Duration = Duration::from_secs(5);
/// For one whole list.
const LIST: Duration = Duration::from_secs(30);
/// Lists at one time.
const LISTS: usize = 8;
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// A connection that says nothing for so long is asked whether it lives, and has
/// as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A client younger than this is not made anew, so that those who were refused
/// together don't make one each.
const YOUNG: Duration = Duration::from_secs(2);

/// How the server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; default: the service account of the pod, and outside of a
    /// pod `$KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; default: its current one.
    pub context: Option<String>,
    /// The namespace of names without one; default: that of the pod or context.
    pub namespace: Option<String>,
}

/// Calls to one server.
pub struct Client {
    access: Access,
    held: Mutex<Option<Held>>,
    lists: Semaphore,
}

#[derive(Clone)]
struct Held {
    api: kube::Client,
    namespace: Arc<str>,
    since: Instant,
    /// The server did not take our credentials.
    refused: bool,
}

/// Which objects are asked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where they are.
    pub namespace: Arc<str>,
    /// Which of them.
    pub selector: Selector,
}

/// Which objects of a namespace are asked for.
#[derive(Clone, Debug)]
pub enum Selector {
    /// Those with a label, as `key=value`.
    Label(String),
    /// The one of this name.
    Name(Arc<str>),
}

/// How fresh a list must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever the server has at hand.
    Any,
    /// Not older than this version.
    NotOlderThan(String),
    /// As new as can be: costs the server a question to etcd.
    Newest,
}

/// A whole list at one version.
pub struct List<K> {
    /// The objects.
    pub items: Vec<K>,
    /// Its version.
    pub version: String,
}

/// One event of a watch.
pub enum Event<K> {
    /// The object is new or has changed.
    Applied(K),
    /// The object is gone.
    Deleted(K),
    /// Nothing happened up to this version.
    Bookmark(String),
}

/// Why a call failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What follows from it.
    pub kind: Kind,
    /// For a person.
    pub why: Arc<str>,
    /// When the server would like to be asked again.
    pub retry_after: Option<Duration>,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 410: the version is no longer known; list again.
    Gone,
    /// The server is behind the version that was asked for, or has lost its state.
    Behind,
    /// 401: read the credentials again.
    Unauthorized,
    /// 403: the role does not allow it.
    Forbidden,
    /// All else: ask again later.
    Other,
}

impl Client {
    /// Reads and connects nothing yet.
    pub fn new(access: Access) -> Self {
        Self { access, held: Mutex::default(), lists: Semaphore::new(LISTS) }
    }

    /// The namespace of names without one.
    pub async fn namespace(&self) -> Result<Arc<str>, Failure> {
        Ok(self.held().await?.namespace)
    }

    /// The next call reads the credentials again, unless that was just done.
    pub fn renew(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &mut *held {
            held.refused = true;
        }
    }

    /// All objects that match.
    pub async fn list<K: Object>(&self, query: &Query, fresh: &Freshness) -> Result<List<K>, Failure> {
        let api = self.api(query).await?;
        let _turn = self.lists.acquire().await;
        timeout(LIST, pages(&api, query, fresh)).await.unwrap_or_else(|_| Err(Failure::late("list")))
    }

    /// What happens to them after `version`, for about `seconds`.
    pub async fn watch<K: Object>(
        &self,
        query: &Query,
        version: &str,
        seconds: u32,
    ) -> Result<impl Stream<Item = Result<Event<K>, Failure>> + use<K>, Failure> {
        let api: Api<K> = self.api(query).await?;
        let mut parameters = WatchParams::default().timeout(seconds);
        parameters.label_selector = query.selector.label();
        parameters.field_selector = query.selector.field();
        let stream = timeout(CONNECT, api.watch(&parameters, version)).await;
        let stream = stream.map_err(|_| Failure::late("watch"))??;
        Ok(stream.map(|event| match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Ok(Event::Applied(object)),
            WatchEvent::Deleted(object) => Ok(Event::Deleted(object)),
            WatchEvent::Bookmark(bookmark) => Ok(Event::Bookmark(bookmark.metadata.resource_version)),
            WatchEvent::Error(status) => Err(Error::Api(status).into()),
        }))
    }

    async fn api<K: Object>(&self, query: &Query) -> Result<Api<K>, Failure> {
        Ok(Api::namespaced(self.held().await?.api, &query.namespace))
    }

    async fn held(&self) -> Result<Held, Failure> {
        let held = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.take_if(|held| held.refused && held.since.elapsed() >= YOUNG);
            held.clone()
        };
        if let Some(held) = held {
            return Ok(held);
        }
        let (api, namespace) = connect(&self.access).await.map_err(|error| Failure::other(&*error))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have been faster: one connection is enough.
        Ok(held.get_or_insert(Held { api, namespace, since: Instant::now(), refused: false }).clone())
    }
}

/// What can be listed and watched in a namespace.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static
{
}

impl<K> Object for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + 'static
{
}

/// A client by what the files and the environment say; nothing is sent.
async fn connect(access: &Access) -> Result<(kube::Client, Arc<str>), BoxError> {
    let config = config(access).await?;
    let namespace = access.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    if config.proxy_url.is_some() {
        return Err("the kubeconfig's `proxy-url` is not supported".into());
    }
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    http.set_nodelay(true);
    let mut tls =
        HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = config.tls_server_name.clone() {
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name.try_into()?));
    }
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE);
    let spread = Arc::new(Spread::new(builder, tls.enable_all_versions().wrap_connector(http)));
    let transport = service_fn(move |request| {
        let spread = spread.clone();
        async move { spread.send(request).await }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(transport);
    Ok((ClientBuilder::new(service, &namespace).build(), namespace.into()))
}

async fn config(access: &Access) -> Result<Config, BoxError> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &access.kubeconfig {
        return Ok(Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?);
    }
    if access.context.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(Config::incluster()?);
    }
    Config::from_kubeconfig(&options).await.map_err(|error| {
        format!("not in a pod (KUBERNETES_SERVICE_HOST is not set), and no kubeconfig: {}", chain(&error))
            .into()
    })
}

async fn pages<K: Object>(api: &Api<K>, query: &Query, fresh: &Freshness) -> Result<List<K>, Failure> {
    let mut parameters = ListParams {
        label_selector: query.selector.label(),
        field_selector: query.selector.field(),
        // A list of whatever is at hand comes as a whole: servers page only what
        // they read from etcd.
        limit: (*fresh != Freshness::Any).then_some(PAGE),
        ..ListParams::default()
    };
    let version = match fresh {
        Freshness::Any => Some("0"),
        Freshness::NotOlderThan(version) => Some(version.as_str()),
        Freshness::Newest => None,
    };
    if let Some(version) = version {
        parameters = parameters.matching(VersionMatch::NotOlderThan).at(version);
    }
    let mut items = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        items.extend(page.items);
        let version = page.metadata.resource_version.filter(|version| !version.is_empty());
        let Some(more) = page.metadata.continue_.filter(|more| !more.is_empty()) else {
            let version =
                version.ok_or_else(|| Failure::other(&*BoxError::from("a list without a version")))?;
            return Ok(List { items, version });
        };
        // The token holds the version.
        (parameters.resource_version, parameters.version_match) = (None, None);
        parameters.continue_token = Some(more);
    }
}

impl Selector {
    fn label(&self) -> Option<String> {
        match self {
            Self::Label(label) => Some(label.clone()),
            Self::Name(_) => None,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Label(_) => None,
            Self::Name(name) => Some(format!("metadata.name={name}")),
        }
    }
}

impl Failure {
    fn other(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { kind: Kind::Other, why: chain(error).into(), retry_after: None }
    }

    fn late(what: &str) -> Self {
        let why = format!("no answer to a {what} in time").into();
        Self { kind: Kind::Other, why, retry_after: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Error::Api(status) = &error else { return Self::other(&error) };
        let behind = |message: &str| message.contains("Too large resource version");
        let details = status.details.as_ref();
        let causes = details.map(|details| details.causes.as_slice()).unwrap_or_default();
        let kind = match status.code {
            410 => Kind::Gone,
            401 => Kind::Unauthorized,
            403 => Kind::Forbidden,
            _ if behind(&status.message) || causes.iter().any(|cause| behind(&cause.message)) => Kind::Behind,
            _ => Kind::Other,
        };
        let seconds = details.map_or(0, |details| details.retry_after_seconds);
        let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let said = if status.message.is_empty() { &status.reason } else { &status.message };
        Self { kind, why: format!("the server answered {}: {said}", status.code).into(), retry_after }
    }
}
