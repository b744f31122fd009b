//! `tests` of a policy file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Called, Pause, Range, Span, Upstream, Word};

/// A test of policies: a call, what the called service does, and what comes of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "call"]))]
pub struct Test {
    /// What it shows.
    pub name: Option<Word>,
    /// Addresses of the called service.
    #[schemars(range(min = 1, max = 100), extend("default" = 1))]
    pub endpoints: Option<usize>,
    /// `[METHOD] http://users/path`, `grpc users package.Service/Method`, or without
    /// a service a call to the fronted one.
    pub call: Option<Called>,
    /// Headers of the call.
    #[schemars(extend("default" = {}))]
    pub headers: Option<BTreeMap<String, String>>,
    /// The body of the call. Default: none.
    pub body: Option<String>,
    /// What becomes of each attempt, in turn; the last one holds on. Default: `[200]`,
    /// or `[OK]` of a call of gRPC.
    #[schemars(length(min = 1))]
    pub upstream: Option<Vec<Outcome>>,
    /// How often the call is made.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 1))]
    pub times: Option<u32>,
    /// The pause between two of these calls.
    #[schemars(extend("default" = "0s"))]
    pub every: Option<Pause>,
    /// What holds for each of these calls.
    pub expect: Option<Expect>,
    /// What follows, in the same world.
    #[schemars(extend("default" = []))]
    pub then: Option<Vec<Step>>,
}

/// What follows; what it does not say is as before.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Time that passes first.
    #[schemars(extend("default" = "0s"))]
    pub after: Option<Pause>,
    /// As above.
    pub call: Option<Called>,
    /// As above, in place of those before.
    pub headers: Option<BTreeMap<String, String>>,
    /// As above.
    pub body: Option<String>,
    /// As above, from its beginning.
    #[schemars(length(min = 1))]
    pub upstream: Option<Vec<Outcome>>,
    /// How often the call is made.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 1))]
    pub times: Option<u32>,
    /// The pause between two of these calls.
    #[schemars(extend("default" = "0s"))]
    pub every: Option<Pause>,
    /// What holds for each of these calls.
    pub expect: Option<Expect>,
}

/// What becomes of an attempt.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Outcome {
    /// A failure, or a code of gRPC.
    Word(OutcomeWord),
    /// A status.
    Status(#[schemars(range(min = 200, max = 599))] u16),
    /// An answer.
    Answer(Answer),
}

/// An answer of the called service.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["status"]))]
pub struct Answer {
    /// A status, or a code of gRPC.
    pub status: Option<Status>,
    /// How long it takes.
    #[schemars(extend("default" = "0s"))]
    pub after: Option<Pause>,
    /// Its headers.
    #[schemars(extend("default" = {}))]
    pub headers: Option<BTreeMap<String, String>>,
    /// Its body. Default: none.
    pub body: Option<String>,
}

/// What the caller gets. What is not said is not looked at.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// A status, or a code of gRPC.
    pub status: Option<Status>,
    /// How often the call came to the called service.
    #[schemars(range(min = 0, max = 100))]
    pub attempts: Option<u32>,
    /// The word of `pillion-error`; `none` where the answer is the service's own.
    pub reason: Option<Word>,
    /// The route that takes it, as the file writes it.
    pub route: Option<Word>,
    /// The service that it goes to.
    pub to: Option<Upstream>,
    /// The service that gets a copy; `none` where the call is not copied.
    pub mirrored: Option<Upstream>,
    /// From when to when the answer is there.
    pub took: Option<Took>,
    /// Headers of the answer; an empty value for one that must not be there.
    pub headers: Option<BTreeMap<String, String>>,
    /// The body of the answer.
    pub body: Option<String>,
}

/// When an answer is there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Took {
    /// From when to when.
    Range(Range),
    /// At the latest.
    Most(Span),
}

/// A status, or a code of gRPC.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Status {
    /// A code of gRPC.
    Code(Code),
    /// A status.
    Http(#[schemars(range(min = 200, max = 599))] u16),
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal,)*) => {
        /// A code of gRPC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum Code {
            $($(#[doc = $doc])* $name,)*
        }

        /// A failure, or a code of gRPC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum OutcomeWord {
            /// The connection is refused.
            #[serde(rename = "connect")]
            Connect,
            /// The connection ends before an answer.
            #[serde(rename = "reset")]
            Reset,
            /// Nothing ever comes.
            #[serde(rename = "silence")]
            Silence,
            $($(#[doc = $doc])* $name,)*
        }

        impl Code {
            /// Its number.
            pub fn number(self) -> u8 {
                match self {
                    $(Self::$name => $number,)*
                }
            }
        }

        impl OutcomeWord {
            /// The code that it is.
            pub fn code(self) -> Option<Code> {
                match self {
                    Self::Connect | Self::Reset | Self::Silence => None,
                    $(Self::$name => Some(Code::$name),)*
                }
            }
        }
    };
}

codes! {
    /// It went well.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// Nobody knows.
    Unknown = 2,
    /// The request can't be right.
    InvalidArgument = 3,
    /// The time was over.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// There is one already.
    AlreadyExists = 6,
    /// The caller may not.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// Somebody else was first.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// There is no such method.
    Unimplemented = 12,
    /// Something is broken.
    Internal = 13,
    /// Not now.
    Unavailable = 14,
    /// Something is lost.
    DataLoss = 15,
    /// Nobody knows the caller.
    Unauthenticated = 16,
}
