//! How much the tests do: a little, and the full sizes in `make test-all`.

use std::time::Duration;

fn number(name: &str, small: u64) -> u64 {
    std::env::var(name).map_or(small, |text| text.parse().expect("a number"))
}

/// How long a load runs; `PILLION_TEST_SECONDS=30` for the full time.
pub fn seconds() -> u64 {
    number("PILLION_TEST_SECONDS", 1)
}

/// Messages through a broker; `PILLION_TEST_MESSAGES=10000` for the full number.
pub fn messages() -> u64 {
    number("PILLION_TEST_MESSAGES", 1_000)
}

/// Whether these are the full sizes.
pub fn full() -> bool {
    seconds() >= 30
}

/// From one change of the files to the next.
pub fn reload_pause() -> Duration {
    Duration::from_millis(if full() { 1_000 } else { 250 })
}

/// Seconds for which a connection says nothing, as a word.
pub fn quiet() -> String {
    if full() { "20" } else { "1" }.to_owned()
}
