//! What comes back: an answer with what Consul says about it, or why there is
//! none.

use std::fmt;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use super::Received;

/// A `Retry-After` is obeyed up to this, in seconds.
const RETRY_AFTER_MAX: u64 = 60;

/// An answer, and what Consul says about it.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// `X-Consul-Index`; `None` where there is none, or it is no index.
    pub index: Option<u64>,
    /// `X-Consul-KnownLeader`; true where Consul does not say. An agent that
    /// streams (1.10 and later) always says no, and then does not say.
    pub known_leader: bool,
    /// `X-Consul-LastContact`: how long the server has not heard of its leader.
    pub last_contact: Option<Duration>,
    /// `X-Consul-Results-Filtered-By-ACLs`: there is more than the token may see.
    pub filtered: bool,
    /// The agent answers such questions, where they are held, from a stream of
    /// its own (`X-Consul-Query-Backend`, 1.10 and later).
    pub streamed: bool,
    /// When the connection was made that the answer came on.
    pub dialed: Instant,
    /// Which token was sent: another number is another token.
    pub token: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// What the caller gave can't be sent.
    Invalid(&'static str),
    /// The token's file can't be read, or holds no token.
    Token(String),
    /// No connection, or it broke.
    Connection(String),
    /// No answer in time.
    Timeout,
    /// The answer is larger than the bound, in bytes.
    TooLarge(usize),
    /// The answer is not what it should be.
    Malformed(String),
    /// A status other than success.
    Status {
        /// The status.
        code: u16,
        /// The beginning of the body.
        text: String,
        /// `Retry-After`, where it is a number of seconds; at most a minute.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// How long Consul asks to be left alone; at most a minute.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether something answered, if only what can't be used.
    pub fn answered(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Malformed(_) | Self::TooLarge(_))
    }

    /// The status, where there is an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl<T> Answer<T> {
    /// The same with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer {
            value: change(self.value),
            index: self.index,
            known_leader: self.known_leader,
            last_contact: self.last_contact,
            filtered: self.filtered,
            streamed: self.streamed,
            dialed: self.dialed,
            token: self.token,
        }
    }
}

impl Received {
    /// The answer with `value` in place of its body.
    pub(super) fn with<T>(self, value: T) -> Answer<T> {
        let fields = &self.reply.headers;
        let streamed = text(fields, "x-consul-query-backend") == Some("streaming");
        Answer {
            value,
            index: number(fields, "x-consul-index").filter(|index| *index > 0),
            known_leader: streamed || text(fields, "x-consul-knownleader") != Some("false"),
            streamed,
            last_contact: number(fields, "x-consul-lastcontact").map(Duration::from_millis),
            filtered: text(fields, "x-consul-results-filtered-by-acls") == Some("true"),
            dialed: self.dialed,
            token: self.token,
        }
    }

    /// The answer with its body read as JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(self) -> Result<Answer<T>, Error> {
        let value =
            serde_json::from_slice(&self.reply.body).map_err(|error| Error::Malformed(error.to_string()))?;
        Ok(self.with(value))
    }
}

impl super::Reply {
    /// A status that is no success, with the beginning of what the body says.
    pub(super) fn into_error(self) -> Error {
        let start = &self.body[..self.body.len().min(200)];
        let text = String::from_utf8_lossy(start).trim().replace(char::is_control, " ");
        let retry_after = number(&self.headers, RETRY_AFTER.as_str())
            .map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_MAX)));
        Error::Status { code: self.status.as_u16(), text, retry_after }
    }
}

fn text<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name)?.to_str().ok().map(str::trim)
}

fn number(fields: &HeaderMap, name: &str) -> Option<u64> {
    text(fields, name)?.parse().ok()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(f, "the {what} can't be sent to Consul"),
            Self::Token(why) => write!(f, "the ACL token can't be had: {why}"),
            Self::Connection(why) => f.write_str(why),
            Self::Timeout => f.write_str("no answer in time"),
            Self::TooLarge(bound) => write!(f, "the answer is larger than {bound} bytes"),
            Self::Malformed(why) => write!(f, "the answer can't be read: {why}"),
            Self::Status { code, text, .. } if text.is_empty() => write!(f, "status {code}"),
            Self::Status { code, text, .. } => write!(f, "status {code}: {text}"),
        }
    }
}

impl std::error::Error for Error {}
