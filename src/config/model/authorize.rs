//! `authentication` and `allow`: who may call, and how callers prove who they are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::base::{Network, Origin};
pub use crate::config::jwks::{Algorithm, KeySet};

/// `authentication`.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// Who issues tokens that are believed; each issuer once.
    pub jwt: Vec<Arc<Issuer>>,
}

/// One entry of `authentication.jwt`.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The `iss` of its tokens.
    pub name: Arc<str>,
    /// Where its keys are.
    pub keys: Keys,
    /// How its tokens may be signed; default those of key pairs.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock and ours may differ; default 30 s.
    pub skew: Duration,
    /// Where its tokens stand, in the order in which they are looked for;
    /// default `Authorization`.
    pub from: Vec<TokenFrom>,
    /// Claims that the service gets, each in its header; default none.
    pub forward: Vec<(Arc<str>, HeaderName)>,
    /// Where it is written.
    pub origin: Origin,
}

/// `jwks`.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Read with the configuration.
    Set(Arc<KeySet>),
    /// Fetched while the sidecar runs.
    Remote(KeysUrl),
}

/// Where keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeysUrl {
    /// `http://…` or `https://…`.
    pub url: Arc<str>,
    /// Whom `https` trusts; `None` for the system's.
    pub ca_file: Option<Arc<str>>,
}

/// Where a token stands in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFrom {
    /// In this header, behind the word `Bearer`, which only `Authorization` needs.
    Header(HeaderName),
    /// In this cookie.
    Cookie(Arc<str>),
    /// In this parameter of the query.
    Query(Arc<str>),
}

/// `allow`: one of its entries has to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// Those who may call.
    pub any: Vec<Allowed>,
    /// Counts and logs what it would deny, and lets it pass; default false.
    pub shadow: bool,
    /// Where it is written.
    pub origin: Origin,
}

/// One entry of `allow`.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed {
    /// Who.
    pub who: Who,
    /// Where it is written.
    pub origin: Origin,
}

/// Who may call.
#[derive(Clone, Debug, PartialEq)]
pub enum Who {
    /// Everyone.
    Anyone,
    /// Addresses.
    Source(Vec<Network>),
    /// Who has one of these keys.
    ApiKey(Arc<ApiKeys>),
    /// Who has such a token.
    Jwt(TokenRule),
}

/// What a token has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenRule {
    /// Its issuer; `None` takes all that are declared.
    pub issuer: Option<Arc<str>>,
    /// One of these is its `aud`, or in it; empty: whatever it is.
    pub audience: Vec<Arc<str>>,
    /// All of these are in its `scope` or `scp`.
    pub scope: Vec<Arc<str>>,
    /// For each of these claims, one of the values is it, or is in it.
    pub claims: Vec<(Arc<str>, Vec<Arc<str>>)>,
}

/// The keys of one entry.
#[derive(Clone, PartialEq)]
pub struct ApiKeys {
    /// Where a caller writes its key; default `x-api-key`.
    pub header: HeaderName,
    /// The clients who may call, each with the SHA-256 of its key.
    pub keys: Vec<(Arc<str>, [u8; 32])>,
    /// Clients of the file who may not.
    pub others: Vec<[u8; 32]>,
    /// The file, as it was written.
    pub file: Arc<str>,
}

impl Allow {
    /// Whether it denies anybody.
    pub fn holds(&self) -> bool {
        !self.shadow && self.any.iter().all(|one| one.who != Who::Anyone)
    }

    /// Whether a token can let a caller in.
    pub fn has_tokens(&self) -> bool {
        self.any.iter().any(|one| matches!(one.who, Who::Jwt(_)))
    }
}

/// Shows no digest.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys {{ header: {:?}, file: {:?}, keys: {} }}", self.header, self.file, self.keys.len())
    }
}
