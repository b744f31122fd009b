//! What a route changes of a call and answers itself, as the files write it.

use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{Values, text};
use crate::base::UpstreamName;
use crate::config::model::shaping::{
    Cors, Direct, Fault, HeaderEdit, OriginPattern, PathTemplate, Piece, Rewrite, Shaping, Sizes, Sticky,
};

/// Each part, with its place; `null` for what is not done.
pub fn put(values: &mut Values<'_>, shaping: Option<&Shaping>) {
    let edit = |edit: Option<&HeaderEdit>| edit.filter(|edit| !edit.is_empty()).map(edit_value);
    values.put("request_headers", edit(shaping.map(|shaping| &shaping.request)));
    values.put("response_headers", edit(shaping.map(|shaping| &shaping.response)));
    values.put("rewrite", shaping.and_then(|shaping| shaping.rewrite.as_ref()).map(rewrite));
    let direct = shaping.and_then(|shaping| shaping.direct.as_ref());
    let (redirect, respond) = match direct {
        Some(Direct::Redirect(redirect)) => {
            let path = redirect.path.as_ref().map(path);
            let value = json!({ "status": redirect.status.as_u16(), "scheme": redirect.scheme,
                "host": redirect.host.as_deref(), "path": path });
            (Some(value), None)
        }
        Some(Direct::Respond(respond)) => {
            let value = json!({ "status": respond.status.as_u16(), "bytes": respond.body.len(),
                "headers": fields(&respond.headers) });
            (None, Some(value))
        }
        None => (None, None),
    };
    values.put("redirect", redirect);
    values.put("respond", respond);
    values.put("cors", shaping.and_then(|shaping| shaping.cors.as_ref()).map(cors));
    let sizes = shaping.map_or_else(Sizes::default, |shaping| shaping.sizes);
    values.put("max_request_body", sizes.request);
    values.put("max_response_body", sizes.response);
    let split = shaping.and_then(|shaping| shaping.split.as_ref());
    values.put("split", split.map(|split| Value::Object(split.targets.iter().map(target).collect())));
    values.put("sticky", split.and_then(|split| split.sticky.as_ref()).map(sticky));
    values.put("fault", shaping.and_then(|shaping| shaping.fault.as_ref()).map(fault));
}

fn target((name, weight): &(UpstreamName, u32)) -> (String, Value) {
    (name.to_string(), (*weight).into())
}

fn sticky(sticky: &Sticky) -> Value {
    match sticky {
        Sticky::Header(name) => json!({ "header": name.as_str() }),
        Sticky::Cookie(name) => json!({ "cookie": name.as_ref() }),
    }
}

fn edit_value(edit: &HeaderEdit) -> Value {
    let remove: Vec<&str> = edit.remove.iter().map(HeaderName::as_str).collect();
    json!({ "remove": remove, "set": fields(&edit.set), "add": fields(&edit.add) })
}

/// Names only: a value may be a secret.
fn fields(fields: &[(HeaderName, HeaderValue)]) -> Vec<&str> {
    fields.iter().map(|(name, _)| name.as_str()).collect()
}

fn rewrite(rewrite: &Rewrite) -> Value {
    let host = rewrite.host.as_ref().and_then(|host| host.to_str().ok());
    json!({ "path": rewrite.path.as_ref().map(path), "host": host })
}

/// With `{0}` for the first segment of the request's path.
fn path(template: &PathTemplate) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.to_string(),
        Piece::Segment(index) => format!("{{{index}}}"),
        Piece::Rest(index) => format!("{{{index}...}}"),
        Piece::Tail(index) => format!("/{{{index}...}}"),
    };
    template.0.iter().map(piece).collect()
}

fn cors(cors: &Cors) -> Value {
    let origin = |pattern: &OriginPattern| match pattern {
        OriginPattern::Any => "*".to_owned(),
        OriginPattern::Exact(text) => text.to_string(),
        OriginPattern::Below(scheme, below) => format!("{scheme}*{below}"),
    };
    let mut methods: Vec<&str> = cors.methods.iter().map(http::Method::as_str).collect();
    if cors.any_method {
        methods.push("*");
    }
    let list =
        |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok()).map(str::to_owned);
    json!({
        "origins": cors.origins.iter().map(origin).collect::<Vec<_>>(),
        "methods": methods,
        "headers": list(&cors.headers),
        "expose": list(&cors.expose),
        "credentials": cors.credentials,
        "max_age": text(cors.max_age),
    })
}

fn fault(fault: &Fault) -> Value {
    let abort = fault.abort.map(|told| json!({ "status": told.status, "grpc": told.grpc.as_str() }));
    json!({
        "delay": fault.delay.map(text),
        "abort": abort,
        "percent": format!("{}%", fault.share * 100.0),
        "if_header": fault.if_header.as_ref().map(HeaderName::as_str),
    })
}
