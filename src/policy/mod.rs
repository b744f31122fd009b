//! Decisions: plain types without sockets and without `await`, which take the
//! time and a random generator from their caller.

pub mod advice;
pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod deadline;
pub mod ejection;
pub mod fleet;
pub mod hedge;
pub mod latency;
pub mod locality;
pub mod mirror;
pub mod normal;
pub mod outcome;
pub mod pulse;
pub mod rate;
pub mod retry;
pub mod routes;
pub mod shaping;
pub mod sni;
pub mod transcode;
pub mod vitals;
