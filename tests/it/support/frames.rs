//! An HTTP/2 client of hand-made frames, for what no library would send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::server::PATIENCE;

/// Types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// GOAWAY's code for a peer that asks too much.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream or its connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer; its body is passed over.
    Answer(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
    /// Nothing came for [`PATIENCE`].
    Silent,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as HPACK literals without indexing and without Huffman code.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    raw_block(&fields)
}

/// The same for names and values that are no text.
pub fn raw_block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name);
        string(&mut bytes, value);
    }
    bytes
}

/// One field that is added to the dynamic table.
pub fn indexed_field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40];
    string(&mut bytes, name.as_bytes());
    string(&mut bytes, value);
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    integer(bytes, 7, text.len());
    bytes.extend(text);
}

fn integer(bytes: &mut Vec<u8>, prefix: u32, mut value: usize) {
    let most = (1_usize << prefix) - 1;
    if value < most {
        bytes.push(u8::try_from(value).unwrap());
        return;
    }
    bytes.push(u8::try_from(most).unwrap());
    value -= most;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
}

/// A GET's HEADERS frame.
pub fn get(stream: u32, authority: &str) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", authority)];
    frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields))
}

/// A connection whose preface and SETTINGS were sent.
pub struct RawH2 {
    pub stream: TcpStream,
    /// The header block of the last answer.
    pub head: Vec<u8>,
}

impl RawH2 {
    pub fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    /// `settings` as pairs of identifier and value.
    pub fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream, settings)
    }

    /// The same on a connection that is there.
    pub fn over(stream: TcpStream, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self { stream, head: Vec::new() };
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend(identifier.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.send(&frame(kind::SETTINGS, 0, 0, &payload)).unwrap();
        raw
    }

    /// Sends bytes; an error means that the peer has ended the connection.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame; `None` at the end of the connection.
    pub fn next(&mut self) -> std::io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload }))
    }

    /// What becomes of `stream`.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            match self.next() {
                Ok(Some(frame)) => {
                    if let Some(outcome) = self.judge(stream, frame) {
                        return outcome;
                    }
                }
                Ok(None) => return Outcome::Closed,
                Err(error) if is_silence(&error) => return Outcome::Silent,
                Err(_) => return Outcome::Closed,
            }
        }
    }

    fn judge(&mut self, stream: u32, frame: Frame) -> Option<Outcome> {
        match frame.kind {
            kind::SETTINGS if frame.flags & ACK == 0 => {
                let _ = self.send(&super::frames::frame(kind::SETTINGS, ACK, 0, &[]));
                None
            }
            kind::GOAWAY => match word(&frame.payload, 4) {
                0 => None,
                code => Some(Outcome::GoAway(code)),
            },
            kind::RST_STREAM if frame.stream == stream => Some(Outcome::Reset(word(&frame.payload, 0))),
            kind::HEADERS if frame.stream == stream => {
                let status = status(&frame.payload).unwrap_or_else(|| panic!("no status in {frame:?}"));
                self.head = frame.payload;
                (status >= 200).then_some(Outcome::Answer(status))
            }
            _ => None,
        }
    }

    /// Whether the connection ends; the code of GOAWAY, if one came before.
    pub fn ended(&mut self) -> (bool, Option<u32>) {
        let mut code = None;
        loop {
            match self.next() {
                Ok(Some(frame)) if frame.kind == kind::GOAWAY => code = Some(word(&frame.payload, 4)),
                Ok(Some(_)) => {}
                Ok(None) => return (true, code),
                Err(error) => return (!is_silence(&error), code),
            }
        }
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn word(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())
}

/// The status in the first header block of a connection, which must begin with it.
fn status(block: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let block = match block {
        // A change of the dynamic table's size may come first.
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        _ => block,
    };
    match block {
        [index @ 0x88..=0x8e, ..] => Some(STATIC[usize::from(index - 0x88)]),
        [0x08 | 0x18 | 0x48, length, text @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(text.get(..usize::from(*length))?).ok()?.parse().ok()
        }
        [0x08 | 0x18 | 0x48, length, text @ ..] => huffman_digits(text.get(..usize::from(length & 0x7f))?),
        _ => None,
    }
}

/// HPACK's Huffman code of digits: 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let bits: Vec<u16> =
        bytes.iter().flat_map(|b| (0..8).rev().map(move |i| u16::from(b >> i & 1))).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let code =
            |count: usize| bits.get(at..at + count)?.iter().try_fold(0, |sum, bit| Some(sum * 2 + bit));
        let five = code(5)?;
        let digit = if five < 3 {
            at += 5;
            five
        } else {
            let six: u16 = code(6)?;
            at += 6;
            six.checked_sub(0x19)? + 3
        };
        number = number * 10 + digit;
    }
    Some(number)
}

#[test]
fn a_status_is_read_from_each_form() {
    assert_eq!(status(&[0x8c]), Some(400));
    assert_eq!(status(&[0x48, 3, b'5', b'0', b'2']), Some(502));
    // RFC 7541, C.6.1: 302 as 0x6402.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    // RFC 7541, C.6.2: 307 as 0x640eff.
    assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
}
