//! Clients of a NATS server by its URL, for the daemon and the commands. They connect by themselves, and again for as long as
//! they are there. They log nothing: a server that is away is told of by whoever asks it.

use std::sync::Arc;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::sync::Notify;

#[derive(Debug, Error)]
pub enum Error {
    #[error("its address cannot be read")]
    Address { source: std::io::Error },
    #[error("it has no address")]
    Nowhere,
    #[error("no connection")]
    Connect { source: async_nats::ConnectError },
}

/// The servers of a URL, several with commas, and what to connect with: user and password, or a token where there is no
/// password, are those of the first.
pub fn servers(url: &str) -> Result<(Vec<ServerAddr>, ConnectOptions), Error> {
    let all: Result<Vec<ServerAddr>, _> = url.split(',').map(|one| one.trim().parse()).collect();
    let all = all.map_err(|source| Error::Address { source })?;
    let first = all.first().ok_or(Error::Nowhere)?;
    // The client does not take them from the address.
    let part = |part: Option<&str>| percent_decode_str(part.unwrap_or_default()).decode_utf8_lossy().into_owned();
    let options = match (first.username(), first.password()) {
        (Some(_), Some(_)) => ConnectOptions::with_user_and_password(part(first.username()), part(first.password())),
        (Some(_), None) => ConnectOptions::with_token(part(first.username())),
        _ => ConnectOptions::new(),
    };
    Ok((all, options.name("atoll")))
}

/// A client that goes on trying to connect, from now until it is dropped, and tells of each connection that came about.
pub async fn client(url: &str, connected: Arc<Notify>) -> Result<Client, Error> {
    let (servers, options) = servers(url)?;
    let options = options.retry_on_initial_connect().max_reconnects(None).event_callback(move |event| {
        if matches!(event, Event::Connected) {
            connected.notify_one();
        }
        std::future::ready(())
    });
    options.connect(servers).await.map_err(|source| Error::Connect { source })
}
