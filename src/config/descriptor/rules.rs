//! The HTTP rules of methods: the option `google.api.http`.

use std::cmp::Ordering;
use std::sync::Arc;

use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage, Value};

use super::{Fault, template};
use crate::config::model::{Binding, Part, RequestBody, Template};

/// The rules of a descriptor file, and what is wrong with them.
#[derive(Default)]
pub(super) struct Bindings {
    pub list: Vec<Binding>,
    pub faults: Vec<Fault>,
}

/// The rules of all methods of `services`, those that win first.
pub(super) fn bindings(pool: &DescriptorPool, services: &[Arc<str>]) -> Bindings {
    let mut bindings = Bindings::default();
    let Some(option) = pool.get_extension_by_name("google.api.http") else { return bindings };
    for service in pool.services().filter(|service| services.iter().any(|s| **s == *service.full_name())) {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&option) {
                continue;
            }
            if let Value::Message(rule) = options.get_extension(&option).as_ref() {
                bindings.add(&method, rule, true);
            }
        }
    }
    bindings.list.sort_by(|a, b| before(&a.template, &b.template).then_with(|| by_verb(a, b)));
    bindings.conflicts();
    bindings
}

impl Bindings {
    fn add(&mut self, method: &MethodDescriptor, rule: &DynamicMessage, outer: bool) {
        match binding(method, rule) {
            Ok(binding) => self.list.push(binding),
            Err(why) => {
                let message = format!("the HTTP rule of `{}` is wrong: {why}", method.full_name());
                self.faults.push(Fault::new(message, "correct the `.proto` and make the descriptor anew"));
            }
        }
        let more = rule.get_field_by_name("additional_bindings");
        for rule in more.as_deref().and_then(Value::as_list).into_iter().flatten() {
            match rule {
                Value::Message(rule) if outer => self.add(method, rule, false),
                _ => {}
            }
        }
    }

    /// Two rules that take the same requests.
    fn conflicts(&mut self) {
        for (index, one) in self.list.iter().enumerate() {
            let same = |other: &&Binding| {
                other.verb == one.verb
                    && other.template.parts == one.template.parts
                    && other.template.suffix == one.template.suffix
            };
            if let Some(other) = self.list[index + 1..].iter().find(same) {
                let (one, other) = (one.method.full_name(), other.method.full_name());
                let message = format!("the HTTP rules of `{one}` and `{other}` take the same requests");
                self.faults.push(Fault::new(message, "name the services that are meant in `services`"));
            }
        }
    }
}

fn binding(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Binding, String> {
    let input = method.input();
    let (verb, path) = verb_and_path(rule)?;
    let template = template::parse(&path, &input).map_err(|why| format!("`{path}`: {why}"))?;
    let body = match text(rule, "body").as_str() {
        "" => RequestBody::None,
        "*" => RequestBody::Whole,
        name => RequestBody::Field(input.get_field_by_name(name).ok_or_else(|| {
            format!("`body: \"{name}\"`, but `{}` has no field of this name", input.full_name())
        })?),
    };
    let response_body = match text(rule, "response_body").as_str() {
        "" => None,
        name => Some(method.output().get_field_by_name(name).ok_or_else(|| {
            let output = method.output();
            format!("`response_body: \"{name}\"`, but `{}` has no field of this name", output.full_name())
        })?),
    };
    Ok(Binding { verb, template, method: method.clone(), body, response_body })
}

fn verb_and_path(rule: &DynamicMessage) -> Result<(Option<Method>, String), String> {
    for (field, verb) in [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ] {
        let path = text(rule, field);
        if !path.is_empty() {
            return Ok((Some(verb), path));
        }
    }
    let custom = rule.get_field_by_name("custom");
    match custom.as_deref() {
        Some(Value::Message(custom)) if rule.has_field_by_name("custom") => {
            let kind = text(custom, "kind");
            let verb = match kind.as_str() {
                "*" => None,
                kind => {
                    Some(Method::from_bytes(kind.as_bytes()).map_err(|_| format!("`{kind}` is no method"))?)
                }
            };
            Ok((verb, text(custom, "path")))
        }
        _ => Err("it names no path".into()),
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let field = message.descriptor().get_field_by_name(field);
    let value = field.map(|field| message.get_field(&field).into_owned());
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The rule that is more specific comes first: part by part equal bytes, then
/// `*`, then the end, then `**`; then one with a `:word`.
fn before(a: &Template, b: &Template) -> Ordering {
    let rank = |part: Option<&Part>| match part {
        Some(Part::Literal(_)) => 0,
        Some(Part::One) => 1,
        None => 2,
        Some(Part::Rest) => 3,
    };
    (0..a.parts.len().max(b.parts.len()))
        .map(|index| rank(a.parts.get(index)).cmp(&rank(b.parts.get(index))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
        .then_with(|| a.suffix.is_none().cmp(&b.suffix.is_none()))
}

fn by_verb(a: &Binding, b: &Binding) -> Ordering {
    a.verb.is_none().cmp(&b.verb.is_none())
}
