//! Chunks and trailers.

use super::{Case, cut, either, post, served};

pub(super) fn table() -> Vec<Case> {
    let mut cases = legal();
    cases.extend(broken());
    cases
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn legal() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, body) in [
        ("one chunk", "5\r\nhello\r\n0\r\n\r\n"),
        ("five chunks", "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
        ("a size with zeros before", "0005\r\nhello\r\n0\r\n\r\n"),
        ("several zeros as the last chunk", "5\r\nhello\r\n000\r\n\r\n"),
        ("a chunk extension", "5;a=b\r\nhello\r\n0\r\n\r\n"),
        ("a quoted chunk extension", "5;a=\"b\"\r\nhello\r\n0\r\n\r\n"),
        ("an extension of the last chunk", "5\r\nhello\r\n0;a=b\r\n\r\n"),
        ("a trailer", "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
    ] {
        cases.push(served(name, chunked(body)).check(|seen| assert_eq!(seen.body, b"hello")));
    }
    for (case, body) in [("lower", "a\r\n0123456789\r\n0\r\n\r\n"), ("upper", "A\r\n0123456789\r\n0\r\n\r\n")]
    {
        let case = served(format!("a size in {case} case"), chunked(body));
        cases.push(case.check(|seen| assert_eq!(seen.body, b"0123456789")));
    }
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Trailer",
        "Connection",
        "TE",
        "Authorization",
        "Content-Encoding",
    ] {
        let body = format!("5\r\nhello\r\n0\r\n{name}: 5\r\nx-sum: 7\r\n\r\n");
        // The recorder refuses these names in trailers.
        let case = served(format!("{name} in the trailers"), chunked(&body));
        cases.push(case.check(|seen| assert_eq!(seen.body, b"hello")));
    }
    for (name, body) in [
        ("a space after the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a space before an extension", "5 ;a=b\r\nhello\r\n0\r\n\r\n"),
        ("an extension without a name", "5;\r\nhello\r\n0\r\n\r\n"),
        ("a size of 30 zeros", "0000000000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
    ] {
        cases.push(either(name, chunked(body)).check(|seen| assert_eq!(seen.body, b"hello")));
    }
    cases
}

fn broken() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [
        "zz",
        "-5",
        "+5",
        "0x5",
        "5g",
        "",
        " 5",
        "\t5",
        "5,5",
        "5.0",
        "_5",
        "1_0",
        "0x",
        "-0",
        "h",
        "\u{ff15}",
        "10000000000000005",
        "FFFFFFFFFFFFFFFF",
        "fffffffffffffffff",
        "5\0",
        "5\u{b}",
        "5\r",
        "5;a\rb",
        "5;a\nb",
        "5;a\0b",
        "5\nhello\r\n0\r\n\r\nx",
        "\"5\"",
        "5=a",
        "5 5",
    ] {
        cases.push(cut(format!("chunk size {size:?}"), chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n"))));
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000));
    cases.push(cut("a chunk extension of 100,000 bytes", chunked(&long)));
    let tiny = format!("1;{}\r\nx\r\n", "a".repeat(60)).repeat(20_000) + "0\r\n\r\n";
    let flood = either("a flood of chunk extensions", chunked(&tiny));
    cases.push(flood.check(|seen| assert_eq!(seen.body.len(), 20_000)));
    let trailers: String = (0..10_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    cases.push(cut("10,000 trailers", chunked(&format!("0\r\n{trailers}\r\n"))));
    for (name, body) in [
        ("no CRLF after a chunk", "5\r\nhello0\r\n\r\n"),
        ("LF after a chunk", "5\r\nhello\n0\r\n\r\n"),
        ("LF after a size", "5\nhello\r\n0\r\n\r\n"),
        ("CR after a chunk", "5\r\nhello\r0\r\n\r\n"),
        ("more than the size", "5\r\nhelloworld\r\n0\r\n\r\n"),
        ("LF as the last line", "5\r\nhello\r\n0\r\n\n\r\n\r\n"),
        ("LF after the last size", "5\r\nhello\r\n0\n\r\n\r\n"),
        ("a trailer without a colon", "5\r\nhello\r\n0\r\nnonsense\r\n\r\n"),
        ("a folded trailer", "5\r\nhello\r\n0\r\nx-a: 1\r\n 2\r\n\r\n"),
        ("a trailer with a space before the colon", "5\r\nhello\r\n0\r\nx-a : 1\r\n\r\n"),
        ("a trailer with NUL", "5\r\nhello\r\n0\r\nx-a: \0\r\n\r\n"),
        ("a trailer with a bare CR", "5\r\nhello\r\n0\r\nx-a: 1\r2\r\n\r\n"),
        ("a trailer that ends in LF", "5\r\nhello\r\n0\r\nx-a: 1\n\r\n"),
        ("a trailer without a name", "5\r\nhello\r\n0\r\n: 1\r\n\r\n"),
    ] {
        cases.push(cut(name, chunked(body)));
    }
    cases
}
