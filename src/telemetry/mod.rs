//! What is counted, under which names, and how it leaves.

pub mod logging;
pub mod metrics;
pub mod names;
pub mod process;
pub mod propagate;
pub mod record;

pub use self::metrics::Metrics;
