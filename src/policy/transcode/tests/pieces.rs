//! Pieces: frames, base64 and JSON values, however they are cut.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use prost_reflect::DynamicMessage;
use prost_reflect::prost_types;
use serde_json::{Value, json};

use super::{SHOP, request};
use crate::policy::transcode::frames::{self, Messages};
use crate::policy::transcode::split::Values;
use crate::policy::transcode::web::{Decoder, Web};
use crate::policy::transcode::{Fault, message};

#[test]
fn the_forms_of_grpc_web_are_told_apart() {
    let of = |kind: &'static str, accept: Option<&'static str>| {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        if let Some(accept) = accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        Web::of(&headers)
    };
    let web = |text_in, text_out| Some(Web { text_in, text_out });
    assert_eq!(of("application/grpc-web", None), web(false, false));
    assert_eq!(of("application/grpc-web+proto", Some("*/*")), web(false, false));
    assert_eq!(of("application/grpc-web-text; charset=utf-8", None), web(true, true));
    assert_eq!(of("application/grpc-web+proto", Some("application/grpc-web-text")), web(false, true));
    assert_eq!(of("Application/gRPC-Web-Text+proto", Some("application/grpc-web+proto")), web(true, false));
    assert_eq!(of("application/grpc-webby", None), None);
    assert_eq!(of("application/grpc", None), None);
    assert_eq!(of("text/plain", None), None);
    for (kind, inner) in [
        ("application/grpc-web", "application/grpc"),
        ("application/grpc-web-text+json; x", "application/grpc+json"),
        ("application/grpc-web+proto", "application/grpc+proto"),
    ] {
        assert_eq!(Web::inner_type(&HeaderValue::from_static(kind)), inner);
    }
    let kind = HeaderValue::from_static("application/grpc+json");
    assert_eq!(
        Web { text_in: true, text_out: true }.outer_type(Some(&kind)),
        "application/grpc-web-text+json"
    );
    assert_eq!(Web { text_in: false, text_out: false }.outer_type(None), "application/grpc-web+proto");
}

#[test]
fn frames_that_lie_are_refused() {
    let mut messages = Messages::new(8);
    messages.push(b"\0\0\0\0\x09");
    assert_eq!(messages.take(), Err(Fault::TooLarge(8)));
    let mut messages = Messages::new(8);
    messages.push(b"\x01\0\0\0\x01a");
    assert!(matches!(messages.take(), Err(Fault::Invalid(_))));
    let mut messages = Messages::new(8);
    messages.push(b"\0\0\0\0\x02a");
    assert_eq!(messages.take(), Ok(None));
    assert!(messages.end().is_err());
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_static("0"));
    assert_eq!(frames::trailers(&fields), &b"\x80\0\0\0\x10grpc-status: 0\r\n"[..]);
}

#[test]
fn base64_that_is_none_is_refused() {
    for text in ["A", "AAA", "A===", "AA=A", "AAA\n", "%%%%", "AA==A"] {
        let mut decoder = Decoder::default();
        let decoded = decoder.push(text.as_bytes()).and_then(|_| decoder.end());
        assert!(decoded.is_err(), "{text}");
    }
}

/// Cuts bytes at places that are given as shares of 1000.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut * bytes.len() / 1000).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn values(text: &[u8], cuts: &[usize], most: usize) -> Result<Vec<Bytes>, Fault> {
    let (mut values, mut found) = (Values::new(most), Vec::new());
    for piece in pieces(text, cuts) {
        values.push(piece);
        while let Some(value) = values.take()? {
            found.push(value);
        }
    }
    found.extend(values.end()?);
    Ok(found)
}

