//! Products, their categories and their images. Anyone may read; who may write is decided in front of this service.

pub mod api;
mod drawing;
mod etag;
mod listing;
mod product;
pub mod seed;
