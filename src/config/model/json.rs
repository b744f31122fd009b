//! What `json` says: how calls in HTTP's own way become gRPC calls.

use std::sync::Arc;

use http::Method;
use prost_reflect::{DescriptorPool, FieldDescriptor, MethodDescriptor};

/// `json`.
#[derive(Clone, Debug)]
pub struct Json {
    /// The descriptor file, as it was written.
    pub file: Arc<str>,
    /// Every type of the file.
    pub pool: DescriptorPool,
    /// The services that can be called, by their full names; default all of the file.
    pub services: Vec<Arc<str>>,
    /// The rules of all methods, those that win first.
    pub bindings: Vec<Binding>,
    /// Whether answers name fields as the `.proto` does; default false: `lowerCamelCase`.
    pub preserve_names: bool,
    /// Whether answers hold fields that have their default; default false.
    pub emit_defaults: bool,
    /// Whether fields and query parameters that nobody knows are passed over; default false.
    pub ignore_unknown: bool,
    /// Bytes of one message, as JSON or encoded; default 4 MiB.
    pub max_message: usize,
    /// Tells the content of the file from another.
    pub digest: u64,
}

/// One HTTP rule of a method (`google.api.HttpRule`).
#[derive(Clone, Debug)]
pub struct Binding {
    /// `None` takes every method.
    pub verb: Option<Method>,
    /// Which paths.
    pub template: Template,
    /// What is called.
    pub method: MethodDescriptor,
    /// What the body of the request holds.
    pub body: RequestBody,
    /// The field of the answer that is its body; `None` for all of it.
    pub response_body: Option<FieldDescriptor>,
}

/// What the body of a request holds.
#[derive(Clone, Debug)]
pub enum RequestBody {
    /// Nothing: all fields come from the path and the query.
    None,
    /// `body: "*"`: the whole message.
    Whole,
    /// One field.
    Field(FieldDescriptor),
}

/// A path of an HTTP rule, such as `/v1/{name=shelves/*}:merge`.
#[derive(Clone, Debug)]
pub struct Template {
    /// The path, taken apart at each `/`.
    pub parts: Vec<Part>,
    /// What follows the last `:`.
    pub suffix: Option<Arc<str>>,
    /// The fields that parts of the path become.
    pub variables: Vec<Variable>,
}

/// One part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Equal bytes.
    Literal(Arc<str>),
    /// `*`: one segment that is not empty.
    One,
    /// `**`: all that is left, also nothing; only at the end.
    Rest,
}

/// A field that comes from the path.
#[derive(Clone, Debug)]
pub struct Variable {
    /// From the message of the request to the field.
    pub field: Vec<FieldDescriptor>,
    /// Its first part.
    pub start: usize,
    /// Behind its last part.
    pub end: usize,
}

/// Bytes of one message, unless `max_message` says otherwise: gRPC's own limit.
pub const MAX_MESSAGE: usize = 4 << 20;

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        let options =
            |json: &Self| (json.preserve_names, json.emit_defaults, json.ignore_unknown, json.max_message);
        self.digest == other.digest
            && self.file == other.file
            && self.services == other.services
            && options(self) == options(other)
    }
}
