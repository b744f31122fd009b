//! Request lines: methods, versions and the white space between.

use super::{Case, Expect, case, cut, either, refused, served};

pub(super) fn table() -> Vec<Case> {
    let mut cases = versions();
    cases.extend(methods());
    cases.extend(spaces());
    cases
}

fn versions() -> Vec<Case> {
    let line = |version: &str| format!("GET / {version}\r\nHost: backend\r\n\r\n");
    let wrong = [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/3.0",
        "HTTP/0.9",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "http/1.1",
        "Http/1.1",
        "HTTP 1.1",
        "HTTP/1,1",
        "HTTP/1.1.1",
        "HTTP/+1.1",
        "HTTP/1.-1",
        "HTTPS/1.1",
        "ICY/1.1",
        "HTTP//1.1",
        "XHTTP/1.1",
        "HTTP/1.1\u{b}",
        "HTTP/9.9",
        "HTTP/11",
        "HTTP/1.1a",
        "HTTP/1.1 x",
        "HTTP/1.1 ",
        "HTTP/1.1\t",
        "HTTP/1.\u{661}",
        "HTTP\\1.1",
        "HTTP/1.1\0",
        "1.1",
    ];
    let mut cases: Vec<Case> = wrong
        .into_iter()
        .map(|version| case(format!("version {version:?}"), line(version), Expect::Refused(0, &[400, 505])))
        .collect();
    cases.push(served("version HTTP/1.0", line("HTTP/1.0")));
    cases.push(served("version HTTP/1.1", line("HTTP/1.1")));
    for (name, raw) in [
        ("HTTP/0.9", "GET /\r\n\r\n"),
        ("HTTP/0.9 with a space", "GET / \r\n\r\n"),
        ("only a method", "GET\r\n\r\n"),
    ] {
        cases.push(case(name, raw, Expect::Refused(0, &[400, 505])));
    }
    cases
}

fn methods() -> Vec<Case> {
    let line = |method: &str| format!("{method} / HTTP/1.1\r\nHost: backend\r\n\r\n");
    let legal = ["get", "PURGE", "M-SEARCH", "PROPFIND", "!#$%&'*+-.^_`|~", "X", "GETGETGETGETGET"];
    let mut cases: Vec<Case> =
        legal.into_iter().map(|method| served(format!("method {method}"), line(method))).collect();
    cases.push(served("DELETE", line("DELETE")).check(|seen| assert_eq!(seen.method, "DELETE")));
    cases.push(served("a method keeps its case", line("gEt")).check(|seen| assert_eq!(seen.method, "gEt")));
    cases.push(either("TRACE", line("TRACE")));
    let illegal = [
        "G(ET",
        "G\0ET",
        "GE:T",
        "GE/T",
        "G\"ET",
        "G\u{7f}T",
        "G\u{cb}T",
        "[GET]",
        "{GET}",
        "GE,T",
        "GE;T",
        "GE=T",
        "GE?T",
        "GE@T",
        "GE\\T",
        "<GET>",
        "G\u{1b}ET",
        "GE\u{b}T",
        "GE\rT",
    ];
    cases.extend(illegal.into_iter().map(|method| refused(format!("method {method:?}"), line(method))));
    let long = line(&"A".repeat(20_000));
    cases.push(case("method of 20,000 bytes", long, Expect::Refused(0, &[400, 414, 431, 501])));
    cases
}

fn spaces() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, line) in [
        ("two spaces before the target", "GET  / HTTP/1.1"),
        ("two spaces after the target", "GET /  HTTP/1.1"),
        ("tabs", "GET\t/\tHTTP/1.1"),
        ("a tab before the version", "GET /\tHTTP/1.1"),
        ("a space first", " GET / HTTP/1.1"),
        ("a tab first", "\tGET / HTTP/1.1"),
        ("a form feed between", "GET\u{c}/\u{c}HTTP/1.1"),
        ("a bare CR between", "GET\r/ HTTP/1.1"),
        ("a no-break space between", "GET\u{a0}/ HTTP/1.1"),
        ("a colon line first", "Host: backend"),
        ("a second CR", "GET / HTTP/1.1\r"),
    ] {
        cases.push(refused(name, format!("{line}\r\nHost: backend\r\n\r\n")));
    }
    for (name, raw) in [
        ("LF after the request line", "GET / HTTP/1.1\nHost: backend\r\n\r\n"),
        ("LF after a field", "GET / HTTP/1.1\r\nHost: backend\n\r\n"),
        ("LF as the empty line", "GET / HTTP/1.1\r\nHost: backend\r\n\n\r\n\r\n"),
        ("LF everywhere", "GET / HTTP/1.1\nHost: backend\n\n\r\n\r\n"),
        ("LF and CR in the wrong order", "GET / HTTP/1.1\n\rHost: backend\n\r\n\r\r\n\r\n"),
        ("CR as line ends", "GET / HTTP/1.1\rHost: backend\r\r\r\n\r\n"),
        ("a line of a space before the fields", "GET / HTTP/1.1\r\n \r\nHost: backend\r\n\r\n"),
        ("a line of a space after the fields", "GET / HTTP/1.1\r\nHost: backend\r\n \r\n\r\n"),
        ("only LF before", "\nGET / HTTP/1.1\nHost: backend\n\n\r\n\r\n"),
    ] {
        cases.push(refused(name, raw));
    }
    let good = "GET / HTTP/1.1\r\nHost: backend\r\n\r\n";
    cases.push(served("an empty line before", format!("\r\n{good}")));
    cases.push(either("many empty lines before", format!("{}{good}", "\r\n".repeat(40))));
    cases.push(case("an empty line between two", format!("{good}\r\n{good}"), Expect::Served(2)));
    // Where HTTP and TLS are told apart, what is neither is closed.
    for (name, line) in
        [("a NUL first", "\0GET / HTTP/1.1"), ("a byte-order mark first", "\u{feff}GET / HTTP/1.1")]
    {
        cases.push(cut(name, format!("{line}\r\nHost: backend\r\n\r\n")));
    }
    cases.push(cut("a TLS hello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n"));
    cases.push(cut("noise", b"\xff\xfe\xfd\x00\x01\r\n\r\n"));
    cases
}
