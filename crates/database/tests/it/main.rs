//! The database crate through its public face: real files, real SQLite, real processes.

mod files;
mod migrations;
mod outbox;
mod processes;
mod world;
