//! gRPC's codes.

/// The codes of gRPC that Pillion makes
/// (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// The caller gave up.
    Cancelled = 1,
    /// The request can't be right whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// The policy does not allow it.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// No route takes the call.
    Unimplemented = 12,
    /// The request or the answer breaks the protocol.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
}

impl GrpcCode {
    /// The name that gRPC libraries print.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}
