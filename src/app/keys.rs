//! Keeps the keys of issuers fresh: fetched ahead, never while a call waits.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::spawn_local;

use crate::clients::jwks;
use crate::config::model::{KeySet, KeysUrl};
use crate::proxy::{Keyrings, Ring};
use crate::telemetry::{Metrics, names};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A set is fetched no more often than this, whatever tokens ask for.
const LEAST: Duration = Duration::from_secs(5);
/// Bounds of what an answer may say of its own freshness.
const FRESH: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// For how long an answer is fresh that does not say so.
const USUAL: Duration = Duration::from_secs(300);
/// From one failure to the next try: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Fetches what somebody holds a ring for, for as long as it is polled.
pub(super) async fn follow(keyrings: Keyrings, metrics: Metrics) {
    let mut followed: HashMap<KeysUrl, Weak<Ring>> = HashMap::new();
    loop {
        followed.retain(|_, ring| ring.strong_count() > 0);
        for ring in keyrings.all() {
            if !followed.contains_key(&ring.from) {
                followed.insert(ring.from.clone(), Arc::downgrade(&ring));
                spawn_local(keep(ring, metrics.clone()));
            }
        }
        keyrings.news().await;
    }
}

/// Fetches the keys of one ring until nobody holds it. A failure leaves the keys
/// that are there in force.
async fn keep(ring: Arc<Ring>, metrics: Metrics) {
    let (from, wanted) = (ring.from.clone(), ring.wanted());
    let held = Arc::downgrade(&ring);
    drop(ring);
    let shown = from.url.split('?').next().unwrap_or_default();
    let label = metrics.label(shown);
    let result = |word| metrics.counter(&names::JWKS_FETCHES, &[&label, word]);
    let (fetched, failed) = (result("fetched"), result("failed"));
    let count = metrics.gauge(&names::JWKS_KEYS, &[&label]);
    let mut failures = 0u32;
    while let Some(ring) = held.upgrade() {
        ring.served();
        drop(ring);
        let said = jwks::fetch(&from.url, from.ca_file.as_deref(), PATIENCE, KeySet::LARGEST).await;
        let said = said.and_then(|got| Ok((KeySet::parse(&got.bytes)?, got.fresh)));
        let Some(ring) = held.upgrade() else { break };
        let pause = match said {
            Ok((keys, fresh)) => {
                if failures > 0 {
                    tracing::info!("authentication: the keys at {shown} can be fetched again");
                }
                failures = 0;
                fetched.increment(1);
                count.set(keys.count() as f64);
                ring.put(keys);
                fresh.unwrap_or(USUAL).clamp(FRESH.0, FRESH.1)
            }
            Err(why) => {
                failed.increment(1);
                if failures == 0 {
                    let so = match ring.keys() {
                        Some(_) => "those that were fetched before stay in force",
                        None => "tokens of their issuer can't be checked",
                    };
                    tracing::warn!("authentication: the keys at {shown} can't be fetched ({why}): {so}");
                }
                failures = failures.saturating_add(1);
                again(failures)
            }
        };
        drop(ring);
        // What is wanted meanwhile waits for its turn.
        let least = pause.min(LEAST);
        tokio::time::sleep(least).await;
        // A little earlier or later than others.
        let rest = (pause - least).mul_f64(0.9 + fastrand::f64() * 0.1);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = wanted.notified() => {}
        }
    }
    count.set(0.0);
}

fn again(failures: u32) -> Duration {
    AGAIN.0.saturating_mul(1 << (failures - 1).min(6)).min(AGAIN.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_more_slowly() {
        let times: Vec<u64> = (1..=9).map(|count| again(count).as_secs()).collect();
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(again(u32::MAX), AGAIN.1);
    }
}
