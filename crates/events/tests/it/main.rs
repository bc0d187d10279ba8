//! The engine from outside: publishers speak HTTP to it, and what it does is looked up in the broker, as any client would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in its helpers as in itself")]

mod changes;
mod dead_letters;
mod formats;
mod official;
mod outage;
mod publishing;
mod runs;
mod sdks;
mod subscriber;
mod subscriptions;
mod support;
mod wire;
