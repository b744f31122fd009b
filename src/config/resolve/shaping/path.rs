//! `rewrite`, and paths with the parameters of a route in them.

use http::header::HeaderValue;

use super::{Sink, Step, Wrong};
use crate::config::form;
use crate::config::model::shaping::{PathTemplate, Piece, Rewrite};
use crate::config::model::{Pattern, Segment};
use crate::config::shape::nearest;

pub(super) fn rewrite(
    form: &form::Rewrite,
    pattern: Option<&Pattern>,
    sink: &mut Sink<'_>,
) -> Option<Rewrite> {
    let at = Step::Key("rewrite");
    let written = form.path.as_ref().or(form.prefix.as_ref());
    if written.is_none() && form.host.is_none() {
        sink(&[at], Wrong::missing(&["path", "prefix", "host"]));
        return None;
    }
    if form.path.is_some() && form.prefix.is_some() {
        sink(&[at, Step::Word("prefix")], "`path` and `prefix` both say the path: keep one of them".into());
    }
    if written.is_some() && pattern.is_none() {
        let key = if form.path.is_some() { "path" } else { "prefix" };
        let wrong = Wrong::from(format!("`{key}` needs the path of a `route`"));
        sink(&[at, Step::Word(key)], wrong.help("add `route: /**` to take every path"));
        return None;
    }
    let mut path = None;
    if let (Some(form), Some(pattern)) = (&form.path, pattern) {
        path = match template(&form.0, pattern).and_then(|path| without_query(&form.0).map(|()| path)) {
            Ok(path) => Some(path),
            Err(wrong) => {
                sink(&[at, Step::Key("path")], wrong);
                None
            }
        };
    } else if let (Some(form), Some(pattern)) = (&form.prefix, pattern) {
        path = match plain(&form.0).and_then(|()| without_query(&form.0)) {
            Ok(()) => Some(prefixed(&form.0, pattern)),
            Err(wrong) => {
                sink(&[at, Step::Key("prefix")], wrong);
                None
            }
        };
    }
    let host = form.host.as_ref().and_then(|host| HeaderValue::from_str(host.0.as_str()).ok());
    Some(Rewrite { path, host })
}

/// Reads a path in which `{name}` stands for a parameter of the route.
pub(super) fn template(text: &str, pattern: &Pattern) -> Result<PathTemplate, Wrong> {
    let known = parameters(pattern);
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            return Err(format!("`{{{after}` does not end: write it like `{{id}}`").into());
        };
        let plain = name.strip_suffix("...").unwrap_or(name);
        let Some((_, piece)) = known.iter().find(|(known, _)| *known == plain) else {
            let wrong = Wrong::from(format!("`{{{name}}}` is no parameter of the route"));
            let near = nearest(plain, known.iter().map(|(name, _)| *name));
            return Err(match (near, known.is_empty()) {
                (Some(near), _) => wrong.help(format!("did you mean `{{{near}}}`?")),
                (None, true) => wrong.help("it has none"),
                (None, false) => {
                    let names: Vec<String> = known.iter().map(|(name, _)| format!("`{{{name}}}`")).collect();
                    wrong.help(format!("known here: {}", names.join(", ")))
                }
            });
        };
        pieces.extend(literal(before)?);
        pieces.push(piece.clone());
        rest = after;
    }
    pieces.extend(literal(rest)?);
    Ok(PathTemplate(pieces))
}

fn literal(text: &str) -> Result<Option<Piece>, Wrong> {
    plain(text)?;
    Ok((!text.is_empty()).then(|| Piece::Text(text.into())))
}

/// What every server reads alike.
fn plain(text: &str) -> Result<(), Wrong> {
    if let Some(c) = text.chars().find(|c| matches!(c, '{' | '}' | '\\' | '"' | '<' | '>')) {
        return Err(format!("the character {c:?} can't stand here").into());
    }
    let path = text.split('?').next().unwrap_or_default();
    match path.split('/').any(|segment| matches!(segment, "." | "..")) {
        true => {
            Err("`.` and `..` are resolved differently by different servers: write the path without".into())
        }
        false => Ok(()),
    }
}

fn without_query(text: &str) -> Result<(), Wrong> {
    match text.contains('?') {
        true => Err("a path ends before `?`: the query of the request is kept as it is".into()),
        false => Ok(()),
    }
}

/// The named parameters of a route.
fn parameters(pattern: &Pattern) -> Vec<(&str, Piece)> {
    let parts = pattern.template.trim_start_matches('/').split('/').enumerate();
    let named = parts.filter_map(|(index, part)| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(match name.strip_suffix("...") {
            Some(name) => (name, Piece::Rest(index)),
            None => (name, Piece::Segment(index)),
        })
    });
    named.collect()
}

/// The path of the route with another beginning.
fn prefixed(prefix: &str, pattern: &Pattern) -> PathTemplate {
    let fixed = pattern.segments.iter().take_while(|part| matches!(part, Segment::Literal(_))).count();
    let mut pieces = Vec::new();
    pieces.extend(literal(prefix.trim_end_matches('/')).ok().flatten());
    if fixed < pattern.segments.len() {
        pieces.push(Piece::Tail(fixed));
    }
    PathTemplate(pieces)
}
