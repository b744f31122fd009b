//! Pseudo-headers, names, values, lengths and trailers.

use super::{Case, END_STREAM, Expect, case, data, get, head, post, trailers, with, without};
use Expect::{Either, Refused, Served};

pub(super) fn table() -> Vec<Case> {
    let mut cases = legal();
    cases.extend(pseudo());
    cases.extend(fields());
    cases.extend(bodies());
    cases
}

fn legal() -> Vec<Case> {
    vec![
        case("a GET", get(&[]), Served),
        case("a field", get(&[("x-a", "1")]), Served).check(|seen| {
            assert_eq!(seen.field("x-a").as_deref(), Some("1"));
            assert_eq!(seen.field("host").as_deref(), Some("backend"));
        }),
        case("a port", head(&with(":authority", "backend:8080", &[])), Served)
            .check(|seen| assert_eq!(seen.field("host").as_deref(), Some("backend:8080"))),
        case("host beside the same :authority", get(&[("host", "backend")]), Served),
        case("host in place of :authority", head(&without(":authority", &[("host", "backend")])), Served),
        case(
            "OPTIONS *",
            head(&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "backend")]),
            Served,
        )
        .check(|seen| assert_eq!(seen.target, "*")),
        case("crumbs of a cookie", get(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2")]), Served)
            .check(|seen| assert_eq!(seen.field("cookie").as_deref(), Some("a=1; b=2"))),
        case("te: trailers", get(&[("te", "trailers")]), Served),
        case("a body", post(&[], &[data("hel", 0), data("lo", END_STREAM)]), Served)
            .check(|seen| assert_eq!(seen.body, b"hello")),
        case(
            "a body with its length",
            post(&[("content-length", "5")], &[data("hello", END_STREAM)]),
            Served,
        )
        .check(|seen| assert_eq!(seen.body, b"hello")),
        case(
            "a body with trailers",
            post(&[], &[data("hello", 0), trailers(&[("x-sum", "7")], END_STREAM)]),
            Served,
        )
        .check(|seen| assert_eq!(seen.trailers, [("x-sum".to_owned(), b"7".to_vec())])),
        case("an empty DATA frame at the end", post(&[], &[data("hello", 0), data("", END_STREAM)]), Served)
            .check(|seen| assert_eq!(seen.body, b"hello")),
        case("the same name twice", get(&[("x-a", "1"), ("x-a", "2")]), Served),
        case("an empty value", get(&[("x-a", "")]), Served),
        case("a method of its own", head(&with(":method", "PURGE", &[])), Served),
        case("x-forwarded-for", get(&[("x-forwarded-for", "1.2.3.4")]), Served),
    ]
}

