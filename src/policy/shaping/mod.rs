//! What a route changes of a call, and what it answers itself. Nothing here
//! waits or sends.

pub mod cors;
pub mod fault;
pub mod headers;
pub mod path;
pub mod redirect;
pub mod split;
