//! Copies of calls: how many there may be at one time, what is kept of a body
//! for one, and whether two answers are alike.
//!
//! Must hold: over all workers, at most `max` copies of a route are at hand,
//! each with at most `buffer` bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName};
use http::response;
use sha1::{Digest as _, Sha1};

use crate::base::{UpstreamName, grpc};
use crate::config::model::Compare;

/// Room for the copies of one route, for all workers.
#[derive(Debug, Default)]
pub struct Room(AtomicUsize);

/// One copy, for as long as it is held.
#[derive(Debug)]
pub struct Held(Arc<Room>);

/// The rooms of all routes. All clones are the same.
#[derive(Clone, Default)]
pub struct Rooms(Arc<Mutex<HashMap<Place, Weak<Room>>>>);

/// An upstream, and what tells a route from all others to it.
type Place = (UpstreamName, String);

impl Rooms {
    /// The room of a route: what it was, through a reload as well.
    pub fn get(&self, upstream: &UpstreamName, pattern: &str) -> Arc<Room> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, room| room.strong_count() > 0);
        let room = all.entry((upstream.clone(), pattern.to_owned())).or_default();
        room.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Room::default());
            *room = Arc::downgrade(&new);
            new
        })
    }
}

impl Room {
    /// One more copy, if there are fewer than `most`.
    pub fn enter(self: &Arc<Self>, most: usize) -> Option<Held> {
        let more = |count| (count < most).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Held(self.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What has passed of a body.
#[derive(Debug)]
pub struct Recording {
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    most: usize,
}

impl Recording {
    /// Of at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self { bytes: BytesMut::new(), trailers: None, most }
    }

    /// A part has passed; whether there was room for it.
    #[must_use]
    pub fn add(&mut self, data: &[u8]) -> bool {
        let fits = self.bytes.len() + data.len() <= self.most;
        if fits {
            // A copy: what passes may be a small part of a large buffer.
            self.bytes.extend_from_slice(data);
        }
        fits
    }

    /// The trailers have passed.
    pub fn trailed(&mut self, trailers: &HeaderMap) {
        self.trailers = Some(trailers.clone());
    }

    /// All of it.
    pub fn whole(self) -> (Bytes, Option<HeaderMap>) {
        (self.bytes.freeze(), self.trailers)
    }
}

/// What is compared of an answer.
pub struct Print {
    status: u16,
    /// That of gRPC.
    code: Option<Vec<u8>>,
    grpc: bool,
    headers: Vec<Vec<u8>>,
    body: Option<(Sha1, u64)>,
}

/// In what two answers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The statuses.
    Status(String, String),
    /// The values of a field.
    Header(HeaderName, String, String),
    /// The lengths of the bodies, which may be the same.
    Body(u64, u64),
}

impl Difference {
    /// For the metric.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Status(..) => "status",
            Self::Header(..) => "headers",
            Self::Body(..) => "body",
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(real, copy) => write!(f, "the status is {real}, and {copy} of the copy"),
            Self::Header(name, real, copy) => write!(f, "`{name}` is `{real}`, and `{copy}` of the copy"),
            Self::Body(real, copy) if real == copy => write!(f, "the bodies of {real} bytes differ"),
            Self::Body(real, copy) => write!(f, "the body has {real} bytes, and {copy} of the copy"),
        }
    }
}

impl Print {
    /// Of an answer that has begun.
    pub fn new(compare: &Compare, head: &response::Parts) -> Self {
        let all = |name: &HeaderName| {
            let values = head.headers.get_all(name).iter().map(|value| value.as_bytes());
            values.collect::<Vec<_>>().join(&b", "[..])
        };
        Self {
            status: head.status.as_u16(),
            code: code(&head.headers),
            grpc: grpc::content_type(&head.headers).is_some(),
            headers: compare.headers.iter().map(all).collect(),
            body: compare.body.then(|| (Sha1::new(), 0)),
        }
    }

    /// Whether the rest of the answer says more.
    pub fn is_open(&self) -> bool {
        self.body.is_some() || (self.grpc && self.code.is_none())
    }

    /// A part of the body.
    pub fn add(&mut self, data: &[u8]) {
        if let Some((digest, length)) = &mut self.body {
            digest.update(data);
            *length += data.len() as u64;
        }
    }

    /// The trailers.
    pub fn trailed(&mut self, trailers: &HeaderMap) {
        self.code = code(trailers).or(self.code.take());
    }

