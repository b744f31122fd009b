//! Whatever a file holds: a report and no panic, in bounded time and memory.

use proptest::prelude::*;

use super::environment;
use crate::config::model::Pattern;
use crate::config::{load_str, units};

/// Reads and reports; that there is no panic is the test.
fn read(text: &str) {
    if let Err(problems) = load_str("f", text, &environment()) {
        assert!(problems.count() > 0);
        let report = problems.to_string();
        assert!(!report.contains("s3cr3t"), "{report}");
        assert!(report.chars().all(|c| c == '\n' || !c.is_control()), "{report:?}");
    }
}

/// Pieces that a configuration is made of, put together at random.
fn pieces() -> impl Strategy<Value = String> {
    let words: Vec<&'static str> = vec![
        "version",
        "service",
        "name",
        "port",
        "inbound",
        "outbound",
        "to",
        "route",
        "discovery",
        "static",
        "local",
        "dns",
        "retry",
        "on",
        "per_try",
        "balance",
        "by",
        "hash",
        "headers",
        "prefix",
        "present",
        "limits",
        "header_bytes",
        "drain",
        "delay",
        "listen",
        "admin",
        "1",
        "2",
        "-1",
        "5s",
        "64KiB",
        "20%",
        "25ms..50ms",
        "~",
        "true",
        "0.0.0.0:8702",
        "GET /a/{x}",
        "/**",
        "grpc a.B/C",
        "${SECRET}",
        "${PORT}",
        "${X:-1}",
        "${file:/x}",
        "&a",
        "*a",
        "<<",
        "[",
        "]",
        "{",
        "}",
        ",",
        ": ",
        ":\n",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "\"",
        "'",
        "|\n",
        ">\n",
        "#",
        "!t ",
        "---\n",
        "...\n",
        "\t",
        "?",
        "é",
        "\u{1b}",
        "users",
    ];
    prop::collection::vec(prop::sample::select(words), 0..60).prop_map(|words| words.concat())
}

/// Trees of any shape below keys that are known.
fn trees() -> impl Strategy<Value = serde_yaml::Value> {
    use serde_yaml::Value;
    let key = prop::sample::select(vec![
        "version",
        "service",
        "name",
        "port",
        "inbound",
        "outbound",
        "to",
        "route",
        "discovery",
        "static",
        "dns",
        "retry",
        "on",
        "max",
        "per_try",
        "balance",
        "by",
        "hash",
        "headers",
        "prefix",
        "limits",
        "listen",
        "timeout",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "5s",
            "/a",
            "GET /{x}",
            "a",
            "10.0.0.1:80",
            "ewma",
            "connect",
            "${SECRET}"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Sequence),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|entries| Value::Mapping(
                entries.into_iter().map(|(k, v)| (Value::from(k), v)).collect()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        read(&text);
        let _ = Pattern::parse(&text);
        let _ = (units::pause(&text), units::size(&text), units::percent(&text), units::range(&text));
    }

    #[test]
    fn any_pieces(text in pieces()) {
        read(&text);
        read(&format!("version: 1\nservice: {{name: a}}\n{text}"));
    }

    #[test]
    fn any_tree(tree in trees()) {
        read(&serde_yaml::to_string(&tree).unwrap());
    }

    #[test]
    fn any_route(text in "(GET |grpc |get,GET )?[/a{}.*:é?-]{0,20}") {
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert!(pattern.ties_with(&pattern));
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_can_be_read(micros in 1u64..30_000_000_000_000) {
        let duration = std::time::Duration::from_micros(micros);
        prop_assert_eq!(units::duration(&units::show(duration)), Ok(duration));
    }
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut text = String::from("version: 1\nservice: {name: a}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..=12 {
        text += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let problems = load_str("f", &text, &environment()).unwrap_err();
    let messages: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(messages, ["too much: aliases make more of this file than is read"]);
}

#[test]
fn depth_is_bounded() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        for depth in [33, 200, 100_000] {
            let text = format!("version: 1\nx: {}{}\n", open.repeat(depth), close.repeat(depth));
            let problems = load_str("f", &text, &environment()).unwrap_err();
            assert!(problems.count() > 0);
        }
    }
    let block: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let problems = load_str("f", &block, &environment()).unwrap_err();
    assert!(problems.iter().any(|p| p.message == "values nest more than 32 deep"), "{problems}");
}
