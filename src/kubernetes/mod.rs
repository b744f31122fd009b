//! What Pillion does to the place where a service runs: rules of the kernel.

pub mod redirect;
