//! Targets of requests.

use super::{Case, Expect, case, either, refused, served};

pub(super) fn table() -> Vec<Case> {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: backend\r\n\r\n");
    let legal = [
        "/",
        "/a/b",
        "/a?b=c",
        "/a?b=%20&c=?/",
        "/%2e%2e/a",
        "/a;b=1",
        "/~a",
        "/a:b@c",
        "/a//b",
        "/.well-known/x",
        "/-_.!$&'()*+,;=:@",
        "/%00",
        "/%0d%0aX:%20y",
        "/a?",
    ];
    let mut cases: Vec<Case> =
        legal.into_iter().map(|target| served(format!("target {target}"), get(target))).collect();
    let grey = [
        "//backend/a",
        "/a[0]",
        "/a?b[]=1",
        "/a|b",
        "/a\"b",
        "/a\\b",
        "/{x}",
        "/a^b",
        "/a`b",
        "/<x>",
        "/%zz",
        "/%",
        "https://backend/",
        "/../..",
        "/a/./b",
    ];
    cases.extend(grey.into_iter().map(|target| either(format!("target {target}"), get(target))));
    let illegal = [
        "/a b",
        "/a\tb",
        "/a#b",
        "/#",
        "#",
        "/a?b#c",
        "/\u{1}",
        "/\u{7f}",
        "/\u{e9}",
        "/\u{20ac}",
        "",
        "a",
        "a/b",
        "backend",
        "backend:80",
        "*",
        "/*\0",
        "http://other/",
        "http://user@backend/",
        "http://backend@other/",
        "http:///a",
        "http://",
        "http:/a",
        "http:a",
        "ftp://backend/",
        "javascript:alert(1)",
        "/a\0b",
        "/a\rb",
        "/a\nb",
        "/a\u{b}b",
        "/a\u{1f}",
        "http://backend/#x",
        "http://backend:x/",
        "http://backend:99999/",
        "http://[::1/",
        "http://backend\\@other/",
        "?x",
        "\\",
        ".",
        "http://back end/",
        "http://backend,other/",
    ];
    cases.extend(illegal.into_iter().map(|target| refused(format!("target {target:?}"), get(target))));
    let mut raw = b"GET /\x80\xff HTTP/1.1\r\nHost: backend\r\n\r\n".to_vec();
    cases.push(refused("target of raw bytes", &raw));
    raw.splice(5..7, *b"ok");
    cases.push(served("the same without them", &raw));
    cases.push(served("absolute form without a path", get("http://backend")).check(|seen| {
        assert_eq!(seen.target, "/");
    }));
    cases.push(served("absolute form with only a query", get("http://backend?x=1")).check(|seen| {
        assert_eq!(seen.target, "/?x=1");
    }));
    cases.push(served("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: backend\r\n\r\n").check(|seen| {
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("OPTIONS", "*"));
    }));
    cases.push(
        served("OPTIONS of the host", "OPTIONS http://backend HTTP/1.1\r\nHost: backend\r\n\r\n")
            .check(|seen| assert_eq!(seen.target, "*")),
    );
    let long = format!("/{}", "a".repeat(9000));
    cases.push(case("target of 9,000 bytes", get(&long), Expect::Refused(0, &[414])));
    cases.push(served("target of 8,000 bytes", get(&long[..8000])));
    let tunnel: &[u16] = &[400, 404, 405, 501];
    for target in [
        "backend/path",
        "backend",
        "/",
        "http://backend:80",
        "backend:0",
        "user@backend:80",
        "*",
        ":80",
        "backend:",
        "backend:80:80",
        "backend:x",
        "[::1:80",
    ] {
        let raw = format!("CONNECT {target} HTTP/1.1\r\nHost: backend\r\n\r\n");
        cases.push(case(format!("CONNECT {target}"), raw, Expect::Refused(0, tunnel)));
    }
    cases
}
