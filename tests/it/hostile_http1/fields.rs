//! Names and values of fields, and fields that are about the connection.

use super::{Case, Expect, case, either, get, post, refused, served};

pub(super) fn table() -> Vec<Case> {
    let mut cases = names();
    cases.extend(values());
    cases.extend(connections());
    cases.extend(sizes());
    cases
}

fn names() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "",
        "x y",
        "x ",
        "x\t",
        " x",
        "\tx",
        "x(y)",
        "x,y",
        "x\"y",
        "x/y",
        "x@y",
        "x[y]",
        "x{y}",
        "x;y",
        "x=y",
        "x?y",
        "x<y",
        "x\\y",
        "x\u{e9}",
        "x\0y",
        "x\u{1}y",
        "x\u{7f}",
        "x\ry",
        "\u{b}x",
        "x\u{c}",
        "\u{feff}x",
    ] {
        cases.push(refused(format!("name {name:?}"), get(&format!("{name}: 1\r\n"))));
    }
    for (name, fields) in [
        ("no colon", "nonsense\r\n"),
        ("a folded line", "x-a: 1\r\n 2\r\n"),
        ("a line folded by a tab", "x-a: 1\r\n\t2\r\n"),
        ("a fold to an empty line", "x-a: 1\r\n \r\n"),
        ("a fold before the colon", "x-a\r\n : 1\r\n"),
        ("a bare CR at the end of a line", "x-a: 1\r\r\n"),
        ("a bare CR alone on a line", "\r\r\n"),
        ("a bare LF within a value", "x-a: 1\nx-b: 2\r\n"),
    ] {
        cases.push(refused(name, get(fields)));
    }
    for name in ["x", "x-a", "X_A", "!#$%&'*+-.^_`|~", "1", "x.y"] {
        cases.push(served(format!("name {name:?}"), get(&format!("{name}: 1\r\n"))));
    }
    cases
}

fn values() -> Vec<Case> {
    let mut cases = Vec::new();
    let control = (0..0x20).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\n'));
    for byte in control {
        for (place, value) in [("within", vec![b'a', byte, b'b']), ("after", vec![b'a', byte])] {
            let raw = [b"GET / HTTP/1.1\r\nHost: backend\r\nx-a: ".as_slice(), &value, b"\r\n\r\n"].concat();
            cases.push(refused(format!("byte {byte:#04x} {place} a value"), raw));
        }
    }
    cases.push(served("a tab within a value", get("x-a: a\tb\r\n")));
    cases.push(served("an empty value", get("x-a:\r\n")));
    cases.push(served("a value without space", get("x-a:1\r\n")));
    cases.push(served("white space around a value", get("x-a: \t 1 \t \r\n")).check(|seen| {
        assert_eq!(seen.field("x-a").as_deref(), Some("1"));
    }));
    cases.push(served("quotes and commas", get("x-a: \"a, b\", c;d=\"\\\"\"\r\n")).check(|seen| {
        assert_eq!(seen.field("x-a").as_deref(), Some("\"a, b\", c;d=\"\\\"\""));
    }));
    let high = b"GET / HTTP/1.1\r\nHost: backend\r\nx-a: a\x80\xff\r\n\r\n";
    cases.push(served("bytes above 0x7f", high).check(|seen| {
        assert_eq!(crate::support::wire::all(&seen.fields, "x-a"), [b"a\x80\xff"]);
    }));
    cases.push(served("the same name twice", get("x-a: 1\r\nx-a: 2\r\n")).check(|seen| {
        assert_eq!(crate::support::wire::all(&seen.fields, "x-a"), [b"1", b"2"]);
    }));
    cases
}

fn connections() -> Vec<Case> {
    let kept_whole = |seen: &crate::support::Request| assert_eq!(seen.body, b"hello");
    let mut cases = vec![
        either("Connection: host", get("Connection: host\r\n")),
        either(
            "Connection: content-length",
            post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
        )
        .check(kept_whole),
        either(
            "Connection: transfer-encoding",
            post(
                "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        )
        .check(kept_whole),
        either("Connection: ,", get("Connection: ,\r\n")),
        either("Connection: é", get("Connection: \u{e9}\r\n")),
        either("Connection: a b", get("Connection: a b\r\n")),
        served("Connection: close", get("Connection: close\r\n")),
        served("Connection: keep-alive", get("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n")),
        served("Proxy-Connection", get("Proxy-Connection: keep-alive\r\n")),
        served("Connection names a field", get("Connection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\n"))
            .check(|seen| assert!(!seen.has("x-hop") && seen.has("x-end"))),
        served(
            "Connection in two fields",
            get("Connection: X-Hop\r\nConnection: x-hip\r\nX-Hop: 1\r\nX-Hip: 1\r\n"),
        )
        .check(|seen| assert!(!seen.has("x-hop") && !seen.has("x-hip"))),
        served("TE: gzip", get("TE: gzip\r\nConnection: TE\r\n")),
        served("TE: trailers", get("TE: trailers\r\nConnection: TE\r\n")),
        served("Trailer", get("Trailer: x-sum\r\n")),
        served("Expect: 100-continue", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"))
            .check(kept_whole),
        case("Expect: something else", get("Expect: 200-ok\r\n"), Expect::Either),
        served(
            "h2c",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
        ),
        served("Upgrade without Connection", get("Upgrade: websocket\r\n")),
        served("Upgrade that is not taken", get("Connection: Upgrade\r\nUpgrade: websocket\r\n")),
    ];
    cases.push(served("X-Forwarded-For of a liar", get("X-Forwarded-For: 1.2.3.4, \"x\"\r\n")));
    cases
}

fn sizes() -> Vec<Case> {
    let large: &[u16] = &[431];
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    vec![
        served("a value of 30,000 bytes", get(&format!("x-a: {}\r\n", "v".repeat(30_000)))),
        served("100 fields", get(&many(100))),
        case("129 fields", get(&many(129)), Expect::Refused(0, large)),
        case("10,000 fields", get(&many(10_000)), Expect::Refused(0, large)),
        case(
            "a value of 70,000 bytes",
            get(&format!("x-a: {}\r\n", "v".repeat(70_000))),
            Expect::Refused(0, large),
        ),
        case(
            "a name of 70,000 bytes",
            get(&format!("{}: 1\r\n", "n".repeat(70_000))),
            Expect::Refused(0, &[431, 400]),
        ),
    ]
}
