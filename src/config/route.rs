//! The grammar of `route:` and the order of routes.
//!
//! The more specific of two routes takes a request that both could take. They
//! are compared, until one wins, by
//!
//! 1. the path, segment by segment from the left: equal bytes, then a
//!    parameter, then the rest; a path that ends wins over a rest that is empty;
//! 2. the method: named, then any;
//! 3. the host: named, then a wildcard (the longer one), then any;
//! 4. the number of conditions on headers, then on query parameters.
//!
//! Two routes that are equal in all of this and could take the same request are
//! a tie, which is refused at load.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use http::Method;

use super::model::{Pattern, Segment, ValueMatch};

/// Why a route can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// For a person.
    pub message: String,
    /// Where in the text it begins, in characters.
    pub offset: usize,
    /// How many characters it is about.
    pub width: usize,
}

impl fmt::Display for Pattern {
    /// The route as a policy file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.grpc {
            return write!(f, "grpc {}", self.template.trim_start_matches('/'));
        }
        for (index, method) in self.methods.iter().enumerate() {
            write!(f, "{}{method}", if index > 0 { "," } else { "" })?;
        }
        let all = self.segments == [Segment::Rest] && self.template.is_empty();
        let space = if self.methods.is_empty() { "" } else { " " };
        write!(f, "{space}{}", if all { "/**" } else { &self.template })
    }
}

impl Pattern {
    /// Reads `[METHOD[,METHOD…]] /path/{name}/{rest...}` or
    /// `grpc package.Service/Method`.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        let skipped = text.len() - text.trim_start().len();
        let body = text.trim();
        let shift = |error: RouteError, by: usize| RouteError { offset: error.offset + by, ..error };
        if let Some(rest) = body.strip_prefix("grpc ") {
            let name = rest.trim_start();
            let at = skipped + body.len() - name.len();
            return grpc(name).map_err(|error| shift(error, at));
        }
        if body.starts_with('/') {
            return path(body).map_err(|error| shift(error, skipped));
        }
        let Some((methods, rest)) = body.split_once(char::is_whitespace) else {
            let message = format!("`{body}` is no route: write it like `GET /v1/users/{{id}}`");
            return Err(RouteError { message, offset: skipped, width: body.chars().count() });
        };
        let methods = parse_methods(methods).map_err(|error| shift(error, skipped))?;
        let template = rest.trim_start();
        let at = skipped + body.len() - template.len();
        Ok(Self { methods, ..path(template).map_err(|error| shift(error, at))? })
    }

    /// Whether this route wins over another (`Greater`), loses, or neither.
    pub fn specificity(&self, other: &Self) -> Ordering {
        by_path(&self.segments, &other.segments)
            .then_with(|| (!self.methods.is_empty()).cmp(&!other.methods.is_empty()))
            .then_with(|| host_rank(self).cmp(&host_rank(other)))
            .then_with(|| self.headers.len().cmp(&other.headers.len()))
            .then_with(|| self.query.len().cmp(&other.query.len()))
    }

    /// Whether neither wins and some request could be taken by both.
    pub fn ties_with(&self, other: &Self) -> bool {
        let same = |a: &Segment, b: &Segment| match (a, b) {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            _ => true,
        };
        self.specificity(other) == Ordering::Equal
            && self.segments.iter().zip(&other.segments).all(|(a, b)| same(a, b))
            && (self.methods.is_empty() || self.methods.iter().any(|method| other.methods.contains(method)))
            && self.host == other.host
            && compatible(&self.headers, &other.headers)
            && compatible(&self.query, &other.query)
    }
}

