//! The engine of events and the relay of outboxes within this process: told of topics, publishers, subscriptions and outboxes
//! with every change of the manifest, and joined: rows of an outbox are published as an event of its service would be.
//! Called by the daemon and the API. The engine's socket is open for as long as the daemon lives, whether anybody publishes
//! or not.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use database::outbox::{self, Refusal, Relay, Ticket};
use futures_util::stream::{FuturesUnordered, StreamExt};
use manifest::Plan;
use tokio::sync::mpsc;

use super::change::Served;
use crate::api::dto;
use crate::daemon::Control;
use crate::daemon::bus::Bus;
use crate::daemon::streams;
use crate::lower::{self, Owners};

/// Rows of all outboxes that are on their way from the relay to whoever publishes them.
const RELAYS_MAX: usize = 256;
/// The most dead letters of one answer.
const DEAD_LETTERS_MAX: usize = 10_000;

/// Why what the manifest says of events cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Events(#[from] events::Error),
    #[error(transparent)]
    Outbox(#[from] database::Error),
}

/// Handles to both engines.
#[derive(Debug)]
pub struct Eventing {
    events: events::Handle,
    address: SocketAddr,
    outboxes: outbox::Handle,
    /// Whose event a row of an outbox is.
    owners: Arc<RwLock<Owners>>,
}

/// A row of an outbox on its way.
#[derive(Debug)]
struct Row {
    /// Whose event it is.
    service: String,
    topic: String,
    event: events::Event,
    ticket: Ticket,
}

/// Both engines, before they run.
#[derive(Debug)]
pub struct Bound {
    pub events: events::Bound,
    pub outboxes: outbox::Bound,
    pub relays: mpsc::Receiver<Relay>,
}

/// Opens what is needed for what is served.
pub fn bind(served: &Served, bus: &Bus) -> Result<(Eventing, Bound), Error> {
    let (sender, relays) = mpsc::channel(RELAYS_MAX);
    let events = events::bind(config(served, bus))?;
    let outboxes = outbox::bind(lower::outboxes(&served.present.plan), sender)?;
    let eventing = Eventing {
        events: events.handle(),
        address: events.address(),
        outboxes: outboxes.handle(),
        owners: Arc::new(RwLock::new(owners(served))),
    };
    Ok((eventing, Bound { events, outboxes, relays }))
}

fn config(served: &Served, bus: &Bus) -> events::Config {
    let retiring: Vec<&Plan> = served.retiring.iter().rev().map(|accepted| &*accepted.plan).collect();
    let is_unsettled = |service: &str| served.unsettled.contains(service);
    lower::events_amid(&served.present.plan, &retiring, is_unsettled, bus.url())
}

fn owners(served: &Served) -> Owners {
    let retiring = served.retiring.iter().rev().map(|accepted| &*accepted.plan);
    lower::outbox_owners(std::iter::once(&*served.present.plan).chain(retiring))
}

impl Eventing {
    /// Where the edges of those who publish lead.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether what a plan says of events can be.
    pub fn check(&self, served: &Served, bus: &Bus) -> Result<(), Error> {
        Ok(events::check(&lower::events(&served.present.plan, bus.url()))?)
    }

    /// Goes over to what is served now.
    pub fn go_over(&self, served: &Served, bus: &Bus) -> Result<(), Error> {
        // Order: what is published first, then who publishes.
        self.events.apply(config(served, bus))?;
        *self.owners.write().unwrap_or_else(PoisonError::into_inner) = owners(served);
        self.outboxes.apply(&lower::outboxes(&served.present.plan))?;
        Ok(())
    }

    /// Delivers nothing more, while it still takes what is published: services are about to stop.
    pub fn rest(&self, served: &Served, bus: &Bus) {
        let quiet = events::Config { subscriptions: Vec::new(), ..config(served, bus) };
        if let Err(error) = self.events.apply(quiet) {
            tracing::warn!(error = %kit::Chain(&error), "deliveries go on while services stop");
        }
    }

    /// How topics, subscriptions and outboxes stand, for metrics.
    pub fn read(&self) -> (events::Reading, outbox::Reading) {
        (self.events.read(), self.outboxes.read())
    }

