//! The server that counts calls for all sidecars, asked for a limit that is
//! shared. What it does not say in time is decided by a share of the limit that
//! this sidecar counts for itself.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha1::{Digest as _, Sha1};

use crate::config::model::{Quota, RateServer};
use crate::policy::rate::Verdict;

/// A worker's way to the server.
pub trait Ledger {
    /// How long a call may wait for it.
    fn timeout(&self) -> Duration;

    /// Takes a call out of what is counted under `key`; ends by `until`.
    fn take<'a>(&'a self, key: &'a str, quota: &'a Quota, until: Instant) -> Taking<'a>;
}

/// What a [`Ledger`] will say.
pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<Verdict, Lost>> + 'a>>;

/// Makes a worker's way to a server.
pub type Ledgers = Arc<dyn Fn(&RateServer) -> Option<Rc<dyn Ledger>> + Send + Sync>;

/// Why a server did not say anything; the words are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was not asked: it is not there.
    Gone,
    /// It said nothing in time.
    Late,
    /// It failed.
    Failed,
}

/// Under which a call counts: the name that sidecars share, and a digest of
/// what tells this caller from others, which may be a secret.
pub fn key(name: &str, value: Option<&[u8]>) -> String {
    match value {
        None => format!("{name}:-"),
        Some(value) => {
            let digest = Sha1::digest(value);
            let half = digest.iter().take(8).fold(0, |half, byte| half << 8 | u64::from(*byte));
            let rest = digest.iter().skip(8).take(8).fold(0, |half, byte| half << 8 | u64::from(*byte));
            format!("{name}:{half:016x}{rest:016x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_values_apart_and_never_say_them() {
        assert_eq!(key("a", None), "a:-");
        assert_eq!(key("a", Some(b"s3cr3t")).len(), 34);
        assert_ne!(key("a", Some(b"x")), key("a", Some(b"y")));
        assert_ne!(key("a", Some(b"")), key("a", None));
        assert!(!key("a", Some(b"s3cr3t")).contains("s3cr3t"));
    }
}