fn by_path(a: &[Segment], b: &[Segment]) -> Ordering {
    let rank = |segment: Option<&Segment>| match segment {
        Some(Segment::Literal(_)) => 3,
        Some(Segment::Parameter(_)) => 2,
        None => 1,
        Some(Segment::Rest) => 0,
    };
    (0..a.len().max(b.len()))
        .map(|index| rank(a.get(index)).cmp(&rank(b.get(index))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// How closely the host is named: not at all, a wildcard by its length, a name.
pub fn host_rank(pattern: &Pattern) -> (u8, usize) {
    match pattern.host.as_deref() {
        None => (0, 0),
        Some(host) if host.starts_with("*.") => (1, host.len()),
        Some(_) => (2, 0),
    }
}

/// Whether no condition of `a` rules out one of `b`.
fn compatible<K: PartialEq>(a: &[(K, ValueMatch)], b: &[(K, ValueMatch)]) -> bool {
    use ValueMatch::{Exact, Prefix, Present};
    let both = |a: &ValueMatch, b: &ValueMatch| match (a, b) {
        (Exact(a), Exact(b)) => a == b,
        (Exact(value), Prefix(prefix)) | (Prefix(prefix), Exact(value)) => value.starts_with(&**prefix),
        (Prefix(a), Prefix(b)) => a.starts_with(&**b) || b.starts_with(&**a),
        (Present(a), Present(b)) => a == b,
        (Present(present), _) | (_, Present(present)) => *present,
    };
    a.iter().all(|(key, value)| b.iter().filter(|(k, _)| k == key).all(|(_, other)| both(value, other)))
}

fn parse_methods(text: &str) -> Result<Vec<Method>, RouteError> {
    let (mut methods, mut offset) = (Vec::new(), 0);
    for word in text.split(',') {
        let width = word.chars().count();
        let fail = |message: String| Err(RouteError { message, offset, width: width.max(1) });
        if word == "*" || word.eq_ignore_ascii_case("any") {
            return fail(format!("`{word}` is no method: leave the method out to take every one"));
        }
        if word.bytes().any(|b| b.is_ascii_lowercase()) {
            return fail(format!("`{word}` is no method: write it in capitals"));
        }
        let method = match Method::from_bytes(word.as_bytes()) {
            Ok(method) if method != Method::CONNECT => method,
            Ok(_) => return fail("CONNECT opens a tunnel; it has no path and no route".into()),
            Err(_) => return fail(format!("`{word}` is no method")),
        };
        if methods.contains(&method) {
            return fail(format!("the method `{word}` stands here twice"));
        }
        methods.push(method);
        offset += width + 1;
    }
    Ok(methods)
}

fn grpc(name: &str) -> Result<Pattern, RouteError> {
    let fail = |message: String| Err(RouteError { message, offset: 0, width: name.chars().count().max(1) });
    let wrong = || format!("`{name}` is no gRPC method: write it like `grpc package.Service/Method`");
    let Some((service, method)) = name.strip_prefix('/').unwrap_or(name).split_once('/') else {
        return fail(wrong());
    };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !service.split('.').all(word) || !(method == "*" || word(method)) {
        return fail(wrong());
    }
    let (last, shown) = match method {
        "*" => (Segment::Parameter("method".into()), "{method}"),
        _ => (Segment::Literal(method.into()), method),
    };
    Ok(Pattern {
        methods: vec![Method::POST],
        template: format!("/{service}/{shown}").into(),
        segments: vec![Segment::Literal(service.into()), last],
        grpc: true,
        ..path("/")?
    })
}

fn path(template: &str) -> Result<Pattern, RouteError> {
    let fail = |message: String, offset: usize, width: usize| {
        Err(RouteError { message, offset, width: width.max(1) })
    };
    let all = template.chars().count();
    let Some(rest) = template.strip_prefix('/') else {
        return fail(format!("the path `{template}` must begin with `/`"), 0, all);
    };
    if let Some(at) =
        template.chars().position(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '\\' | '"'))
    {
        let c = template.chars().nth(at).unwrap_or(' ');
        let message = match c {
            '?' => "a path ends before `?`: conditions on the query go under `query:`".to_owned(),
            _ => format!("the character {c:?} can't stand in a path: write it as %-escape"),
        };
        return fail(message, at, 1);
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let (mut segments, mut names, mut offset) = (Vec::new(), Vec::<&str>::new(), 1);
    for (index, part) in parts.iter().enumerate() {
        let segment = match segment(part, index + 1 == parts.len()) {
            Ok(segment) => segment,
            Err(message) => return fail(message, offset, part.len()),
        };
        if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            if names.contains(&name) {
                return fail(format!("the parameter `{name}` stands here twice"), offset, part.len());
            }
            names.push(name);
        }
        segments.push(segment);
        offset += part.len() + 1;
    }
    Ok(Pattern {
        methods: Vec::new(),
        template: template.into(),
        segments,
        host: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    })
}

fn segment(part: &str, last: bool) -> Result<Segment, String> {
    let rest = |written: &str| match last {
        true => Ok(Segment::Rest),
        false => Err(format!("`{written}` takes all that is left: it must be at the end")),
    };
    let legal = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    match part {
        "**" => return rest(part),
        "." | ".." => return Err(format!("`{part}` never arrives: paths are resolved before")),
        "*" => {
            return Err("`*` is no segment: write `{name}` for one segment, `**` for all that is left".into());
        }
        _ => {}
    }
    if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        return match name.strip_suffix("...") {
            Some(name) if legal(name) => rest(part),
            None if legal(name) => Ok(Segment::Parameter(name.into())),
            _ => Err(format!("`{part}` is no parameter: write it like `{{id}}` or `{{rest...}}`")),
        };
    }
    match part.starts_with(':') || part.contains(['{', '}']) {
        true => Err(format!("`{part}` is no segment: a parameter is a whole segment, like `{{id}}`")),
        false => Ok(Segment::Literal(Arc::from(part))),
    }
}
