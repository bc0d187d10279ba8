//! The HTTP server of publishers.

use std::sync::Arc;

use kit::drain;
use tokio::net::TcpListener;

use crate::handle::Shared;

pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut drain: drain::Watch) {
    let _ = (&listener, &shared);
    drain.started().await;
}
