//! The search as its callers see it: the real router over SQLite with the real migrations.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod api;
mod relevance;
mod world;
