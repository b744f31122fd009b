//! `request_headers`, `response_headers` and the fields of `respond`.

use std::collections::BTreeMap;

use http::header::{HeaderName, HeaderValue};

use super::{Sink, Step, Wrong};
use crate::config::form;
use crate::config::model::shaping::HeaderEdit;

/// Fields that belong to a connection, frame the message, or are Pillion's own.
const NOT_OURS: [&str; 15] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "date",
];

/// The edit that stands under `key`.
pub(super) fn edit(form: &form::HeaderEdit, key: &str, sink: &mut Sink<'_>) -> HeaderEdit {
    let mut edit = HeaderEdit::default();
    for (index, header) in form.remove.iter().flatten().enumerate() {
        let steps = [Step::Key(key), Step::Key("remove"), Step::Item(index)];
        match allowed(&header.0) {
            Ok(()) => edit.remove.push(header.0.clone()),
            Err(wrong) => sink(&steps, wrong),
        }
    }
    edit.set = fields(form.set.as_ref(), &[Step::Key(key), Step::Key("set")], sink);
    edit.add = fields(form.add.as_ref(), &[Step::Key(key), Step::Key("add")], sink);
    for (name, _) in &edit.set {
        if let Some(index) = form.remove.iter().flatten().position(|removed| removed.0 == *name) {
            let steps = [Step::Key(key), Step::Key("remove"), Step::Item(index)];
            sink(&steps, format!("`{name}` is set as well, which takes out what was there").into());
        }
    }
    if edit.is_empty() && form.remove.is_none() && form.set.is_none() && form.add.is_none() {
        sink(&[Step::Key(key)], Wrong::missing(&["set", "add", "remove"]));
    }
    edit
}

/// Names and values that stand under `path`.
pub(super) fn fields(
    map: Option<&BTreeMap<String, String>>,
    path: &[Step<'_>],
    sink: &mut Sink<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (text, value) in map.into_iter().flatten() {
        let mut wrong = |step: Step<'_>, wrong: Wrong| {
            let steps: Vec<Step<'_>> = path.iter().copied().chain([step]).collect();
            sink(&steps, wrong);
        };
        if let Err(message) = crate::config::text::check("pillion-header", text) {
            wrong(Step::Word(text), message.into());
            continue;
        }
        let Ok(name) = HeaderName::try_from(text.as_str()) else { continue };
        if let Err(why) = allowed(&name) {
            wrong(Step::Word(text), why);
        } else if fields.iter().any(|(other, _)| *other == name) {
            let message = format!("the header `{text}` stands here twice: capitals make no difference");
            wrong(Step::Word(text), message.into());
        } else {
            match HeaderValue::from_str(value) {
                Ok(value) if value.as_bytes().trim_ascii().len() == value.len() => fields.push((name, value)),
                _ => wrong(
                    Step::Key(text),
                    "a header's value is one line of ASCII without space at its ends".into(),
                ),
            }
        }
    }
    fields
}

fn allowed(name: &HeaderName) -> Result<(), Wrong> {
    let text = name.as_str();
    if text == "host" {
        return Err(Wrong::from("`host` is part of the target").help("write `rewrite: {host: …}`"));
    }
    if NOT_OURS.contains(&text) {
        return Err(format!(
            "`{text}` belongs to the connection or to the message's form: it can't be changed"
        )
        .into());
    }
    for prefix in ["pillion-", "grpc-", "access-control-"] {
        if text.starts_with(prefix) {
            let what = match prefix {
                "access-control-" => "`cors` writes `access-control-…`",
                "grpc-" => "`grpc-…` belongs to gRPC",
                _ => "`pillion-…` says what Pillion did",
            };
            return Err(format!("{what}: `{text}` can't be changed here").into());
        }
    }
    Ok(())
}
