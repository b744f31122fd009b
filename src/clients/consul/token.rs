//! The ACL token: written in the configuration, or in a file that others
//! rotate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;

use super::Error;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 4096;

/// Where the ACL token comes from.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Token {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// The token itself.
    Text(String),
    /// A file that holds it; read again when it changes.
    File(PathBuf),
}

/// The token as it is sent.
#[derive(Debug)]
pub(super) struct Held {
    file: Option<PathBuf>,
    value: Mutex<Value>,
}

#[derive(Debug, Default)]
struct Value {
    header: Option<HeaderValue>,
    /// Counts the tokens that the file has held.
    generation: u64,
    stamp: Option<Stamp>,
}

/// What a file looks like from outside: another stamp, other contents.
pub(super) type Stamp = (Option<SystemTime>, u64);

impl Held {
    pub(super) fn new(token: Token) -> Result<Self, Error> {
        let (file, header) = match token {
            Token::Anonymous => (None, None),
            Token::Text(text) => (None, Some(header(&text).map_err(|why| Error::Token(why.to_owned()))?)),
            Token::File(path) => (Some(path), None),
        };
        Ok(Self { file, value: Mutex::new(Value { header, ..Value::default() }) })
    }

    /// The token and its number. A file that can't be read, or is empty, is an
    /// error: to go on as nobody would be answered with empty lists.
    pub(super) fn current(&self) -> Result<(Option<HeaderValue>, u64), Error> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.file {
            let failed = |why: &dyn fmt::Display| Error::Token(format!("{}: {why}", path.display()));
            let stamp = stamp(path).map_err(|error| failed(&error))?;
            if value.stamp != Some(stamp) {
                if stamp.1 > MAX_TOKEN as u64 {
                    return Err(failed(&"it is too long"));
                }
                let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
                let header = header(text.trim()).map_err(|why| failed(&why))?;
                if value.header.as_ref() != Some(&header) {
                    value.generation += 1;
                    value.header = Some(header);
                }
                value.stamp = Some(stamp);
            }
        }
        Ok((value.header.clone(), value.generation))
    }
}

/// What `path` looks like now; follows symbolic links.
pub(super) fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified().ok(), metadata.len()))
}

fn header(token: &str) -> Result<HeaderValue, &'static str> {
    if token.is_empty() {
        return Err("it is empty");
    }
    if token.len() > MAX_TOKEN {
        return Err("it is too long");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it holds a byte that no token has");
    }
    let mut header = HeaderValue::from_str(token).map_err(|_| "it holds a byte that no token has")?;
    header.set_sensitive(true);
    Ok(header)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let held = Held::new(Token::File(path.clone())).unwrap();
        assert!(matches!(held.current(), Err(Error::Token(_))), "there is none yet");
        std::fs::write(&path, "one\n").unwrap();
        let (token, first) = held.current().unwrap();
        assert_eq!(token.unwrap(), "one");
        std::fs::write(&path, "another").unwrap();
        let (token, second) = held.current().unwrap();
        assert_eq!(token.unwrap(), "another");
        assert_ne!(first, second);
        std::fs::write(&path, "another \n").unwrap();
        assert_eq!(held.current().unwrap().1, second, "the same token in another file");
        for bad in ["", "two words", "b\u{e4}d", &"x".repeat(5000)] {
            std::fs::write(&path, bad).unwrap();
            assert!(held.current().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::Text("s3cr3t".into());
        assert!(!format!("{token:?}").contains("s3cr3t"));
        assert!(!format!("{:?}", Held::new(token).unwrap()).contains("s3cr3t"));
        let error = Held::new(Token::Text("s3cr3t\n".into())).unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"));
    }
}
