//! Fields that say where a body ends.

use super::{Case, Expect, either, get, post, refused, served};

pub(super) fn table() -> Vec<Case> {
    let mut cases = codings();
    cases.extend(lengths());
    cases.extend(both());
    cases
}

fn chunked(fields: &str) -> String {
    post(fields, "5\r\nhello\r\n0\r\n\r\n")
}

fn codings() -> Vec<Case> {
    let legal = ["chunked", "Chunked", "CHUNKED", "chunked ", "chunked \t", "  chunked", "\tchunked\t"];
    let mut cases: Vec<Case> = legal
        .into_iter()
        .map(|value| {
            let case = served(format!("TE {value:?}"), chunked(&format!("Transfer-Encoding:{value}\r\n")));
            case.check(|seen| assert_eq!(seen.body, b"hello"))
        })
        .collect();
    let illegal = [
        "gzip, chunked",
        "chunked, chunked",
        "chunked, gzip",
        "gzip",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "xchunked",
        "chunkedx",
        "x-chunked",
        "\u{b}chunked",
        "chunked\u{b}",
        "\u{c}chunked",
        "chunked;q=1",
        "chunked;",
        "chunked,",
        ",chunked",
        ", chunked",
        "chunked ,",
        "",
        "\"chunked\"",
        "'chunked'",
        "chunk",
        "chun ked",
        "chunked\0",
        "chunked\u{8}",
        "chunked\u{a0}",
        "chunked chunked",
        "chunked\u{7f}",
        "cow",
        "chunKed\u{1}",
        "br",
        "deflate,chunked",
        "0",
        "chunked=1",
        "\u{212a}hunked",
        "chun\u{212a}ed",
    ];
    cases.extend(
        illegal.into_iter().map(|value| {
            refused(format!("TE {value:?}"), chunked(&format!("Transfer-Encoding: {value}\r\n")))
        }),
    );
    for (name, fields) in [
        ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("TE chunked then identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("TE identity then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("TE chunked then empty", "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n"),
        ("TE gzip then chunked", "Transfer-Encoding: gzip\r\ntransfer-encoding: chunked\r\n"),
        ("TE in two cases", "TRANSFER-ENCODING: chunked\r\ntransfer-encoding: cow\r\n"),
        ("TE with a space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("TE with a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("TE folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("TE after a fold", "X-A: 1\r\n Transfer-Encoding: chunked\r\n"),
        ("TE after a bare CR", "X-A: 1\rTransfer-Encoding: chunked\r\n"),
        ("TE after a bare LF", "X-A: 1\nTransfer-Encoding: chunked\r\n"),
        ("TE whose line lacks the colon", "Transfer-Encoding chunked\r\n"),
        ("TE whose colon is on the next line", "Transfer-Encoding\r\n: chunked\r\n"),
        ("TE with NUL in its name", "Transfer-Encoding\0: chunked\r\n"),
        ("TE with VT in its name", "\u{b}Transfer-Encoding: chunked\r\n"),
    ] {
        cases.push(refused(name, chunked(fields)));
    }
    cases.push(refused(
        "TE in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: backend\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ));
    cases.push(served("GET with TE", get("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n"));
    cases.push(either("TE with underscore", get("Transfer_Encoding: chunked\r\n")));
    cases.push(served("TE without hyphen", get("TransferEncoding: chunked\r\n")));
    cases
}

fn lengths() -> Vec<Case> {
    let mut cases: Vec<Case> = ["5", "5 ", "  5", "\t5\t"]
        .into_iter()
        .map(|value| {
            let case = served(format!("CL {value:?}"), post(&format!("Content-Length:{value}\r\n"), "hello"));
            case.check(|seen| assert_eq!(seen.body, b"hello"))
        })
        .collect();
    cases.push(served("CL 0", post("Content-Length: 0\r\n", "")));
    cases.push(served("GET with CL", get("Content-Length: 5\r\n") + "hello"));
    cases.push(served("POST without a body", post("", "")));
    let grey = ["005", "00000000000000000000000000000005"];
    cases.extend(grey.into_iter().map(|value| {
        let case = either(format!("CL {value:?}"), post(&format!("Content-Length: {value}\r\n"), "hello"));
        case.check(|seen| assert_eq!(seen.body, b"hello"))
    }));
    let illegal = [
        "+5",
        "-5",
        "0x5",
        "5.0",
        "5,5",
        "5, 5",
        "5, 6",
        "5,",
        ",5",
        "5 5",
        "5;",
        "",
        "five",
        "5a",
        "a5",
        "\"5\"",
        "'5'",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999999999999",
        "5\0",
        "\u{b}5",
        "5\u{c}",
        "\u{665}",
        "\u{ff15}",
        "1e1",
        "5_0",
        "5\u{a0}",
        "(5)",
        "5/1",
        "-0",
        "+0",
        "0b101",
    ];
    cases.extend(illegal.into_iter().map(|value| {
        refused(format!("CL {value:?}"), post(&format!("Content-Length: {value}\r\n"), "hello"))
    }));
    for (name, fields) in [
        ("CL twice", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("CL twice, differing", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("CL twice, the second empty", "Content-Length: 5\r\nContent-Length:\r\n"),
        ("CL three times", "content-length: 0\r\nContent-Length: 5\r\nCONTENT-LENGTH: 5\r\n"),
        ("CL with a space before the colon", "Content-Length : 5\r\n"),
        ("CL folded", "Content-Length:\r\n 5\r\n"),
        ("CL continued", "Content-Length: 5\r\n 0\r\n"),
        ("CL after a bare CR", "X-A: 1\rContent-Length: 5\r\n"),
    ] {
        cases.push(refused(name, post(fields, "hello")));
    }
    cases.push(either("CL with underscore", post("Content_Length: 5\r\nContent-Length: 0\r\n", "")));
    cases
        .push(served("CL in HTTP/1.0", "POST / HTTP/1.0\r\nHost: backend\r\nContent-Length: 5\r\n\r\nhello"));
    cases
}

fn both() -> Vec<Case> {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: backend\r\n\r\n";
    let mut cases = Vec::new();
    for (name, fields, body) in [
        ("TE and CL", "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n", chunks),
        ("CL and TE", "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", chunks),
        ("TE and CL 0", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", chunks),
        ("CL.TE", "Content-Length: 53\r\nTransfer-Encoding: chunked\r\n", smuggled),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", smuggled),
        ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: 5\r\n", smuggled),
        ("TE identity and CL", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello"),
        ("TE that is empty and CL", "Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello"),
        ("CL and TE hidden by a tab", "Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n", smuggled),
    ] {
        cases.push(refused(name, post(fields, body)));
    }
    let second = "GET /second HTTP/1.1\r\nHost: backend\r\n\r\n";
    let twice = |name: &str, raw: String| super::case(name, raw, Expect::Served(2));
    cases.push(twice("two in a row", get("") + second));
    cases.push(twice("one after a length", post("Content-Length: 5\r\n", "hello") + second));
    cases.push(twice("one after a length of 0", get("Content-Length: 0\r\n") + second));
    cases.push(twice("one after chunks", post("Transfer-Encoding: chunked\r\n", chunks) + second));
    let then = |name: &str, raw: String| super::case(name, raw, Expect::Refused(1, &[400]));
    cases.push(then("garbage after a length", post("Content-Length: 5\r\n", "hello") + "\x01\r\n\r\n"));
    cases.push(then("no Host after a good one", get("") + "GET / HTTP/1.1\r\n\r\n"));
    cases.push(then("too much body", post("Content-Length: 4\r\n", "hello /x HTTP/1.1\r\n\r\n")));
    cases
}
