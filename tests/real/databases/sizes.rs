//! How much the tests do: a little, and the full sizes in `make test-all`.

use std::time::Duration;

/// How much is done on one chain.
pub struct Sizes {
    /// How long a load runs, in seconds.
    pub seconds: u64,
    /// Messages through a broker.
    pub messages: u64,
    /// Seconds for which a connection says nothing.
    pub quiet: u64,
    /// From one change of the files to the next.
    pub reload_pause: Duration,
}

/// What `make test` does of everything, and `make test-all` of what it has done
/// in full already.
pub const SMALL: Sizes =
    Sizes { seconds: 1, messages: 1_000, quiet: 1, reload_pause: Duration::from_millis(250) };

/// The full sizes, where they are asked for: `PILLION_TEST_SECONDS=30` is the
/// time of a load, `PILLION_TEST_MESSAGES=10000` the messages through a broker.
pub fn full() -> Option<Sizes> {
    let number =
        |name: &str, other: u64| std::env::var(name).map_or(other, |text| text.parse().expect("a number"));
    let seconds = number("PILLION_TEST_SECONDS", SMALL.seconds);
    let messages = number("PILLION_TEST_MESSAGES", SMALL.messages);
    (seconds >= 30).then(|| Sizes { seconds, messages, quiet: 20, reload_pause: Duration::from_secs(1) })
}