    /// Takes rows of outboxes to the broker until the relay has ended, those of each in their order. A panic is everybody's end.
    pub async fn publish(self: Arc<Self>, mut relays: mpsc::Receiver<Relay>) {
        let mut queues: BTreeMap<(String, String), mpsc::Sender<Relay>> = BTreeMap::new();
        let mut publishing = FuturesUnordered::new();
        loop {
            let relay = tokio::select! {
                relay = relays.recv() => relay,
                Some(()) = publishing.next() => continue,
            };
            let Some(relay) = relay else { break };
            let name = (relay.database.clone(), relay.table.clone());
            let queue = queues.entry(name).or_insert_with(|| {
                let (sender, queue) = mpsc::channel(RELAYS_MAX);
                publishing.push(Arc::clone(&self).publish_in_order(queue));
                sender
            });
            // Limit: an outbox has no more rows in flight than its queue has places, so that none is lost: what cannot be
            // taken is dropped, and its ticket says so.
            let _ = queue.try_send(relay);
        }
        queues.clear();
        while publishing.next().await.is_some() {}
    }

    /// Those of one outbox, many at once: [`events::Handle::publish_run`] keeps their order.
    async fn publish_in_order(self: Arc<Self>, mut queue: mpsc::Receiver<Relay>) {
        let mut rows: VecDeque<Row> = VecDeque::new();
        let mut width = RELAYS_MAX;
        loop {
            if rows.is_empty() {
                let Some(relay) = queue.recv().await else { break };
                rows.extend(self.row(relay));
            }
            while rows.len() < width
                && let Ok(relay) = queue.try_recv()
            {
                rows.extend(self.row(relay));
            }
            // What is behind one that was not taken comes again.
            rows.retain(|row| row.ticket.is_wanted());
            let Some(service) = rows.front().map(|row| row.service.clone()) else { continue };
            let run = rows.iter().take(width).take_while(|row| row.service == service);
            let run: Vec<_> = run.map(|row| (row.topic.clone(), row.event.clone())).collect();
            let count = run.len();
            let events::Run { published, failure } = self.events.publish_run(&service, run).await;
            // Where others publish to the same stream there is no use in sending many that come to nothing.
            width = match published.len() < count && failure.is_none() {
                true => published.len().max(1),
                false => (width * 2).min(RELAYS_MAX),
            };
            for row in rows.drain(..published.len()) {
                row.ticket.settle(Ok(()));
            }
            if let Some(error) = failure
                && let Some(row) = rows.pop_front()
            {
                let why = kit::Chain(&error).to_string();
                row.ticket.settle(Err(if error.is_refusal() { Refusal::Refused(why) } else { Refusal::Away(why) }));
            }
        }
    }

    /// None where nobody may publish it: it is settled then.
    fn row(&self, Relay { database, topic, event, ticket, .. }: Relay) -> Option<Row> {
        let owner = self.owners.read().unwrap_or_else(PoisonError::into_inner).publisher(&database, &topic);
        let Some(service) = owner else {
            let why = format!("no service that has the database {database} has `{topic}` in its `publishes`");
            ticket.settle(Err(Refusal::Refused(why)));
            return None;
        };
        let event = lower::outbox_event(&service, &topic, event);
        Some(Row { service, topic, event, ticket })
    }
}

impl Control {
    /// Topics with who publishes and who listens, as they are now.
    pub async fn topics(&self) -> Result<dto::Topics, dto::Problem> {
        let (plan, open) = (self.plan(), self.bus.open());
        let (streams, refused) = match &open {
            Some(open) => (streams::list(&open.api).await.unwrap_or_default(), open.refused.clone()),
            None => Default::default(),
        };
        let (reading, _) = self.eventing.read();
        let dead_letters = self.eventing.events.dead_letter_counts().await.ok();
        Ok(lower::topics(&plan, &streams, &refused, &reading, dead_letters.as_ref()))
    }

