//! gRPC's frames: a byte of flags, four bytes of length, a message
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;

use super::Fault;

/// Bytes before a message.
const PREFIX: usize = 5;

/// The flag of a frame that holds trailers (gRPC-Web).
const TRAILERS: u8 = 0x80;

/// Takes messages out of bytes that come in pieces.
#[derive(Debug)]
pub struct Messages {
    buffer: BytesMut,
    most: usize,
}

impl Messages {
    /// Messages of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { buffer: BytesMut::new(), most }
    }

    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is whole.
    pub fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let [flags, length @ ..] = *prefix;
        if flags != 0 {
            let why = format!("a message with the flags {flags:#04x}: it is compressed, or no message");
            return Err(Fault::Invalid(why));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.most {
            return Err(Fault::TooLarge(self.most));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The bytes have ended: nothing may be left.
    pub fn end(&self) -> Result<(), Fault> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(Fault::Invalid("the last message is cut off".into())),
        }
    }
}

/// Follows frames as they pass: where one ends, another may stand.
#[derive(Debug, Default)]
pub struct Follower {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have passed.
    begun: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    /// The trailers of gRPC-Web have begun, behind which nothing stands.
    last: bool,
}

impl Follower {
    /// These bytes pass.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let length = self.left.min(bytes.len());
                self.left -= length;
                bytes.advance(length);
                continue;
            }
            self.prefix[self.begun] = bytes.get_u8();
            self.begun += 1;
            if self.begun == PREFIX {
                let [flags, length @ ..] = self.prefix;
                self.begun = 0;
                self.left = u32::from_be_bytes(length) as usize;
                self.last |= flags & TRAILERS != 0;
            }
        }
    }

    /// Whether another frame may begin here.
    pub fn is_between(&self) -> bool {
        self.begun == 0 && self.left == 0 && !self.last
    }
}

/// The frame of a message.
pub fn message(bytes: &[u8]) -> Bytes {
    frame(0, bytes)
}

/// The frame of gRPC-Web that holds trailers
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>).
pub fn trailers(fields: &HeaderMap) -> Bytes {
    let mut text = Vec::new();
    for (name, value) in fields {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    frame(TRAILERS, &text)
}

fn frame(flags: u8, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + bytes.len());
    frame.put_u8(flags);
    // A message is bounded far below this.
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame.freeze()
}
