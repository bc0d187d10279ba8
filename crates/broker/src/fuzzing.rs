//! What reads bytes that may be anything, for the fuzz targets. Nobody else may call it, and it promises nothing to anybody.

pub use crate::jetstream::records;
