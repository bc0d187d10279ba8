//! What the services of the store share: configuration, HTTP server and client, problem documents, the context that a
//! call passes on, a database pool, and events in an outbox. It knows only public protocols, and nothing of any one service.

pub mod client;
pub mod context;
pub mod database;
pub mod environment;
pub mod json;
pub mod log;
pub mod openapi;
pub mod outbox;
pub mod problem;
pub mod query;
pub mod server;
pub mod session;

pub use client::Client;
pub use database::Pool;
pub use environment::Environment;
pub use problem::Problem;
