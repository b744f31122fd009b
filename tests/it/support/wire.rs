//! HTTP/1.1 read as strictly as its rules allow, for both sides of the tests.
//!
//! What this reader takes can be read in one way only. It refuses everything
//! else, legal or not, that two parsers could read differently.

use std::io::{ErrorKind, Read};

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The peer ended between two messages.
    End,
    /// The peer ended, or fell silent, within a message.
    Cut(String),
    /// The message breaks a rule.
    Rule(String),
}

impl Bad {
    /// Whether the peer said nothing for too long, and did not end.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Cut(why) if why == SILENCE)
    }
}

const SILENCE: &str = "silence";

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Field names as they came, values as bytes.
pub type Fields = Vec<(String, Vec<u8>)>;

/// A buffered reader of lines, fields and bodies.
pub struct Wire<S> {
    pub stream: S,
    buffer: Vec<u8>,
    start: usize,
}

const MAX_LINE: usize = 4 << 20;

pub fn rule<T>(text: impl Into<String>) -> Result<T, Bad> {
    Err(Bad::Rule(text.into()))
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), start: 0 }
    }

    /// What has been read from the stream and not been used.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads more; `Ok(false)` at the end of the stream.
    pub fn fill(&mut self) -> Result<bool, Bad> {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let mut block = [0; 16 * 1024];
        match self.stream.read(&mut block) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.buffer.extend_from_slice(&block[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Bad::Cut(SILENCE.into()))
            }
            Err(error) => Err(Bad::Cut(error.to_string())),
        }
    }

    /// A line without its CRLF. `first` tells that the stream may end before it.
    pub fn line(&mut self, first: bool) -> Result<Vec<u8>, Bad> {
        let mut seen = 0;
        loop {
            if let Some(index) = self.unread()[seen..].iter().position(|b| *b == b'\n') {
                let end = self.start + seen + index;
                let line = self.buffer[self.start..end].to_vec();
                self.start = end + 1;
                let Some(line) = line.strip_suffix(b"\r") else {
                    return rule(format!("a line ends without CR: {:?}", String::from_utf8_lossy(&line)));
                };
                if line.contains(&b'\r') {
                    return rule("a CR within a line");
                }
                return Ok(line.to_vec());
            }
            seen = self.unread().len();
            if seen > MAX_LINE {
                return rule("a line without an end");
            }
            if !self.fill()? {
                let nothing = first && self.unread().is_empty();
                return Err(if nothing { Bad::End } else { Bad::Cut("the end within a line".into()) });
            }
        }
    }

    /// Fields until the empty line.
    pub fn fields(&mut self) -> Result<Fields, Bad> {
        let mut fields = Fields::new();
        loop {
            let line = self.line(false)?;
            if line.is_empty() {
                return Ok(fields);
            }
            fields.push(field(&line)?);
        }
    }

    /// A body; returns its trailer fields.
    pub fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> Result<Fields, Bad> {
        match framing {
            Framing::None => Ok(Fields::new()),
            Framing::Length(count) => self.exactly(count, sink).map(|()| Fields::new()),
            Framing::Chunked => self.chunks(sink),
            Framing::UntilClose => loop {
                sink(&self.buffer[self.start..]);
                self.start = self.buffer.len();
                if !self.fill()? {
                    return Ok(Fields::new());
                }
            },
        }
    }

    fn exactly(&mut self, mut count: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), Bad> {
        while count > 0 {
            if self.unread().is_empty() && !self.fill()? {
                return Err(Bad::Cut(format!("the end with {count} bytes to come")));
            }
            let take = usize::try_from(count).unwrap_or(usize::MAX).min(self.unread().len());
            sink(&self.buffer[self.start..self.start + take]);
            self.start += take;
            count -= take as u64;
        }
        Ok(())
    }

    fn chunks(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<Fields, Bad> {
        loop {
            let line = self.line(false)?;
            let text = String::from_utf8_lossy(&line).into_owned();
            if line.is_empty() || line.len() > 15 || !line.iter().all(u8::is_ascii_hexdigit) {
                return rule(format!("a chunk size of {text:?}"));
            }
            let Ok(size) = u64::from_str_radix(&text, 16) else { return rule("a chunk size") };
            if size == 0 {
                return self.fields();
            }
            self.exactly(size, sink)?;
            if !self.line(false)?.is_empty() {
                return rule("a chunk without CRLF");
            }
        }
    }
}

/// One field line, strictly.
pub fn field(line: &[u8]) -> Result<(String, Vec<u8>), Bad> {
    let shown = || String::from_utf8_lossy(line).into_owned();
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return rule(format!("a field without colon: {:?}", shown()));
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return rule(format!("a field name in {:?}", shown()));
    }
    let value = value.strip_prefix(b" ").unwrap_or(value);
    let edge = |b: Option<&u8>| b.is_some_and(|b| matches!(b, b' ' | b'\t'));
    if edge(value.first()) || edge(value.last()) {
        return rule(format!("white space around the value in {:?}", shown()));
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return rule(format!("a control byte in {:?}", shown()));
    }
    Ok((String::from_utf8_lossy(name).into_owned(), value.to_vec()))
}

/// RFC 9110's token characters.
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// All values of `name`.
pub fn all<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice()).collect()
}

/// The only value of `name` as text; `None` where it is missing.
pub fn one(fields: &Fields, name: &str) -> Option<String> {
    let values = all(fields, name);
    assert!(values.len() < 2, "{name} is repeated: {fields:?}");
    values.first().map(|value| String::from_utf8_lossy(value).into_owned())
}

/// The framing that the fields of a head tell, if they tell exactly one.
pub fn framing(fields: &Fields) -> Result<Option<Framing>, Bad> {
    let lengths = all(fields, "content-length");
    let codings = all(fields, "transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([], [b"chunked"]) => Ok(Some(Framing::Chunked)),
        ([digits], [])
            if !digits.is_empty() && digits.len() < 19 && digits.iter().all(u8::is_ascii_digit) =>
        {
            let text = String::from_utf8_lossy(digits);
            Ok(Some(Framing::Length(text.parse().map_err(|_| Bad::Rule("length".into()))?)))
        }
        _ => rule(format!("no single framing: {fields:?}")),
    }
}
