//! CloudEvents 1.0.2 in its formats: HTTP binary mode, JSON and JSON batch, NATS headers. Pure, and fed by strangers: never a
//! panic, and no more memory than a few times the input.

pub(crate) mod attribute;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod nats;

/// Why something that claims to be a CloudEvent is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{} missing: {}", if .names.len() == 1 { "an attribute is" } else { "attributes are" }, .names.join(", "))]
    Missing { names: Vec<&'static str> },
    #[error("specversion is {version:?}, and only 1.0 is known")]
    Version { version: String },
    #[error(
        "{name:?} is no name of an attribute: lower-case letters and digits only, at most {}",
        attribute::NAME_BYTES_MAX
    )]
    Name { name: String },
    #[error("attribute {name} {reason}")]
    Value { name: String, reason: &'static str },
    #[error("attribute {name} is given twice")]
    Twice { name: String },
    #[error("more than {max} attributes")]
    TooManyAttributes { max: usize },
    #[error("attributes of more than {max} bytes together")]
    HeadTooLarge { max: usize },
    #[error("both data and data_base64 are given")]
    DataTwice,
    #[error("data_base64 is not base64")]
    Base64,
    #[error("not JSON: {reason}")]
    Json { reason: String },
    #[error("{}", .expected)]
    Shape { expected: &'static str },
}
