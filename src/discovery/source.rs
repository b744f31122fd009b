//! The sources that a model names, made ready to be asked.
//!
//! A source answers by telling an [`Outlet`], again and again until it is
//! dropped: one that is polled tells after each question, one that watches
//! tells when something changed. Who listens can't see the difference.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::answer::Answer;
use super::consul::Consul;
use super::dns::Resolver;
use super::fixed::Fixed;
use super::kubernetes::Kubernetes;
use super::local::Local;
use crate::base::directory::Directory;
use crate::base::{Confirmed, UpstreamName};
use crate::config::Model;
use crate::config::model::{self, WhenEmpty};

/// The chain in force; cheap to clone.
pub(super) type Chain = Arc<[Source]>;

/// One entry of `discovery`, ready to be asked. Cheap to clone.
#[derive(Clone)]
pub(super) struct Source {
    kind: Kind,
    /// What it was made of. Equal sources are one source after a reload.
    made_of: Arc<MadeOf>,
}

/// What a source is made of, and nothing that it does not look at.
#[derive(Clone, PartialEq)]
struct MadeOf {
    /// Whether and how the service is registered there is not its business.
    source: model::Source,
    /// How names are resolved.
    dns: Option<model::Dns>,
    /// Where this sidecar runs.
    zone: Option<Arc<str>>,
}

#[derive(Clone)]
enum Kind {
    Local(Arc<Local>),
    Static(Arc<Fixed>),
    Consul(Arc<Consul>),
    Kubernetes(Arc<Kubernetes>),
    Dns(Arc<Resolver>),
}

/// Where a source tells its answers about one name.
pub(super) struct Outlet {
    feed: u64,
    answers: mpsc::Sender<(u64, Answer)>,
}

/// A source that is being asked about one name; dropping it ends that.
pub(super) struct Feed {
    /// Which feed an answer came from.
    pub id: u64,
    /// Since when the source is asked.
    pub since: Instant,
    task: AbortHandle,
}

/// The port of a name without one, where no `dns` entry says otherwise.
pub(super) fn default_port(sources: &[model::Source]) -> u16 {
    dns_of(sources).unwrap_or_default().default_port
}

/// Makes the chain of `model`; a source that `old` has already goes on.
pub(super) fn chain(model: &Model, old: &[Source], directory: &Directory) -> Chain {
    let sources = &model.discovery;
    let dns = dns_of(sources);
    let made = |source: &model::Source| {
        let needs_dns = !matches!(source, model::Source::Local(_) | model::Source::Dns(_));
        let needs_zone = matches!(source, model::Source::Kubernetes(_));
        let zone = model.service.locality.zone.clone().filter(|_| needs_zone);
        let made_of =
            MadeOf { source: unregistered(source.clone()), dns: dns.clone().filter(|_| needs_dns), zone };
        match old.iter().find(|old| *old.made_of == made_of) {
            Some(old) => old.clone(),
            None => Source::new(made_of, old, directory),
        }
    };
    sources.iter().map(made).collect()
}

/// The same without what only `register` looks at.
fn unregistered(mut source: model::Source) -> model::Source {
    match &mut source {
        model::Source::Local(local) => local.register = false,
        model::Source::Consul(consul) => consul.register = None,
        _ => {}
    }
    source
}

fn dns_of(sources: &[model::Source]) -> Option<model::Dns> {
    sources.iter().find_map(|source| match source {
        model::Source::Dns(dns) => Some(dns.clone()),
        _ => None,
    })
}

impl Source {
    fn new(made_of: MadeOf, old: &[Self], directory: &Directory) -> Self {
        let dns = made_of.dns.clone().unwrap_or_default();
        let kind = match &made_of.source {
            model::Source::Local(local) => Kind::Local(Arc::new(Local::new(local.directory.clone()))),
            model::Source::Static(services) => {
                Kind::Static(Arc::new(Fixed::new(services.clone(), Resolver::new(dns))))
            }
            model::Source::Kubernetes(of) => {
                let zone = made_of.zone.clone();
                Kind::Kubernetes(Arc::new(Kubernetes::new(of, dns, zone, directory.clone())))
            }
            model::Source::Consul(consul) => {
                let before = old.iter().find_map(|old| match &old.kind {
                    Kind::Consul(consul) => Some(&**consul),
                    _ => None,
                });
                Kind::Consul(Arc::new(Consul::new(consul, &dns, before)))
            }
            model::Source::Dns(dns) => Kind::Dns(Arc::new(Resolver::new(dns.clone()))),
        };
        Self { kind, made_of: Arc::new(made_of) }
    }

    /// The word for it in metrics and dumps.
    pub(super) fn word(&self) -> &'static str {
        match self.kind {
            Kind::Local(_) => "local",
            Kind::Static(_) => "static",
            Kind::Consul(_) => "consul",
            Kind::Kubernetes(_) => "kubernetes",
            Kind::Dns(_) => "dns",
        }
    }

    /// What holds when it takes endpoints back.
    pub(super) fn when_empty(&self) -> WhenEmpty {
        self.made_of.source.when_empty()
    }

    /// How it stands by what it said last, as long as it says nothing else.
    pub(super) fn confirmed(&self) -> Confirmed {
        match &self.kind {
            Kind::Local(local) => Confirmed::At(local.watched()),
            Kind::Kubernetes(kubernetes) => Confirmed::At(kubernetes.watched()),
            Kind::Static(fixed) if fixed.is_written() => Confirmed::Always,
            Kind::Static(_) | Kind::Consul(_) | Kind::Dns(_) => Confirmed::WhenSaid,
        }
    }

    /// Whether both are one source, so that what one said holds for the other.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.made_of, &other.made_of)
    }

    /// Asks about `name` from now on.
    pub(super) fn ask(&self, name: &UpstreamName, id: u64, answers: &mpsc::Sender<(u64, Answer)>) -> Feed {
        let (name, outlet) = (name.clone(), Outlet { feed: id, answers: answers.clone() });
        let task = match &self.kind {
            Kind::Local(local) => {
                start(local.clone(), |local| async move { local.follow(&name, &outlet).await })
            }
            Kind::Static(fixed) => {
                start(fixed.clone(), |fixed| async move { fixed.follow(&name, &outlet).await })
            }
            Kind::Consul(consul) => {
                start(consul.clone(), |consul| async move { consul.follow(&name, &outlet).await })
            }
            Kind::Kubernetes(kubernetes) => {
                start(kubernetes.clone(), |all| async move { all.follow(&name, &outlet).await })
            }
            Kind::Dns(dns) => start(dns.clone(), |dns| async move { dns.follow(&name, &outlet).await }),
        };
        Feed { id, since: Instant::now(), task }
    }
}

fn start<S, F: Future<Output = ()> + Send + 'static>(source: S, follow: impl FnOnce(S) -> F) -> AbortHandle {
    tokio::spawn(follow(source)).abort_handle()
}

impl Outlet {
    /// Tells an answer. Returns whether anybody listens.
    pub(super) async fn tell(&self, answer: Answer) -> bool {
        self.answers.send((self.feed, answer)).await.is_ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long to wait before a source that failed is asked again: 1 s at first,
/// doubling to 5 s.
pub(super) fn pause_after_failures(failures: u32) -> Duration {
    Duration::from_secs(5).min(Duration::from_secs(1) * (1 << failures.saturating_sub(1).min(3)))
}

/// `pause` less up to a tenth, so that many sidecars don't ask in step.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - 0.1 * fastrand::f64())
}
