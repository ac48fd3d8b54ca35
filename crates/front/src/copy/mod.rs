//! The data of COPY: client's lines to Arrow batches ([`Decoder`]), rows to lines (`encode`).
//!
//! Invariant: what is decoded does not depend on how the client cut its data into messages; what is encoded decodes to the
//! same values with the same options.

mod builder;
mod decode;
pub(crate) mod encode;
#[cfg(test)]
mod tests;

pub use decode::{CopyError, Decoder};
