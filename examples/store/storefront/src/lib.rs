//! The pages of the shop. They are whole without a script; what they show comes from catalog and cart, and where they
//! answer, from search and recommendations.

mod assets;
mod cart;
mod catalog;
mod failure;
mod money;
mod pages;
mod recommendation;
pub mod routes;
mod search;
mod views;
mod visitor;
