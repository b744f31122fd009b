//! The time on the path of a request. It is the machine's, unless a test of
//! policies makes time pass as it needs it (`pillion test`): then it is that of
//! tokio's paused clock, and every deadline, pause and window follows it.

use std::time::Instant;

/// The time now.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_moves_as_it_is_told() {
        let before = now();
        assert_eq!(now(), before);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(now() - before, Duration::from_secs(3600));
    }

    #[test]
    fn no_runtime_is_needed() {
        assert!(now() <= Instant::now());
    }
}