#[test]
fn streams_of_json_that_are_broken_are_refused() {
    for text in
        ["[1,]", "[,1]", "[1 2]", "[1]2", "[1", "[", "{", "\"a", "}", "{}}", "[{}],", ",", "+1", "[1,2"]
    {
        let split = values(text.as_bytes(), &[], 100);
        assert!(split.is_err(), "{text}: {split:?}");
    }
    assert_eq!(values(b"\"123456789\"", &[], 8), Err(Fault::TooLarge(8)));
    for text in ["", " \n", "[]", " [ ] "] {
        assert_eq!(values(text.as_bytes(), &[], 8), Ok(Vec::new()), "{text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z\"\\\\\\[\\]{},é\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\}]{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_split_of_a_stream_of_json_gives_its_values(
        list in prop::collection::vec(any_json(), 0..6),
        cuts in prop::collection::vec(0..1000usize, 0..12),
        array in any::<bool>(),
        pretty in any::<bool>(),
    ) {
        // What begins with `[` is an array.
        let array = array || list.first().is_some_and(Value::is_array);
        let texts: Vec<String> = list.iter().map(|v| if pretty { format!("{v:#}") } else { v.to_string() }).collect();
        let text = if array { format!(" [{}]\n", texts.join(", ")) } else { texts.join("\n") };
        let found = values(text.as_bytes(), &cuts, 1 << 20).unwrap();
        let found: Vec<Value> = found.iter().map(|value| serde_json::from_slice(value).unwrap()).collect();
        prop_assert_eq!(found, list);
    }

    #[test]
    fn no_bytes_make_a_splitter_or_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0..1000usize, 0..6)) {
        let _ = values(&bytes, &cuts, 64);
        let mut decoder = Decoder::default();
        for piece in pieces(&bytes, &cuts) {
            let _ = decoder.push(piece);
        }
        let mut messages = Messages::new(64);
        messages.push(&bytes);
        while let Ok(Some(_)) = messages.take() {}
        let descriptor = SHOP.pool.get_message_by_name("shop.v1.All").unwrap();
        if let Ok(message) = DynamicMessage::decode(descriptor, &bytes[..]) {
            let _ = message::to_json(&message, &SHOP);
        }
    }

    #[test]
    fn any_split_of_base64_in_pieces_gives_its_bytes(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        cuts in prop::collection::vec(0..1000usize, 0..12),
    ) {
        let web = Web { text_in: true, text_out: true };
        let text: Vec<u8> = parts.iter().flat_map(|part| web.encode(part.clone().into())).collect();
        let (mut decoder, mut plain) = (Decoder::default(), Vec::new());
        for piece in pieces(&text, &cuts) {
            plain.extend_from_slice(&decoder.push(piece).unwrap());
        }
        decoder.end().unwrap();
        prop_assert_eq!(plain, parts.concat());
    }

    #[test]
    fn any_split_of_frames_gives_their_messages(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        cuts in prop::collection::vec(0..1000usize, 0..12),
    ) {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| frames::message(part)).collect();
        let (mut messages, mut found) = (Messages::new(300), Vec::new());
        for piece in pieces(&bytes, &cuts) {
            messages.push(piece);
            while let Some(message) = messages.take().unwrap() {
                found.push(message.to_vec());
            }
        }
        messages.end().unwrap();
        prop_assert_eq!(found, parts);
    }

    #[test]
    fn json_that_was_read_is_written_the_same(
        id in any::<i64>(), name in ".{0,20}", tags in prop::collection::vec(".{0,8}", 0..4),
        bytes in prop::collection::vec(any::<u8>(), 0..20), seconds in -60_000_000_000i64..250_000_000_000,
        double in any::<f64>(), value in any_json(),
    ) {
        use base64::Engine as _;
        let json = &*SHOP;
        let bytes = base64::engine::general_purpose::STANDARD.encode(bytes);
        let time = prost_types::Timestamp { seconds, nanos: 5 }.to_string();
        let text = json!({"int64Field": id.to_string(), "stringField": name, "user": {"tags": tags},
            "bytesField": bytes, "timestamp": time, "doubleField": double, "value": value});
        let once = request(json, "POST", "/v1/everything", &text.to_string()).unwrap();
        let twice = request(json, "POST", "/v1/everything", &once.to_string()).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(&once["timestamp"], &text["timestamp"]);
        if id != 0 {
            prop_assert_eq!(&once["int64Field"], &text["int64Field"]);
        }
    }
}
