//! Where a caller is sent.

use super::path;
use crate::config::model::shaping::Redirect;

/// The value of `Location` for a request of `host` that came by `scheme`.
pub fn location(
    redirect: &Redirect,
    (scheme, host): (&'static str, &str),
    path: &str,
    query: Option<&str>,
) -> Result<String, &'static str> {
    let new = match &redirect.path {
        Some(template) => path::expand(template, path)?,
        None => path.to_owned(),
    };
    // Browsers read a `\` as a `/`.
    let new = path::with_query(new, query).replace('\\', "%5C");
    if redirect.scheme.is_none() && redirect.host.is_none() {
        // A path that begins with `//` would be read as a host (RFC 3986, section 4.2).
        return Ok(if new.starts_with("//") { format!("/.{new}") } else { new });
    }
    // The port belongs to the scheme.
    let same = redirect.scheme.is_none_or(|new| new == scheme);
    let host = redirect.host.as_deref().unwrap_or(if same { host } else { without_port(host) });
    let scheme = redirect.scheme.unwrap_or(scheme);
    Ok(format!("{scheme}://{host}{new}"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::shaping::{PathTemplate, Piece};
    use http::StatusCode;

    fn redirect(scheme: Option<&'static str>, host: Option<&str>, path: Option<Vec<Piece>>) -> Redirect {
        Redirect {
            status: StatusCode::FOUND,
            scheme,
            host: host.map(Into::into),
            path: path.map(PathTemplate),
        }
    }

    #[test]
    fn what_the_policy_leaves_open_stays() {
        let new = || Some(vec![Piece::Text("/new/".into()), Piece::Rest(0)]);
        for (scheme, host, path, wanted) in [
            (Some("https"), None, None, "https://users/a/b?c=1"),
            (Some("http"), None, None, "http://users:8080/a/b?c=1"),
            (None, Some("new.example"), None, "http://new.example/a/b?c=1"),
            (None, None, new(), "/new/a/b?c=1"),
            (Some("https"), Some("new.example"), new(), "https://new.example/new/a/b?c=1"),
        ] {
            let made = location(&redirect(scheme, host, path), ("http", "users:8080"), "/a/b", Some("c=1"));
            assert_eq!(made.as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn a_caller_does_not_choose_the_host() {
        let open = redirect(None, None, Some(vec![Piece::Tail(0)]));
        let to = |path| location(&open, ("http", "users"), path, None).unwrap();
        assert_eq!(to("//evil.example/x"), "/.//evil.example/x");
        assert_eq!(to("/\\evil.example"), "/%5Cevil.example");
    }
}
