//! JetStream: durable streams and their consumers, as clients ask for them under `$JS.API.>`. The hub knows which streams
//! there are; each stream is one task that owns its messages, its consumers and its journals.

#[allow(dead_code, unused_imports, reason = "the hub that answers requests comes next")]
mod api;
#[allow(dead_code, unused_imports, reason = "the stream that owns consumers comes next")]
mod consumer;
