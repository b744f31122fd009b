//! The time on the path of a request. It is the machine's, unless a test of
//! policies makes time pass as it needs it (`pillion test`): then it is that of
//! tokio's paused clock, and every deadline, pause and window follows it.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

thread_local! {
    static WALL: Cell<Option<(f64, Instant)>> = const { Cell::new(None) };
}

/// The time now.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago `then` was, by [`now`]: not by `elapsed`, which asks the machine.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// The time of day now, in seconds since 1970.
pub fn wall() -> f64 {
    match WALL.get() {
        None => machine(),
        Some((wall, since)) => wall + now().saturating_duration_since(since).as_secs_f64(),
    }
}

/// From now on, on this thread, the time of day goes on as [`now`] does.
pub fn follow() {
    WALL.set(Some((machine(), now())));
}

#[allow(clippy::disallowed_methods, reason = "the edge: what the machine says")]
fn machine() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_moves_as_it_is_told() {
        let before = now();
        assert_eq!(now(), before);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(now() - before, Duration::from_secs(3600));
        assert_eq!(since(before), Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_follows_where_it_is_told_to() {
        follow();
        let before = wall();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(wall() - before, 3600.0);
        WALL.set(None);
        assert!((wall() - before).abs() < 60.0);
    }

    #[test]
    fn no_runtime_is_needed() {
        assert!(now() <= Instant::now());
    }
}
