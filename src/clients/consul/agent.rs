//! What is asked of the agent on this machine: services, and their checks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use consulrs::api::check::common::AgentServiceCheck;
use consulrs::api::check::requests::{DeregisterCheckRequest, TtlCheckUpdateRequest};
use consulrs::api::service::common::AgentWeights;
use consulrs::api::service::requests::{
    DeregisterServiceRequest, ListServicesRequest, ReadServiceRequest, RegisterServiceRequest,
};
use http::StatusCode;
use serde::Deserialize;

use super::endpoints::{AgentSelf, RegisterWithLocality};
use super::{Answer, Client, Error, How, Locality, word};

/// The longest text of a check that is sent, in bytes: Consul keeps 4 KiB.
const MAX_OUTPUT: usize = 4000;

/// A service as it is registered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Unique on its agent.
    pub id: String,
    /// What it is found by.
    pub name: String,
    /// An IP address or a name; empty for that of the node.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Free words.
    pub tags: Vec<String>,
    /// Keys of letters, digits, `-` and `_`.
    pub meta: BTreeMap<String, String>,
    /// Its share of traffic while passing, and while warning.
    pub weights: Option<(u32, u32)>,
    /// What says whether it is well; one without any is.
    pub checks: Vec<Check>,
    /// Consul refuses it before 1.17.
    pub locality: Option<Locality>,
}

/// What says whether a service is well.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Unique on its agent.
    pub id: String,
    /// For a person.
    pub name: String,
    /// How it is found out.
    pub probe: Probe,
    /// What it is until the first outcome.
    pub status: Status,
    /// The service is removed when the check has been critical for so long; not
    /// under a minute.
    pub deregister_after: Option<Duration>,
}

/// How a check is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Somebody tells, at least this often: [`Client::update_check`].
    Ttl(Duration),
    /// The agent asks.
    Asked {
        /// What is asked.
        target: Target,
        /// From one question to the next.
        interval: Duration,
        /// For one question.
        timeout: Duration,
    },
}

/// What an agent asks for a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `GET` of a URL.
    Http(String),
    /// `grpc.health.v1.Health` at `host:port` or `host:port/service`.
    Grpc(String),
    /// A connection to `host:port`.
    Tcp(String),
}

/// How a check, or an instance as a whole, stands; in the order of better to worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Well.
    #[default]
    Passing,
    /// Not well, and in use.
    Warning,
    /// Not to be used.
    Critical,
}

/// A service that the agent has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Registered {
    /// Unique on the agent.
    #[serde(rename = "ID")]
    pub id: String,
    /// What it is found by.
    #[serde(rename = "Service")]
    pub name: String,
    /// Empty for that of the node.
    pub address: String,
    /// 0 for none, and for one that can't be.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// Free words.
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// Key and value.
    #[serde(deserialize_with = "or_default")]
    pub meta: BTreeMap<String, String>,
}

/// What the agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Agent {
    /// Such as `1.8.7`.
    pub version: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Its node.
    pub node_name: String,
}

impl Client {
    /// Enters `service` at the agent, in place of one with the same id.
    pub async fn register(&self, service: &Service) -> Result<(), Error> {
        word("service id", &service.id)?;
        word("service name", &service.name)?;
        let request = request(service);
        let how = How::default();
        match service.locality.clone() {
            None => self.call(request, how).await?,
            Some(locality) => self.call(RegisterWithLocality { service: request, locality }, how).await?,
        };
        Ok(())
    }

    /// Takes the service out. One that is not there is an error of status 404,
    /// of status 500 before 1.11.
    pub async fn deregister(&self, id: &str) -> Result<(), Error> {
        word("service id", id)?;
        let request = DeregisterServiceRequest { id: id.to_owned(), ..Default::default() };
        self.call(request, How::default()).await.map(|_| ())
    }

    /// Tells the state of a [`Probe::Ttl`] check. A check that is not there is
    /// an error of status 404, of status 500 before 1.11.
    pub async fn update_check(&self, id: &str, status: Status, output: &str) -> Result<(), Error> {
        word("check id", id)?;
        let mut output = output.to_owned();
        while output.len() > MAX_OUTPUT {
            output.pop();
        }
        let request = TtlCheckUpdateRequest {
            check: id.to_owned(),
            status: Some(status.word().to_owned()),
            output: Some(output),
            ..Default::default()
        };
        self.call(request, How::default()).await.map(|_| ())
    }

    /// Takes a check out, whatever asks for it. One that is not there is an error
    /// of status 404, of status 500 before 1.11.
    pub async fn deregister_check(&self, id: &str) -> Result<(), Error> {
        word("check id", id)?;
        let request = DeregisterCheckRequest { check: id.to_owned(), ..Default::default() };
        self.call(request, How::default()).await.map(|_| ())
    }

    /// The services of the agent, by their ids.
    pub async fn services(&self) -> Result<Answer<BTreeMap<String, Registered>>, Error> {
        self.call(ListServicesRequest::default(), How::default()).await?.json()
    }

    /// One service of the agent; `None` if it has none of this id.
    pub async fn service(&self, id: &str) -> Result<Option<Registered>, Error> {
        word("service id", id)?;
        let request = ReadServiceRequest { name: id.to_owned(), ..Default::default() };
        let received = self.send(request, How::default()).await?;
        match received.reply.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => received.json().map(|answer| Some(answer.value)),
            _ => Err(received.reply.into_error()),
        }
    }

    /// What the agent says of itself. A token needs `agent:read` for it.
    pub async fn agent(&self) -> Result<Agent, Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Whole {
            config: Agent,
        }
        let answer: Answer<Whole> = self.call(AgentSelf {}, How::default()).await?.json()?;
        Ok(answer.value.config)
    }
}

impl Status {
    /// Consul's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// What Consul's word means. A word that it has not had until now is no
    /// reason to use an instance.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "passing" => Self::Passing,
            "warning" => Self::Warning,
            _ => Self::Critical,
        }
    }
}

fn request(service: &Service) -> RegisterServiceRequest {
    RegisterServiceRequest {
        id: Some(service.id.clone()),
        name: Some(service.name.clone()),
        address: Some(service.address.clone()),
        port: Some(service.port.into()),
        tags: Some(service.tags.clone()),
        meta: Some(
            service.meta.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<HashMap<_, _>>(),
        ),
        weights: service.weights.map(|(passing, warning)| AgentWeights {
            passing: Some(passing.into()),
            warning: Some(warning.into()),
        }),
        checks: Some(service.checks.iter().map(check).collect()),
        ..RegisterServiceRequest::default()
    }
}

fn check(check: &Check) -> AgentServiceCheck {
    let mut form = AgentServiceCheck {
        check_id: Some(check.id.clone()),
        name: Some(check.name.clone()),
        status: Some(check.status.word().to_owned()),
        deregister_critical_service_after: check.deregister_after.map(time),
        ..AgentServiceCheck::default()
    };
    match &check.probe {
        Probe::Ttl(ttl) => form.ttl = Some(time(*ttl)),
        Probe::Asked { target, interval, timeout } => {
            form.interval = Some(time(*interval));
            form.timeout = Some(time(*timeout));
            match target.clone() {
                Target::Http(url) => form.http = Some(url),
                Target::Grpc(target) => form.grpc = Some(target),
                Target::Tcp(target) => form.tcp = Some(target),
            }
        }
    }
    form
}

/// A duration as Go writes it.
fn time(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Consul takes any number as a port, and lists it unchanged: 0 for one that can't be.
pub(super) fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    Ok(u16::try_from(i64::deserialize(deserializer)?).unwrap_or(0))
}

/// `null` where Go had an empty list.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
