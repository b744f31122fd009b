//! A token: a JWS in compact form (RFC 7515) whose payload is claims (RFC 7519).

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Believed, Denied, Kind};
use crate::config::model::{Algorithm, KeySet, TokenRule};

/// Bytes of one token.
pub const LARGEST: usize = 16 << 10;
/// Keys that are tried for a token that names none.
const TRIES: usize = 4;

/// What a token says, and it is true.
#[derive(Debug)]
pub struct Verified {
    /// The number of its issuer.
    pub issuer: usize,
    /// All of its claims.
    pub claims: Map<String, Value>,
    /// By which it was checked.
    pub(super) keys: Arc<KeySet>,
    /// From when on it holds, in seconds since 1970.
    pub(super) from: f64,
    /// Until when it holds.
    pub(super) until: f64,
}

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no token, or too large for one.
    Malformed,
    /// It is signed in a way that is not allowed, or not at all.
    Algorithm,
    /// Nobody declared its issuer.
    Issuer,
    /// None of the issuer's keys is the one that it names.
    Key,
    /// The issuer's keys are not there.
    NoKeys,
    /// It was altered, or is somebody else's.
    Signature,
    /// It does not say until when it holds.
    Endless,
    /// It held until then.
    Expired,
    /// It does not hold yet.
    Early,
}

/// The members of a head that are read.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    crit: Option<Value>,
    /// The payload is compressed.
    zip: Option<Value>,
    /// The payload is not encoded (RFC 7797).
    b64: Option<Value>,
}

#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    iss: Option<Cow<'a, str>>,
}

impl Fault {
    /// One word, for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed_token",
            Self::Algorithm => "algorithm",
            Self::Issuer => "issuer",
            Self::Key => "unknown_key",
            Self::NoKeys => "keys_unavailable",
            Self::Signature => "signature",
            Self::Endless => "no_expiry",
            Self::Expired => "expired",
            Self::Early => "not_yet_valid",
        }
    }

    /// For a person.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Malformed => "the token is no JWT in compact form",
            Self::Algorithm => "the token is signed in a way that its issuer's entry does not allow",
            Self::Issuer => "the issuer of the token is not declared",
            Self::Key => "the token names a key that its issuer does not have",
            Self::NoKeys => "the keys of the token's issuer could not be fetched yet",
            Self::Signature => "the signature of the token is wrong",
            Self::Endless => "the token has no `exp`",
            Self::Expired => "the token has expired",
            Self::Early => "the token does not hold yet",
        }
    }
}

/// Checks a token that was not checked before.
pub(super) fn verify(token: &[u8], believed: &Believed<'_>) -> Result<Verified, Fault> {
    if token.len() > LARGEST {
        return Err(Fault::Malformed);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(first), Some(second), Some(third), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::Malformed);
    };
    let message = &token[..first.len() + 1 + second.len()];
    let decoded = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Malformed);
    let (head, payload, signature) = (decoded(first)?, decoded(second)?, decoded(third)?);
    let head: Head<'_> = serde_json::from_slice(&head).map_err(|_| Fault::Malformed)?;
    // What must be understood is not (RFC 7515, section 4.1.11).
    if head.crit.is_some() || head.zip.is_some() || head.b64.is_some() {
        return Err(Fault::Malformed);
    }
    // Only a hint until the signature is found right.
    let peek: Peek<'_> = serde_json::from_slice(&payload).map_err(|_| Fault::Malformed)?;
    let iss = peek.iss.ok_or(Fault::Issuer)?;
    let number = believed.issuers.iter().position(|one| *one.name == *iss).ok_or(Fault::Issuer)?;
    let issuer = &believed.issuers[number];
    let algorithm = Algorithm::of(&head.alg).filter(|one| issuer.algorithms.contains(one));
    let algorithm = algorithm.ok_or(Fault::Algorithm)?;
    let keys = (believed.keys)(number).ok_or(Fault::NoKeys)?;
    let mut candidates = keys.candidates(head.kid.as_deref(), algorithm).take(TRIES).peekable();
    candidates.peek().ok_or(Fault::Key)?;
    if !candidates.any(|key| key.verifies(algorithm, message, &signature)) {
        return Err(Fault::Signature);
    }
    let claims: Map<String, Value> = serde_json::from_slice(&payload).map_err(|_| Fault::Malformed)?;
    let skew = issuer.skew.as_secs_f64();
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().filter(|time| time.is_finite()).map(Some).ok_or(Fault::Malformed),
    };
    let until = time("exp")?.ok_or(Fault::Endless)? + skew;
    // A token from the future is of a clock that is wrong, or of somebody who has plans.
    let from = [time("nbf")?, time("iat")?].into_iter().flatten().fold(f64::MIN, f64::max) - skew;
    Ok(Verified { issuer: number, claims, keys: keys.clone(), from, until })
}

impl Verified {
    /// Whether it holds now.
    pub(super) fn holds(&self, now: f64) -> Result<(), Fault> {
        if now >= self.until {
            return Err(Fault::Expired);
        }
        if now < self.from {
            return Err(Fault::Early);
        }
        Ok(())
    }

    /// The claim of this name, or the one at this path.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        at(&self.claims, name)
    }
}

/// `a.b` is the member `a.b`, or else the member `b` of `a`.
fn at<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = map.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    at(map.get(first)?.as_object()?, rest)
}

/// A value that is not made of others, as text.
pub fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(if *value { "true" } else { "false" }.into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether `wanted` is the value, or in it.
fn holds(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| plain(item).is_some_and(|item| item == wanted)),
        other => plain(other).is_some_and(|text| text == wanted),
    }
}

/// Whether a good token says what a rule asks for.
pub(super) fn meets(token: &Verified, rule: &TokenRule) -> Result<(), Denied> {
    let audience = token.claims.get("aud");
    let is_for = |wanted: &Arc<str>| audience.is_some_and(|aud| holds(aud, wanted));
    if !rule.audience.is_empty() && !rule.audience.iter().any(is_for) {
        return Err(Denied::new(Kind::Bad, "audience", "the token is for another audience"));
    }
    let scopes = [token.claims.get("scope"), token.claims.get("scp")];
    let has = |wanted: &str| {
        scopes.iter().flatten().any(|value| match value {
            // RFC 8693, section 4.2: words between spaces.
            Value::String(text) => text.split(' ').any(|word| word == wanted),
            other => holds(other, wanted),
        })
    };
    if let Some(lacks) = rule.scope.iter().find(|wanted| !has(wanted)) {
        let denied = Denied::new(Kind::Forbidden, "scope", format!("the token lacks the scope `{lacks}`"));
        return Err(Denied { scope: Some(rule.scope.join(" ")), ..denied });
    }
    for (name, values) in &rule.claims {
        let claim = token.claim(name);
        if !values.iter().any(|wanted| claim.is_some_and(|claim| holds(claim, wanted))) {
            let detail = format!("the claim `{name}` of the token is not what the route asks for");
            return Err(Denied::new(Kind::Forbidden, "claim", detail));
        }
    }
    Ok(())
}
