//! What gRPC-Web and JSON are in gRPC's terms, and back: frames, base64,
//! statuses, paths and messages. Everything here takes bytes and gives bytes;
//! the bodies that are made of it stand in `proxy/transcode`.

pub mod frames;
pub mod message;
pub mod path;
pub mod split;
pub mod status;
mod unique;
pub mod web;

#[cfg(test)]
mod tests;

/// Why something can't be translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It breaks the rules of its form.
    Invalid(String),
    /// It is larger than this many bytes.
    TooLarge(usize),
}

impl Fault {
    /// For a person.
    pub fn detail(self) -> String {
        match self {
            Self::Invalid(detail) => detail,
            Self::TooLarge(most) => {
                format!("a message is larger than the {most} bytes of `json.max_message`")
            }
        }
    }
}
