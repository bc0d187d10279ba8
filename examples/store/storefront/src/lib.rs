//! The pages of the shop. They are whole without a script; what they show comes from catalog and cart.

mod assets;
mod cart;
mod catalog;
mod failure;
mod money;
mod pages;
pub mod routes;
mod visitor;
