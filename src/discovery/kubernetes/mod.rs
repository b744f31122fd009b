//! Kubernetes as a source: the EndpointSlices of the Services in use, and the
//! Services themselves, which say what their ports mean.
//!
//! One pair of watches for each Service in use, however many names it has.
//! Calls go to the pods; the address that kube-proxy serves is only known so
//! that a captured connection to it is understood.

mod list_watch;
mod name;
mod view;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as slices;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use self::list_watch::Known;
use self::name::Asked;
use self::view::{Service, Slice};
use super::answer::Answer;
use super::dns::{Lookup, Resolver, has_route};
use super::source::{Outlet, jittered, pause_after_failures};
use crate::base::directory::Directory;
use crate::base::{Endpoint, UpstreamName, Watched as Confirmation};
use crate::clients::kubernetes::{Access, Client, Query, Selector};
use crate::config::model;

/// Events of one change come close together; they make one answer.
const TOGETHER: Duration = Duration::from_millis(20);

/// The `kubernetes` source.
pub(super) struct Kubernetes {
    client: Arc<Client>,
    cluster_domain: Arc<str>,
    /// Where this sidecar runs.
    zone: Option<Arc<str>>,
    default_port: u16,
    /// For names that a Service of type ExternalName stands for.
    dns: Resolver,
    directory: Directory,
    /// When a watch was open for the last time.
    confirmed: Confirmation,
    watched: Mutex<HashMap<Id, Weak<Watched>>>,
}

/// The namespace and the name of a Service.
type Id = (Arc<str>, Arc<str>);

/// A Service that is watched; its drop ends that.
struct Watched {
    service: watch::Receiver<Known<Service>>,
    slices: watch::Receiver<Known<Slice>>,
    tasks: [AbortHandle; 2],
}

/// The addresses of kube-proxy that lead to a name, as long as it is followed.
struct Led<'a> {
    directory: &'a Directory,
    name: &'a UpstreamName,
}

impl Kubernetes {
    pub(super) fn new(
        of: &model::Kubernetes,
        dns: model::Dns,
        zone: Option<Arc<str>>,
        directory: Directory,
    ) -> Self {
        let access = Access {
            kubeconfig: of.kubeconfig.clone(),
            context: of.context.as_deref().map(str::to_owned),
            namespace: of.namespace.as_deref().map(str::to_owned),
        };
        Self {
            client: Arc::new(Client::new(access)),
            cluster_domain: of.cluster_domain.clone(),
            zone,
            default_port: dns.default_port,
            dns: Resolver::new(dns),
            directory,
            confirmed: Confirmation::default(),
            watched: Mutex::default(),
        }
    }

    /// When it saw for the last time that it is up to date.
    pub(super) fn watched(&self) -> Confirmation {
        self.confirmed.clone()
    }

    /// Tells the endpoints of `name` whenever they change.
    pub(super) async fn follow(&self, name: &UpstreamName, outlet: &Outlet) {
        let mut failures = 0;
        let own = loop {
            match self.client.namespace().await {
                Ok(own) => break own,
                Err(failure) => {
                    failures += 1;
                    if !outlet.tell(Answer::Failed(failure.why)).await {
                        return;
                    }
                    sleep(jittered(pause_after_failures(failures))).await;
                }
            }
        };
        let Some(asked) = Asked::read(name, &own, &self.cluster_domain) else {
            outlet.tell(Answer::Unknown).await;
            return;
        };
        let watched = self.watch(&asked);
        let led = Led { directory: &self.directory, name };
        let (mut service, mut slices) = (watched.service.clone(), watched.slices.clone());
        let mut said = None;
        loop {
            let known = (service.borrow_and_update().clone(), slices.borrow_and_update().clone());
            let mut again = None;
            if let Some(told) = self.answer(&known.0, &known.1, &asked).await {
                // A server that fails takes no address back.
                if !matches!(told.answer, Answer::Failed(_)) {
                    led.to(&told.cluster_addresses);
                }
                if told.complaint != said {
                    if let Some(complaint) = &told.complaint {
                        tracing::warn!(%name, namespace = %asked.namespace, service = %asked.service, "{complaint}");
                    }
                    said = told.complaint;
                }
                if !outlet.tell(told.answer).await {
                    return;
                }
                again = told.again;
            }
            let pause = async { sleep(again.unwrap_or_default()).await };
            tokio::select! {
                Ok(()) = service.changed() => {}
                Ok(()) = slices.changed() => {}
                () = pause, if again.is_some() => {}
                else => return,
            }
            sleep(TOGETHER).await;
        }
    }

