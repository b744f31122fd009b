//! What is counted, under which names, and how it leaves.

pub mod metrics;
pub mod names;

pub use self::metrics::Metrics;
