//! Who may call: what a caller shows is held against the `allow` of its route.
//!
//! Must hold: whoever is not named is denied; what a token says is used only
//! once its signature, its times and its issuer are right; the entry that lets
//! a caller in says who it is.

mod cache;
mod identity;
pub mod token;

#[cfg(test)]
#[path = "../../../tests/it/support/tokens.rs"]
pub mod signer;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

pub use self::cache::Tokens;
pub use self::identity::{CLIENT_BY, CLIENT_ID, Identity};
pub use self::token::{Fault, Verified};
use super::shaping::split::cookie;
use crate::config::model::{Allow, ApiKeys, Issuer, KeySet, TokenFrom, TokenRule, Who};

/// What a caller shows.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Its address.
    pub ip: IpAddr,
    /// The fields of its request.
    pub headers: &'a HeaderMap,
    /// The query of its request.
    pub query: Option<&'a str>,
}

/// Who is believed, and the keys by which.
pub struct Believed<'a> {
    /// The issuers that are declared.
    pub issuers: &'a [Arc<Issuer>],
    /// The keys of the one with this number, as far as they are there.
    pub keys: &'a dyn Fn(usize) -> Option<Arc<KeySet>>,
    /// Tokens that were checked before.
    pub tokens: &'a Tokens,
    /// The time, in seconds since 1970.
    pub now: f64,
}

/// Why a caller is denied.
#[derive(Clone, Debug, PartialEq)]
pub struct Denied {
    /// What it comes to.
    pub kind: Kind,
    /// One word, for metrics.
    pub cause: &'static str,
    /// What exactly, for a person; holds nothing of the credential.
    pub detail: Cow<'static, str>,
    /// The scopes that a token lacks.
    pub scope: Option<String>,
}

/// What a denial comes to; of several, the last one is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing that the caller could show would help.
    Address,
    /// No credential came.
    Missing,
    /// A credential came that is not good.
    Bad,
    /// Nobody can tell: the keys are not there.
    Unknown,
    /// The credential is good, and its owner may not.
    Forbidden,
}

/// What the tokens of one request came to, so that each is checked once.
type Checked<'a> = Vec<(&'a [u8], Result<Rc<Verified>, Fault>)>;

/// Lets a caller in, and says who it is as far as an entry proves that.
pub fn decide(
    allow: &Allow,
    caller: Caller<'_>,
    believed: &Believed<'_>,
) -> Result<Option<Identity>, Denied> {
    let mut denied = Denied {
        kind: Kind::Address,
        cause: "source",
        detail: "the route lets only some addresses in".into(),
        scope: None,
    };
    let mut checked = Checked::new();
    for entry in &allow.any {
        let said = match &entry.who {
            Who::Anyone => return Ok(None),
            Who::Source(networks) if networks.iter().any(|one| one.contains(caller.ip)) => return Ok(None),
            Who::Source(_) => continue,
            Who::ApiKey(keys) => api_key(keys, caller.headers),
            Who::Jwt(rule) => jwt(rule, caller, believed, &mut checked),
        };
        match said {
            Ok(identity) => return Ok(Some(identity)),
            Err(other) if other.kind > denied.kind => denied = other,
            Err(_) => {}
        }
    }
    Err(denied)
}

impl Denied {
    fn new(kind: Kind, cause: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, cause, detail: detail.into(), scope: None }
    }

    fn missing(what: &str) -> Self {
        Self::new(Kind::Missing, "missing", format!("the call shows no {what}"))
    }
}

impl From<&Fault> for Denied {
    fn from(fault: &Fault) -> Self {
        let kind = if *fault == Fault::NoKeys { Kind::Unknown } else { Kind::Bad };
        Self::new(kind, fault.cause(), fault.text())
    }
}