    /// The watches of a Service, shared by all its names.
    fn watch(&self, asked: &Asked) -> Arc<Watched> {
        let mut all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (asked.namespace.clone(), asked.service.clone());
        if let Some(watched) = all.get(&key).and_then(Weak::upgrade) {
            return watched;
        }
        all.retain(|_, watched| watched.strong_count() > 0);
        let query = |selector| Query { namespace: asked.namespace.clone(), selector };
        let of = format!("kubernetes.io/service-name={}", asked.service);
        let (found, service) = watch::channel(Known::default());
        let (merged, slices) = watch::channel(Known::default());
        let one = query(Selector::Name(asked.service.clone()));
        let one = list_watch::follow::<core::Service, Service>(
            self.client.clone(),
            one,
            found,
            self.confirmed.clone(),
        );
        let all_slices = query(Selector::Label(of));
        let all_slices = list_watch::follow::<slices::EndpointSlice, Slice>(
            self.client.clone(),
            all_slices,
            merged,
            self.confirmed.clone(),
        );
        let tasks = [tokio::spawn(one).abort_handle(), tokio::spawn(all_slices).abort_handle()];
        let watched = Arc::new(Watched { service, slices, tasks });
        all.insert(key, Arc::downgrade(&watched));
        watched
    }

    /// What both come to; `None` as long as one of them is being asked for the
    /// first time.
    async fn answer(&self, service: &Known<Service>, slices: &Known<Slice>, asked: &Asked) -> Option<Told> {
        if let Some(why) = service.failure.as_ref().or(slices.failure.as_ref()) {
            return Some(Told::only(Answer::Failed(why.clone())));
        }
        let services = service.objects.as_ref()?;
        let Some(service) = services.get(&*asked.service) else {
            return Some(Told::only(Answer::Unknown));
        };
        if let Some(external) = &service.external {
            return Some(self.external(service, external, asked).await);
        }
        let slices = slices.objects.as_ref()?;
        let port = match service.port(asked.port) {
            Ok(port) => port,
            Err(complaint) => {
                return Some(Told { complaint: Some(complaint), ..Told::only(Answer::Empty) });
            }
        };
        let zone = self.zone.as_deref();
        let endpoints = view::endpoints(service, slices.values(), asked, &port, zone, has_route);
        let cluster_addresses =
            if asked.pod.is_none() { service.cluster_addresses(&port) } else { Vec::new() };
        Some(Told { cluster_addresses, ..Told::only(Answer::found(endpoints)) })
    }

    /// Of a Service that stands for a name outside.
    async fn external(&self, service: &Service, host: &str, asked: &Asked) -> Told {
        let port = asked.port.or(service.only_port()).unwrap_or(self.default_port);
        let endpoint = |ip| Endpoint::new(SocketAddr::new(ip, port));
        let (answer, ttl) = match self.dns.addresses(host).await {
            Lookup::Found(addresses, ttl) => {
                (Answer::found(addresses.into_iter().map(endpoint).collect()), ttl)
            }
            // The Service is known: the chain ends here.
            Lookup::Empty(ttl) | Lookup::Unknown(ttl) => (Answer::Empty, ttl),
            Lookup::Failed(why) => (Answer::failed(format!("{host}: {why}")), pause_after_failures(2)),
        };
        Told { again: Some(jittered(ttl)), ..Told::only(answer) }
    }
}

/// An answer, and what else follows.
struct Told {
    answer: Answer,
    /// When to look again although nothing has changed.
    again: Option<Duration>,
    cluster_addresses: Vec<SocketAddr>,
    /// What a person should set right.
    complaint: Option<String>,
}

impl Told {
    fn only(answer: Answer) -> Self {
        Self { answer, again: None, cluster_addresses: Vec::new(), complaint: None }
    }
}

impl Led<'_> {
    fn to(&self, addresses: &[SocketAddr]) {
        self.directory.lead(self.name, addresses);
    }
}

impl Drop for Led<'_> {
    fn drop(&mut self) {
        self.to(&[]);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;