    pub async fn replay(&self, wish: dto::ReplayWish) -> Result<dto::Replay, dto::Problem> {
        let since = match wish.since {
            dto::Since::First => events::Since::First,
            dto::Since::Time(at) => events::Since::Time(at),
            dto::Since::Sequence(sequence) => events::Since::Sequence(sequence),
        };
        self.known(&wish.subscription)?;
        let begun = self.eventing.events.replay(&wish.subscription, since).await.map_err(|error| problem(&error))?;
        let events::Replay { from, to, left } = begun;
        let said = format!("{} delivers again, from {from} to {to} of its stream", wish.subscription);
        self.history.say("replay", said);
        Ok(dto::Replay { from, to, left })
    }

    pub async fn dead_letters(&self, query: dto::DeadLetterQuery) -> Result<Vec<dto::DeadLetter>, dto::Problem> {
        let limit = query.limit.unwrap_or(DEAD_LETTERS_MAX).min(DEAD_LETTERS_MAX);
        let query = events::Query { subscription: query.subscription, limit, ..events::Query::default() };
        let found = self.eventing.events.dead_letters(query).await.map_err(|error| problem(&error))?;
        Ok(found.into_iter().map(lower::dead_letter).collect())
    }

    pub async fn dead_letter(&self, id: u64) -> Result<dto::DeadLetter, dto::Problem> {
        let found = self.eventing.events.dead_letter(id).await;
        found.map(lower::dead_letter).map_err(|error| problem(&error))
    }

    pub async fn redrive(&self, wish: dto::DeadLetterWish) -> Result<dto::DeadLetterDone, dto::Problem> {
        let events = &self.eventing.events;
        if wish.all {
            let count = events.redrive_all(wish.subscription.as_deref()).await.map_err(|error| problem(&error))?;
            self.history.say("dead_letters_redriven", format!("{count} dead letters are due again"));
            return Ok(dto::DeadLetterDone { count });
        }
        let mut count = 0;
        for id in &wish.ids {
            let edited = match &wish.data {
                None => None,
                Some(data) => {
                    let found = events.dead_letter(*id).await.map_err(|error| problem(&error))?;
                    Some(events::Event { data: data.clone().into(), ..found.event })
                }
            };
            events.redrive(*id, edited).await.map_err(|error| partly(problem(&error), count, "due again"))?;
            self.history.say("dead_letter_redriven", format!("the dead letter {id} is due again"));
            count += 1;
        }
        Ok(dto::DeadLetterDone { count })
    }

    pub async fn drop_dead_letters(&self, wish: dto::DeadLetterWish) -> Result<dto::DeadLetterDone, dto::Problem> {
        let events = &self.eventing.events;
        if wish.all {
            let count = events.drop_all(wish.subscription.as_deref()).await.map_err(|error| problem(&error))?;
            self.history.say("dead_letters_dropped", format!("{count} dead letters were dropped"));
            return Ok(dto::DeadLetterDone { count });
        }
        let mut count = 0;
        for id in wish.ids {
            events.drop_dead_letter(id).await.map_err(|error| partly(problem(&error), count, "dropped"))?;
            self.history.say("dead_letter_dropped", format!("the dead letter {id} was dropped"));
            count += 1;
        }
        Ok(dto::DeadLetterDone { count })
    }

    /// Whether there is such a subscription.
    fn known(&self, subscription: &str) -> Result<(), dto::Problem> {
        let plan = self.plan();
        if plan.subscriptions.contains_key(subscription) {
            return Ok(());
        }
        let names: Vec<&str> = plan.subscriptions.keys().map(String::as_str).collect();
        let hint = match names.is_empty() {
            true => "the manifest has no `[[subscriptions]]`".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        let detail = format!("there is no subscription `{subscription}`");
        Err(dto::Problem { title: "unknown subscription".into(), status: 404, detail, hint: Some(hint) })
    }
}

fn problem(error: &events::Error) -> dto::Problem {
    dto::Problem { title: "refused".into(), status: 409, detail: kit::Chain(error).to_string(), hint: None }
}

/// With what was done before it failed.
fn partly(problem: dto::Problem, count: u64, became: &str) -> dto::Problem {
    match count {
        0 => problem,
        count => dto::Problem { detail: format!("{}; {count} before it are {became}", problem.detail), ..problem },
    }
}
