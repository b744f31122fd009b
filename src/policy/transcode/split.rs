//! Takes JSON values out of bytes that come in pieces: the elements of one
//! array, or values one after another (newline-delimited JSON). What is within
//! a value is not looked at but for its end.

use bytes::{Buf, Bytes, BytesMut};

use super::Fault;

/// See the module's text.
#[derive(Debug)]
pub struct Values {
    buffer: BytesMut,
    /// How much of the buffer has been looked at, within a value.
    seen: usize,
    state: State,
    array: bool,
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come.
    Start,
    /// A value may begin; in an array, whether it may also end.
    Value { or_end: bool },
    /// In an array, behind a value.
    Behind,
    /// Within `[…]` or `{…}`.
    Nested { depth: usize },
    /// Within text, at this depth.
    Text { depth: usize, escaped: bool },
    /// Within a number or a word.
    Word,
    /// Behind the array.
    End,
}

impl Values {
    /// Values of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, state: State::Start, array: false, most }
    }

    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value that is whole.
    pub fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(&byte) = self.buffer.get(self.seen) {
            let within = matches!(self.state, State::Nested { .. } | State::Text { .. } | State::Word);
            let whole = if within { self.within(byte) } else { self.between(byte)? };
            if self.seen > self.most {
                return Err(Fault::TooLarge(self.most));
            }
            if whole {
                return Ok(Some(self.cut()));
            }
        }
        Ok(None)
    }

    /// The bytes have ended: the last value, if there is one.
    pub fn end(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.state {
            State::Start | State::End => Ok(None),
            State::Value { .. } if !self.array => Ok(None),
            State::Word if !self.array => Ok(Some(self.cut())),
            _ => Err(Fault::Invalid("the JSON is cut off".into())),
        }
    }

    fn cut(&mut self) -> Bytes {
        let value = self.buffer.split_to(self.seen).freeze();
        self.seen = 0;
        self.state = if self.array { State::Behind } else { State::Value { or_end: true } };
        value
    }

    /// A byte of a value; whether the value ends with it, or before it.
    fn within(&mut self, byte: u8) -> bool {
        match &mut self.state {
            State::Word => {
                if matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r') {
                    return true;
                }
            }
            State::Text { escaped, .. } if *escaped => *escaped = false,
            State::Text { escaped, .. } if byte == b'\\' => *escaped = true,
            State::Text { depth, .. } if byte == b'"' => self.state = State::Nested { depth: *depth },
            State::Text { .. } => {}
            State::Nested { depth } => match byte {
                b'"' => self.state = State::Text { depth: *depth, escaped: false },
                b'[' | b'{' => *depth += 1,
                b']' | b'}' => *depth -= 1,
                _ => {}
            },
            _ => {}
        }
        self.seen += 1;
        self.state == State::Nested { depth: 0 }
    }

    /// A byte between values. None of them is a value that is whole.
    fn between(&mut self, byte: u8) -> Result<bool, Fault> {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            self.buffer.advance(1);
            return Ok(false);
        }
        let next = match (self.state, byte) {
            (State::Start, b'[') => {
                self.array = true;
                State::Value { or_end: true }
            }
            (State::Value { or_end: true }, b']') if self.array => State::End,
            (State::Behind, b']') => State::End,
            (State::Behind, b',') => State::Value { or_end: false },
            (State::Start | State::Value { .. }, b'{' | b'[') => {
                return Ok(self.begin(State::Nested { depth: 1 }));
            }
            (State::Start | State::Value { .. }, b'"') => {
                return Ok(self.begin(State::Text { depth: 0, escaped: false }));
            }
            (State::Start | State::Value { .. }, b'-' | b'0'..=b'9' | b'a'..=b'z') => {
                return Ok(self.begin(State::Word));
            }
            _ => {
                let found = char::from(byte).escape_default();
                return Err(Fault::Invalid(format!("the JSON is broken: `{found}` between two values")));
            }
        };
        self.state = next;
        self.buffer.advance(1);
        Ok(false)
    }

    fn begin(&mut self, state: State) -> bool {
        self.state = state;
        self.seen = 1;
        false
    }
}
