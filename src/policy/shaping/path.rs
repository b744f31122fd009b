//! A path made of parts of the request's path.

use crate::config::model::shaping::{PathTemplate, Piece};
use crate::policy::routes::decoded;

/// The new path for a request with `path`. What comes out begins with `/`,
/// holds nothing that two servers could read differently, and so may be an
/// error where the parts of the request's path say otherwise.
pub fn expand(template: &PathTemplate, path: &str) -> Result<String, &'static str> {
    let mut new = String::with_capacity(path.len() + 16);
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => new.push_str(text),
            Piece::Segment(index) => new.push_str(segment(path, *index)),
            Piece::Rest(index) => new.push_str(rest(path, *index).unwrap_or_default()),
            Piece::Tail(index) => {
                if let Some(rest) = rest(path, *index) {
                    new.push('/');
                    new.push_str(rest);
                }
            }
        }
    }
    if new.is_empty() {
        new.push('/');
    }
    let only_path = new.split('?').next().unwrap_or_default();
    if only_path.split('/').any(is_dots) {
        return Err(
            "a segment of the path is `.` or `..`: it would lead elsewhere once the path is rewritten",
        );
    }
    Ok(new)
}

/// The new path with the query that the request has, unless it has its own.
pub fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query.filter(|_| !path.contains('?')) {
        path.push('?');
        path.push_str(query);
    }
    path
}

fn segment(path: &str, index: usize) -> &str {
    rest(path, index).and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

/// The path from this segment on; `None` where it ends before.
fn rest(path: &str, index: usize) -> Option<&str> {
    let mut rest = path.strip_prefix('/')?;
    for _ in 0..index {
        rest = rest.split_once('/')?.1;
    }
    Some(rest)
}

/// Whether a segment is `.` or `..`, or becomes so where a server resolves
/// escapes, takes `\` for `/`, or cuts parameters at `;`.
pub fn is_dots(segment: &str) -> bool {
    if !segment.contains('.') && !segment.contains("%2e") && !segment.contains("%2E") {
        return false;
    }
    let plain = decoded(segment);
    plain
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .map(|part| part.split(|byte| *byte == b';').next().unwrap_or_default())
        .any(|part| matches!(part, b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn parts_of_the_path_come_where_the_template_says() {
        for (pieces, path, wanted) in [
            (vec![text("/new/"), Piece::Segment(2)], "/v1/users/7", "/new/7"),
            (vec![text("/new/"), Piece::Segment(2), text(".json")], "/v1/users/a%2Fb", "/new/a%2Fb.json"),
            (vec![text("/x/"), Piece::Rest(1)], "/v1/a/b/", "/x/a/b/"),
            (vec![text("/x/"), Piece::Rest(1)], "/v1", "/x/"),
            (vec![text("/x"), Piece::Tail(1)], "/v1", "/x"),
            (vec![text("/x"), Piece::Tail(1)], "/v1/", "/x/"),
            (vec![Piece::Tail(1)], "/v1", "/"),
            (vec![Piece::Tail(1)], "/v1/a", "/a"),
            (vec![text("/x?a="), Piece::Segment(0)], "/v1", "/x?a=v1"),
        ] {
            assert_eq!(expand(&PathTemplate(pieces), path).as_deref(), Ok(wanted), "{path}");
        }
    }

    #[test]
    fn nobody_climbs_out_of_the_new_path() {
        let template = PathTemplate(vec![text("/public/"), Piece::Rest(1)]);
        for path in [
            "/files/../admin",
            "/files/a/..",
            "/files/%2e%2E/admin",
            "/files/.%2e",
            "/files/./a",
            "/files/..%2f..%2fadmin",
            "/files/a%5C..%5cadmin",
            "/files/..;a=b/admin",
            "/files/%2e%2e%3B/admin",
        ] {
            assert!(expand(&template, path).is_err(), "{path}");
        }
        for path in [
            "/files/...",
            "/files/.well-known",
            "/files/a..b",
            "/files/%2e%2ea",
            "/files/a%2fb",
            "/files/a;v=1.2",
        ] {
            assert!(expand(&template, path).is_ok(), "{path}");
        }
    }

    #[test]
    fn the_query_stays_unless_the_template_has_its_own() {
        assert_eq!(with_query("/a".into(), Some("b=1")), "/a?b=1");
        assert_eq!(with_query("/a?c".into(), Some("b=1")), "/a?c");
        assert_eq!(with_query("/a".into(), None), "/a");
    }
}
