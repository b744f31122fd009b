//! Who a caller is, once that is proven.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::token::{Verified, plain};
use crate::config::model::Issuer;

/// Tells the service who calls. Nobody else can write it: copies of callers are
/// taken out of every call to the service.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("pillion-client-id");
/// Tells it who says so: the issuer of a token, or `api_key`.
pub const CLIENT_BY: HeaderName = HeaderName::from_static("pillion-client-by");

/// Who a caller is.
#[derive(Clone, Debug)]
pub struct Identity {
    by: Arc<str>,
    client: Option<Arc<str>>,
    token: Option<(Arc<Issuer>, Rc<Verified>)>,
}

impl Identity {
    pub(super) fn of_key(client: Arc<str>) -> Self {
        Self { by: "api_key".into(), client: Some(client), token: None }
    }

    pub(super) fn of_token(issuer: &Arc<Issuer>, token: Rc<Verified>) -> Self {
        Self { by: issuer.name.clone(), client: None, token: Some((issuer.clone(), token)) }
    }

    /// The client's name, or the subject of its token.
    pub fn client(&self) -> Option<&str> {
        match &self.token {
            Some((_, token)) => token.claims.get("sub").and_then(Value::as_str),
            None => self.client.as_deref(),
        }
    }

    /// Who says so.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// What tells this client from all others.
    pub fn key(&self) -> Option<Vec<u8>> {
        let client = self.client()?;
        Some([self.by.as_bytes(), &[0], client.as_bytes()].concat())
    }

    /// The claim of this name, as text.
    pub fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        let (_, token) = self.token.as_ref()?;
        token.claim(name).and_then(text)
    }

    /// Tells the service.
    pub fn write(&self, headers: &mut HeaderMap) {
        let mut put = |name: &HeaderName, text: &str| {
            if let Some(value) = value(text) {
                headers.insert(name.clone(), value);
            }
        };
        if let Some(client) = self.client() {
            put(&CLIENT_ID, client);
        }
        put(&CLIENT_BY, &self.by);
        let Some((issuer, token)) = &self.token else { return };
        for (claim, name) in &issuer.forward {
            if let Some(text) = token.claim(claim).and_then(text) {
                put(name, &text);
            }
        }
    }
}

/// A claim as one line: the elements of a list with commas between them, unless
/// one of them holds a comma itself.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    let Value::Array(items) = value else { return plain(value) };
    let items: Option<Vec<_>> = items.iter().map(plain).collect();
    let items = items.filter(|items| items.iter().all(|item| !item.contains(',')))?;
    Some(items.join(",").into())
}

/// What a field can carry so that it is read as it was written.
fn value(text: &str) -> Option<HeaderValue> {
    let whole = !text.is_empty() && text.trim() == text;
    HeaderValue::from_bytes(text.as_bytes()).ok().filter(|_| whole)
}
