//! Tells of the products that are looked at, beside the pages: none waits for it, and none fails with it.

use axum::http::{Method, Uri};
use serde::Serialize;
use store_kit::client;
use store_kit::context::{self, Context};
use store_kit::{Client, log};
use tokio::sync::mpsc;

const TOPIC: &str = "storefront.product.viewed";
/// Limit: views that wait to be told of; while there are so many, others are forgotten.
const WAITING_MAX: usize = 256;

/// Who looked at what.
#[derive(Debug, Serialize)]
struct View {
    session: String,
    product: String,
}

/// The way to the publisher, which ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Views(mpsc::Sender<(Context, View)>);

impl Views {
    /// To be called within a runtime, on which views are published to this address.
    pub(crate) fn new(events: &Uri) -> Self {
        let (sender, views) = mpsc::channel(WAITING_MAX);
        tokio::spawn(publish(Client::new("events", events), views));
        Self(sender)
    }

    /// Returns at once.
    pub(crate) fn tell(&self, session: String, product: String) {
        // Its trace goes on; its deadline is that of the page.
        let context = context::current().without_deadline();
        let _ = self.0.try_send((context, View { session, product }));
    }
}

async fn publish(client: Client, mut views: mpsc::Receiver<(Context, View)>) {
    let mut is_failing = false;
    while let Some((context, view)) = views.recv().await {
        let result = context.enter(send(&client, &view)).await;
        if let Err(error) = &result
            && !is_failing
        {
            log::error("nobody is told of views", error);
        }
        is_failing = result.is_err();
    }
}

async fn send(client: &Client, view: &View) -> Result<(), client::Error> {
    let answer = client.send_json(Method::POST, &format!("/{TOPIC}"), view).await?;
    answer.success()
}
