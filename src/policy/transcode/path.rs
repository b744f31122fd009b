//! Which method a path and an HTTP method call, and which fields the path holds.

use http::Method;
use prost_reflect::{FieldDescriptor, MethodDescriptor};

use super::Fault;
use crate::config::model::{Binding, Json, Part, RequestBody, Template, Variable};

/// A method that was found.
#[derive(Clone, Debug)]
pub struct Called {
    /// The method.
    pub method: MethodDescriptor,
    /// What the request's body holds.
    pub body: RequestBody,
    /// The field of the answer that is its body; `None` for all of it.
    pub response_body: Option<FieldDescriptor>,
    /// Fields from the path.
    pub captured: Vec<(Vec<FieldDescriptor>, String)>,
}

/// Finds the method that a request calls: by the HTTP rules, and those that
/// have none by `POST /package.Service/Method`. `None` if there is none.
pub fn find(json: &Json, verb: &Method, path: &str) -> Option<Result<Called, Fault>> {
    // RFC 9110, section 9.3.2.
    let verb = if verb == Method::HEAD { &Method::GET } else { verb };
    let takes = |binding: &&Binding| binding.verb.as_ref().is_none_or(|wanted| wanted == verb);
    let found = json.bindings.iter().filter(takes).find_map(|binding| {
        let parts = matched(&binding.template, path)?;
        Some(captured(&binding.template, &parts).map(|captured| Called {
            method: binding.method.clone(),
            body: binding.body.clone(),
            response_body: binding.response_body.clone(),
            captured,
        }))
    });
    found.or_else(|| by_name(json, verb, path).map(Ok))
}

fn by_name(json: &Json, verb: &Method, path: &str) -> Option<Called> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    if verb != Method::POST || !json.services.iter().any(|known| **known == *service) {
        return None;
    }
    let method = json.pool.get_service_by_name(service)?.methods().find(|method| method.name() == name)?;
    let ruled = json.bindings.iter().any(|binding| binding.method == method);
    let body = RequestBody::Whole;
    (!ruled).then(|| Called { method, body, response_body: None, captured: Vec::new() })
}

/// The segments of the path that stand for the parts of the template, raw.
fn matched<'a>(template: &Template, path: &'a str) -> Option<Vec<&'a str>> {
    let mut path = path.strip_prefix('/')?;
    if let Some(suffix) = &template.suffix {
        path = path.strip_suffix(&**suffix)?.strip_suffix(':')?;
    }
    let mut rest = Some(path);
    let mut parts = Vec::with_capacity(template.parts.len());
    for part in &template.parts {
        if *part == Part::Rest {
            parts.push(rest.unwrap_or_default());
            return Some(parts);
        }
        let (segment, after) = match rest?.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest?, None),
        };
        let fits = match part {
            Part::Literal(wanted) => *unescaped(segment.as_bytes(), |_| true) == *wanted.as_bytes(),
            Part::One | Part::Rest => !segment.is_empty(),
        };
        if !fits {
            return None;
        }
        parts.push(segment);
        rest = after;
    }
    rest.is_none().then_some(parts)
}

fn captured(template: &Template, parts: &[&str]) -> Result<Vec<(Vec<FieldDescriptor>, String)>, Fault> {
    let text = |variable: &Variable| {
        let single = template.parts[variable.start..variable.end] == [Part::One];
        let raw = parts[variable.start..variable.end].join("/");
        // Of several segments, an escaped `/` must stay apart from a plain one.
        let plain = unescaped(raw.as_bytes(), |byte| single || byte != b'/');
        let text = String::from_utf8(plain).map_err(|_| {
            let name = variable.field.last().map_or("", FieldDescriptor::name);
            Fault::Invalid(format!("`{name}` in the path is not UTF-8"))
        })?;
        Ok((variable.field.clone(), text))
    };
    template.variables.iter().map(text).collect()
}

/// Percent-escapes resolved (RFC 3986, section 2.1) where `may` allows the byte
/// that they stand for. An escape that is none stays as it is.
pub fn unescaped(bytes: &[u8], may: impl Fn(u8) -> bool) -> Vec<u8> {
    let digit = |at: usize| {
        bytes.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) if may(high << 4 | low) => {
                plain.push(high << 4 | low);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}
