//! The Host field, and what stands for it.

use super::{Case, refused, served};

pub(super) fn table() -> Vec<Case> {
    let host = |value: &str| format!("GET / HTTP/1.1\r\nHost:{value}\r\n\r\n");
    let legal = [" backend", "backend", " BACKEND", " Backend", "\tbackend \t", " backend:8080"];
    let mut cases: Vec<Case> =
        legal.into_iter().map(|value| served(format!("Host {value:?}"), host(value))).collect();
    let illegal = [
        "",
        "a b",
        "a,b",
        "backend, backend",
        "backend backend",
        "user@backend",
        "@backend",
        "backend@",
        "user:pass@backend",
        "backend/",
        "/backend",
        "backend/path",
        "backend#",
        "backend?x",
        "backend\\",
        "backend:",
        "backend:x",
        "backend:0",
        "backend:99999",
        "backend:65536",
        "backend:80:80",
        "backend:+80",
        "backend:-1",
        "backend: 80",
        "backend :80",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[backend]",
        "[]",
        "[::1%25lo]",
        "http://backend",
        "back\0end",
        "back\u{7f}end",
        "b\u{e4}ckend",
        "backend\tx",
        ":80",
        ":",
        "<backend>",
        "\"backend\"",
        "{backend}",
        "back|end",
        "back^end",
        "back`end",
        "back\u{b}end",
        "backend\u{1}",
        "*@x",
    ];
    cases.extend(
        illegal.into_iter().map(|value| refused(format!("Host {value:?}"), host(&format!(" {value}")))),
    );
    for (name, raw) in [
        ("no Host", "GET / HTTP/1.1\r\n\r\n"),
        ("no Host but others", "GET / HTTP/1.1\r\nAccept: */*\r\nX-Host: backend\r\n\r\n"),
        ("Host twice", "GET / HTTP/1.1\r\nHost: backend\r\nHost: backend\r\n\r\n"),
        ("Host twice, differing", "GET / HTTP/1.1\r\nHost: backend\r\nHost: other\r\n\r\n"),
        ("Host twice, the second empty", "GET / HTTP/1.1\r\nHost: backend\r\nHost:\r\n\r\n"),
        ("Host in two cases", "GET / HTTP/1.1\r\nhost: backend\r\nX-A: 1\r\nHOST: backend\r\n\r\n"),
        ("Host twice in HTTP/1.0", "GET / HTTP/1.0\r\nHost: backend\r\nHost: other\r\n\r\n"),
        ("Host with a space before the colon", "GET / HTTP/1.1\r\nHost : backend\r\n\r\n"),
        ("Host folded", "GET / HTTP/1.1\r\nHost:\r\n backend\r\n\r\n"),
        ("Host continued", "GET / HTTP/1.1\r\nHost: back\r\n end\r\n\r\n"),
        ("Host after a space", "GET / HTTP/1.1\r\n Host: backend\r\n\r\n"),
        ("a second Host after a space", "GET / HTTP/1.1\r\nHost: backend\r\n Host: other\r\n\r\n"),
        ("a second Host after a bare LF", "GET / HTTP/1.1\r\nHost: backend\nHost: other\r\n\r\n"),
        ("a second Host after a bare CR", "GET / HTTP/1.1\r\nHost: backend\rHost: other\r\n\r\n"),
        ("no Host in absolute form", "GET http://backend/ HTTP/1.1\r\n\r\n"),
        ("Host that absolute form contradicts", "GET http://backend/ HTTP/1.1\r\nHost: other\r\n\r\n"),
        ("a port that absolute form lacks", "GET http://backend/ HTTP/1.1\r\nHost: backend:8080\r\n\r\n"),
        ("a port that only absolute form has", "GET http://backend:8080/ HTTP/1.1\r\nHost: backend\r\n\r\n"),
    ] {
        cases.push(refused(name, raw));
    }
    for (name, raw) in [
        ("absolute form", "GET http://backend/ HTTP/1.1\r\nHost: backend\r\n\r\n"),
        ("absolute form in capitals", "GET HTTP://BACKEND/ HTTP/1.1\r\nHost: backend\r\n\r\n"),
        ("absolute form with a port", "GET http://backend:8080/ HTTP/1.1\r\nHost: backend:8080\r\n\r\n"),
        ("Host in HTTP/1.0", "GET / HTTP/1.0\r\nHost: backend\r\n\r\n"),
        ("Host at the end", "GET / HTTP/1.1\r\nX-A: 1\r\nX-B: 2\r\nhOsT: backend\r\n\r\n"),
    ] {
        cases.push(served(name, raw));
    }
    cases
}
