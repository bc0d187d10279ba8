//! Carts. What is in one was checked with the catalog when it was put in, and keeps the price that was seen then.

pub mod api;
pub mod catalog;
mod rows;
mod view;
