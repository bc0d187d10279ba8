//! What the services of the store share: configuration, HTTP server and client, problem documents, the context that a
//! call passes on, and a database pool. It knows only public protocols, and nothing of any one service.

pub mod client;
pub mod context;
pub mod database;
pub mod environment;
pub mod json;
pub mod log;
pub mod openapi;
pub mod problem;
pub mod query;
pub mod server;

pub use client::Client;
pub use database::Pool;
pub use environment::Environment;
pub use problem::Problem;
