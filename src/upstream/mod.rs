//! Reaching an endpoint: what one worker knows of its upstreams, which
//! endpoint takes a request, and over which connection.
//!
//! All of it belongs to one worker and is never shared: no lock is taken.

mod attempt;
mod board;
mod checks;
mod connect;
mod connecting;
mod endpoint;
mod fuse;
mod keeper;
mod picker;
mod quota;
pub mod snapshot;
mod table;

pub use attempt::{Call, send};
pub use board::Board;
pub use checks::{Ask, Probe};
pub use connect::{Network, lead_to};
pub use endpoint::{Active, Endpoint};
pub use fuse::{Fuses, Guard, Panel};
pub use keeper::Keepers;
pub use picker::Key;
pub use quota::Quotas;
pub use table::{FIXED, Learned, Table, Upstream};