fn pseudo() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [":method", ":scheme", ":path", ":authority"] {
        cases.push(case(format!("no {name}"), head(&without(name, &[])), Refused));
        let value = with(":method", "GET", &[]).iter().find(|(n, _)| *n == name).unwrap().1;
        let mut fields = with(":method", "GET", &[]);
        fields.insert(1, (name, value));
        cases.push(case(format!("{name} twice"), head(&fields), Refused));
        let more = [("x-a", "1"), (name, value)];
        let after = without(name, &more);
        cases.push(case(format!("{name} after a field"), head(&after), Refused));
    }
    for (name, value) in
        [(":foo", "1"), (":status", "200"), (":", "1"), (":host", "backend"), (":protocol", "websocket")]
    {
        let mut fields = with(":method", "GET", &[]);
        fields.insert(0, (name, value));
        cases.push(case(format!("pseudo-header {name}"), head(&fields), Refused));
    }
    for value in [
        "",
        "user@backend",
        "@backend",
        "back end",
        "backend/",
        "backend/x",
        "backend#",
        "backend?x",
        "backend:",
        "backend:x",
        "backend:0",
        "backend:99999",
        "backend, other",
        "backend\r\nx: y",
        "backend\n",
        "backend\0",
        "[::1",
        "http://backend",
        "backend\\",
        "b\u{e4}ckend",
        "\tbackend",
    ] {
        cases.push(case(format!(":authority {value:?}"), head(&with(":authority", value, &[])), Refused));
    }
    for value in ["user@backend", "back end", "", "backend\r\nx: y", "backend/x"] {
        let more = [("host", value)];
        let fields = without(":authority", &more);
        cases.push(case(format!("host {value:?} in place of :authority"), head(&fields), Refused));
    }
    cases.push(case("host that differs from :authority", get(&[("host", "other")]), Refused));
    cases.push(case("host twice", get(&[("host", "backend"), ("host", "backend")]), Refused));
    let two_hosts = without(":authority", &[("host", "backend"), ("host", "backend")]);
    cases.push(case("host twice in place of :authority", head(&two_hosts), Refused));
    for value in [
        "",
        "a",
        "a/b",
        "*",
        "?x",
        "/a b",
        "/a\tb",
        "/a\r\nx: y",
        "/a\nb",
        "/a\rb",
        "/a\0b",
        "/\u{7f}",
        "/\u{1}",
        "/\u{e9}",
        "http://backend/",
        " /",
        "/ HTTP/1.1\r\nHost: backend\r\n\r\nGET /smuggled",
    ] {
        cases.push(case(format!(":path {value:?}"), head(&with(":path", value, &[])), Refused));
    }
    for value in ["#", "/#x"] {
        // h2 cuts a fragment off before anybody sees it.
        let either = case(format!(":path {value:?}"), head(&with(":path", value, &[])), Either);
        cases.push(either.check(|seen| assert_eq!(seen.target, "/")));
    }
    for value in [
        "",
        "GET /x",
        "GE\r\nT",
        "G(ET",
        "GET\0",
        "GE T",
        "GET / HTTP/1.1\r\nHost: backend\r\n\r\nGET",
        "G\u{e9}T",
    ] {
        cases.push(case(format!(":method {value:?}"), head(&with(":method", value, &[])), Refused));
    }
    for value in ["", "ht tp", "http\r\nx: y", "http\0", "http://backend/x?"] {
        cases.push(case(format!(":scheme {value:?}"), head(&with(":scheme", value, &[])), Refused));
    }
    for value in ["https", "ftp", "HTTP", "javascript"] {
        cases.push(case(format!(":scheme {value}"), head(&with(":scheme", value, &[])), Either));
    }
    let long = format!("/{}", "a".repeat(9000));
    cases.push(case(":path of 9,000 bytes", head(&with(":path", &long, &[])), Refused));
    let connect: &[(&str, super::Fields<'_>)] = &[
        ("CONNECT with :path", &[(":method", "CONNECT"), (":path", "/"), (":authority", "backend:80")]),
        (
            "CONNECT with :scheme",
            &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "backend:80")],
        ),
        ("CONNECT without :authority", &[(":method", "CONNECT")]),
        ("CONNECT without a port", &[(":method", "CONNECT"), (":authority", "backend")]),
        ("CONNECT with user", &[(":method", "CONNECT"), (":authority", "u@backend:80")]),
    ];
    cases.extend(connect.iter().map(|(name, fields)| case(*name, super::body(fields, &[]), Refused)));
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "X-A", "x-A", "x a", " x", "x ", "x:a", "x\r\na", "x\na", "x\0", "", "x(", "x\u{80}", "x\u{7f}",
        "x\"", "x,y", "x/y",
    ] {
        cases.push(case(format!("name {name:?}"), get(&[(name, "1")]), Refused));
    }
    for value in [
        "a\r\nx-b: 1",
        "a\nb",
        "a\rb",
        "a\0b",
        "\0",
        "a\r\n\r\nGET /smuggled HTTP/1.1",
        "a\u{1}b",
        "a\u{1f}",
        "a\u{7f}",
    ] {
        cases.push(case(format!("value {value:?}"), get(&[("x-a", value)]), Refused));
    }
    for value in [" a", "a ", "\ta", "a\t"] {
        cases.push(case(format!("value {value:?}"), get(&[("x-a", value)]), Either));
    }
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-a"),
        ("connection", "upgrade"),
        ("connection", ""),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", ""),
        ("keep-alive", "timeout=5"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", ""),
        ("te", "trailers\r\nx: y"),
    ] {
        cases.push(case(format!("{name}: {value:?}"), get(&[(name, value)]), Refused));
    }
    cases.push(case("http2-settings", get(&[("http2-settings", "AAMAAABk")]), Either));
    cases.push(case(
        "transfer-encoding on a body",
        post(
            &[("transfer-encoding", "chunked")],
            &[data("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", END_STREAM)],
        ),
        Refused,
    ));
    let many: Vec<(String, &str)> = (0..200).map(|n| (format!("x-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    cases.push(case("200 fields", get(&many), Refused));
    cases
}

fn bodies() -> Vec<Case> {
    let length = |value: &'static str, rest: &[Vec<u8>]| post(&[("content-length", value)], rest);
    let hello = || data("hello", END_STREAM);
    vec![
        case("less than the length", length("6", &[hello()]), Refused),
        case("more than the length", length("4", &[hello()]), Refused),
        case("more than a length of 0", length("0", &[hello()]), Refused),
        case("a length and no body", get(&[("content-length", "5")]), Refused),
        case("a length with a sign", length("+5", &[hello()]), Refused),
        case("a negative length", length("-5", &[hello()]), Refused),
        case("a length in hexadecimal", length("0x5", &[hello()]), Refused),
        case("a length that is a list", length("5, 5", &[hello()]), Refused),
        case("an empty length", length("", &[hello()]), Refused),
        case("a length beyond 64 bits", length("18446744073709551621", &[hello()]), Refused),
        case("two lengths", post(&[("content-length", "5"), ("content-length", "5")], &[hello()]), Refused),
        case(
            "two differing lengths",
            post(&[("content-length", "5"), ("content-length", "6")], &[hello()]),
            Refused,
        ),
        case(
            "less than the length before trailers",
            length("9", &[data("hello", 0), trailers(&[("x-a", "1")], END_STREAM)]),
            Refused,
        ),
        case(
            "a pseudo-header in trailers",
            // h2 drops it.
            post(&[], &[data("hello", 0), trailers(&[(":path", "/x")], END_STREAM)]),
            Either,
        )
        .check(|seen| assert_eq!((seen.target.as_str(), seen.trailers.len()), ("/", 0))),
        case(
            "a name in capitals in trailers",
            post(&[], &[data("hello", 0), trailers(&[("X-A", "1")], END_STREAM)]),
            Refused,
        ),
        case(
            "CR LF in trailers",
            post(&[], &[data("hello", 0), trailers(&[("x-a", "1\r\n\r\nGET /")], END_STREAM)]),
            Refused,
        ),
        case(
            "trailers that do not end the stream",
            post(&[], &[data("hello", 0), trailers(&[("x-a", "1")], 0)]),
            Refused,
        ),
        case(
            "content-length in trailers",
            post(&[], &[data("hello", 0), trailers(&[("content-length", "5")], END_STREAM)]),
            Either,
        ),
        case(
            "transfer-encoding in trailers",
            post(&[], &[data("hello", 0), trailers(&[("transfer-encoding", "chunked")], END_STREAM)]),
            Either,
        ),
        case(
            "host in trailers",
            post(&[], &[data("hello", 0), trailers(&[("host", "other")], END_STREAM)]),
            Either,
        ),
    ]
}
