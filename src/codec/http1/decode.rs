//! Where a body ends: by length, by chunks, or by the end of the connection
//! (RFC 9112, sections 6 and 7).

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::head;
use crate::codec::guard::Framing;

/// Longest line that announces a chunk, its extensions included.
const MAX_CHUNK_LINE: usize = 1024;
/// Bytes of chunk extensions in one body; nobody reads them, so more than this
/// is a way to make work.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Bytes of one trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// Fields of one trailer section.
const MAX_TRAILER_FIELDS: usize = 64;

/// Takes a body out of the bytes of a connection.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    extensions: usize,
}

/// What the bytes at hand hold.
#[derive(Debug)]
pub enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// Fields after the last chunk.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// More bytes are needed.
    More,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkLine,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extensions: 0 }
    }

    /// Whether the whole body was taken.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes are still to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(length) => Some(length),
            _ => None,
        }
    }

    /// The connection has ended: whether the body is complete by that.
    pub fn end_of_connection(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// Takes what can be taken from `input`.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, &'static str> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                _ if input.is_empty() => return Ok(Decoded::More),
                State::UntilClose => return Ok(Decoded::Data(input.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(input, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Decoded::Data(data));
                }
                State::Chunk(left) => {
                    let (data, left) = take(input, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd => {
                    if !b"\r\n".starts_with(&input[..input.len().min(2)]) {
                        return Err("a chunk that does not end in CR LF");
                    }
                    if input.len() < 2 {
                        return Ok(Decoded::More);
                    }
                    let _ = input.split_to(2);
                    self.state = State::ChunkLine;
                }
                State::ChunkLine => match self.chunk_line(input)? {
                    None => return Ok(Decoded::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Chunk(size),
                },
                State::Trailers => return self.trailers(input),
            }
        }
    }

    fn chunk_line(&mut self, input: &mut BytesMut) -> Result<Option<u64>, &'static str> {
        let searched = &input[..input.len().min(MAX_CHUNK_LINE)];
        let Some(end) = memchr::memchr(b'\n', searched) else {
            // A wrong byte is told at once, not when the line is complete.
            if !input[0].is_ascii_hexdigit() {
                return Err("a chunk size that is not hexadecimal");
            }
            return if input.len() < MAX_CHUNK_LINE {
                Ok(None)
            } else {
                Err("a chunk line that is too long")
            };
        };
        let line = input[..end].strip_suffix(b"\r").ok_or("a chunk line that does not end in CR LF")?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        // 15 digits stay below 2^63, where signed readers end.
        if digits == 0 || digits > 15 {
            return Err("a chunk size that is not hexadecimal or too large");
        }
        let extension = &line[digits..];
        if !(extension.is_empty() || extension.trim_ascii_start().starts_with(b";")) {
            return Err("a chunk size followed by something else");
        }
        if extension.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            return Err("a control byte in a chunk extension");
        }
        self.extensions += extension.len();
        if self.extensions > MAX_EXTENSIONS {
            return Err("too many chunk extensions");
        }
        let size = line[..digits].iter().fold(0u64, |sum, digit| {
            (sum << 4) | u64::from(char::from(*digit).to_digit(16).unwrap_or_default())
        });
        let _ = input.split_to(end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, input: &mut BytesMut) -> Result<Decoded, &'static str> {
        if input[..] == b"\r"[..] {
            return Ok(Decoded::More);
        }
        if input.starts_with(b"\r\n") {
            let _ = input.split_to(2);
            self.state = State::Done;
            return Ok(Decoded::End);
        }
        let mut scanner = head::HeadScanner::default();
        match scanner.scan(&input[..input.len().min(MAX_TRAILERS)])? {
            Some(span) => {
                let section = input.split_to(span.end);
                let trailers = head::parse_trailers(&section, MAX_TRAILER_FIELDS)?;
                self.state = State::Done;
                Ok(Decoded::Trailers(trailers))
            }
            None if input.len() >= MAX_TRAILERS => Err("trailers that are too long"),
            None => Ok(Decoded::More),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the smaller of the two fits into usize")]
fn take(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = left.min(input.len() as u64);
    (input.split_to(length as usize).freeze(), left - length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(
        framing: Framing,
        wire: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, bool, usize), (&'static str, bool)> {
        let mut decoder = Decoder::new(framing);
        let mut input = BytesMut::new();
        let mut body = Vec::new();
        let mut fed = 0;
        loop {
            let decoded = decoder.decode(&mut input);
            match decoded.map_err(|problem| (problem, decoder.is_done()))? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(_) => {}
                Decoded::End => return Ok((body, true, wire.len() - fed + input.len())),
                Decoded::More if fed == wire.len() => return Ok((body, false, 0)),
                Decoded::More => {
                    let next = (fed + piece).min(wire.len());
                    input.extend_from_slice(&wire[fed..next]);
                    fed = next;
                }
            }
        }
    }

    #[test]
    fn legal_bodies_end_where_they_should_however_they_are_cut() {
        for (framing, wire, body, rest) in [
            (Framing::None, &b"GET"[..], &b""[..], 3),
            (Framing::Length(3), b"abcGET", b"abc", 3),
            (Framing::Chunked, b"0\r\n\r\nGET", b"", 3),
            (Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\n", b"abc", 0),
            (
                Framing::Chunked,
                b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nx: y\r\n\r\nG",
                b"abc0123456789",
                1,
            ),
            (Framing::Chunked, b"3 ; a=\"b\"\r\nabc\r\n0;z\r\n\r\n", b"abc", 0),
        ] {
            for piece in 1..=wire.len() {
                let (got, done, left) = run(framing, wire, piece).unwrap();
                assert_eq!((&got[..], done), (body, true), "{wire:?} by {piece}");
                assert!(left >= rest && (piece > 1 || left == rest), "{wire:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_body_that_two_readers_could_end_differently_is_refused() {
        for wire in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"3\r\nab\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"+3\r\nabc\r\n",
            b" 3\r\nabc\r\n",
            b"3 \r\nabc\r\n",
            b"3,\r\nabc\r\n",
            b"g\r\n",
            b"\r\n",
            b"10000000000000000\r\n",
            b"8000000000000000\r\n",
            b"3\r\nabc\r\n0\r\nx: y\n\r\n",
            b"3\r\nabc\r\n0\r\nx y\r\n\r\n",
            b"3;a\rb\r\nabc\r\n",
            b"3;a\0b\r\nabc\r\n",
        ] {
            for piece in 1..=wire.len() {
                assert!(
                    run(Framing::Chunked, wire, piece).is_err_and(|(_, done)| !done),
                    "{:?} by {piece}",
                    wire.escape_ascii().to_string()
                );
            }
        }
    }

    #[test]
    fn endless_lines_extensions_and_trailers_are_refused() {
        let mut line = b"3;".to_vec();
        line.resize(5000, b'a');
        assert!(run(Framing::Chunked, &line, 100).is_err());
        let many = b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(1000);
        assert!(run(Framing::Chunked, &many, 1000).is_err());
        let mut trailers = b"0\r\n".to_vec();
        trailers.extend_from_slice(&b"name: value\r\n".repeat(3000));
        assert!(run(Framing::Chunked, &trailers, 1000).is_err());
    }

    #[test]
    fn a_body_until_close_ends_with_the_connection_and_a_counted_one_does_not() {
        let mut until_close = Decoder::new(Framing::UntilClose);
        assert!(until_close.end_of_connection());
        assert!(!Decoder::new(Framing::Length(1)).end_of_connection());
        assert!(!Decoder::new(Framing::Chunked).end_of_connection());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(wire in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            let _ = run(Framing::Chunked, &wire, piece);
        }

        #[test]
        fn how_a_body_is_cut_changes_nothing(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..10), piece in 1usize..50) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (body, done, _) = run(Framing::Chunked, &wire, piece).unwrap();
            prop_assert!(done);
            prop_assert_eq!(body, chunks.concat());
        }
    }
}
