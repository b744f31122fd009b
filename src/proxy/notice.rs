//! What the log is told of connections that end without an answer: each thing
//! once, then now and then, however often it happens. Counters tell how often.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::base::Reason;

/// How often the log hears of one thing.
const AGAIN: Duration = Duration::from_secs(30);
/// Things that are kept apart; with more, some are told too often.
const MOST: usize = 1024;

/// What one worker has told.
#[derive(Default)]
pub struct Notices(RefCell<HashMap<(Reason, Box<str>), Told>>);

struct Told {
    at: Instant,
    since: u64,
}

impl Notices {
    /// Whether the log should hear now that `reason` met `whom`: then how often
    /// it was not told since the last time.
    pub fn due(&self, reason: Reason, whom: &str, now: Instant) -> Option<u64> {
        let mut notices = self.0.borrow_mut();
        let key = (reason, Box::from(whom));
        if let Some(told) = notices.get_mut(&key) {
            if now.saturating_duration_since(told.at) < AGAIN {
                told.since += 1;
                return None;
            }
            told.at = now;
            return Some(std::mem::take(&mut told.since));
        }
        if notices.len() >= MOST {
            notices.clear();
        }
        notices.insert(key, Told { at: now, since: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_told_once_and_then_now_and_then() {
        let (notices, now) = (Notices::default(), Instant::now());
        let due = |whom: &str, after: u64| {
            notices.due(Reason::ConnectRefused, whom, now + Duration::from_secs(after))
        };
        assert_eq!((due("db", 0), due("db", 1), due("db", 29)), (Some(0), None, None));
        assert_eq!(due("users", 1), Some(0), "another upstream");
        assert_eq!(notices.due(Reason::NoEndpoint, "db", now), Some(0), "another reason");
        assert_eq!((due("db", 30), due("db", 31), due("db", 90)), (Some(2), None, Some(1)));
        for name in 0..2 * MOST {
            due(&name.to_string(), 0);
        }
        assert!(notices.0.borrow().len() <= MOST);
    }
}
