//! What is counted, under which names, and how it leaves.

pub mod metrics;
pub mod names;
pub mod propagate;
pub mod record;

pub use self::metrics::Metrics;
