//! `redirect` and `respond`.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::{Sink, Step, Wrong, headers, path};
use crate::base::Authority;
use crate::config::form;
use crate::config::model::Pattern;
use crate::config::model::shaping::{Direct, PathTemplate, Redirect, Respond};

/// Bytes of `respond.body`.
const LARGEST_BODY: usize = 64 << 10;

/// The answer that an entry gives, if it does.
pub(super) fn direct(
    redirect: Option<&form::Redirect>,
    respond: Option<&form::Respond>,
    pattern: Option<&Pattern>,
    sink: &mut Sink<'_>,
) -> Option<Direct> {
    let key = match (redirect, respond) {
        (Some(_), _) => "redirect",
        (None, Some(_)) => "respond",
        (None, None) => return None,
    };
    let Some(pattern) = pattern else {
        let wrong = Wrong::from(format!("`{key}` needs a `route`"));
        sink(&[Step::Word(key)], wrong.help("add `route: /**` to take every path"));
        return None;
    };
    if pattern.grpc {
        let wrong = Wrong::from(format!("a caller of gRPC can't read what `{key}` answers"));
        sink(&[Step::Word(key)], wrong.help("write `fault: {abort: {grpc: …}}` to refuse its calls"));
    }
    match (redirect, respond) {
        (Some(form), _) => self::redirect(form, pattern, sink).map(Direct::Redirect),
        (None, Some(form)) => Some(Direct::Respond(self::respond(form, sink))),
        (None, None) => None,
    }
}

fn redirect(form: &form::Redirect, pattern: &Pattern, sink: &mut Sink<'_>) -> Option<Redirect> {
    let at = Step::Key("redirect");
    let status = form.status.unwrap_or(302);
    if matches!(status, 304..=306) {
        let message = format!("{status} sends nobody elsewhere: it must be 301, 302, 303, 307 or 308");
        sink(&[at, Step::Key("status")], message.into());
    }
    let status = StatusCode::from_u16(status).ok()?;
    let parts =
        [("scheme", form.scheme.is_some()), ("host", form.host.is_some()), ("path", form.path.is_some())];
    if let Some(to) = &form.to {
        for (key, _) in parts.iter().filter(|(_, written)| *written) {
            sink(&[at, Step::Word(key)], format!("`to` is the whole URL: keep it or `{key}`").into());
        }
        return match whole(&to.0, pattern) {
            Ok((scheme, host, path)) => {
                Some(Redirect { status, scheme: Some(scheme), host: Some(host), path: Some(path) })
            }
            Err(wrong) => {
                sink(&[at, Step::Key("to")], wrong);
                None
            }
        };
    }
    if !parts.iter().any(|(_, written)| *written) {
        sink(&[at], Wrong::missing(&["to", "scheme", "host", "path"]));
        return None;
    }
    let path = match form.path.as_ref().map(|text| path::template(&text.0, pattern)).transpose() {
        Ok(path) => path,
        Err(wrong) => {
            sink(&[at, Step::Key("path")], wrong);
            None
        }
    };
    let scheme = form.scheme.map(|scheme| match scheme {
        form::Scheme::Http => "http",
        form::Scheme::Https => "https",
    });
    Some(Redirect { status, scheme, host: form.host.as_ref().map(|host| host.0.as_str().into()), path })
}

/// A URL whose path may hold parameters. They can't stand before it: a caller
/// must not choose where others are sent.
fn whole(text: &str, pattern: &Pattern) -> Result<(&'static str, Arc<str>, PathTemplate), Wrong> {
    let wrong =
        || Wrong::from(format!("`{text}` is no URL: write it like `https://users.example/v2/{{id}}`"));
    let (scheme, rest) = match text.split_once("://") {
        Some(("http", rest)) => ("http", rest),
        Some(("https", rest)) => ("https", rest),
        _ => return Err(wrong().help("a path alone goes under `path:`")),
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let host = Authority::parse(host).ok_or_else(wrong)?;
    let path = if path.is_empty() { "/" } else { path };
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(wrong());
    }
    Ok((scheme, host.to_string().into(), path::template(path, pattern)?))
}

fn respond(form: &form::Respond, sink: &mut Sink<'_>) -> Respond {
    let at = Step::Key("respond");
    let status = form.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    let body = form.body.clone().unwrap_or_default();
    if body.len() > LARGEST_BODY {
        sink(&[at, Step::Key("body")], "a body is at most 64 KiB".into());
    }
    if matches!(status.as_u16(), 204 | 205 | 304) && !body.is_empty() {
        sink(&[at, Step::Key("body")], format!("an answer with {} has no body", status.as_u16()).into());
    }
    let mut fields = headers::fields(form.headers.as_ref(), &[at, Step::Key("headers")], sink);
    if fields.iter().any(|(name, _)| *name == CONTENT_TYPE) {
        sink(
            &[at, Step::Key("headers")],
            "the type of the body has a key of its own: write `content_type: …`".into(),
        );
    }
    let kind = form.content_type.as_ref().map_or("text/plain; charset=utf-8", |kind| kind.0.as_str());
    match HeaderValue::from_str(kind) {
        Ok(kind) if !body.is_empty() => fields.push((CONTENT_TYPE, kind)),
        Ok(_) if form.content_type.is_some() => {
            sink(&[at, Step::Key("content_type")], "there is no `body` that has a type".into());
        }
        Ok(_) => {}
        Err(_) => {
            sink(&[at, Step::Key("content_type")], "a type is ASCII, such as `application/json`".into());
        }
    }
    Respond { status, body: Bytes::from(body), headers: fields }
}