/// Looks at every key, whatever it finds, and always for as long.
fn api_key(keys: &ApiKeys, headers: &HeaderMap) -> Result<Identity, Denied> {
    let Some(value) = single(headers, &keys.header)? else { return Err(Denied::missing("API key")) };
    let digest = digest::digest(&digest::SHA256, value);
    let is = |known: &[u8; 32]| constant_time::verify_slices_are_equal(known, digest.as_ref()).is_ok();
    let mut found = None;
    for (name, known) in &keys.keys {
        if is(known) {
            found = Some(name);
        }
    }
    let other = keys.others.iter().fold(false, |other, known| other | is(known));
    match found {
        Some(name) => Ok(Identity::of_key(name.clone())),
        None if other => {
            Err(Denied::new(Kind::Forbidden, "client", "the client of this API key may not call this"))
        }
        None => Err(Denied::new(Kind::Bad, "unknown_api_key", "nobody has this API key")),
    }
}

/// The one value of a field. Of several nobody knows which one the service reads.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Denied> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        Some(_) => Err(Denied::new(Kind::Bad, "ambiguous", format!("the call has several fields `{name}`"))),
        None => Ok(first.map(http::HeaderValue::as_bytes)),
    }
}

fn jwt<'a>(
    rule: &TokenRule,
    caller: Caller<'a>,
    believed: &Believed<'_>,
    checked: &mut Checked<'a>,
) -> Result<Identity, Denied> {
    let mut denied = Denied::missing("token");
    let mut worse = |other: Denied| {
        if other.kind > denied.kind {
            denied = other;
        }
    };
    let asked = |issuer: &Issuer| rule.issuer.as_ref().is_none_or(|name| *name == issuer.name);
    for (number, issuer) in believed.issuers.iter().enumerate().filter(|(_, issuer)| asked(issuer)) {
        for place in &issuer.from {
            let token = match find(place, caller) {
                Ok(Some(token)) => token,
                Ok(None) => continue,
                Err(ambiguous) => {
                    worse(ambiguous);
                    continue;
                }
            };
            match verified(token, believed, checked) {
                Ok(token) if token.issuer == number => match token::meets(&token, rule) {
                    Ok(()) => return Ok(Identity::of_token(issuer, token)),
                    Err(denial) => worse(denial),
                },
                Ok(_) => worse(Denied::new(
                    Kind::Forbidden,
                    "issuer",
                    "the token is of another issuer than the route asks for",
                )),
                Err(fault) => worse((&fault).into()),
            }
        }
    }
    Err(denied)
}

fn verified<'a>(
    token: &'a [u8],
    believed: &Believed<'_>,
    checked: &mut Checked<'a>,
) -> Result<Rc<Verified>, Fault> {
    if let Some((_, known)) = checked.iter().find(|(other, _)| std::ptr::eq(*other, token)) {
        return known.clone();
    }
    let said = believed.tokens.check(token, believed);
    checked.push((token, said.clone()));
    said
}

/// The token at `place`, where there is one.
fn find<'a>(place: &TokenFrom, caller: Caller<'a>) -> Result<Option<&'a [u8]>, Denied> {
    let token = match place {
        TokenFrom::Header(name) => match single(caller.headers, name)? {
            None => None,
            Some(value) => match bearer(value) {
                Some(token) => Some(token),
                // Another scheme of `Authorization` is no token.
                None if *name == AUTHORIZATION => None,
                None => Some(value.trim_ascii()),
            },
        },
        TokenFrom::Cookie(name) => cookie(caller.headers, name),
        TokenFrom::Query(name) => {
            let pairs = caller.query.unwrap_or_default().split('&');
            let mut values = pairs.filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == &**name);
            let first = values.next().map(|(_, value)| value.as_bytes());
            if values.next().is_some() {
                let detail = format!("the call has several query parameters `{name}`");
                return Err(Denied::new(Kind::Bad, "ambiguous", detail));
            }
            first
        }
    };
    Ok(token.filter(|token| !token.is_empty()))
}

/// What stands behind `Bearer` (RFC 6750, section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
