//! The engine from outside: publishers speak HTTP to it, and what it does is looked up in the broker, as any client would.

mod formats;
mod outage;
mod publishing;
mod sdks;
mod subscriber;
mod subscriptions;
mod support;
mod wire;