    /// In what `copy`, that is whole too, differs from this answer.
    pub fn differs(self, copy: Self, compare: &Compare) -> Option<Difference> {
        let status = |print: &Self| match &print.code {
            Some(code) => format!("{} with grpc-status {}", print.status, shown(code)),
            None => print.status.to_string(),
        };
        if compare.status && (self.status, &self.code) != (copy.status, &copy.code) {
            return Some(Difference::Status(status(&self), status(&copy)));
        }
        let mut pairs = self.headers.iter().zip(&copy.headers).zip(&compare.headers);
        if let Some(((real, copy), name)) = pairs.find(|((real, copy), _)| real != copy) {
            return Some(Difference::Header(name.clone(), shown(real), shown(copy)));
        }
        let (Some(real), Some(copy)) = (self.body, copy.body) else { return None };
        let differs = real.1 != copy.1 || real.0.finalize() != copy.0.finalize();
        differs.then_some(Difference::Body(real.1, copy.1))
    }
}

fn code(headers: &HeaderMap) -> Option<Vec<u8>> {
    Some(headers.get("grpc-status")?.as_bytes().to_vec())
}

/// A value as the log may have it.
fn shown(value: &[u8]) -> String {
    const MOST: usize = 64;
    let text: String = String::from_utf8_lossy(value).chars().take(MOST + 1).collect();
    let cut = text.chars().count() > MOST;
    let text: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if cut { format!("{text}…") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    fn print(
        compare: &Compare,
        status: u16,
        fields: &[(&'static str, &'static str)],
        body: &[&str],
    ) -> Print {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        let mut print = Print::new(compare, &answer.body(()).unwrap().into_parts().0);
        body.iter().for_each(|part| print.add(part.as_bytes()));
        print
    }

    #[test]
    fn no_more_are_held_than_there_is_room_for() {
        let rooms = Rooms::default();
        let name = UpstreamName::new("users");
        let room = rooms.get(&name, "/a");
        let first = room.enter(2).unwrap();
        let _second = room.enter(2).unwrap();
        assert!(room.enter(2).is_none());
        assert!(rooms.get(&name, "/a").enter(2).is_none(), "another worker finds the same");
        assert!(rooms.get(&name, "/b").enter(2).is_some());
        drop(first);
        assert!(room.enter(2).is_some());
    }

    #[test]
    fn a_body_is_kept_up_to_its_limit() {
        let mut recording = Recording::new(5);
        assert!(recording.add(b"abc") && recording.add(b"de") && !recording.add(b"f"));
        assert_eq!(recording.whole(), (Bytes::from_static(b"abcde"), None));
    }

    #[test]
    fn answers_are_told_apart_by_what_is_compared() {
        let name = HeaderName::from_static("x-a");
        let all = Compare { status: true, headers: vec![name.clone()], body: true };
        let real = || print(&all, 200, &[("x-a", "1"), ("date", "now")], &["one", "two"]);
        let differs = |copy| real().differs(copy, &all);
        assert_eq!(differs(print(&all, 200, &[("x-a", "1"), ("date", "then")], &["onetwo"])), None);
        let difference = differs(print(&all, 500, &[("x-a", "1")], &["onetwo"])).unwrap();
        assert_eq!(
            (difference.word(), difference.to_string().as_str()),
            ("status", "the status is 200, and 500 of the copy")
        );
        let difference = differs(print(&all, 200, &[], &["onetwo"])).unwrap();
        assert_eq!(difference, Difference::Header(name, "1".into(), String::new()));
        let difference = differs(print(&all, 200, &[("x-a", "1")], &["onetwO"])).unwrap();
        assert_eq!(difference, Difference::Body(6, 6));
        let little = Compare::default();
        let (real, copy) = (print(&little, 200, &[], &["a"]), print(&little, 200, &[], &["b"]));
        assert!(!real.is_open());
        assert_eq!(real.differs(copy, &little), None);
    }

    #[test]
    fn a_call_of_grpc_has_its_status_at_the_end() {
        let compare = Compare::default();
        let kind = ("content-type", "application/grpc");
        let trailers = |code: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())])
        };
        let mut real = print(&compare, 200, &[kind], &[]);
        assert!(real.is_open());
        real.trailed(&trailers("0"));
        // Without a message the status stands in the head.
        let copy = print(&compare, 200, &[kind, ("grpc-status", "14")], &[]);
        assert!(!copy.is_open());
        let difference = real.differs(copy, &compare).unwrap();
        assert_eq!(
            difference.to_string(),
            "the status is 200 with grpc-status 0, and 200 with grpc-status 14 of the copy"
        );
    }
}
