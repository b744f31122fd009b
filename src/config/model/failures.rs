//! `failures` of a route: what counts as one.

/// What counts as a failure, for breakers, ejection and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// No connection could be made.
    pub connect: bool,
    /// The connection ended before the answer, or what came was none.
    pub reset: bool,
    /// No answer came in time.
    pub timeout: bool,
    /// 500 to 599.
    pub server_error: bool,
    /// 502, 503 and 504.
    pub gateway: bool,
    /// More statuses.
    pub statuses: Vec<u16>,
    /// Codes of gRPC: a bit for each.
    pub grpc: u32,
}

/// UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const GRPC: u32 = 1 << 2 | 1 << 4 | 1 << 13 | 1 << 14 | 1 << 15;

impl Failures {
    /// None at all.
    pub const NONE: Self = Self {
        connect: false,
        reset: false,
        timeout: false,
        server_error: false,
        gateway: false,
        statuses: Vec::new(),
        grpc: 0,
    };
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            connect: true,
            reset: true,
            timeout: true,
            server_error: true,
            gateway: true,
            grpc: GRPC,
            ..Self::NONE
        }
    }
}
