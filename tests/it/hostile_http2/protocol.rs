//! Frames that break the protocol below the heads.

use super::{Case, END_HEADERS, END_STREAM, Expect, case, data, frame, frames, get, kind, post, with};
use Expect::{Either, Refused, Served};

pub(super) fn table() -> Vec<Case> {
    let mut cases = split_heads();
    cases.extend(streams());
    cases.extend(connection());
    cases
}

fn split_heads() -> Vec<Case> {
    let block = frames::block(&with(":method", "GET", &[("x-a", "1")]));
    let begin = || frame(kind::HEADERS, END_STREAM, 1, &block[..10]);
    let rest = |flags| frame(kind::CONTINUATION, flags, 1, &block[10..]);
    let whole = |block: &[u8]| frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, block);
    let mut padded = vec![3];
    padded.extend(&block);
    padded.extend([0; 3]);
    let mut ranked = vec![0, 0, 0, 0, 15];
    ranked.extend(&block);
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    vec![
        case("a head in two frames", [begin(), rest(END_HEADERS)].concat(), Served),
        case("a padded head", frame(kind::HEADERS, END_STREAM | END_HEADERS | 8, 1, &padded), Served),
        case(
            "a head with a priority",
            frame(kind::HEADERS, END_STREAM | END_HEADERS | 32, 1, &ranked),
            Served,
        ),
        case(
            "padding longer than the frame",
            frame(kind::HEADERS, END_STREAM | END_HEADERS | 8, 1, &[200, 1]),
            Refused,
        ),
        case("a PING within a head", [begin(), ping, rest(END_HEADERS)].concat(), Refused),
        case(
            "another stream within a head",
            [begin(), frames::get(3, "backend"), rest(END_HEADERS)].concat(),
            Refused,
        ),
        case(
            "CONTINUATION of another stream",
            [begin(), frame(kind::CONTINUATION, END_HEADERS, 3, &block[10..])].concat(),
            Refused,
        ),
        case("CONTINUATION alone", frame(kind::CONTINUATION, END_HEADERS, 1, &block), Refused),
        case("a block that ends early", whole(&block[..block.len() - 1]), Refused),
        case("index 0", whole(&[0x80]), Refused),
        case("an index that is not in the table", whole(&[0xff, 0x40]), Refused),
        case("an index beyond 32 bits", whole(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]), Refused),
        case(
            "a table larger than allowed",
            whole(&[[0x3f, 0xe1, 0xff, 0x7f].as_slice(), &block].concat()),
            Refused,
        ),
        case("a change of the table within a block", whole(&[&block, [0x20].as_slice()].concat()), Refused),
        case(
            "Huffman code that ends in zeros",
            whole(&[&block, [0, 0x81, 0x00, 1, b'a'].as_slice()].concat()),
            Refused,
        ),
        case(
            "Huffman code with the end mark",
            whole(&[&block, [0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'a'].as_slice()].concat()),
            Refused,
        ),
        case("an empty block", whole(&[]), Refused),
    ]
}

fn streams() -> Vec<Case> {
    let block = frames::block(&with(":method", "GET", &[]));
    let head_on = |stream| frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &block);
    vec![
        case("a head on stream 0", head_on(0), Refused),
        case("a head on an even stream", head_on(2), Refused),
        case("DATA on an idle stream", data("x", END_STREAM), Refused),
        case("DATA on stream 0", frame(kind::DATA, 0, 0, b"x"), Refused),
        case(
            "a stream that depends on itself",
            frame(
                kind::HEADERS,
                END_STREAM | END_HEADERS | 32,
                1,
                &[[0, 0, 0, 1, 15].as_slice(), &block].concat(),
            ),
            Either,
        ),
        case("RST_STREAM on an idle stream", frame(kind::RST_STREAM, 0, 1, &[0; 4]), Refused),
        case("RST_STREAM of 3 bytes", [get(&[]), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(), Either),
        case("WINDOW_UPDATE by 0", post(&[], &[frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])]), Refused),
        case(
            "WINDOW_UPDATE beyond 31 bits",
            post(&[], &[frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])]),
            Refused,
        ),
        case("WINDOW_UPDATE on an idle stream", frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Refused),
        case("PUSH_PROMISE", frame(5, END_HEADERS, 1, &[[0, 0, 0, 2].as_slice(), &block].concat()), Refused),
        case(
            "padding longer than DATA",
            post(&[], &[frame(kind::DATA, END_STREAM | 8, 1, &[9, 1])]),
            Refused,
        ),
        // h2 drops the pseudo-headers of a second head, and nothing else is in it.
        case("a second head that is no trailer", post(&[], &[data("hello", 0), head_on(1)]), Either)
            .check(|seen| assert_eq!(seen.trailers.len(), 0)),
    ]
}

fn connection() -> Vec<Case> {
    vec![
        case("a SETTINGS of 5 bytes", frame(kind::SETTINGS, 0, 0, &[0; 5]), Refused),
        case("a SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), Refused),
        case("a SETTINGS ACK with a payload", frame(kind::SETTINGS, frames::ACK, 0, &[0; 6]), Refused),
        case(
            "a window beyond 31 bits in SETTINGS",
            frame(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            Refused,
        ),
        case("a frame size below the least", frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), Refused),
        case("ENABLE_PUSH of 2", frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), Refused),
        case("WINDOW_UPDATE of the connection by 0", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Refused),
        case(
            "WINDOW_UPDATE of the connection beyond 31 bits",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Refused,
        ),
        case("a PING of 7 bytes", frame(kind::PING, 0, 0, &[0; 7]), Refused),
        case("a PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), Refused),
        case(
            "a frame of 20,000 bytes",
            post(&[], &[frame(kind::DATA, END_STREAM, 1, &[b'a'; 20_000])]),
            Refused,
        ),
        case("a frame of an unknown type", [frame(0xbe, 0, 0, b"x"), get(&[])].concat(), Served),
        case(
            "a PRIORITY before the head",
            [frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 15]), get(&[])].concat(),
            Served,
        ),
        case("HTTP/1 after the preface", b"GET / HTTP/1.1\r\nHost: backend\r\n\r\n".as_slice(), Refused),
    ]
}
