//! What the servers know of a service: its instances with their health.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::agent::{Status, or_default, port};
use super::endpoints::{ExecuteQuery, ServiceHealth};
use super::{Answer, Blocking, Client, Error, How, Locality, MAX_FILTER, word};

/// Which instances are asked for, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// An expression of Consul's filter language.
    pub filter: Option<String>,
    /// Nearest first, seen from this node; `_agent` for the agent's.
    pub near: Option<String>,
    /// At most so many, of a prepared query.
    pub limit: Option<u32>,
    /// How fresh the answer has to be.
    pub read: Read,
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Read {
    /// From the leader, who may have been replaced a moment ago.
    #[default]
    Default,
    /// From any server, also while there is no leader.
    Stale,
    /// From a leader who has asked the others whether it is one.
    Consistent,
}

/// One instance of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    /// The node that it is registered on.
    pub node: String,
    /// Unique on the node.
    pub id: String,
    /// An IP address or a name: the instance's own, or else the node's.
    pub address: String,
    /// 0 for none, and for one that can't be.
    pub port: u16,
    /// Free words.
    pub tags: Vec<String>,
    /// Key and value.
    pub meta: BTreeMap<String, String>,
    /// Its share of traffic while passing, and while warning.
    pub weights: (u32, u32),
    /// Its own, or else the node's.
    pub locality: Option<Locality>,
    /// The worst of its checks and its node's.
    pub status: Status,
}

/// What a prepared query found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The datacenter that answered.
    pub datacenter: String,
    /// What it has.
    pub instances: Vec<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    #[serde(default, deserialize_with = "or_default")]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: String,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default, deserialize_with = "port")]
    port: u16,
    #[serde(default, deserialize_with = "or_default")]
    tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Executed {
    #[serde(default, deserialize_with = "or_default")]
    nodes: Vec<Entry>,
    #[serde(default)]
    datacenter: String,
}

impl Client {
    /// The instances of `service`, those that are not well included. None at
    /// all also where there is no such service, and where the token may not
    /// see it.
    pub async fn instances(
        &self,
        service: &str,
        selection: &Selection,
        blocking: Option<Blocking>,
    ) -> Result<Answer<Vec<Instance>>, Error> {
        word("service name", service)?;
        let how = self.how(selection, blocking)?;
        let request = ServiceHealth {
            name: service.to_owned(),
            dc: self.shared.datacenter.clone(),
            near: selection.near.clone(),
        };
        let answer: Answer<Option<Vec<Entry>>> = self.call(request, how).await?.json()?;
        Ok(answer.map(|entries| entries.unwrap_or_default().into_iter().map(Instance::from).collect()))
    }

    /// What the prepared query of this name or id finds: instances that are
    /// well only. One that is not there is an error of status 404. Consul does
    /// not hold such a question, and gives no index.
    pub async fn execute_query(&self, query: &str, selection: &Selection) -> Result<Answer<Found>, Error> {
        word("query name", query)?;
        let request = ExecuteQuery {
            name: query.to_owned(),
            dc: self.shared.datacenter.clone(),
            near: selection.near.clone(),
            limit: selection.limit,
        };
        let answer: Answer<Executed> = self.call(request, self.how(selection, None)?).await?.json()?;
        Ok(answer.map(|found| Found {
            datacenter: found.datacenter,
            instances: found.nodes.into_iter().map(Instance::from).collect(),
        }))
    }

    fn how(&self, selection: &Selection, blocking: Option<Blocking>) -> Result<How, Error> {
        selection.near.as_deref().map_or(Ok(()), |near| word("near", near))?;
        if selection.filter.as_ref().is_some_and(|filter| filter.len() > MAX_FILTER) {
            return Err(Error::Invalid("filter"));
        }
        Ok(How { blocking, filter: selection.filter.clone(), read: selection.read })
    }
}

impl From<Entry> for Instance {
    fn from(entry: Entry) -> Self {
        let Entry { node, service, checks } = entry;
        let weights = service.weights.unwrap_or(Weights { passing: 1, warning: 1 });
        Self {
            node: node.node,
            id: service.id,
            address: if service.address.is_empty() { node.address } else { service.address },
            port: service.port,
            tags: service.tags,
            meta: service.meta,
            weights: (weights.passing, weights.warning),
            locality: service.locality.or(node.locality),
            status: checks.iter().map(|check| Status::of(&check.status)).max().unwrap_or_default(),
        }
    }
}
