//! Retries: what is sent again and what never is, bodies that are replayed, what
//! the service advises, and the budget.

mod advice;
mod amplification;
mod bodies;
mod calls;
mod grpc;
mod recovery;

use std::time::Duration;

use pillion::config::model::{Retry, RetryOn};

use crate::support::Request;

/// Retries without long pauses and without a budget in the way.
pub fn eager(max: u32) -> Retry {
    let on =
        vec![RetryOn::ServerError, RetryOn::Reset, RetryOn::Connect, RetryOn::Refused, RetryOn::Grpc(14)];
    let backoff = (Duration::from_millis(1), Duration::from_millis(2));
    Retry { max, on, budget: 1.0, backoff, ..Retry::default() }
}

/// An answer with a status and more fields, each with its line end.
pub fn answer(status: u16, fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{fields}\r\n").into_bytes()
}

/// How many of `seen` came with this target.
fn to(seen: &[Request], target: &str) -> usize {
    seen.iter().filter(|request| request.target == target).count()
}
