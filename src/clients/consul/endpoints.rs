//! The requests that `consulrs` has not, made as it makes its own.

use std::fmt::Debug;

use consulrs::api::service::requests::RegisterServiceRequest;
use rustify_derive::Endpoint;
use serde::{Deserialize, Serialize};

/// `GET /v1/health/service/:name`.
#[derive(Debug, Endpoint)]
#[endpoint(path = "health/service/{self.name}")]
pub(super) struct ServiceHealth {
    #[endpoint(skip)]
    pub name: String,
    #[endpoint(query)]
    pub dc: Option<String>,
    #[endpoint(query)]
    pub near: Option<String>,
}

/// `GET /v1/query/:name/execute`, a prepared query by its name or id.
#[derive(Debug, Endpoint)]
#[endpoint(path = "query/{self.name}/execute")]
pub(super) struct ExecuteQuery {
    #[endpoint(skip)]
    pub name: String,
    #[endpoint(query)]
    pub dc: Option<String>,
    #[endpoint(query)]
    pub near: Option<String>,
    #[endpoint(query)]
    pub limit: Option<u32>,
}

/// `GET /v1/agent/self`.
#[derive(Debug, Endpoint)]
#[endpoint(path = "agent/self")]
pub(super) struct AgentSelf {}

/// `PUT /v1/agent/service/register`, with the locality that Consul has since
/// 1.17 and `consulrs` has not.
#[derive(Debug, Endpoint, Serialize)]
#[endpoint(path = "agent/service/register", method = "PUT")]
pub(super) struct RegisterWithLocality {
    #[serde(flatten)]
    pub service: RegisterServiceRequest,
    #[serde(rename = "Locality")]
    pub locality: Locality,
}

/// Where an instance stands (Consul 1.17 and later).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Locality {
    /// The region; empty if it has none.
    pub region: String,
    /// The zone in it; empty if it has none.
    pub zone: String,
}
