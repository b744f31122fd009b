//! What browsers are told of other origins
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, request};

use crate::config::model::shaping::{Cors, OriginPattern};

/// The method that a browser asks about, where the request is such a question.
pub fn asked(head: &request::Parts) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The origin to name in the answer, where the page may read it.
pub fn allowed(cors: &Cors, headers: &HeaderMap) -> Option<HeaderValue> {
    // Whoever asks: a cache may give the answer to a page later.
    if cors.origins.contains(&OriginPattern::Any) {
        return Some(HeaderValue::from_static("*"));
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
    let text = origin.to_str().ok()?;
    cors.origins.iter().any(|pattern| takes(pattern, text)).then(|| origin.clone())
}

fn takes(pattern: &OriginPattern, origin: &str) -> bool {
    match pattern {
        OriginPattern::Any => true,
        OriginPattern::Exact(wanted) => **wanted == *origin,
        OriginPattern::Below(scheme, below) => origin
            .strip_prefix(&**scheme)
            .and_then(|host| host.strip_suffix(&**below))
            .is_some_and(|name| !name.is_empty() && !name.contains([':', '/', '@'])),
    }
}

/// The fields of the answer to a browser's question.
pub fn preflight(cors: &Cors, origin: Option<HeaderValue>, into: &mut HeaderMap) {
    vary(cors, into);
    let Some(origin) = origin else { return };
    into.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let methods: Vec<&str> = cors.methods.iter().map(Method::as_str).collect();
    let methods = if cors.any_method { "*".to_owned() } else { methods.join(", ") };
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        into.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(headers) = &cors.headers {
        into.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    if cors.credentials {
        into.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    into.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().into());
}

/// The fields of every other answer, in place of what the service says of it.
pub fn answer(cors: &Cors, origin: Option<HeaderValue>, into: &mut HeaderMap) {
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS]
    {
        into.remove(name);
    }
    vary(cors, into);
    let Some(origin) = origin else { return };
    into.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        into.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(expose) = &cors.expose {
        into.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

/// A cache must not give one origin the answer to another.
fn vary(cors: &Cors, into: &mut HeaderMap) {
    let told = |value: &HeaderValue| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
            .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    };
    if !cors.origins.contains(&OriginPattern::Any) && !into.get_all(VARY).iter().any(told) {
        into.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cors(origins: &[OriginPattern]) -> Cors {
        Cors {
            origins: origins.to_vec(),
            methods: vec![Method::GET, Method::PUT],
            any_method: false,
            headers: None,
            expose: None,
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }

    fn from(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))])
    }

    #[test]
    fn an_origin_is_taken_whole() {
        let exact = OriginPattern::Exact("https://app.example".into());
        let below = OriginPattern::Below("https://".into(), ".shop.example:8443".into());
        let cors = cors(&[exact, below]);
        for origin in ["https://app.example", "https://a.shop.example:8443", "https://a.b.shop.example:8443"]
        {
            assert_eq!(
                allowed(&cors, &from(origin)).as_ref().map(HeaderValue::as_bytes),
                Some(origin.as_bytes())
            );
        }
        for origin in [
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil",
            "https://evilapp.example",
            "https://shop.example:8443",
            "https://.shop.example:8443",
            "https://evil@a.shop.example:8443",
            "https://evil/.shop.example:8443",
            "https://a.shop.example",
            "null",
            "",
        ] {
            assert_eq!(allowed(&cors, &from(origin)), None, "{origin}");
        }
        let mut two = from("https://app.example");
        two.append(ORIGIN, HeaderValue::from_static("https://app.example"));
        assert_eq!(allowed(&cors, &two), None);
    }

    #[test]
    fn an_answer_depends_on_the_origin_and_says_so_once() {
        let cors = cors(&[OriginPattern::Exact("https://app.example".into())]);
        let mut headers = HeaderMap::new();
        headers.insert(VARY, HeaderValue::from_static("accept, ORIGIN"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        answer(&cors, None, &mut headers);
        assert_eq!(headers.get_all(VARY).iter().count(), 1);
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "the service does not decide");
        let mut headers = HeaderMap::new();
        answer(&cors, allowed(&cors, &from("https://app.example")), &mut headers);
        assert_eq!(
            (&headers[VARY], &headers[ACCESS_CONTROL_ALLOW_ORIGIN]),
            (&"Origin".parse().unwrap(), &"https://app.example".parse().unwrap())
        );
    }
}
