//! Search over the products of the shop. It asks no other service: it is told of every product by events, and keeps
//! of them what it needs to find them again.

pub mod api;
mod event;
mod finder;
mod index;
mod mark;
mod question;
mod terms;
mod writer;
