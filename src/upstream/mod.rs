//! Reaching an endpoint: what one worker knows of its upstreams, which
//! endpoint takes a request, and over which connection.
//!
//! All of it belongs to one worker and is never shared: no lock is taken.

mod attempt;
mod connect;
mod connecting;
mod endpoint;
mod picker;
mod quota;
pub mod snapshot;
mod table;

pub use attempt::{Call, send};
pub use endpoint::{Active, Endpoint};
pub use picker::Key;
pub use quota::Quotas;
pub use table::{FIXED, Learned, Table, Upstream};
