//! gRPC's codes.

use crate::base::grpc::CODES;

/// The codes of gRPC other than OK
/// (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// The caller gave up.
    Cancelled = 1,
    /// Nobody knows.
    Unknown = 2,
    /// The request can't be right whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// What is asked for is not there.
    NotFound = 5,
    /// What is to be made is there.
    AlreadyExists = 6,
    /// The policy does not allow it.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The state of the system does not allow it.
    FailedPrecondition = 9,
    /// It was broken off, as by a conflict.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// No route takes the call.
    Unimplemented = 12,
    /// The request or the answer breaks the protocol.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
    /// Data are lost.
    DataLoss = 15,
    /// Nobody knows who calls.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// The name that gRPC libraries print.
    pub const fn as_str(self) -> &'static str {
        CODES[self as usize]
    }

    /// What HTTP calls it
    /// (<https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>).
    pub const fn http(self) -> u16 {
        match self {
            Self::Cancelled => 499,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::DeadlineExceeded => 504,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::PermissionDenied => 403,
            Self::ResourceExhausted => 429,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::Unauthenticated => 401,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
        }
    }

    /// What a library of gRPC makes of an HTTP status without a code
    /// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}
