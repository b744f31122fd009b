//! Words that every part uses: names and addresses, endpoints, errors, the
//! directory that discovery writes and workers read, drain and readiness, and
//! the coarse timers of a worker. This module imports nothing of ours.

pub mod address;
pub mod clock;
pub mod directory;
pub mod drain;
pub mod endpoint;
pub mod error;
pub mod grpc;
pub mod limits;
pub mod origin;
pub mod protocol;
pub mod proxy_protocol;
pub mod readiness;
pub mod rpc;
pub mod timers;
pub mod tls;
pub mod trail;

pub use address::{Authority, UpstreamName};
pub use endpoint::{Endpoint, EndpointSet, Resolution, Standing};
pub use error::{ProxyError, Reason, Sent, Side};
pub use limits::Limits;
pub use origin::Origin;
pub use protocol::Protocol;
pub use proxy_protocol::{Network, ProxyProtocol};
pub use trail::{Confirmed, Said, Told, Trail, Watched};
