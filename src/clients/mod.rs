//! Clients of the servers that Pillion asks: each is the one place that knows
//! its server's API, and knows nothing of what is done with the answers.

pub mod consul;
pub mod health;
pub mod kubernetes;
